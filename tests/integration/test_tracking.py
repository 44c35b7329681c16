"""Tracking against the real MLflow on a sqlite file: what is written can be read back."""

from __future__ import annotations

import http.server
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gfn_ray
from gfn_ray.errors import UserError
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tracking import Tracker, TrackingState
from gfn_ray.tracking.deliveries import Deliveries
from gfn_ray.tracking.store import MlflowRun
from testing.sockets import free_ports


@dataclass(frozen=True)
class Followed:
    """A run that writes, and MLflow, which follows it."""

    run: RunDir
    tracker: Tracker

    def log(self, step: int, **numbers: Any) -> None:
        self.run.append_metrics(step, "train", numbers)


Begin = Callable[..., Followed]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Begins runs in directories of their own, or follows the same one again."""
    numbers = count()

    def begun(
        uri: str,
        experiment: str = "tests",
        name: str = "a-run",
        params: Any = None,
        artifact_root: Path = tmp_path / "mlruns",
        again: RunDir | None = None,
    ) -> Followed:
        run = again or RunDir(tmp_path / "runs" / str(next(numbers)))
        run.path.mkdir(parents=True, exist_ok=True)
        options: Any = {"artifact_root": artifact_root, "delivery": "stays there"}
        tracker = Tracker(uri, experiment, name, params or {}, run.path, **options)
        tracker.follow()
        return Followed(run, tracker)

    return begun


@pytest.fixture
def uri(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def followed(begin: Begin, uri: str) -> Iterator[Followed]:
    found = begin(uri)
    yield found
    found.tracker.end("FINISHED")


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def stored(one: Followed) -> Any:
    """The run as MLflow has it."""
    one.tracker.flush()
    return client(one.tracker.uri).get_run(one.tracker.run_id)


def history(one: Followed, key: str) -> list[tuple[int, float]]:
    one.tracker.flush()
    metrics = client(one.tracker.uri).get_metric_history(one.tracker.run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.open()]


def table(one: Followed, name: str) -> Any:
    one.tracker.flush()
    file = client(one.tracker.uri).download_artifacts(one.tracker.run_id, name)
    return json.loads(Path(file).read_text())


# Parameters


def test_a_whole_config_becomes_dotted_parameters(begin: Begin, uri: str) -> None:
    config = InfillJob()
    one = begin(uri, params=config.model_dump())
    params = stored(one).data.params
    one.tracker.end("FINISHED")
    assert params["learner.lr"] == "0.0005"
    assert params["policy.lora_targets"].startswith("q_proj,k_proj,")
    assert params["model.trust_remote_code"] == "false"
    assert params["run_dir"] == "none"
    assert params["task.template"] == config.task.template


def test_awkward_parameters_are_made_to_fit(begin: Begin, uri: str) -> None:
    params = {
        "why?": "because",
        "long": "x" * 10_000,
        "uri": 'https://me:it\'s "secret"@host/',
        "note": "see https://me:secret@host/, it says",
        "empty": "",
        **{f"p{i}": i for i in range(250)},
    }
    one = begin(uri, params=params)
    kept = stored(one).data.params
    one.tracker.end("FINISHED")
    assert len(kept) == len(params)
    assert kept["why_"] == "because"
    assert 5_000 < len(kept["long"]) < 10_000
    assert kept["uri"] == "https://***@host/"
    assert kept["note"] == "see https://***@host/, it says"


# Metrics


def test_metrics_are_stored_by_step(followed: Followed) -> None:
    for step in (1, 2, 3):
        followed.log(step, **{"loss": np.float32(step / 2), "replay/size": step})
    assert history(followed, "loss") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert history(followed, "replay/size") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_metric_has_the_time_at_which_the_run_wrote_it(followed: Followed) -> None:
    followed.log(1, loss=1.0)
    (row,) = rows_of(followed.run.metrics_file)
    followed.tracker.flush()
    uri, run_id = followed.tracker.uri, followed.tracker.run_id
    (metric,) = client(uri).get_metric_history(run_id, "loss")
    assert metric.timestamp == int(row["time"] * 1000)
    assert abs(row["time"] - time.time()) < 600, "seconds since 1970"


def test_what_is_no_number_is_left_out(followed: Followed) -> None:
    followed.log(1, a=math.nan, b=math.inf, c=None, d=np.nan, e=True, f="text", good=1.0)
    assert set(stored(followed).data.metrics) == {"good"}


def test_a_restart_is_a_number_and_a_row(followed: Followed) -> None:
    followed.run.append_restart({"step": 3, "actor": "replay", "runtime/restarts": 1})
    assert history(followed, "runtime/restarts") == [(3, 1.0)]
    found = table(followed, "restarts.json")
    assert found["columns"] == ["time", "step", "actor", "runtime/restarts"]
    assert [row[1:] for row in found["data"]] == [[3, "replay", 1]]


def test_thousands_of_metrics_in_one_step_arrive(followed: Followed) -> None:
    followed.log(1, **{f"query/{i}": i for i in range(2_500)})
    assert len(stored(followed).data.metrics) == 2_500


def test_a_step_does_not_wait_for_the_database(followed: Followed, tmp_path: Path) -> None:
    followed.tracker.flush()
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for step in range(50):  # with a wait for each, the test would not end in its time
            followed.log(step, **{f"m{i}": step for i in range(30)})
        other.rollback()
    assert len(history(followed, "m0")) == 50


# Artifacts and tables


def test_a_table_grows_and_can_be_loaded(followed: Followed) -> None:
    def sample(z: str) -> dict[str, Any]:
        return {"phase": "after", "step": 6, "z": z}

    followed.run.append_samples([sample("She “baked” it.")])
    followed.tracker.flush()
    followed.run.append_samples([])
    followed.run.append_samples([sample("He ran."), sample("It rained.")])
    # The tag is how MLflow's page knows that the file is a table.
    tag = stored(followed).data.tags["mlflow.loggedArtifacts"]
    assert "samples/after-000006.json" in tag
    assert table(followed, "samples/after-000006.json") == {
        "columns": ["phase", "step", "z"],
        "data": [
            ["after", 6, "She “baked” it."],
            ["after", 6, "He ran."],
            ["after", 6, "It rained."],
        ],
    }


def test_each_evaluation_has_a_table_of_its_own_and_training_has_none(followed: Followed) -> None:
    for phase, step in (("before", 0), ("train", 1), ("train", 2), ("during", 2), ("after", 2)):
        followed.run.append_samples([{"phase": phase, "step": step, "z": phase}])
        followed.run.append_diagnostics([{"phase": phase, "step": step, "elbo": float(step)}])
    names = ("before-000000", "during-000002", "after-000002")
    for kind in ("samples", "diagnostics"):
        files = [f"{kind}/{name}.json" for name in names]
        assert [len(table(followed, file)["data"]) for file in files] == [1, 1, 1]
        found = client(followed.tracker.uri).list_artifacts(followed.tracker.run_id, kind)
        assert {one.path for one in found} == set(files)


def test_artifacts_lie_where_they_are_told_and_not_in_the_working_directory(
    begin: Begin, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    root = tmp_path / "else where"
    one = begin(uri, "my experiment", artifact_root=root)
    (one.run.adapter_dir / "sub").mkdir(parents=True)
    (one.run.adapter_dir / "sub" / "weights").write_text("w")
    one.run.write_config("steps = 1\n")
    one.tracker.artifact(one.run.adapter_dir)
    one.tracker.artifact(one.run.config_file)
    assert one.tracker.end("FINISHED")
    found = root / "my_experiment" / one.tracker.run_id / "artifacts"
    assert (found / "adapter" / "sub" / "weights").read_text() == "w"
    assert (found / "config.toml").read_text() == "steps = 1\n"
    assert list((tmp_path / "cwd").iterdir()) == []


def test_only_what_is_in_the_runs_directory_is_stored_and_the_rest_is_named(
    followed: Followed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_text("a person's own")
    (followed.run.path / "link").symlink_to(tmp_path / "secret")
    followed.run.write_config("steps = 1\n")
    left_out = [tmp_path / "secret", followed.run.path / "link", followed.run.path / "gone"]
    for path in (*left_out, followed.run.config_file):
        followed.tracker.artifact(path)
    assert followed.tracker.flush()
    found = client(followed.tracker.uri).list_artifacts(followed.tracker.run_id)
    assert [one.path for one in found] == ["config.toml"]
    said = [one for one in caplog.messages if one.startswith("MLflow lacks")]
    assert [path.name in one for path, one in zip(left_out, said, strict=True)] == [True] * 3


# Beginning and end


@pytest.mark.parametrize("status", ["FINISHED", "KILLED", "FAILED"])
def test_a_run_ends_with_its_status_and_with_all_its_metrics(
    begin: Begin, uri: str, status: Any
) -> None:
    one = begin(uri)
    one.log(1, loss=1.0)
    assert one.tracker.end(status)
    one.tracker.end("FINISHED")
    run = client(uri).get_run(one.tracker.run_id)
    assert (run.info.status, run.info.run_name) == (status, "a-run")
    assert run.data.metrics["loss"] == 1.0
    assert run.data.tags["mlflow.user"]


def test_system_metrics_are_sampled(
    begin: Begin, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    one = begin(uri)
    deadline = time.monotonic() + 30
    seen: set[str] = set()
    while "system/cpu_utilization_percentage" not in seen and time.monotonic() < deadline:
        seen = set(stored(one).data.metrics)
    one.tracker.end("FINISHED")
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= seen


def test_system_metrics_of_a_run_that_goes_on_begin_where_they_ended(
    begin: Begin, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    run: RunDir | None = None
    steps: list[int] = []
    for _ in range(2):
        one = begin(uri, again=run)
        run, before, deadline = one.run, len(steps), time.monotonic() + 30
        while len(steps) == before and time.monotonic() < deadline:
            points = history(one, "system/cpu_utilization_percentage")
            steps = [step for step, _ in points]
        one.tracker.end("KILLED")
        assert len(steps) > before
    assert steps == list(range(len(steps)))


def test_two_runs_share_an_experiment(begin: Begin, uri: str) -> None:
    both = [begin(uri, "shared", f"run-{i}") for i in range(2)]
    runs = [stored(one).info for one in both]
    for one in both:
        one.tracker.end("FINISHED")
    assert runs[0].experiment_id == runs[1].experiment_id
    assert runs[0].run_id != runs[1].run_id


def test_mlflows_page_takes_the_experiment_for_training_unless_somebody_says_otherwise(
    begin: Begin, uri: str
) -> None:
    kind = "mlflow.experimentKind"
    known = {
        "new": None,
        "older": client(uri).create_experiment("older"),
        "a person's": client(uri).create_experiment("a person's", tags={kind: "finetuning"}),
    }
    for name in known:
        begin(uri, name).tracker.end("FINISHED")
    kinds = [client(uri).get_experiment_by_name(name).tags[kind] for name in known]
    assert kinds == ["custom_model_development", "custom_model_development", "finetuning"]


def test_a_deleted_experiment_is_refused(begin: Begin, uri: str) -> None:
    begin(uri, "gone").tracker.end("FINISHED")
    known = client(uri).get_experiment_by_name("gone")
    client(uri).delete_experiment(known.experiment_id)
    with pytest.raises(UserError, match=r"--tracking.experiment got 'gone', which was deleted"):
        begin(uri, "gone")


@pytest.mark.timeout(60)  # MLflow itself would try for four minutes
@pytest.mark.parametrize(
    ("uri", "shown", "why"),
    [
        ("sqlite:///{tmp}/notes.txt", "sqlite:///{tmp}/notes.txt", "file is not a database"),
        ("sqlite:///{tmp}", "sqlite:///{tmp}", "unable to open database file"),
        ("sqlite:///{tmp}/notes.txt/x.db", "sqlite:///{tmp}/notes.txt/x.db", "File exists"),
        ("ftp://me:secret@host/x", "ftp://***@host/x", "unsupported URI"),
        ("mlruns", "mlruns", "filesystem tracking backend"),
        ("http://me:secret@127.0.0.1:{port}", "http://***@127.0.0.1:{port}", "Connection refused"),
        ("http://me:it's secret@127.0.0.1:{port}", "http://***@127.0.0.1:{port}", "ction refused"),
        ("ftp://me:it's \"secret@host/x", "ftp://***@host/x", "unsupported URI"),
    ],
)
def test_a_store_that_cannot_be_opened_is_refused_soon_and_without_secrets(
    begin: Begin, uri: str, shown: str, why: str, tmp_path: Path
) -> None:
    names = {"tmp": tmp_path, "port": free_ports(1)[0]}
    (tmp_path / "notes.txt").write_text("these are notes, not a database")
    with pytest.raises(UserError) as refused:
        begin(uri.format(**names))
    message = str(refused.value)
    assert message.startswith(f"--tracking.uri got {shown.format(**names)}, which MLflow cannot ")
    assert why in message
    assert "secret" not in message and "\n" not in message


def test_the_first_connection_is_silent_and_calls_nobody(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from gfn_ray.tracking import Tracker\n"
        "assert 'mlflow' not in sys.modules\n"
        f"home, run = Path('{tmp_path}'), Path('{tmp_path}/run')\n"
        "run.mkdir()\n"
        "tracker = Tracker(f'sqlite:///{home}/new.db', 'e', 'r', {'a': 1}, run,\n"
        "    artifact_root=home / 'mlruns', delivery='')\n"
        "tracker.follow()\n"
        '(run / \'metrics.jsonl\').write_text(\'{"time": 1, "step": 1, "loss": 1.0}\\n\')\n'
        "for z in 'ab':\n"
        "    with (run / 'samples.jsonl').open('a') as lines:\n"
        '        lines.write(\'{"z": "%s"}\\n\' % z)\n'
        "    assert tracker.flush()\n"
        "assert tracker.end('FINISHED')\n"
        "assert os.environ['MLFLOW_DISABLE_TELEMETRY'] == 'true'\n"
        "assert os.environ['DO_NOT_TRACK'] == '1'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(gfn_ray.__file__).parents[1])}
    environment.pop("MLFLOW_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns", "new.db", "run"]


# What MLflow refuses


def test_a_line_that_no_store_takes_is_named_and_the_rest_arrives(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.log(1, loss=1.0)
    with followed.run.metrics_file.open("a") as lines:
        lines.write('{"time": 17, "step": 2, "lo\n')  # its process died, and the next one wrote on
        lines.write('{"time": 17, "step": "three", "loss": 3.0}\n')
        lines.write('{"time": 17, "step": 4, "loss": 4.0, "size": 5}\n')
    assert history(followed, "loss") == [(1, 1.0), (4, 4.0)]
    assert history(followed, "size") == [(4, 5.0)]
    said = f"MLflow lacks a line of {followed.run.metrics_file}: "
    assert len([one for one in caplog.messages if one.startswith(said)]) == 2


def test_a_line_that_is_being_written_arrives_when_it_is_whole(followed: Followed) -> None:
    followed.log(1, loss=1.0)
    with followed.run.metrics_file.open("a") as line:
        line.write('{"time": 17, "step": 2, ')
        line.flush()
        assert history(followed, "loss") == [(1, 1.0)]
        line.write('"loss": 2.0}\n')
    assert history(followed, "loss") == [(1, 1.0), (2, 2.0)]


def test_files_that_the_store_cannot_keep_hold_back_no_number_and_not_the_end(
    begin: Begin, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for want of a package that reaches the place of the experiment's files."""
    client(uri).create_experiment("elsewhere", artifact_location="s3://bucket/files")
    one = begin(uri, "elsewhere")
    one.run.write_config("steps = 1\n")
    one.tracker.artifact(one.run.config_file)
    one.log(1, loss=1.0)
    assert not one.tracker.end("FINISHED")
    run = client(uri).get_run(one.tracker.run_id)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 1.0)
    assert "accepts no files: No module named 'boto3'" in caplog.text
    state = TrackingState.read(one.run.path)
    assert state is not None and not state.complete and state.artifacts == ["config.toml"]


def test_a_disk_that_takes_no_account_holds_up_nothing(begin: Begin, uri: str) -> None:
    """A later process then delivers again what MLflow has, and MLflow keeps it once."""
    one = begin(uri)
    blocked = one.run.path / ".tracking.json.tmp"
    blocked.mkdir()  # where a new one is written
    one.log(1, loss=1.0)
    assert one.tracker.end("KILLED")
    state = TrackingState.read(one.run.path)
    assert state is not None and state.numbers == {}
    blocked.rmdir()
    again = begin(uri, again=one.run)
    again.log(2, loss=2.0)
    assert history(again, "loss") == [(1, 1.0), (2, 2.0)]
    assert again.tracker.end("FINISHED")


def test_what_a_deleted_run_is_to_get_waits_until_it_is_restored(followed: Followed) -> None:
    followed.tracker.flush()
    mlflow = client(followed.tracker.uri)
    mlflow.delete_run(followed.tracker.run_id)
    followed.log(1, loss=1.0)
    assert not followed.tracker.flush()
    mlflow.restore_run(followed.tracker.run_id)
    assert history(followed, "loss") == [(1, 1.0)]


def test_a_proxy_that_answers_400_loses_nothing(tmp_path: Path) -> None:
    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(400)

        def log_message(self, *_: object) -> None:
            """Nothing on this test's stderr."""

    RunDir(tmp_path).append_metrics(1, "train", {"one": 1.0, "two": 2.0})
    state = TrackingState(run_id="0" * 32)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_address[1]}"
        run = MlflowRun(client(uri), state.run_id)
        with pytest.raises(Exception, match="400"):
            list(Deliveries(run, tmp_path, state).numbers())
        server.shutdown()
        thread.join()
    assert state.numbers == {}
