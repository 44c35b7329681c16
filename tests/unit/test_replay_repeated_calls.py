"""A call that was logged, but whose answer was never heard, is repeated: it happens once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import ReplayConfig
from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.journal.idempotency import KEPT
from gfn_ray.storage.trajectories import pack_trajectories
from testing.courses import (
    CONFIGS,
    NEVER_ROLLS,
    ROLLS_OFTEN,
    Course,
    assert_equal,
    buffer_after,
    opened,
    random_trajectory,
    restored,
)
from testing.examples import examples

limits = st.sampled_from([ROLLS_OFTEN, NEVER_ROLLS])


def block(rng: np.random.Generator) -> bytes:
    return pack_trajectories([random_trajectory(rng, 0) for _ in range(8)])


class Unheard:
    """A store whose process dies after each call is logged, and is asked again."""

    def __init__(self, directory: Path, config: ReplayConfig, seed: int, limit: int) -> None:
        self._open = lambda: opened(directory, config, seed, limit)
        self._calls = 0

    def add(self, *arguments: Any) -> Any:
        return self._ask_twice("add", arguments)

    def sample(self, *arguments: Any) -> Any:
        return self._ask_twice("sample", arguments)

    def update_priorities(self, *arguments: Any) -> Any:
        return self._ask_twice("update_priorities", arguments)

    def _ask_twice(self, method: str, arguments: tuple[Any, ...]) -> Any:
        self._calls += 1
        for _ in range(2):
            store = self._open()
            answer = getattr(store, method)(*arguments, f"call-{self._calls}")
            store.close()
        return answer


@examples(15)
@given(st.sampled_from(CONFIGS), st.integers(0, 2**16), st.integers(1, 12), limits)
def test_calls_made_twice_over_a_kill_answer_and_leave_what_calls_made_once_do(
    tmp_path_factory: pytest.TempPathFactory,
    config: ReplayConfig,
    seed: int,
    steps: int,
    limit: int,
) -> None:
    directory = tmp_path_factory.mktemp("run") / "replay"
    unheard, buffer = Unheard(directory, config, seed, limit), ReplayBuffer(config, seed, group=3)
    twice, once = Course(seed), Course(seed)
    for _ in range(steps):
        assert twice.step(unheard) == once.step(buffer)
    assert_equal(restored(directory, config, seed), buffer_after(config, seed, steps))


@pytest.mark.parametrize("limit", [ROLLS_OFTEN, NEVER_ROLLS])
def test_several_calls_that_were_not_heard_are_each_answered_as_at_first(
    limit: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    groups = [block(rng) for _ in range(2)]

    def ask() -> list[Any]:
        store = opened(tmp_path, CONFIGS[0], limit=limit)
        reports = [store.add(group, f"add-{i}") for i, group in enumerate(groups)]
        batch = store.sample(2, 2, 1, "sample")
        assert batch is not None
        updated = store.update_priorities(batch.slots, batch.generations, [1.0] * len(batch), "up")
        store.clear("clear")
        late = store.add(groups[0], "late")
        store.close()
        tokens = [one.token_ids.tolist() for one in batch.trajectories]
        return [reports, tokens, batch.slots.tolist(), batch.generations.tolist(), updated, late]

    assert ask() == ask() == ask()
    assert len(restored(tmp_path, CONFIGS[0], 0)) > 0, "the repeated clear came before"


def test_a_call_with_another_key_or_none_is_another_call(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = opened(tmp_path, CONFIGS[0])
    store.add(block(rng), "a")
    for key in ("b", "b", "c", None, None):
        assert store.sample(1, 2, 0, key) is not None
    assert store.buffer.stats()["sampled"] == 8


def test_answers_are_forgotten_in_the_end_so_that_the_snapshot_is_bounded(tmp_path: Path) -> None:
    store = opened(tmp_path, CONFIGS[0], limit=NEVER_ROLLS)
    sizes = []
    for call in range(3 * KEPT["add"]):
        store.add(pack_trajectories([]), f"{call:04}")
        if (call + 1) % KEPT["add"] == 0:
            sizes.append(len(store.snapshot()))
    assert sizes[0] == sizes[1] == sizes[2]
