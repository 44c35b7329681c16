"""Learners in processes of their own, as the ranks of one group."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gfn_ray.learners.ranks import Place, Ranks, join, open_store

# Forked from a process that has imported it: a rank starts in milliseconds.
PRELOADED = ["gfn_ray.learners.sft", "testing.policies"]
LIMIT_S = 60.0  # of an exchange between ranks, and of a process


def on_ranks(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Returns what `work(ranks, *given)` returned in each of `count` processes with one thread, or
    the exit code of one that died."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    store = open_store("127.0.0.1", LIMIT_S)
    place = Place("127.0.0.1", store.port, ("127.0.0.1",) * count, LIMIT_S)
    started = []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(theirs, place, rank, work, given))
        process.start()
        theirs.close()
        started.append((process, ours))
    return [_result(process, ours) for process, ours in started]


def _rank(
    answer: Connection, place: Place, rank: int, work: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    import torch

    torch.set_num_threads(1)
    ranks: Ranks = join(place, rank, "cpu")
    answer.send(work(ranks, *given))
    os._exit(0)  # without waiting for the others, which may be dead


def _result(process: Any, ours: Connection) -> Any:
    try:
        if ours.poll(LIMIT_S):
            return ours.recv()
    except EOFError:  # it died
        process.join(LIMIT_S)
        return process.exitcode
    process.kill()
    raise TimeoutError(f"a rank was not done within {LIMIT_S:g} s")
