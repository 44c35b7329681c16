"""Whether what the learner publishes reaches the sampling engine.

The first versions are looked at as their first samples arrive. By then the learner may be
versions ahead, so it takes the weights of that version once more, those that the engine had
before, and none, and says what log q each gives to samples that the engine made by q: of the
change from one to the other, the engine must show all. The error of that share says whether a
version tells at all: in float32 the first update does, in bfloat16 one of the first few.

Owns when a version is looked at, what ends the run, and when a distance is worth a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.evaluation.mismatch import mismatch_kl, share_of_change
from gfn_ray.runtime.actors.calls import PendingCalls
from gfn_ray.runtime.actors.failures import DataLost
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.storage.serialization import Record

# Versions that must have told, and most that are looked at: each costs about an update.
VERSIONS_TOLD = 2
MOST_VERSIONS = 10

# Nearer to the new weights or to the old: 1/2 is then five standard errors from all and from none.
ENOUGH_SHARE = 0.5
LARGEST_ERROR = 0.1

# In nats, by the rougher of engine and learner. A sample's log q is off by 1e-5 to 1e-3 in
# float32 and by .1 to .5 in bfloat16; KL is half the mean square of that.
KL_ALARM = {"float32": 1e-4, "bfloat16": 0.2}
# By the learner, which reads both the new weights and the old.
LEAST_CHANGE = {"float32": 1e-3, "bfloat16": 1.0}

_REMEDY = "try fewer --policy.lora-targets, and please report this with the name of the model"


class EngineCheck:
    """record: what to do with each KL of a version's samples. say: shows a line of text."""

    def __init__(
        self,
        config: JobConfig,
        device: str,
        record: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        dtypes = (config.sampler.dtype_on(device), config.learner.precision)
        self._dtype = "bfloat16" if "bfloat16" in dtypes else "float32"
        self._least = LEAST_CHANGE[config.learner.precision]
        self._record = record
        self._say = say
        self._newest, self._before = -1, list[Any]()
        self._to_tell, self._to_look_at = VERSIONS_TOLD, MOST_VERSIONS

    async def arrived(
        self, version: int, adapter: Any, scored: Any, workers: WorkerGroup, calls: PendingCalls
    ) -> None:
        """Looks at a version as the first of its samples arrive. adapter, scored: references."""
        if self._over or version <= self._newest:
            return
        before, self._before, self._newest = self._before, [adapter], version
        if version == 0:  # untrained: nothing came before it
            return
        try:
            found = await calls.make(
                workers.learner,
                "score the engine's samples",
                lambda actor: actor.compare.remote(scored, adapter, *before),
            )
        except DataLost:  # the next version tells as well
            return
        self.judge(version, found)

    def judge(self, version: int, found: Record) -> None:
        """found: of LearnerActor.compare. Raises RunFailed where the engine has older weights."""
        self._to_look_at -= 1
        if found:
            kl = mismatch_kl(found["engine"], found["new"])
            self._record(kl)
            self._to_tell -= self._tells(version, found)
            self.look_at(kl)
        if self._over:
            self._before = []

    def look_at(self, kl: float) -> None:
        """Says so where the engine is farther from the learner than rounding takes it."""
        limit = KL_ALARM[self._dtype]
        if kl > limit:
            self._say(
                f"sampler and learner disagree on log q: policy/mismatch_kl is {kl:.2g} nats a "
                f"sample, and rounding in {self._dtype} stays below {limit:g}; on-policy figures "
                f"are not the policy's own, and where they matter, {_REMEDY}"
            )

    @property
    def _over(self) -> bool:
        # Below 0 where several versions were under way when enough had told.
        return self._to_tell <= 0 or self._to_look_at <= 0

    def _tells(self, version: int, found: Record) -> bool:
        engine, new = found["engine"], found["new"]
        told = False
        for name, old in found["old"].items():
            share = share_of_change(engine, new, old, self._least)
            if share is None or share.error > LARGEST_ERROR:
                continue
            if share.value < ENOUGH_SHARE:
                raise RunFailed(
                    f"policy version {version} did not reach the sampling engine: of the change of "
                    f"log q since {name}, {len(engine)} of its own samples show a share of "
                    f"{share.value:.2f} (error {share.error:.2g}), where 1 is right and less than "
                    f"{ENOUGH_SHARE:g} ends the run; {_REMEDY}"
                )
            # The engine may be at any version before this one: only the newest rules them all out.
            told = name == list(found["old"])[-1]
        return told
