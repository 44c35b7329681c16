"""The interface of sampling backends: draw trajectories from the current policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Protocol

from gfn_ray.config import JobConfig
from gfn_ray.policy.adapter import Adapter
from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory

NOTHING_LEGAL = (
    "the support leaves the next token of z to a tool that was not called: a task with such a "
    "support needs a tool, and a token that ends with the tool's whole trigger"
)


@dataclass(frozen=True)
class SampleRequest:
    """One group: a query, and how to propose each of its trajectories."""

    query: Query
    plans: list[BehaviourPolicy]


class SamplerBackend(Protocol):
    """A model under a support, with an adapter that can be swapped between calls.

    Example, on-policy samples of two queries:

        backend.load(adapter)
        rng = np.random.default_rng(0)
        backend.sample([SampleRequest(query, on_policy_behaviour(8, rng)) for query in queries])
    """

    @property
    def steps(self) -> int:
        """Forward passes of the latest `sample`, each with a token for every z under way."""
        ...

    @property
    def tool_calls(self) -> int:
        """Number of tool calls in the latest `sample`."""
        ...

    @property
    def tool_errors(self) -> int:
        """Number of those calls that the tool could not answer."""
        ...

    @property
    def processes(self) -> Sequence[BaseProcess]:
        """Further processes that it runs in and cannot do without."""
        ...

    def load(self, adapter: Adapter) -> None:
        """Makes an adapter live; must be called before `sample`."""
        ...

    def sample(self, requests: Sequence[SampleRequest]) -> list[Trajectory]:
        """Samples all trajectories of all requests, unscored, in order.

        Every z is inside the support, and `sampler_log_pf` is log q of each token after its mask,
        at temperature 1. A plan gives the same z alone or in a batch. Raises RunFailed if the
        support does not allow a tool's answer.
        """
        ...

    def close(self) -> None:
        """Frees its resources; `sample` cannot be called afterwards."""
        ...


def start_backend(
    config: JobConfig, model_path: str, support: Support, *, device: str, tool: ToolLoop | None
) -> SamplerBackend:
    """Starts the backend that sampler.backend names, on the model in a directory."""
    backend: Callable[..., SamplerBackend]
    # Each imports its own library.
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
