"""The short form of `make chaos`: faults that no other test inflicts on a whole job."""

import json

import pytest

from chaos import chaos

INTERRUPTED = 130

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def test_a_run_survives_a_wedged_actor_slow_replies_and_a_locked_database(tmp_path):
    only = "SIGSTOP reward|slow replies learner|database locked"
    report = chaos(tmp_path, count=3, controls=0, seed=0, only=only, steps=1_000_000)
    assert report["survived"] == report["faults"] == 3, report["table"]
    assert report["exit_code"] == INTERRUPTED
    restarts = (tmp_path / "chaos" / "run" / "restarts.jsonl").read_text().splitlines()
    assert "reward actor 0" in {json.loads(row)["actor"] for row in restarts}
    assert report["trajectories_lost"] == 0 < report["trajectories_acknowledged"]
    assert "Traceback" not in (tmp_path / "chaos" / "err").read_text()
