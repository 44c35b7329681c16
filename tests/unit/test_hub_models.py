"""Models of the hub, from a small server that speaks as the hub does: one download a machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gfn_ray.models.hub import commit_of, public_name

NAME, COMMIT, LIMIT = "someone/tiny", "0123456789" * 4, 120
RESOLVE = """
import sys
from gfn_ray.cli import main
from gfn_ray.config import ModelConfig
from gfn_ray.models.loading import load_tokenizer, resolve_model

def run():
    path = resolve_model(ModelConfig(name=sys.argv[1], revision=sys.argv[2] or None))
    load_tokenizer(path, False)
    print(path)
    return 0

sys.exit(main(run))
"""


class Hub(ThreadingHTTPServer):
    """gets: how often each file was downloaded. tokens: that requests came with."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.gets: Counter[str] = Counter()
        self.tokens: set[str | None] = set()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def files(self) -> dict[str, bytes]:
        found = {file.name: file.read_bytes() for file in self.model.iterdir()}
        return {**found, "pytorch_model.bin": b"a pickle", "onnx/model.onnx": b"another format"}


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        if NAME in self.path:
            self.server.tokens.add(self.headers.get("Authorization"))
        path, files = self.path.partition("?")[0], self.server.files
        if path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
            self.server.gets[name] += body
            self.send(files[name], body)
        elif path in (f"/api/models/{NAME}/revision/{one}" for one in ("main", "v1", COMMIT)):
            listed = [{"rfilename": name} for name in files]
            self.send_json({"id": NAME, "sha": COMMIT, "siblings": listed}, body)
        elif path == f"/api/models/{NAME}/tree/{COMMIT}":
            self.send_json([entry(name, data) for name, data in files.items()], body)
        else:
            code = "RevisionNotFound" if path.startswith(f"/api/models/{NAME}/") else "RepoNotFound"
            self.send(b"{}", body, 404, {"X-Error-Code": code})

    def send_json(self, value: object, body: bool) -> None:
        self.send(json.dumps(value).encode(), body, 200, {"Content-Type": "application/json"})

    def send(
        self, data: bytes, body: bool, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        etag = hashlib.sha256(data).hexdigest()
        given = {"Content-Length": str(len(data)), "ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        for name, value in {**given, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def entry(name: str, data: bytes) -> dict[str, object]:
    oid = hashlib.sha256(data).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": oid}


@pytest.fixture
def hub(tiny_dir: Path) -> Iterator[Hub]:
    with Hub(tiny_dir) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def start(hub: Hub, home: Path, name: str = NAME, revision: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE, name, revision],
        env={
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_secret",
            "HF_HUB_DISABLE_XET": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_of_one_machine_download_a_model_once_and_only_what_it_needs(
    hub: Hub, tmp_path: Path
) -> None:
    both = [start(hub, tmp_path) for _ in range(2)]
    said = [one.communicate(timeout=LIMIT) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    (path,) = {out.strip() for out, _ in said}
    assert (commit_of(path), public_name(path)) == (COMMIT, NAME)
    assert set(hub.gets.values()) <= {0, 1}, hub.gets
    downloaded = {name for name, times in hub.gets.items() if times}
    assert downloaded == {file.name for file in hub.model.iterdir()}
    assert hub.tokens == {"Bearer hf_secret"}


def test_without_the_hub_what_was_downloaded_before_does(hub: Hub, tmp_path: Path) -> None:
    first = start(hub, tmp_path, revision="v1")
    path, error = first.communicate(timeout=LIMIT)
    assert first.returncode == 0, error
    hub.shutdown()
    hub.server_close()
    again = start(hub, tmp_path, revision=COMMIT)
    assert again.communicate(timeout=LIMIT)[0] == path


@pytest.mark.parametrize(
    ("name", "revision", "cure"),
    [(NAME, "v2", "check --model.revision"), ("someone/else", "", "set HF_TOKEN")],
)
def test_what_the_hub_does_not_have_is_refused_with_what_to_check(
    hub: Hub, tmp_path: Path, name: str, revision: str, cure: str
) -> None:
    refused = start(hub, tmp_path, name, revision)
    _, error = refused.communicate(timeout=LIMIT)
    assert refused.returncode == 2, error
    (line,) = (one for one in error.splitlines() if one.startswith("error: "))
    assert line.startswith(f"error: --model.name: cannot download {name}")
    assert cure in line
