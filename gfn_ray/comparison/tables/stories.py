"""Sentences of stories: the missing one, and the next one."""

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

_UPDATES = 40
_SFT_UPDATES = 20
_RATES = (3e-4, 1e-3)
_USUAL: Flags = {"objective.reward": "task", **temperature("0.1"), **NO_DRAWS}


def infill() -> Section:
    flags = {
        "steps": str(_UPDATES),
        "sft.steps": str(_SFT_UPDATES),
        "eval.queries": "20",
        "eval.samples": "4",
        "eval.simulated-queries": "16",
        **NO_DIAGNOSTICS,
    }
    start: Flags = {"objective.reference": "start"}
    mle = {"steps": "0", "sft.steps": str(_SFT_UPDATES + _UPDATES)}
    methods = (
        Method("no training", {"steps": "0", "sft.steps": "0"}),
        Method("MLE", mle, "true middles", _RATES, "sft.lr"),
        Method("GFlowNet", {}, "SubTB", _RATES),
        *rewarded(("rloo",), _RATES, {}, {**_USUAL, **start}),
        *rewarded(("dpo",), _RATES, start, {**_USUAL, **start, "objective.pairs": "best_worst"}),
    )
    axes = (
        JEFFREYS[0],
        Axis("log R", ("after.log_reward_mean",), "higher", "mean over samples, in nats"),
        *JEFFREYS[1:],
        Axis(
            "log q a token",
            ("after.log_pf_reference_per_token",),
            "higher",
            "of the true middle sentence",
        ),
        Axis("BERTScore", ("after.bert_score",), "higher", "F1 against the true middle"),
        Axis("BLEU-4", ("after.bleu4",), "higher", "against the true middle"),
        Axis("different", ("after.distinct_fraction",), "higher", "of a story's samples"),
        Axis("tokens", ("after.length_mean",), "none", "length of a sentence"),
        *COST,
    )
    setup = (
        "`make infill` on the embedded stories: the base is tuned on them for 30 updates, and is "
        "then the policy at the start and the frozen reward; four samples for each of 20 held-out "
        "stories. The posterior is p(z, ending | beginning) with a prior on the length and a "
        f"penalty for copies. All but the first row begin with {_SFT_UPDATES} likelihood updates "
        f"on true middle sentences; then come {_UPDATES} updates of 16 trajectories, for MLE as "
        "many more on true middles, which are no samples of this posterior. Matched: "
        "r = log R - log p_ref at beta 1. Usual: r = log R at beta .1, kept near the policy after "
        "those first updates, DPO on the best and the worst of eight. Jeffreys' divergence is by "
        "16 simulated stories. PPO, which differs from RLOO in where ratios are clipped, was left "
        "out here and in the next section."
    )
    shown = ("jeffreys", "log R", "different")
    return Section("infill", "Infilling", setup, "infill", flags, methods, axes, shown, 150.0)


def continuation() -> Section:
    flags = {
        "steps": str(_UPDATES),
        "task.baselines": "none",
        "eval.queries": "20",
        "eval.simulated-queries": "0",
        **NO_DIAGNOSTICS,
    }
    decoders = ("tempered 0.7", "tempered 0.8", "nucleus 0.95", "beam", "diverse beam", "greedy")
    untrained = {
        "steps": "0",
        "task.baselines": "tempered,nucleus,beam,diverse_beam,greedy",
        "task.temperatures": "0.7,0.8",
    }
    mle = {"steps": "0", "sft.steps": str(_UPDATES)}
    dpo_usual = {**_USUAL, "objective.pairs": "best_worst"}
    methods = (
        Method("no training", untrained, baselines=decoders),
        Method("MLE", mle, "following sentences", _RATES, "sft.lr"),
        Method("GFlowNet", {}, "SubTB", _RATES),
        *rewarded(("rloo",), _RATES, {}, _USUAL),
        *rewarded(("dpo",), _RATES, {}, dpo_usual),
    )
    axes = (
        Axis("log p", ("after.log_p_mean",), "higher", "of a sample and its full stop"),
        Axis("best of 8", ("after.log_p_max",), "higher", "log p of a prompt's best sample"),
        Axis(
            "diversity", ("after.diversity",), "higher", "mean cosine distance of eight sentences"
        ),
        Axis("tokens", ("after.length_mean",), "none", "length; short sentences are likelier"),
        Axis("different", ("after.distinct_fraction",), "higher", "of a prompt's samples"),
        *COST,
    )
    setup = (
        "`make continuation` on the embedded stories: the sentence after the first two, eight "
        f"samples for each of 20 held-out prompts, {_UPDATES} updates of 16 trajectories. The "
        "target is p(z . | x)^(1/.9) under the frozen model, which also judges every method. The "
        "embedded prompts have a following sentence, which MLE learns; prompts of a file have "
        "none. The decoders need no training and share the support. Matched: the optimum is the "
        "target. Usual: r = log p at beta .1, DPO on the best and the worst of eight. Likelihood "
        "alone is no merit, it is read beside diversity and length."
    )
    shown = ("log p", "diversity", "tokens")
    title = "Continuation"
    return Section("continuation", title, setup, "continuation", flags, methods, axes, shown, 140.0)
