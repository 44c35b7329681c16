"""Methods and axes that sections share."""

from __future__ import annotations

from collections.abc import Sequence

from gfn_ray.comparison.section import Axis, Flags, Method

# Nothing is learned from z that the newest policies did not write, nor from one oftener than from
# another.
FRESH: Flags = {
    "sampler.tempered-fraction": "0",
    "sampler.epsilon-fraction": "0",
    "replay.samples-per-insert": "1",
    "replay.max-times-sampled": "1",
    "replay.edit-distance": "none",
    "replay.priority": "uniform",
    "replay.seed-demonstrations": "false",
}
# Where only axes count: importance weights of 64 samples a query take longer than the training.
NO_DIAGNOSTICS: Flags = {"eval.diagnostic-queries": "0"}
# An exact draw belongs to the posterior, and the usual reward has another optimum.
NO_DRAWS: Flags = {"eval.simulated-queries": "0"}

COST = (
    Axis("trajectories", ("trajectories",), "none", "sampled and scored in training"),
    Axis("CPU seconds", ("cpu_seconds",), "none", "of the whole run, start and evaluations too"),
    Axis("peak MiB", ("peak_mib",), "none", "largest memory of all actors together"),
)
JEFFREYS = (
    Axis(
        "jeffreys",
        ("after.jeffreys",),
        "lower",
        "KL(q‖p) + KL(p‖q) in nats, by exact draws of the posterior, unbiased; measured where "
        "the posterior is what the method aims at",
    ),
    Axis(
        "KL(q‖p)",
        ("after.kl_q_p_low",),
        "none",
        "nats, what the policy writes too often; between these bounds, a mean over seeds",
        "after.kl_q_p_high",
    ),
    Axis(
        "KL(p‖q)",
        ("after.kl_p_q_low",),
        "none",
        "nats, what the policy misses; likewise",
        "after.kl_p_q_high",
    ),
)


def temperature(value: str) -> Flags:
    """beta, from the first update to the last."""
    return {"reward.temperature-start": value, "reward.temperature-end": value}


def rewarded(
    kinds: Sequence[str], rates: tuple[float, ...], matched: Flags, usual: Flags
) -> tuple[Method, ...]:
    """Each kind with the reward whose optimum is the posterior, and with the usual one. matched,
    usual: flags of the forms."""
    forms = [("matched", matched), ("usual", usual)]
    return tuple(
        Method(kind.upper(), {"objective.kind": kind, **FRESH, **flags}, form, rates)
        for kind in kinds
        for form, flags in forms
    )
