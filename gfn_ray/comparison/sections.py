"""What is compared: the sections of the table, their methods, and the axes they are judged on.

A section is one task under settings that all methods share: model, data, support, updates,
trajectories an update. A method adds its own flags, and has as many learning rates tried as any
other. Where a method maximises a reward, it stands there twice: *matched*, with a reward whose
optimum is the posterior itself, and *usual*, as people run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["higher", "lower", "none"]
Flags = Mapping[str, str]


@dataclass(frozen=True)
class Axis:
    """A column. key: of the summary, as in "after.tv", or of `Coverage`, as in "coverage.tv"."""

    name: str
    key: str
    better: Better
    meaning: str


@dataclass(frozen=True)
class Method:
    """A row. form: matched, usual, or empty where there is one only. rates: learning rates that are
    tried on another seed, of which the best is taken; rate_flag sets it."""

    name: str
    flags: Flags
    form: str = ""
    rates: tuple[float, ...] = ()
    rate_flag: str = "learner.lr"

    @property
    def slug(self) -> str:
        return "-".join(filter(None, (self.name.lower().replace(" ", "-"), self.form)))


@dataclass(frozen=True)
class Section:
    """axes: the first decides between learning rates."""

    slug: str
    title: str
    setup: str
    job: str
    flags: Flags
    methods: tuple[Method, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] = (0, 1, 2)


# Nothing is learned from z that the newest policies did not write.
_FRESH: Flags = {
    "sampler.tempered-fraction": "0",
    "sampler.epsilon-fraction": "0",
    "replay.samples-per-insert": "1",
    "replay.max-times-sampled": "1",
    "replay.edit-distance": "none",
}
# As rewards are maximised with.
_SMALL_BETA: Flags = {"reward.temperature-start": "0.1", "reward.temperature-end": "0.1"}
_RATES = (3e-4, 1e-3, 3e-3)
_RL = ("ppo", "rloo", "grpo", "dpo")


def _rewarded(kind: str, form: str) -> Method:
    flags = {"objective.kind": kind, **_FRESH}
    if form == "usual":
        flags |= {"objective.reward": "task", **_SMALL_BETA}
    return Method(kind.upper(), flags, form, _RATES)


def _methods(updates: int) -> tuple[Method, ...]:
    forms = [(kind, form) for kind in _RL for form in ("matched", "usual")]
    # It divides advantages by their standard deviation, so no reward makes R its optimum.
    forms.remove(("grpo", "matched"))
    return (
        Method("no training", {"steps": "0"}),
        Method("GFlowNet", {}, "SubTB", _RATES),
        Method("GFlowNet", {"objective.kind": "vargrad"}, "VarGrad", _RATES),
        Method("MLE", {"steps": "0", "sft.steps": str(updates)}, "", _RATES, "sft.lr"),
        *(_rewarded(kind, form) for kind, form in forms),
    )


_COST = (
    Axis("trajectories", "trajectories", "none", "sampled and scored in training"),
    Axis("seconds", "wall_seconds", "none", "of the whole run, with its start and evaluations"),
    Axis("peak MiB", "peak_mib", "none", "largest memory of all actors together"),
)


def _numbers(updates: int, target: str) -> tuple[Flags, tuple[Axis, ...]]:
    flags = {
        "steps": str(updates),
        "sft.steps": "0",
        "task.target": target,
        "eval.every": "0",
        "eval.diagnostic-queries": "0",
    }
    exact = (
        Axis("total variation", "coverage.tv", "lower", "to the posterior, by enumeration"),
        Axis("KL(p‖q)", "coverage.kl_p_q", "lower", "nats: what the policy misses"),
        Axis("KL(q‖p)", "coverage.kl_q_p", "lower", "nats: what it writes too often"),
        Axis("in range", "coverage.in_range", "higher", "probability of an integer in range"),
        Axis("modes", "coverage.modes_covered", "higher", "share of modes with half their mass"),
    )
    axes = exact if target == "modes" else exact[:-1]
    return flags, (*axes, *_COST)


def _number_section(slug: str, title: str, target: str, updates: int) -> Section:
    flags, axes = _numbers(updates, target)
    setup = (
        f"`make random-number`, {updates} updates of 64 trajectories, SmolLM2-135M. The posterior "
        "is known: every integer's probability is computed, nothing is estimated, and every method "
        "is held to it at T = 1. MLE learns from the integers themselves, as often as the "
        "posterior has them; the others from the reward of what they write. GFlowNet training uses "
        "a trajectory three times, policy gradients and DPO once. Matched: r = log R - log p_ref "
        "at beta 1. Usual: r = log R at beta .1, whose optimum is not the posterior."
    )
    return Section(slug, title, setup, "random-number", flags, _methods(updates), axes)


def quick() -> tuple[Section, ...]:
    """A quarter of an hour on two cores: one learning rate each, one seed."""
    modes = _number_section("modes", "Five separated modes", "modes", 60)
    methods = tuple(
        replace(one, rates=one.rates[1:2])
        for one in modes.methods
        if one.form != "VarGrad" and one.name != "GRPO"
    )
    return (replace(modes, methods=methods, seeds=(0,)),)


def full() -> tuple[Section, ...]:
    return (
        _number_section("numbers", "Random numbers", "uniform", 100),
        _number_section("modes", "Five separated modes", "modes", 100),
    )
