"""A process ends with one that it cannot work without, at work or idle, and ends the others."""

import multiprocessing
import os
import signal
import threading

import psutil
import pytest

from gfn_ray.sampling.shared_fate import EXIT_LOST_PART, SharedFate

LIMIT_S = 60


def whole(pids, at_work):
    """Has two parts; waits for them, or meets the error that the death of one causes."""
    context = multiprocessing.get_context("spawn")
    parts = [context.Process(target=signal.pause) for _ in range(2)]
    for part in parts:
        part.start()
    if not at_work:
        fate = SharedFate(parts)
        pids.put([part.pid for part in parts])
        threading.Event().wait()
    fate = SharedFate([])  # no thread: the error alone has to do
    fate._processes = parts
    with fate.shared():
        pids.put([part.pid for part in parts])
        parts[0].join()
        raise RuntimeError("cancelled")


@pytest.mark.parametrize("at_work", [True, False])
def test_the_death_of_a_part_is_the_death_of_the_whole(at_work):
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    process = context.Process(target=whole, args=(pids, at_work))
    process.start()
    first, second = pids.get(timeout=LIMIT_S)
    other = psutil.Process(second)
    os.kill(first, signal.SIGKILL)
    process.join(LIMIT_S)
    assert process.exitcode == EXIT_LOST_PART
    other.wait(LIMIT_S)


def test_an_error_while_all_parts_live_goes_its_way():
    with pytest.raises(RuntimeError, match="of the code"), SharedFate([]).shared():
        raise RuntimeError("of the code")
