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
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gfn_ray
from gfn_ray.errors import UserError
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tracking import Tracker, is_redacted, redact_uri
from gfn_ray.tracking.address import redact_text
from gfn_ray.tracking.courier import Courier
from gfn_ray.tracking.names import key as mlflow_key
from gfn_ray.tracking.spool import Spool
from testing.full_disk import no_room_beyond
from testing.sockets import free_ports

Begin = Callable[..., Tracker]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, for the first connection takes many seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "migrated.db"
    untracked = file.with_name("untracked")
    Tracker.start(f"sqlite:///{file}", "warm-up", "warm-up", {}, untracked).end("FINISHED")
    return file


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Begins trackers whose data waits in files of their own."""
    numbers = count()

    def begun(uri: str, experiment: str, name: str, params: Any, **options: Any) -> Tracker:
        (tmp_path / "untracked").mkdir(exist_ok=True)
        file = tmp_path / "untracked" / str(next(numbers))
        return Tracker.start(uri, experiment, name, params, file, **options)

    return begun


@pytest.fixture
def uri(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def tracker(begin: Begin, uri: str) -> Iterator[Tracker]:
    tracker = begin(uri, "tests", "a-run", {"steps": 3})
    yield tracker
    tracker.end("FINISHED")


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def stored(tracker: Tracker) -> Any:
    """The run as MLflow has it."""
    tracker.flush()
    return client(tracker.uri).get_run(tracker.run_id)


def history(tracker: Tracker, key: str) -> list[tuple[int, float]]:
    tracker.flush()
    metrics = client(tracker.uri).get_metric_history(tracker.run_id, key)
    return [(metric.step, metric.value) for metric in metrics]


# Parameters


def test_a_whole_config_becomes_dotted_parameters(begin: Begin, uri: str) -> None:
    config = InfillJob()
    tracker = begin(uri, "tests", "config", config.model_dump())
    params = stored(tracker).data.params
    tracker.end("FINISHED")
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
    tracker = begin(uri, "tests", "awkward", params)
    kept = stored(tracker).data.params
    tracker.end("FINISHED")
    assert len(kept) == len(params)
    assert kept["why_"] == "because"
    assert 5_000 < len(kept["long"]) < 10_000
    assert kept["uri"] == "https://***@host/"
    assert kept["note"] == "see https://***@host/, it says"


# Metrics


def test_metrics_are_stored_by_step(tracker: Tracker) -> None:
    for step in (1, 2, 3):
        tracker.metrics({"loss": np.float32(step / 2), "replay/size": step}, np.int64(step))
    assert history(tracker, "loss") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert history(tracker, "replay/size") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_what_is_no_number_is_left_out(tracker: Tracker) -> None:
    tracker.metrics({"a": math.nan, "b": math.inf, "c": None, "d": np.nan, "good": 1.0}, 1)
    assert set(stored(tracker).data.metrics) == {"good"}


def test_thousands_of_metrics_in_one_step_arrive(tracker: Tracker) -> None:
    tracker.metrics({f"query/{i}": i for i in range(2_500)}, 1)
    assert len(stored(tracker).data.metrics) == 2_500


def test_a_step_does_not_wait_for_the_database(tracker: Tracker, tmp_path: Path) -> None:
    tracker.flush()
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for step in range(50):  # with a wait for each, the test would not end in its time
            tracker.metrics({f"m{i}": step for i in range(30)}, step)
        other.rollback()
    assert len(history(tracker, "m0")) == 50


@given(st.text())
def test_mlflow_takes_every_name_that_we_make(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(mlflow_key(name))
    _validate_param_name(mlflow_key(name))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("policy/mismatch_kl", "policy/mismatch_kl"),
        ("Var(log R/T)", "Var_log R/T_"),
        ("/a//b/", "a/b"),
        ("../x", "__/x"),
        (".", "_"),
        ("", "_"),
    ],
)
def test_names_stay_readable(name: str, key: str) -> None:
    assert mlflow_key(name) == key


# Artifacts and tables


def test_a_table_grows_and_can_be_loaded(tracker: Tracker) -> None:
    tracker.table("samples", [{"step": 1, "z": "She “baked” it."}])
    tracker.table("samples", [])
    tracker.table("samples", [{"step": 2, "z": "He ran."}, {"step": 2, "z": "It rained."}])
    # The tag is how MLflow's page knows that the file is a table.
    assert "samples.json" in stored(tracker).data.tags["mlflow.loggedArtifacts"]
    file = client(tracker.uri).download_artifacts(tracker.run_id, "samples.json")
    assert json.loads(Path(file).read_text()) == {
        "columns": ["step", "z"],
        "data": [[1, "She “baked” it."], [2, "He ran."], [2, "It rained."]],
    }


def test_artifacts_lie_beside_the_database_not_in_the_working_directory(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    adapter = tmp_path / "adapter"
    (adapter / "sub").mkdir(parents=True)
    (adapter / "sub" / "weights").write_text("w")
    (tmp_path / "config.toml").write_text("steps = 1\n")
    tracker.artifact(adapter, "adapter")
    tracker.artifact(tmp_path / "config.toml")
    tracker.flush()
    root = tmp_path / "mlruns" / "tests" / tracker.run_id / "artifacts"
    assert (root / "adapter" / "sub" / "weights").read_text() == "w"
    assert (root / "config.toml").read_text() == "steps = 1\n"
    assert list((tmp_path / "cwd").iterdir()) == []


def test_artifacts_go_where_they_are_told(begin: Begin, uri: str, tmp_path: Path) -> None:
    root = tmp_path / "else where"
    tracker = begin(uri, "my experiment", "run", {}, artifact_root=root)
    (tmp_path / "file").write_text("f")
    tracker.artifact(tmp_path / "file", "sub")
    tracker.end("FINISHED")
    assert (root / "my_experiment" / tracker.run_id / "artifacts" / "sub" / "file").exists()


# Beginning and end


@pytest.mark.parametrize("status", ["FINISHED", "KILLED", "FAILED"])
def test_a_run_ends_with_its_status_and_with_all_its_metrics(
    begin: Begin, uri: str, status: Any
) -> None:
    tracker = begin(uri, "tests", "a-run", {})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end(status)
    tracker.end("FINISHED")
    run = client(uri).get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == (status, "a-run")
    assert run.data.metrics["loss"] == 1.0
    assert run.data.tags["mlflow.user"]


def test_system_metrics_are_sampled(
    begin: Begin, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = begin(uri, "tests", "system", {})
    deadline = time.monotonic() + 30
    seen: set[str] = set()
    while "system/cpu_utilization_percentage" not in seen and time.monotonic() < deadline:
        seen = set(stored(tracker).data.metrics)
    tracker.end("FINISHED")
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= seen


def test_system_metrics_of_a_run_that_goes_on_begin_where_they_ended(
    begin: Begin, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    run_id: str | None = None
    steps: list[int] = []
    for _ in range(2):
        tracker = begin(uri, "tests", "system", {}, run_id=run_id)
        run_id, before, deadline = tracker.run_id, len(steps), time.monotonic() + 30
        while len(steps) == before and time.monotonic() < deadline:
            points = history(tracker, "system/cpu_utilization_percentage")
            steps = [step for step, _ in points]
        tracker.end("KILLED")
        assert len(steps) > before
    assert steps == list(range(len(steps)))


def test_two_runs_share_an_experiment(begin: Begin, uri: str) -> None:
    trackers = [begin(uri, "shared", f"run-{i}", {}) for i in range(2)]
    runs = [stored(tracker).info for tracker in trackers]
    for tracker in trackers:
        tracker.end("FINISHED")
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
        begin(uri, name, "run", {}).end("FINISHED")
    kinds = [client(uri).get_experiment_by_name(name).tags[kind] for name in known]
    assert kinds == ["custom_model_development", "custom_model_development", "finetuning"]


def test_a_deleted_experiment_is_refused(begin: Begin, uri: str) -> None:
    begin(uri, "gone", "run", {}).end("FINISHED")
    known = client(uri).get_experiment_by_name("gone")
    client(uri).delete_experiment(known.experiment_id)
    with pytest.raises(UserError, match=r"--tracking.experiment got 'gone', which was deleted"):
        begin(uri, "gone", "run", {})


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
        begin(uri.format(**names), "tests", "run", {})
    message = str(refused.value)
    assert message.startswith(f"--tracking.uri got {shown.format(**names)}, which MLflow cannot ")
    assert why in message
    assert "secret" not in message and "\n" not in message


def test_a_file_that_is_gone_is_named_and_the_rest_arrives(
    begin: Begin, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(uri, "tests", "run", {})
    tracker.artifact(tmp_path / "no such file")
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end("FINISHED")
    run = client(uri).get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 1.0)
    assert "no such file" in caplog.text


def test_the_first_connection_is_silent_and_calls_nobody(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from gfn_ray.tracking import Tracker\n"
        "assert 'mlflow' not in sys.modules\n"
        f"tracker = Tracker.start('sqlite:///{tmp_path}/new.db', 'e', 'r', {{'a': 1}}, "
        f"Path('{tmp_path}/untracked'))\n"
        "tracker.metrics({'loss': 1.0}, 1)\n"
        "tracker.table('samples', [{'z': 'a'}])\n"
        "tracker.table('samples', [{'z': 'b'}])\n"
        "tracker.end('FINISHED')\n"
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns", "new.db"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("HTTPS://secret@host", "HTTPS://***@host"),
        ("postgresql+psycopg://me:se/cr@et@host/db", "postgresql+psycopg://***@host/db"),
        ("mysql://h/db?user=me&password=secret&x=1", "mysql://h/db?user=me&password=***&x=1"),
        ("https://h/?access_token=secret", "https://h/?access_token=***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://me:it's5ecret@host", "http://***@host"),
        ('http://me:"secret"@host', "http://***@host"),
        ("http://me:a secret@host", "http://***@host"),
        ("mysql://h/db?password=a secret&x=1", "mysql://h/db?password=***&x=1"),
    ],
)
def test_secrets_in_an_address_are_not_shown(uri: str, shown: str) -> None:
    assert redact_uri(uri) == shown
    assert redact_uri(shown) == shown
    assert is_redacted(shown) == (shown != uri)
    assert redact_text(f"cannot reach {uri} now", uri) == f"cannot reach {shown} now"


def test_secrets_in_a_text_with_addresses_are_not_shown() -> None:
    text = "neither http://me:secret@host nor 'http://h/?token=secret' answers, m@x asks"
    shown = "neither http://***@host nor 'http://h/?token=*** answers, m@x asks"
    assert redact_text(text) == shown


# What MLflow refuses


def waiting(tmp_path: Path, *names: str) -> Spool:
    """A queue with a number of each name in it."""
    spool = Spool(tmp_path / "waiting")
    for step, name in enumerate(names):
        spool.append({"metrics": [[name, 1.0, 17, step]]})
    return spool


def test_of_a_batch_only_the_entry_at_fault_is_left_out(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = client(uri)
    run_id = mlflow.create_run(mlflow.create_experiment("refusals")).info.run_id
    courier = Courier(mlflow, run_id, uri, waiting(tmp_path, "one", "two?", "three"))
    assert courier.finish(60)
    assert set(mlflow.get_run(run_id).data.metrics) == {"one", "three"}
    assert len([one for one in caplog.messages if "does not take metrics" in one]) == 1


def test_files_that_the_store_cannot_keep_hold_back_no_number_and_not_the_end(
    begin: Begin, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for want of a package that reaches the place of the experiment's files."""
    client(uri).create_experiment("elsewhere", artifact_location="s3://bucket/files")
    tracker = begin(uri, "elsewhere", "run", {})
    file = tmp_path / "config.toml"
    file.write_text("steps = 1\n")
    tracker.artifact(file)
    tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.end("FINISHED")
    run = client(uri).get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 1.0)
    assert "takes no files: No module named 'boto3'" in caplog.text
    assert len(list(tmp_path.glob("untracked/*_files"))) == 1


def test_a_full_disk_holds_up_nothing(uri: str, tmp_path: Path) -> None:
    mlflow = client(uri)
    run_id = mlflow.create_run(mlflow.create_experiment("full disk")).info.run_id
    spool = Spool(tmp_path / "waiting")
    spool.append({"table": "large.json", "columns": {"z": ["z" * 4_000_000]}})  # than MLflow's file
    spool.append({"metrics": [["loss", 1.0, 17, 1]]})
    with no_room_beyond(spool.file.stat().st_size):
        assert Courier(mlflow, run_id, uri, spool).finish(60)
    assert mlflow.get_run(run_id).data.metrics == {"loss": 1.0}


def test_what_a_deleted_run_is_to_get_waits_until_it_is_restored(tracker: Tracker) -> None:
    tracker.flush()
    client(tracker.uri).delete_run(tracker.run_id)
    tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.flush()
    client(tracker.uri).restore_run(tracker.run_id)
    assert history(tracker, "loss") == [(1, 1.0)]


def test_a_proxy_that_answers_400_loses_nothing(tmp_path: Path) -> None:
    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(400)

        def log_message(self, *_: object) -> None:
            """Nothing on this test's stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_address[1]}"
        spool = waiting(tmp_path, "one", "two")
        assert not Courier(client(uri), "0" * 32, uri, spool).finish(60)
        server.shutdown()
        thread.join()
    assert len(list(spool)) == 2
