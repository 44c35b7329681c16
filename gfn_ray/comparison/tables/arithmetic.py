"""Arithmetic with a calculator from ten worked examples: right answers, in and out of length."""

from __future__ import annotations

from gfn_ray.comparison.section import Axis, Flags, Method, Section
from gfn_ray.comparison.tables.methods import (
    COST,
    NO_DIAGNOSTICS,
    rewarded,
    temperature,
)

_UPDATES, _SFT_UPDATES = 30, 30
_STAR_UPDATES = 30
_RATES = (1e-4, 3e-4)
_SFT_RATES = (2e-4, 5e-4)
# As many z of a problem as pairs and leave-one-out means need; trajectories an update stay 16.
_GROUPS: Flags = {"learner.queries-per-step": "2", "learner.trajectories-per-query": "8"}
_RIGHT: Flags = {"task.reward": "right", "objective.reward": "task", "objective.reference": "start"}


def arithmetic() -> Section:
    flags = {
        "steps": str(_UPDATES),
        "sft.steps": str(_SFT_UPDATES),
        "task.demonstrations": "10",
        "task.problems": "200",
        "eval.queries": "80",
        "eval.samples": "4",
        **NO_DIAGNOSTICS,
    }
    untrained = {"steps": "0", "sft.steps": "0"}
    after_sft = {"replay.seed-demonstrations": "false", **_GROUPS}
    policy_gradients = rewarded(
        ("ppo", "rloo"), _RATES, after_sft, {**after_sft, **_RIGHT, **temperature("0.05")}
    )
    dpo = rewarded(
        ("dpo",),
        _RATES,
        {**after_sft, "objective.reference": "start"},
        {**after_sft, **_RIGHT, **temperature("0.1"), "objective.pairs": "best_worst"},
    )
    methods = (
        Method("no training", untrained),
        Method("no training", {**untrained, "task.shots": "3"}, "three examples shown"),
        Method("MLE", _likelihood(), "the ten", _SFT_RATES, "sft.lr"),
        Method("GFlowNet", {}, "TB", _RATES),
        *policy_gradients,
        *dpo,
        _star("STaR", 2),
        _star("STaR", 2, "rationalised"),
        _star("posterior samples", 1),
    )
    axes = (
        Axis(
            "single, 3-4",
            ("after.sample_accuracy_3", "after.sample_accuracy_4"),
            "higher",
            "right samples on three and four operands, the lengths of the ten",
        ),
        Axis(
            "majority, 3-4",
            ("after.accuracy_3", "after.accuracy_4"),
            "higher",
            "problems that the commonest answer of four samples solves",
        ),
        *(axis for operands in (5, 6) for axis in (_single(operands), _majority(operands))),
        *COST,
    )
    setup = (
        "`make arithmetic` with ten worked examples of three and four operands and the answers of "
        "200 more problems, SmolLM2-135M, a calculator after each `=`; four samples for each of 80 "
        "validation problems, 20 of a length, five and six operands being longer than any seen. "
        f"All but the first two rows begin with {_SFT_UPDATES} likelihood updates on the ten; "
        f"then come {_UPDATES} updates of 16 trajectories, for MLE as many more on the ten. "
        "Matched: "
        "r = log R - log p_ref, log R = log p(chain, answer | question) less 5 nats if the answer "
        "is wrong. Usual: 1 for the right answer and else 0, kept near the policy after those "
        "first updates, at beta .05, DPO at .1 on the best and the worst of eight. STaR: two "
        f"rounds of four samples a problem and {_STAR_UPDATES} updates on the right ones, anew "
        "from that policy each; posterior samples: one such round. Learning rates are of the "
        "likelihood updates for MLE and STaR, else of those by the objective."
    )
    return Section(
        "arithmetic",
        "Arithmetic from ten examples",
        setup,
        "arithmetic",
        flags,
        methods,
        axes,
        ("single, 3-4", "single, 5", "single, 6"),
        160.0,
    )


def _likelihood() -> Flags:
    return {"steps": "0", "sft.steps": str(_SFT_UPDATES + _UPDATES)}


def _star(name: str, rounds: int, form: str = "") -> Method:
    flags = {
        "steps": "0",
        "star.rounds": str(rounds),
        "star.samples": "4",
        "star.steps": str(_STAR_UPDATES),
        "star.rationalise": "true" if form else "false",
    }
    return Method(name, flags, form, _SFT_RATES, "sft.lr")


def _single(operands: int) -> Axis:
    return Axis(
        f"single, {operands}",
        (f"after.sample_accuracy_{operands}",),
        "higher",
        f"right samples on {operands} operands",
    )


def _majority(operands: int) -> Axis:
    return Axis(
        f"majority, {operands}",
        (f"after.accuracy_{operands}",),
        "higher",
        f"problems of {operands} operands that the commonest answer solves",
    )
