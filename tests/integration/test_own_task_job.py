"""The worked example of docs/own-task.md, as its reader runs it: trained, then served."""

import sys

import pytest

import gfn_ray
from gfn_ray.errors import UserError
from testing.job_runner import LIMIT, ROOT, start, summary, tiny_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

EXAMPLE = ROOT / "docs" / "examples" / "haiku.py"


def test_a_users_file_trains_through_the_real_actors_and_is_served(tiny_dir, tmp_path, monkeypatch):
    """The task's classes are those of a script: actors get them, and its verifier, by value."""
    flags = tiny_flags(tiny_dir, tmp_path, steps=3, replay__min_replay=8)
    process = start(flags, tmp_path, command=(sys.executable, str(EXAMPLE)))
    try:
        code = process.wait(LIMIT)
    finally:
        process.kill()
    assert code == 0, (tmp_path / "err").read_text()
    assert {"exact", "off", "log_ratio_var"} <= set(summary(tmp_path)["after"])

    monkeypatch.syspath_prepend(EXAMPLE.parent)
    import haiku

    adapter = tmp_path / "run" / "adapter"
    with pytest.raises(UserError, match="task=MyTask"):
        gfn_ray.sample(adapter, {"topic": "rain"})
    samples = gfn_ray.sample(adapter, {"topic": "rain"}, n=3, task=haiku.HaikuTask)
    assert all(set(one.text) <= set("abcdefghijklmnopqrstuvwxyz /") for one in samples)
    assert all(one.log_q < 0 for one in samples)
