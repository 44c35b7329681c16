"""The actor that learns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray

from gfn_ray.config import JobConfig
from gfn_ray.learners.learner import SkippedUpdate, Update
from gfn_ray.models.merged import BaseAdapter
from gfn_ray.rewards.reward import LOG_P_REF
from gfn_ray.runtime.actors.learner_ranks import OtherRanks, on_every_rank, on_every_shard, where
from gfn_ray.runtime.actors.model_actor import ModelActor, load_model
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import unpack_trajectories
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory

if TYPE_CHECKING:
    from gfn_ray.learners.learner import Learner
    from gfn_ray.learners.ranks import Place, Ranks
    from gfn_ray.policy.adapter import Adapter

# On-policy samples per check of the engine's weights: the standard error falls with their square
# root, the cost rises linearly.
COMPARED = 16


class Applied(NamedTuple):
    """An update: its metrics, and the version that it published, if any."""

    metrics: dict[str, float]
    version: int | None


class LearnerActor(ModelActor):
    """The policy being trained, and its optimizer; one rank of several, or the only one.

    others: Ray's options of the actors that this one makes as its other ranks.
    """

    def __init__(
        self,
        config: JobConfig,
        device: str,
        base: BaseAdapter | None,
        support: Support,
        queries: list[Query],
        others: Sequence[Record] = (),
        rank: int = 0,
    ) -> None:
        self._config = config
        self._device = device
        self._base = base
        self._support = support
        self._queries = {query.query_id: query for query in queries}
        self._rank = rank
        self.shards = config.learner.shard
        own = (config, device, base, support, queries, ())
        self.others = OtherRanks(
            config.runtime,
            [
                ray.remote(LearnerActor).options(**options).remote(*own, number)
                for number, options in enumerate(others, start=1)
            ],
        )

    def load(self) -> str | None:
        """Loads the model, on every rank; returns a remark for the user, if there is one."""
        from gfn_ray.learners.ranks import ALONE

        self._load_model()
        place = self.others.place()
        return self._prepare(ALONE) if place is None else self._join(place)

    @on_every_rank
    def _load_model(self) -> None:
        from gfn_ray.policy.adapter import add_adapter

        self._start_threads()
        # A model to be spread is read on the CPU, where all ranks share the file's pages.
        device = "cpu" if self._config.learner.shard else self._device
        base = load_model(self._config, self._base, self._config.learner.precision, device)
        self._model = add_adapter(base, self._config.policy, self._config.seed)

    def where(self) -> tuple[str, str]:
        """The machine on which it runs, and its address."""
        return where()

    @on_every_rank
    def _join(self, place: Place) -> str | None:
        """Joins the other ranks and makes ready to learn with them."""
        from gfn_ray.learners.ranks import join

        self.others.ranks = join(place, self._rank, self._device)
        return self._prepare(self.others.ranks)

    def follow(self, method: str, *arguments: Any) -> None:
        """Does, on a rank other than 0, what rank 0 does; ends this process if it cannot."""
        from gfn_ray.learners.ranks import end_process, lost_a_rank

        try:
            getattr(self, method)(*arguments)
        except Exception as error:
            ranks = self.others.ranks
            if ranks is None:
                raise
            if not lost_a_rank(error):
                ranks.report(error)
            end_process(error)

    def _prepare(self, ranks: Ranks) -> str | None:
        from gfn_ray.learners.sft import SFTTrainer
        from gfn_ray.learners.shards import check, spread
        from gfn_ray.learners.trainer import PolicyTrainer
        from gfn_ray.models.layers import checkpoint_activations
        from gfn_ray.packing.forward import supports_trees

        model, config = self._model, self._config
        if config.learner.shard:
            spread(model, self._device)
        self._learner: Learner = PolicyTrainer(model, config, self._support, ranks)
        self._likelihood = SFTTrainer(
            model,
            self._support,
            lr=config.sft.lr,
            max_grad_norm=config.learner.max_grad_norm,
            tokens_per_forward=config.learner.tokens_per_forward,
            ranks=ranks,
            shard=config.learner.shard,
        )
        if config.learner.checkpoint_activations:
            checkpoint_activations(model.get_base_model())
        if config.learner.shard:
            engine = config.sampler.engine_length(self._support.max_len)
            check(model, max(engine, config.learner.tokens_per_forward))
        if supports_trees(model):
            return None
        return (
            f"--model.name: {type(model.get_base_model()).__name__} does not accept a tree "
            "attention mask, so trajectories cannot share common prefixes: updates and rewards are "
            "slower"
        )

    @on_every_rank
    def use_threads(self, number: int) -> None:
        super().use_threads(number)

    @on_every_rank
    def start_from(self, adapter: Adapter) -> None:
        """Loads the weights of an adapter of the policy's shape."""
        self._learner.load(adapter)

    def publish(self) -> tuple[Adapter, int]:
        """Returns the current weights as the next version, and its number."""
        adapter = self._learner.publish()
        return adapter, adapter.version

    def adapter(self) -> Adapter:
        """Returns the current weights in full precision, as the version last published."""
        return self._learner.adapter()

    def step(
        self, block: bytes, publishes: bool
    ) -> tuple[Adapter | None, Any, Applied | SkippedUpdate]:
        """Makes one update on a batch from replay. Returns the new weights as the next version, if
        it publishes them, the loss of each trajectory [B], and what the controller reads; None,
        None and why, if the update was skipped."""
        update = self._update(block)
        if isinstance(update, SkippedUpdate):
            return None, None, update
        adapter = self._learner.publish() if publishes else None
        version = None if adapter is None else adapter.version
        return adapter, update.losses, Applied(update.metrics, version)

    @on_every_rank
    def _update(self, block: bytes) -> Update | SkippedUpdate:
        """Makes one update on a batch from replay."""
        return self._learner.step(self._groups(block))

    @on_every_rank
    def fit(self, block: bytes) -> Record | SkippedUpdate:
        """Makes one SFT update on unscored trajectories; returns its metrics, or why it was
        skipped."""
        return self._likelihood.step(self._groups(block))

    def state(self) -> Record:
        """Returns everything later updates depend on."""
        state = {"policy": self._learner.state()}
        if not self._learner.step_count:  # SFT is over after the first step
            state["likelihood"] = self._likelihood.state()
        return state

    @on_every_rank
    def restore(self, state: Record, version: int | None = None) -> None:
        """Restores what state() returned. version: of the next publication, if it differs from
        the stored one."""
        self._learner.restore(state["policy"], version)
        if "likelihood" in state:
            self._likelihood.restore(state["likelihood"])

    @on_every_shard
    def score(
        self, block: bytes, more: Sequence[Query] = (), reads_reference: bool = False
    ) -> Record:
        """Returns log q of whole trajectories, log q of their content tokens only, and log p_ref or
        0, each [B]. more: simulated queries among theirs. reads_reference: also log p_ref, whatever
        the objective adds."""
        groups = self._groups(block, more)
        scores: Record = dict(vars(self._learner.score(groups)))
        if reads_reference:
            scores[LOG_P_REF] = self._learner.log_reference(groups)
        return scores

    @on_every_shard
    def compare(self, block: bytes, adapter: Adapter, before: Adapter | None = None) -> Record:
        """Returns log q of each content token, z after z, of some on-policy samples in the block:
        by the engine that made them, and by this model under their own adapter, none, and an
        earlier one; and where in these a z begins. Empty if there are no such samples."""
        known = (t for t in unpack_trajectories(block) if t.proposal == "policy" and len(t))
        some = list(islice(known, COMPARED))
        if not some:
            return {}
        groups = self._by_query(some)

        def log_pf(weights: Adapter) -> Any:
            return self._learner.token_log_pf(weights, groups)

        old = {"the base model": log_pf(adapter.without_effect())}
        if before is not None:
            old[f"version {before.version}"] = log_pf(before)
        engine = np.concatenate([t.sampler_log_pf for t in some]).astype(np.float64)
        starts = np.cumsum([0, *(len(t) for t in some[:-1])])
        return {"starts": starts, "engine": engine, "new": log_pf(adapter), "old": old}

    def _groups(self, block: bytes, more: Sequence[Query] = ()) -> list[Any]:
        return self._by_query(unpack_trajectories(block), more)

    def _by_query(self, trajectories: list[Trajectory], more: Sequence[Query] = ()) -> list[Any]:
        """Groups adjacent trajectories of one query, with its prompt."""
        from gfn_ray.policy.log_q import TrajectoryGroup

        known = self._queries | {query.query_id: query for query in more}
        return [
            TrajectoryGroup(known[query_id].prompt_ids, list(group))
            for query_id, group in groupby(trajectories, key=lambda t: t.query_id)
        ]
