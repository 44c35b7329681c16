"""Sentences with three given words: a reward function on the model's own likelihood."""

from __future__ import annotations

from gfn_ray.comparison.section import Axis, Flags, Method, Section
from gfn_ray.comparison.tables.methods import (
    COST,
    JEFFREYS,
    NO_DIAGNOSTICS,
    NO_DRAWS,
    rewarded,
    temperature,
)

_UPDATES = 30
_RATES = (3e-4, 1e-3)
_ALL: Flags = {"task.reward": "contains_all", **NO_DRAWS}
# r alone is log R, and p_ref enters by the objective.
_USUAL: Flags = {**_ALL, "task.beta": "1", "task.prior": "0", "objective.reward": "task"}
# 200 nats of reward stand clear of any likelihood, so that log R tells what is accepted.
_ACCEPTED: Flags = {
    **_ALL,
    "objective.kind": "mle",
    "objective.accept-from": "50",
    "task.beta": "0.005",
    "replay.edit-distance": "none",
    "replay.priority": "uniform",
}


def three_words() -> Section:
    flags = {
        "steps": str(_UPDATES),
        "eval.queries": "20",
        "eval.simulated-queries": "12",
        **NO_DIAGNOSTICS,
    }
    policy_gradients = rewarded(("ppo", "rloo"), _RATES, {}, {**_USUAL, **temperature("0.05")})
    dpo = rewarded(
        ("dpo",), _RATES, {}, {**_USUAL, **temperature("0.1"), "objective.pairs": "best_worst"}
    )
    methods = (
        Method("no training", {"steps": "0"}),
        Method("GFlowNet", {}, "VarGrad", _RATES),
        Method("MLE", _ACCEPTED, "accepted samples", _RATES),
        *policy_gradients,
        *dpo,
    )
    axes = (
        Axis("all three words", ("after.pass_at_1",), "higher", "share of held-out samples"),
        Axis(
            "different correct ones",
            ("after.distinct_correct",),
            "higher",
            "of eight samples of a set of words",
        ),
        Axis(
            "log p_ref a token",
            ("after.log_p_ref_per_token",),
            "higher",
            "under the frozen model; read it beside the length",
        ),
        Axis("tokens", ("after.length_mean",), "none", "length of a sentence"),
        *JEFFREYS,
        *COST,
    )
    setup = (
        f"`make prompts`, {_UPDATES} updates of 32 trajectories, SmolLM2-135M; eight samples for "
        "each of 20 held-out sets of words, two examples in the prompt. The posterior is "
        "p_ref exp(r / .05), r the share of the words in the sentence. There are no sentences to "
        "learn from, so MLE learns from the policy's own ones that have all three words, and DPO "
        "starts from the frozen model like the others. Matched: this r, at beta .05. Usual: 1 for "
        "all three words and else 0, PPO and RLOO at beta .05, DPO at beta .1 on the best and the "
        "worst sentence of eight, if they differ in reward. GFlowNet training uses a sentence one "
        "and a half times, MLE too, the others once."
    )
    shown = ("all three words", "different correct ones", "log p_ref a token", "jeffreys")
    title = "Sentences with three words"
    return Section("three-words", title, setup, "prompts", flags, methods, axes, shown, 190.0)
