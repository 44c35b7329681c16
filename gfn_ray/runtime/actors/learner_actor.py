"""The actor that learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.replay.columns import from_bytes
from gfn_ray.runtime.actors.model_actor import (
    ModelActor,
    Wire,
    load_model,
    queries_by_id,
    trajectories_of,
)
from gfn_ray.support import support_from_wire
from gfn_ray.trajectory import Trajectory

if TYPE_CHECKING:
    from gfn_ray.learners.learner import Learner

# On-policy samples of a call by which the learner tells what weights the engine has: the error
# of what it finds falls by their square root, and their cost rises with them.
COMPARED = 16


class LearnerActor(ModelActor):
    """The policy being trained, and its optimizer."""

    def __init__(self, config: JobConfig, device: str, support: Wire, queries: list[Wire]) -> None:
        self._config = config
        self._device = device
        self._support = support_from_wire(support)
        self._queries = queries_by_id(queries)

    def load(self) -> str | None:
        """What a person should know of the model, if anything."""
        from gfn_ray.learners.likelihood import LikelihoodTrainer
        from gfn_ray.learners.trainer import PolicyTrainer
        from gfn_ray.packing.forward import reads_forests
        from gfn_ray.policy.adapter import add_adapter

        self._start_threads()
        config, learner = self._config, self._config.learner
        base = load_model(config, learner.precision, self._device)
        model = add_adapter(base, config.policy, config.seed)
        self._learner: Learner = PolicyTrainer(model, config, self._support)
        self._likelihood = LikelihoodTrainer(
            model,
            self._support,
            lr=config.warm_start.lr,
            max_grad_norm=learner.max_grad_norm,
            tokens_per_forward=learner.tokens_per_forward,
        )
        if reads_forests(model):
            return None
        return (
            f"--model.name: {type(base).__name__} does not take the attention mask of a tree, so "
            "trajectories cannot share what they have in common: updates and rewards are slower"
        )

    def start_from(self, adapter: Wire) -> None:
        """Take over the weights of an adapter of the policy's shape."""
        from gfn_ray.policy.adapter import Adapter

        self._learner.load(Adapter.from_wire(adapter))

    def publish(self) -> tuple[Wire, Wire]:
        """The current weights as the next version."""
        adapter = self._learner.publish()
        return adapter.to_wire(), {"version": adapter.version}

    def step(self, batch: bytes) -> tuple[Any, Wire]:
        """One update on a batch of replay's. Returns the loss of each trajectory [B] and the
        update's metrics, or nothing and why there was none."""
        from gfn_ray.learners.learner import SkippedUpdate

        update = self._learner.step(self._groups(from_bytes(batch)))
        if isinstance(update, SkippedUpdate):
            return None, update.to_wire()
        return update.losses, update.metrics

    def fit(self, wires: list[Wire]) -> Wire:
        """One likelihood update on unscored trajectories; returns its metrics, or why there was
        none."""
        from gfn_ray.learners.learner import SkippedUpdate

        update = self._likelihood.step(self._groups(trajectories_of(wires)))
        return update.to_wire() if isinstance(update, SkippedUpdate) else update

    def state(self) -> Wire:
        """All that later updates depend on."""
        state = {"policy": self._learner.state()}
        if not self._learner.step_count:  # the warm start's optimizer is of no use after it
            state["likelihood"] = self._likelihood.state()
        return state

    def restore(self, state: Wire, version: int | None = None) -> None:
        """Become the learner that state() described. version: of the next publication, where
        it is to be another one than that learner's."""
        self._learner.restore(state["policy"], version)
        if "likelihood" in state:
            self._likelihood.restore(state["likelihood"])

    def score(self, wires: list[Wire]) -> Wire:
        """log q of whole trajectories, of their content tokens only, and log p_ref or 0 [B]."""
        return vars(self._learner.score(self._groups(trajectories_of(wires))))

    def compare(self, wires: list[Wire], adapter: Wire, before: Wire | None = None) -> Wire:
        """log q of content tokens [N] of some samples of q among these: by the engine that made
        them, and here under their own adapter, none, and one from before. Empty where there are
        no such samples."""
        from gfn_ray.policy.adapter import Adapter

        known = [t for t in trajectories_of(wires) if not np.isnan(t.sampler_log_pf)]
        if not known:
            return {}
        some = known[:COMPARED]
        groups = self._groups(some)

        def log_pf(weights: Adapter) -> Any:
            return self._learner.score_under(weights, groups).log_pf

        new = Adapter.from_wire(adapter)
        old = {"the base model": log_pf(new.without_effect())}
        if before is not None:
            old[f"version {before['version']}"] = log_pf(Adapter.from_wire(before))
        engine = np.array([t.sampler_log_pf for t in some])
        return {"engine": engine, "new": log_pf(new), "old": old}

    def _groups(self, trajectories: list[Trajectory]) -> list[Any]:
        from gfn_ray.policy.log_q import TrajectoryGroup

        groups: list[TrajectoryGroup] = []
        previous = None
        for trajectory in trajectories:
            if trajectory.query_id != previous:
                prompt = self._queries[trajectory.query_id].prompt_ids
                groups.append(TrajectoryGroup(prompt, []))
                previous = trajectory.query_id
            groups[-1].trajectories.append(trajectory)
        return groups
