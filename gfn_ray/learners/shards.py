"""A frozen base model whose layers are spread over the ranks, each gathered only while it is used.

The adapter, the embeddings and the head stay whole on every rank: the optimizer sees plain tensors,
and log-probabilities read the head's weights directly. Every pass through a layer needs all ranks,
so all must make the same passes in the same order; a rank with fewer chunks, or smaller ones, makes
up for it with passes that change nothing. Source: FSDP2,
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gfn_ray.errors import UserError
from gfn_ray.learners.ranks import Ranks, share
from gfn_ray.models.layers import body_of, decoder_layers
from gfn_ray.packing.forward import attends_in_blocks, ways_of, windows


def spread(model: Any, device: str) -> None:
    """Spreads the frozen layers of a policy, which is still on the CPU, over all ranks, and takes
    it to its device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    causal = model.get_base_model()
    whole = {p for p in model.parameters() if p.requires_grad}
    whole |= set(causal.get_input_embeddings().parameters())
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for layer in decoder_layers(causal):
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    # The body's own weights go after each pass, too: by default they stay until a backward pass, or
    # until one rank reads its adapter, and the next pass would gather them on that rank alone.
    body = body_of(causal)
    fully_shard(body, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    model.to(device)


def check(model: Any, longest: int) -> None:
    """Raises UserError if passes through a spread model may differ in number between ranks. Makes
    each trial that would come with the first chunk of its kind, since all ranks must make it.

    longest: most tokens of a forward pass.
    """
    ways = ways_of(model)
    widest = min(windows(model.config.get_text_config()).values(), default=longest)
    if not ways.trees or not ways.plain_head or widest < longest:
        raise UserError(
            f"--learner.shard: {type(model.get_base_model()).__name__} cannot be read in one pass "
            "for a whole tree of trajectories of this length, and without it ranks make passes of "
            "different numbers; leave learner.shard off, or use another model"
        )
    attends_in_blocks(model)


@dataclass(frozen=True)
class Passes:
    """Forward passes of one chunk: first those without a graph, then those with one, each with its
    backward pass."""

    plain: int = 0
    learned: int = 0


class Lockstep:
    """Makes this rank's passes those of all ranks, chunk by chunk.

    passes: of each chunk of the batch. idle: makes a forward pass that costs little and has a
    graph.
    """

    def __init__(self, passes: Sequence[Passes], ranks: Ranks, idle: Callable[[], Tensor]) -> None:
        self._own = [passes[i] for i in share(len(passes), ranks.rank, ranks.count)]
        shares = [share(len(passes), rank, ranks.count) for rank in range(ranks.count)]
        self._all = []
        for place in range(max(map(len, shares))):
            there = [passes[mine[place]] for mine in shares if place < len(mine)]
            self._all.append(
                Passes(max(one.plain for one in there), max(one.learned for one in there))
            )
        self._idle = idle
        self._place = 0

    def before_graph(self) -> None:
        """Makes up for passes without a graph, once a chunk has made its own."""
        own = self._own[self._place].plain if self._place < len(self._own) else 0
        with torch.no_grad():
            for _ in range(self._all[self._place].plain - own):
                self._idle()

    def after_backward(self) -> None:
        """Makes up for the others, and goes on to the next chunk. Adds 0 to gradients."""
        own = self._own[self._place].learned if self._place < len(self._own) else 0
        for _ in range(self._all[self._place].learned - own):
            (self._idle().sum() * 0.0).backward()  # type: ignore[no-untyped-call]
        self._place += 1

    def finish(self) -> None:
        """Makes the passes of chunks that only other ranks have."""
        while self._place < len(self._all):
            self.before_graph()
            self.after_backward()


class Free:
    """Each rank has the whole model, and makes its passes when it likes."""

    def before_graph(self) -> None: ...

    def after_backward(self) -> None: ...

    def finish(self) -> None: ...


FREE = Free()
