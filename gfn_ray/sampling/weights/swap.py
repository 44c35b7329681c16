"""What the two ways of bringing a policy version into a running vLLM engine have in common."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from gfn_ray.config import PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.policy.adapter import Adapter

# vLLM versions whose private code was tested with this package and cpu_blocks.
TESTED_VERSIONS = ("0.32.",)


class WeightSwap(Protocol):
    """Loads policy versions into one engine.

    The engine is to be started with what `engine_options` returns.
    """

    def __init__(self, llm: Any) -> None: ...

    @staticmethod
    def engine_options(policy: PolicyConfig) -> dict[str, Any]:
        """Settings of vLLM that this way needs."""
        ...

    def load(self, adapter: Adapter) -> Any:
        """Makes a version live; returns the LoRARequest that later requests must carry, or None.

        Raises UserError, with the old version still live, if the engine cannot take it.
        """
        ...


def own_tensors(adapter: Adapter) -> dict[str, torch.Tensor]:
    """A copy of the adapter's tensors: vLLM scales B in place, and Ray's arrays are read-only."""
    return {name: torch.from_numpy(array.copy()) for name, array in adapter.tensors.items()}


def ask_workers(llm: Any, method: str, *args: Any) -> None:
    """Calls a method of the worker extension on every worker, which returns why it refuses, or
    None. Not an exception, which would arrive from another process as a bare RuntimeError."""
    for refusal in llm.collective_rpc(method, args=args):
        if refusal is not None:
            raise UserError(refusal)


def forget_prefixes(llm: Any) -> None:
    """Drops cached keys and values, which the weights before have computed."""
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM kept its prefix cache at a change of weights: requests under way")
