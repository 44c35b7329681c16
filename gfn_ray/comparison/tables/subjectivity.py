"""Objective or subjective from ten labels, with rationales and without."""

from __future__ import annotations

from gfn_ray.comparison.section import Axis, Method, Section
from gfn_ray.comparison.tables.methods import (
    COST,
    NO_DIAGNOSTICS,
    NO_DRAWS,
    rewarded,
)

_UPDATES = 24
_RATES = (3e-4, 1e-3)


def subjectivity() -> Section:
    flags = {
        "steps": str(_UPDATES),
        "eval.queries": "80",
        "eval.samples": "4",
        **NO_DIAGNOSTICS,
        **NO_DRAWS,
    }
    classifiers = ("zero-shot", "8-shot", "tuned on labels")
    matched = [one for one in rewarded(("rloo",), _RATES, {}, {}) if one.form == "matched"]
    methods = (
        Method("rationales, EM", {"steps": "0"}, "untrained policy", baselines=classifiers),
        Method("GFlowNet, EM", {}, "SubTB", _RATES),
        *matched,
    )
    axes = (
        Axis("accuracy", ("after.accuracy",), "higher", "right labels of 80 test sentences"),
        Axis("AUC", ("after.auc",), "higher", "subjective ranked above objective"),
        Axis("log loss", ("after.log_loss",), "lower", "mean -log p(true label), nats"),
        Axis("leaks", ("after.named_label_fraction",), "lower", "rationales that name their label"),
        *COST,
    )
    setup = (
        "`make subjectivity`: ten labelled sentences, another draw of ten for each seed, 80 test "
        "sentences, p(label | text, z) averaged over four rationales z. Classifiers without "
        "rationales: the frozen model, the same with eight of the ten in its prompt, and tuned on "
        "the ten labels, which is MLE here. With rationales, two rounds of EM: the policy "
        f"learns q(z | x) in {_UPDATES} updates in all, p(label | x, z) is tuned on its samples "
        "for 20 a round. There are no rationales to imitate, so MLE of z does not exist, and no "
        "reward to maximise but the label's likelihood, so there is no usual form. PPO and DPO are "
        "left out here. The learning rate is the policy's."
    )
    return Section(
        "subjectivity",
        "Subjectivity from ten labels",
        setup,
        "subjectivity",
        flags,
        methods,
        axes,
        ("accuracy", "log loss"),
        210.0,
        seeds=(0, 1, 2, 3, 4),
        seed_flags=("seed", "task.draw"),
    )
