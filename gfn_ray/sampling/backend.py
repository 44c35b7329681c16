"""What draws trajectories of the current policy, whichever library runs the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gfn_ray.config import JobConfig
from gfn_ray.policy.adapter import Adapter
from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory

NOTHING_LEGAL = (
    "the support leaves the next token of z to a tool that nothing has called: a task with such a "
    "support needs a tool, and a token that ends with the whole of its trigger"
)


@dataclass(frozen=True)
class SampleRequest:
    """One group: how to propose each trajectory of a query."""

    query: Query
    plans: list[BehaviourPolicy]


class SamplerBackend(Protocol):
    """A model under a support, with an adapter that is exchanged between calls.

    Example, on-policy samples of two queries:

        backend.load(adapter)
        rng = np.random.default_rng(0)
        backend.sample([SampleRequest(query, on_policy_behaviour(8, rng)) for query in queries])
    """

    @property
    def tool_calls(self) -> int:
        """How often the tool was called in the latest `sample`."""
        ...

    @property
    def tool_errors(self) -> int:
        """How often of those in vain."""
        ...

    def load(self, adapter: Adapter) -> None:
        """Makes an adapter live; nothing can be sampled before the first."""
        ...

    def sample(self, requests: Sequence[SampleRequest]) -> list[Trajectory]:
        """All trajectories of all requests, unscored, in order.

        z are inside the support, and `sampler_log_pf` is log q of each token after its mask, at
        temperature 1. A plan gives the same z alone as among others. Raises RunFailed where a
        tool's answer has no place in z.
        """
        ...

    def close(self) -> None:
        """Frees what it holds; nothing can be sampled any more."""
        ...


def start_backend(
    config: JobConfig, model_path: str, support: Support, *, device: str, tool: ToolLoop | None
) -> SamplerBackend:
    """The one that sampler.backend names, on the model in a directory."""
    backend: Callable[..., SamplerBackend]
    # Each brings in a library of its own.
    if config.sampler.backend == "transformers":
        from gfn_ray.sampling.transformers_sampler import TransformersSampler

        backend = TransformersSampler
    else:
        from gfn_ray.sampling.engine import SamplingEngine

        backend = SamplingEngine
    return backend(
        model_path,
        support,
        config.sampler,
        config.policy,
        device=device,
        seed=config.seed,
        trust_remote_code=config.model.trust_remote_code,
        tool=tool,
    )
