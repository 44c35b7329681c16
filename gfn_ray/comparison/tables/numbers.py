"""Random numbers and five separated modes: posteriors of which every probability is computed."""

from __future__ import annotations

from dataclasses import replace

from gfn_ray.comparison.section import Axis, Flags, Method, Section
from gfn_ray.comparison.tables.methods import COST, NO_DIAGNOSTICS, rewarded, temperature

_UPDATES, _QUICK_UPDATES = 50, 60
_RATES = (3e-4, 1e-3, 3e-3)
_USUAL: Flags = {"objective.reward": "task", **temperature("0.1")}


def numbers() -> Section:
    return _section("numbers", "Random numbers", "uniform", _UPDATES)


def modes() -> Section:
    return _modes(_UPDATES)


def few_modes() -> Section:
    """One learning rate each and one seed: a quarter of an hour on two cores."""
    section = _modes(_QUICK_UPDATES)
    methods = tuple(
        replace(one, rates=one.rates[1:2])
        for one in section.methods
        if one.form != "VarGrad" and one.name != "GRPO"
    )
    return replace(section, methods=methods, seeds=(0,))


def _modes(updates: int) -> Section:
    return _section("modes", "Five separated modes", "modes", updates)


def _section(slug: str, title: str, target: str, updates: int) -> Section:
    flags = {
        "steps": str(updates),
        "sft.steps": "0",
        "task.target": target,
        "eval.every": "0",
        **NO_DIAGNOSTICS,
    }
    exact = (
        _axis("total variation", "tv", "to the posterior, by enumeration"),
        _axis("KL(p‖q)", "kl_p_q", "nats: what the policy misses"),
        _axis("KL(q‖p)", "kl_q_p", "nats: what it writes too often"),
        Axis("in range", ("coverage.in_range",), "higher", "probability of an integer in range"),
        Axis("modes", ("coverage.modes_covered",), "higher", "share of modes with half their mass"),
    )
    setup = (
        f"`make random-number`, {updates} updates of 64 trajectories, SmolLM2-135M. The posterior "
        "is known: every integer's probability is computed, nothing is estimated, and every method "
        "is held to it at T = 1. MLE learns from the integers themselves, as often as the "
        "posterior has them; the others from the reward of what they write. GFlowNet training uses "
        "a trajectory three times, policy gradients and DPO once. Matched: r = log R - log p_ref "
        "at beta 1. Usual: r = log R at beta .1, whose optimum is not the posterior."
    )
    axes = (*(exact if target == "modes" else exact[:-1]), *COST)
    shown = ("total variation",)
    return Section(slug, title, setup, "random-number", flags, _methods(updates), axes, shown, 90.0)


def _methods(updates: int) -> tuple[Method, ...]:
    # GRPO divides advantages by their standard deviation, so no reward makes R its optimum.
    others = (
        one
        for one in rewarded(("ppo", "rloo", "grpo", "dpo"), _RATES, {}, _USUAL)
        if (one.name, one.form) != ("GRPO", "matched")
    )
    return (
        Method("no training", {"steps": "0"}),
        Method("GFlowNet", {}, "SubTB", _RATES),
        Method("GFlowNet", {"objective.kind": "vargrad"}, "VarGrad", _RATES),
        Method("MLE", {"steps": "0", "sft.steps": str(updates)}, "", _RATES, "sft.lr"),
        *others,
    )


def _axis(name: str, measure: str, meaning: str) -> Axis:
    return Axis(name, (f"coverage.{measure}",), "lower", meaning)
