"""A run that cannot go on says what failed and how to go on, whatever it was."""

import errno
import os

import pytest

from gfn_ray.errors import RunFailed, UserError
from gfn_ray.runs.error_context import with_resume_hint

LEFT = "the newest policy is step-000050; continue with --resume runs/a"


def ending(error):
    with pytest.raises(Exception) as ended, with_resume_hint(lambda: LEFT, lambda: False):
        raise error
    return ended.value


def test_a_disk_that_is_full_ends_the_run_with_a_sentence():
    with (
        pytest.raises(RunFailed) as ended,
        with_resume_hint(lambda: LEFT, lambda: False),
        open("/dev/full", "w") as out,
    ):
        out.write("x" * 10_000)
    assert str(ended.value) == (
        "cannot write a file of the run: No space left on device; "
        f"free disk space or repair the disk; {LEFT}"
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_file_that_the_disk_does_not_take_is_named(number):
    error = ending(OSError(number, os.strerror(number), "runs/a/metrics.jsonl"))
    assert isinstance(error, RunFailed)
    assert "cannot write runs/a/metrics.jsonl: " in str(error) and str(error).endswith(LEFT)


@pytest.mark.parametrize("kind", [UserError, RunFailed])
def test_an_error_keeps_its_kind_and_so_its_exit_code(kind):
    error = ending(kind("the log of replay is damaged at byte 17"))
    assert type(error) is kind
    assert str(error) == f"the log of replay is damaged at byte 17; {LEFT}"


def test_after_a_mistake_whose_start_is_taken_back_there_is_nothing_to_go_on_with():
    with pytest.raises(UserError) as ended, with_resume_hint(lambda: LEFT, lambda: True):
        raise UserError("no room; raise sampler.kv_cache_mb")
    assert str(ended.value) == "no room; raise sampler.kv_cache_mb"


@pytest.mark.parametrize("kind", [RunFailed, OSError])
def test_nothing_is_taken_back_after_what_is_nobodys_mistake(kind):
    taken = []
    with (
        pytest.raises(RunFailed, match=LEFT),
        with_resume_hint(lambda: LEFT, lambda: taken.append(1) or True),
    ):
        raise kind(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not taken


@pytest.mark.parametrize("bug", [FileNotFoundError(errno.ENOENT, "gone"), KeyError("step")])
def test_a_bug_keeps_its_traceback(bug):
    assert ending(bug) is bug
