"""Non-finite batches: what is skipped, what is recorded of it, and when the run ends."""

import json

import numpy as np
import pytest

from gfn_ray.config import LearnerConfig, RuntimeConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runs.nonfinite_batches import FILES_KEPT, NonFiniteBatch, NonFiniteBatches
from gfn_ray.tasks.infill.config import InfillJob
from testing.makers import make_support, random_trajectories

LIMIT = 3


@pytest.fixture
def reports():
    return []


@pytest.fixture
def bad(tmp_path, reports):
    return make(tmp_path / "nonfinite_batches", reports)


def make(directory, reports, **learner):
    config = InfillJob(
        runtime=RuntimeConfig(max_nonfinite_batches=LIMIT), learner=LearnerConfig(**learner)
    )
    return NonFiniteBatches(
        config, directory, lambda ids: f"{len(ids)} tokens", lambda: 7, reports.append
    )


def scored(query_id, last=-3.0, count=2, seed=0):
    """z of a query whose log R is finite, but for the very last."""
    support = make_support()
    found = random_trajectories(np.random.default_rng(seed), support, query_id, count)
    values = [np.where(t.terminable, -3.0, np.nan) for t in found]
    values[-1][-1] = last
    return [t.scored(v) for t, v in zip(found, values, strict=True)]


def call(*groups):
    """Trajectories of a sampling call and their faults, as a reward actor finds them."""
    flat = [t for group in groups for t in group]
    faults = {i: t.reward_fault for i, t in enumerate(flat)}
    return flat, {i: f for i, f in faults.items() if f is not None}


def update(reason="the loss is nan"):
    group = scored("q")
    known = {"log_q": np.array([-1.5, np.nan]), "loss": np.array([2.0, np.inf])}
    return NonFiniteBatch("update", reason, group, known)


def test_a_group_with_a_fault_is_dropped_whole_and_its_neighbours_are_kept(bad, reports):
    found, faults = call(scored("a"), scored("b", np.nan), scored("c"), scored("d", -np.inf))
    kept = bad.sift(found, faults)
    assert [t.query_id for t in kept] == ["a", "a", "c", "c"]
    assert [(r.number, r.step, r.kind, r.reason) for r in reports] == [
        (1, 7, "group", "log R is nan"),
        (2, 7, "group", "log R is -inf"),
    ]
    assert bad.total == 2


def test_a_file_has_every_z_with_its_text_and_numbers_and_names_what_is_not_finite(bad, reports):
    bad.dropped(update())
    record = json.loads(reports[0].file.read_text())
    assert (record["dropped"], record["after_update"]) == ("update", 7)
    assert record["reason"] == "the loss is nan"
    for row, one in zip(record["trajectories"], scored("q"), strict=True):
        assert row["query_id"] == "q"
        assert row["text"] == f"{len(one)} tokens" and row["token_ids"] == one.token_ids.tolist()
        assert [v is not None for v in row["log_reward"]] == one.terminable.tolist()
    assert [row["log_q"] for row in record["trajectories"]] == [-1.5, "nan"]
    assert [row["loss"] for row in record["trajectories"]] == [2.0, "inf"]


@pytest.mark.parametrize("last", [np.nan, np.inf, -np.inf])
def test_too_many_groups_in_a_row_end_the_run_and_ask_for_a_floor(bad, reports, last):
    found, faults = call(*(scored(f"q{i}", last) for i in range(LIMIT)))
    with pytest.raises(
        RunFailed, match=rf"3 groups .* log R is {last} \(3 x\).*finite log R.*floor"
    ):
        bad.sift(found, faults)
    assert len(reports) == LIMIT


def test_a_usable_batch_begins_a_new_row_for_its_own_kind_alone(bad):
    for _ in range(2):
        bad.dropped(update())
    bad.usable("update")
    for _ in range(2):
        bad.dropped(update())
    bad.usable("group")
    with pytest.raises(RunFailed, match="3 updates in a row"):
        bad.dropped(update())


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        ({"lr": 2.0}, "lower learner.lr (2) or learner.max_grad_norm (1), or raise reward.temp"),
        ({"dtype": "bfloat16"}, "set learner.dtype to float32 (bfloat16)"),
    ],
)
def test_the_diagnosis_names_what_was_found_where_it_is_and_what_to_try(
    tmp_path, reports, learner, says
):
    bad = make(tmp_path / "bad", reports, **learner)
    reasons = ["the loss is nan", "the gradient's norm is inf", "the loss is nan"]
    with pytest.raises(RunFailed) as ended:
        for reason in reasons:
            bad.dropped(update(reason))
    sentence = str(ended.value)
    assert "the loss is nan (2 x), the gradient's norm is inf (1 x)" in sentence
    assert str(tmp_path / "bad" / "000003.json") in sentence
    assert says in sentence
    assert "\n" not in sentence


def test_a_measurement_ends_at_its_first_fault_with_the_text(bad, reports):
    bad.check_measured(*call(scored("a"), scored("b")))
    assert not reports
    found, faults = call(scored("a"), scored("b", np.nan))
    with pytest.raises(RunFailed, match=r"log R is nan for the z '\d tokens' .* query 'b'.*floor"):
        bad.check_measured(found, faults)
    record = json.loads(reports[0].file.read_text())
    assert {row["query_id"] for row in record["trajectories"]} == {"b"}


def test_only_the_newest_files_are_kept_and_a_run_that_goes_on_overwrites_none(tmp_path, reports):
    for _ in range(2):  # the second as after --resume
        bad = make(tmp_path / "bad", reports)
        for _ in range(FILES_KEPT - 5):
            bad.dropped(update())
            bad.usable("update")
    numbers = sorted(int(file.stem) for file in (tmp_path / "bad").iterdir())
    newest = 2 * (FILES_KEPT - 5)
    assert numbers == list(range(newest - FILES_KEPT + 1, newest + 1))
