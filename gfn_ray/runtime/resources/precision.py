"""The precision of sampler, reward actors and learner, where their settings leave it open.

With matrix units for it (AMX), a processor multiplies several times as fast in bfloat16 as in
float32; without them, several times slower. So a product of the model's own shape is timed. The
price is rounding: .2 nats of a z's log q and log R. That is little beside the likelihood of a text,
and too much where a posterior is compared exactly or a run has to be repeated bit for bit.

Owns the decision, made once and on the machine that the job starts on, and the line that tells it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gfn_ray.config import DType, JobConfig
from gfn_ray.rewards.adjusted import AdjustedReward
from gfn_ray.rewards.reward import Reward
from gfn_ray.tasks.task import TaskData

SECTIONS = ("sampler", "reward", "learner")
# Less is not worth the rounding: what is not a product is no faster.
LEAST_GAIN = 2.0
# Weights of the largest layer. A forward of smaller ones is hardly products at all.
FEWEST_WEIGHTS = 2**16
TOKENS = 512  # of a usual forward
TRIES = 10  # of which the fastest counts

Shape = tuple[int, int]
"""Outputs and inputs of a linear layer."""


class Choice(NamedTuple):
    """why: ends the sentence that tells the dtype."""

    dtype: DType
    why: str


def with_precision(
    config: JobConfig,
    data: TaskData,
    device: str,
    layers: Callable[[], Mapping[str, Shape]],
    say: Callable[[str], None],
) -> JobConfig:
    """The settings with a precision wherever they say auto, and one line said of it.

    layers: gives the linear layers that every token of the model goes through, by name. On CUDA
    nothing is timed: the sampler's kernels want bfloat16 there, and the others keep float32.
    """
    asked = [name for name in SECTIONS if getattr(config, name).dtype == "auto"]
    if not asked or device != "cpu":
        return config
    choice = exact(config, data) or by_speed(layers())
    say(f"{', '.join(asked)} compute in {choice.dtype}: {choice.why}")
    chosen = {
        name: getattr(config, name).model_copy(update={"dtype": choice.dtype}) for name in asked
    }
    return config.model_copy(update=chosen)


def exact(config: JobConfig, data: TaskData) -> Choice | None:
    """float32, where rounding is not to be afforded at any speed."""
    if config.max_staleness == 0:
        return Choice("float32", "with --max-staleness 0 a run repeats bit for bit")
    if data.enumerations:
        return Choice("float32", "the posterior is compared with an exact one")
    if not _of_text(data.reward):
        return Choice("float32", "the target is not the likelihood of a text")
    return None


def product_seconds(outputs: int, inputs: int, dtype: DType) -> float:
    """CPU seconds of one product with a layer's weights, on one thread: neither other work beside
    it nor threads that wait for one another count."""
    import torch
    from torch.nn.functional import linear

    kind = getattr(torch, dtype)
    x, weight = (torch.randn(rows, inputs).to(kind) for rows in (TOKENS, outputs))
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        linear(x, weight)  # the first one also chooses a kernel
        found = []
        for _ in range(TRIES):
            started = time.thread_time()
            linear(x, weight)
            found.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(usual)
    return min(found)


def by_speed(
    layers: Mapping[str, Shape], seconds: Callable[[int, int, DType], float] = product_seconds
) -> Choice:
    """bfloat16 where the largest layer is faster in it, by a margin.

    seconds: of a product with a layer of so many outputs and inputs, in a precision.
    """
    outputs, inputs = max(layers.values(), key=lambda shape: shape[0] * shape[1])
    if outputs * inputs < FEWEST_WEIGHTS:
        return Choice("float32", "the model is too small for products to matter")
    gain = seconds(outputs, inputs, "float32") / seconds(outputs, inputs, "bfloat16")
    dtype: DType = "bfloat16" if gain >= LEAST_GAIN else "float32"
    return Choice(
        dtype,
        f"a product of the model's size is {gain:.2g} times as fast in bfloat16 as in float32; "
        f"bfloat16 is taken from {LEAST_GAIN:g} times on",
    )


def _of_text(reward: Reward) -> bool:
    from gfn_ray.rewards.labelled import LabelledReward
    from gfn_ray.rewards.likelihood import LikelihoodReward

    if isinstance(reward, AdjustedReward):
        return _of_text(reward.adjusted)
    return isinstance(reward, LikelihoodReward | LabelledReward)
