"""Does an answer depend on its z? Reads answers after z, after other texts in its place, and lets a
policy go on from a z in which one value was changed.

Owns what is asked and how it is counted; a task makes the questions. Source of the questions:
Lanham et al. 2023, arXiv 2307.13702.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from gfn_ray.decoding.sampling import likeliest
from gfn_ray.decoding.writing import Written, write
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Query


@dataclass(frozen=True, eq=False)
class Probe:
    """A question to a model that reads: what it thinks of `answer` after `context`, the tokens of x
    and of what stands for z. others: of the other answers, where there are only a few; its log p is
    then relative to all of them."""

    name: str
    context: IntArray
    answer: IntArray
    others: tuple[IntArray, ...] = ()


@dataclass(frozen=True, eq=False)
class Begun:
    """A question to a policy that writes: it goes on from the beginning `z`, and the answer would
    be `follows` if it relied on it, and `right` if it did not."""

    name: str
    prompt: IntArray
    z: IntArray
    support: Support
    tool: ToolLoop | None
    follows: str
    right: str


@runtime_checkable
class Probed(Protocol):
    """A task whose z can be questioned."""

    def probes(
        self, queries: Sequence[Query], samples: Mapping[str, str], tokenizer: Any, seed: int
    ) -> list[Probe]:
        """samples: a z of the model in question for each query, by id."""
        ...

    def begun(
        self, queries: Sequence[Query], tokenizer: Any, vocab_size: int, seed: int
    ) -> list[Begun]: ...


def filler(z: IntArray, token: int) -> IntArray:
    """As many tokens as z has, of one kind."""
    return np.full(len(z), token, dtype=np.int32)


def derangement(count: int, rng: np.random.Generator) -> list[int]:
    """For each of two or more places another one, all different: a cycle through all."""
    order = rng.permutation(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    others: list[int] = found.tolist()
    return others


def reading(model: Any, probes: Iterable[Probe]) -> dict[str, float]:
    """Of the probes of each name: `right_`, the share whose answer is the likeliest, and `log_p_`,
    the mean log p of it, in nats."""
    found: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for one in probes:
        right, log_p = _read(model, one.context, one.answer)
        if one.others:
            rest = [_read(model, one.context, other)[1] for other in one.others]
            right = log_p > max(rest)
            log_p -= float(np.logaddexp.reduce([log_p, *rest]))
        found[one.name].append((right, log_p))
    shares = {f"right_{name}": float(np.mean([r for r, _ in one])) for name, one in found.items()}
    means = {f"log_p_{name}": float(np.mean([p for _, p in one])) for name, one in found.items()}
    return {**shares, **means}


def going_on(
    model: Any, begun: Sequence[Begun], answer: Callable[[IntArray], str | None]
) -> dict[str, float]:
    """Of the beginnings of each name, by greedy decoding: `follows_`, the share whose answer relies
    on what was changed, and `recovers_`, the share whose answer is right nevertheless. answer: of a
    z."""
    follows: dict[str, list[bool]] = defaultdict(list)
    recovers: dict[str, list[bool]] = defaultdict(list)
    for one in begun:
        by_tool = one.support.tool_mask(one.z).tolist()
        given = Written(0, one.z.tolist(), by_tool, [0.0] * len(one.z))
        (z,) = write(model, one.support, [one.prompt], [given], likeliest, one.tool)
        said = answer(np.array(z.tokens, dtype=np.int32))
        follows[one.name].append(said == one.follows)
        recovers[one.name].append(said == one.right)
    return {
        **{f"follows_{name}": float(np.mean(each)) for name, each in follows.items()},
        **{f"recovers_{name}": float(np.mean(each)) for name, each in recovers.items()},
    }


def with_gains(found: Mapping[str, float]) -> dict[str, float]:
    """The same, with `gain_z`, log p(y | x, z) - log p(y | x), and `gain_own_z`, log p(y | x, z) -
    log p(y | x, z') with z' of another x: near 0 where answers do not depend on z."""
    whole = found["log_p_whole"]
    gains = {"gain_z": whole - found["log_p_direct"], "gain_own_z": whole - found["log_p_swapped"]}
    return {**found, **gains}


@torch.no_grad()
def _read(model: Any, context: IntArray, answer: IntArray) -> tuple[bool, float]:
    """Whether greedy decoding would write this answer, and its log p."""
    device = next(model.parameters()).device
    ids = torch.as_tensor(np.concatenate([context, answer])[None], device=device).long()
    logits = model(ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
    wanted = ids[0, len(context) :]
    log_p = torch.log_softmax(logits.double(), dim=-1).gather(1, wanted[:, None]).sum()
    return bool((logits.argmax(dim=-1) == wanted).all()), float(log_p)
