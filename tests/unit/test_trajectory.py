"""The support: which tokens are legal where, and that no legal z is a dead end."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories
from gfn_ray.support import BoundedSupport, Support
from gfn_ray.trajectory import Trajectory
from testing.courses import random_trajectory

VOCAB = 12
IDS = np.arange(VOCAB)


def make_support(min_len: int = 2, max_len: int = 4) -> Support:
    """Content 0-8, openings even, enders 6-8, stop tokens 10 and 11; 9 is never legal."""
    content = IDS < 9
    return BoundedSupport(
        content=content,
        opening=content & (IDS % 2 == 0),
        enders=(IDS >= 6) & content,
        stop_ids=np.array([10, 11], dtype=np.int32),
        min_len=min_len,
        max_len=max_len,
    )


def legal_after(support: Support, tokens: list[int]) -> set[int]:
    row = support.mask_row(len(tokens), tokens[-1] if tokens else None)
    return set(np.flatnonzero(support.masks[row]).tolist())


def walk(support: Support, choices: list[int]) -> tuple[list[int], bool]:
    """A trajectory made of legal choices only; True where it ended by a stop token."""
    tokens: list[int] = []
    for choice in choices:
        legal = sorted(legal_after(support, tokens))
        token = legal[choice % len(legal)]
        if token in support.stop_ids:
            return tokens, True
        tokens.append(token)
    return tokens, False


@given(
    st.integers(0, 4).flatmap(lambda low: st.tuples(st.just(low), st.integers(max(low, 1), 6))),
    st.lists(st.integers(0, 100), min_size=8, max_size=8),
)
def test_every_legal_walk_ends_in_a_z_that_the_support_contains(lengths, choices):
    support = make_support(*lengths)
    tokens, stopped = walk(support, choices)
    assert stopped
    assert support.contains(tokens)
    assert lengths[0] <= len(tokens) <= lengths[1]


def test_only_openings_are_legal_first():
    assert legal_after(make_support(), []) == {0, 2, 4, 6, 8}


def test_stopping_is_legal_only_after_an_ender_and_from_min_len_on():
    support = make_support(min_len=2, max_len=4)
    assert legal_after(support, [6]) == set(range(9))
    assert legal_after(support, [6, 1]) == set(range(9))
    assert legal_after(support, [6, 7]) == {*range(9), 10, 11}


def test_the_last_position_takes_only_enders_or_a_stop():
    support = make_support(min_len=2, max_len=4)
    assert legal_after(support, [0, 1, 2]) == {6, 7, 8}
    assert legal_after(support, [0, 1, 6]) == {6, 7, 8, 10, 11}


def test_at_max_len_stopping_is_the_only_legal_action():
    assert legal_after(make_support(), [0, 1, 2, 6]) == {10, 11}


def test_terminable_prefixes_are_those_that_may_stop():
    support = make_support(min_len=2, max_len=4)
    assert support.terminable([6, 7, 1, 8]).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("tokens", [[], [1, 6], [0, 1], [0], [0, 9, 6], [0, 1, 2, 3, 6]])
def test_what_the_policy_cannot_produce_is_outside_the_support(tokens):
    assert not make_support().contains(tokens)


def test_an_empty_z_is_in_the_support_and_may_stop_where_min_len_is_zero():
    support = make_support(min_len=0)
    assert support.contains([])
    assert support.terminable([]).tolist() == [True]
    assert support.terminable([6, 1, 8]).tolist() == [True, True, False, True]
    assert legal_after(support, []) == {0, 2, 4, 6, 8, 10, 11}


def test_a_min_len_of_zero_changes_what_the_empty_prefix_may_do_and_nothing_else():
    zero, one = make_support(min_len=0), make_support(min_len=1)
    assert np.array_equal(zero.masks, one.masks)
    assert zero.mask_rows([0, 6, 1]).tolist()[1:] == one.mask_rows([0, 6, 1]).tolist()[1:]
    assert not zero.contains([0]) and zero.contains([6])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_len": 5}, "min_len <= max_len"),
        ({"min_len": -1}, "0 <= min_len"),
        ({"stop_ids": np.array([], dtype=np.int32)}, "non-empty"),
        ({"stop_ids": np.array([3], dtype=np.int32)}, "outside the content"),
        ({"opening": np.zeros(VOCAB, dtype=np.bool_)}, "left in opening"),
        ({"enders": IDS == 9}, "left in enders"),
    ],
)
def test_a_support_without_a_way_out_is_refused(changes, message):
    support = make_support()
    fields = {name: getattr(support, name) for name in support.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        BoundedSupport(**{**fields, **changes})


@given(st.integers(0, 2**16), st.integers(0, 5), st.booleans())
def test_a_block_gives_back_every_field_of_its_trajectories_scored_or_not(seed, count, scored):
    rng = np.random.default_rng(seed)
    given = [random_trajectory(rng, 3) for _ in range(count)]
    if not scored:
        given = [replace(one, log_reward=None) for one in given]
    again = unpack_trajectories(pack_trajectories(given))
    for one, other in zip(given, again, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_equal(getattr(other, name), value, name)
            assert type(getattr(other, name)) is type(value), name


def test_an_empty_z_survives_the_block():
    (z,) = unpack_trajectories(
        pack_trajectories([unscored([], make_support(min_len=0)).scored([-1.5])])
    )
    assert len(z) == 0 and z.terminable.tolist() == [True] and z.final_log_reward == -1.5


def test_what_is_unpacked_keeps_no_larger_array_alive():
    for one in unpack_trajectories(pack_trajectories([unscored([0, 6]), unscored([6, 7])])):
        assert all(a.base is None for a in vars(one).values() if isinstance(a, np.ndarray))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_reward": np.zeros(3, np.float32)}, "1 of 2 trajectories have not been scored"),
        ({"tool_mask": np.zeros(3, np.bool_)}, r"tool_mask is bool \(3,\).*expected bool \(2,\)"),
        ({"terminable": np.zeros(2, np.bool_)}, r"terminable is .*expected bool \(3,\)"),
        ({"sampler_log_pf": np.zeros(2)}, r"float64 \(2,\).*expected float32 \(2,\)"),
    ],
)
def test_a_block_refuses_what_it_would_not_give_back(changes, message):
    with pytest.raises(ValueError, match=message):
        pack_trajectories([unscored([0, 6]), replace(unscored([0, 6]), **changes)])


def unscored(tokens: list[int], support: Support | None = None) -> Trajectory:
    return Trajectory(
        query_id="q",
        token_ids=np.array(tokens, dtype=np.int32),
        tool_mask=np.zeros(len(tokens), dtype=np.bool_),
        terminable=(support or make_support()).terminable(tokens),
        policy_version=0,
        proposal="policy",
        temperature=1.0,
        epsilon=0.0,
        stopped=True,
        sampler_log_pf=np.zeros(len(tokens), dtype=np.float32),
        sampler_log_stop=0.0,
    )


def test_a_reward_is_kept_at_terminable_prefixes_only():
    scored = unscored([0, 6]).scored([1.0, 2.0, -3.0])
    assert np.isnan(scored.log_reward[:2]).all()
    assert scored.final_log_reward == -3.0


@pytest.mark.parametrize(
    ("tokens", "log_reward", "fault"),
    [
        ([6, 7, 1, 8], [np.nan, np.nan, -3.0, np.nan, -4.0], None),
        ([6, 7, 1, 8], [np.nan, np.nan, np.nan, np.nan, -4.0], "log R is nan"),
        ([6, 7, 1, 8], [0.0, 0.0, -3.0, 0.0, -np.inf], "log R is -inf"),
        ([6, 7, 1, 8], [0.0, 0.0, np.inf, 0.0, -4.0], "log R is inf"),
        ([6, 1], [0.0, 0.0, 0.0], "z ends where it may not stop, so it has no log R"),
    ],
)
def test_a_fault_is_a_log_r_that_is_not_finite_wherever_z_may_stop(tokens, log_reward, fault):
    assert unscored(tokens).scored(log_reward).reward_fault == fault


def test_a_reward_of_the_wrong_shape_or_missing_where_needed_is_refused():
    with pytest.raises(ValueError, match="expected"):
        unscored([0, 6]).scored([1.0])
    with pytest.raises(ValueError, match="not been scored"):
        _ = unscored([0, 6]).final_log_reward
