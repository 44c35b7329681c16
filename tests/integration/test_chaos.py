"""The short form of `make chaos`: faults that no other test inflicts on a whole job."""

import pytest
from chaos import chaos

INTERRUPTED = 130

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def test_a_run_survives_a_wedged_actor_slow_replies_and_a_store_that_fails(tmp_path):
    only = "SIGSTOP reward|slow replies learner|database locked|server gone"
    report = chaos(tmp_path, count=4, controls=0, seed=0, only=only, steps=1_000_000)
    assert report["survived"] == report["faults"] == 4, report["table"]
    assert report["exit_code"] == INTERRUPTED
    assert report["actors_restarted"] == 1
    assert report["trajectories_lost"] == 0 < report["trajectories_acknowledged"]
    assert "Traceback" not in (tmp_path / "chaos" / "err").read_text()
