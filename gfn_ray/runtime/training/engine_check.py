"""Checks that the weights the learner publishes reach the sampling engine.

The first versions are checked when their first samples arrive. The learner may be ahead by then,
so it loads the weights of that version again, those the engine had before, and none, and computes
log q of on-policy samples under each. The engine's log q must show the whole change from old to
new. The standard error of the observed share tells whether a version is conclusive: in float32
the first update is, in bfloat16 one of the first few.

Owns when a version is checked, what ends the run, and when a mismatch is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.evaluation.mismatch import mismatch_kl, share_of_change
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.calls import PendingCalls
from gfn_ray.runtime.supervision.failures import DataLost
from gfn_ray.storage.serialization import Record

# Conclusive versions required, and most versions checked: each check costs about an update.
VERSIONS_TOLD = 2
MOST_VERSIONS = 10

# Closer to the new weights or to the old: 1/2 is five standard errors away from both 0 and 1.
ENOUGH_SHARE = 0.5
LARGEST_ERROR = 0.1

# In nats, by the lower precision of engine and learner. A sample's log q is off by 1e-5 to 1e-3
# in float32 and by .1 to .5 in bfloat16; KL is half the mean square of that.
KL_ALARM = {"float32": 1e-4, "bfloat16": 0.2}
# In nats a token, by the precision of the learner, which computes log q under both new and old
# weights: several times its rounding, which is .06 in bfloat16.
LEAST_CHANGE = {"float32": 3e-4, "bfloat16": 0.2}

_REMEDY = "try fewer --policy.lora-targets, and please report this with the name of the model"


class EngineCheck:
    """record: called with the KL of each checked version. say: shows a line of text."""

    def __init__(
        self,
        config: JobConfig,
        device: str,
        record: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        dtypes = (config.sampler.dtype_on(device), config.learner.precision)
        self._dtype = "bfloat16" if "bfloat16" in dtypes else "float32"
        self._quantization = config.model.quantization
        self._least = LEAST_CHANGE[config.learner.precision]
        self._record = record
        self._say = say
        self._newest, self._before = -1, list[Any]()
        self._to_tell, self._to_look_at = VERSIONS_TOLD, MOST_VERSIONS

    async def arrived(
        self, version: int, adapter: Any, scored: Any, workers: WorkerGroup, calls: PendingCalls
    ) -> None:
        """Checks a version when its first samples arrive. adapter, scored: object references."""
        if self._over or version <= self._newest:
            return
        before, self._before, self._newest = self._before, [adapter], version
        if version == 0:  # untrained: there is no older version
            return
        try:
            found = await calls.make(
                workers.learner,
                "score the engine's samples",
                lambda actor: actor.compare.remote(scored, adapter, *before),
            )
        except DataLost:  # the next version will do
            return
        self.judge(version, found)

    def judge(self, version: int, found: Record) -> None:
        """Judges the result of LearnerActor.compare. Raises RunFailed if the engine has older
        weights."""
        self._to_look_at -= 1
        if found:
            each_z = [np.add.reduceat(found[by], found["starts"]) for by in ("engine", "new")]
            kl = mismatch_kl(*each_z)
            self._record(kl)
            self._to_tell -= self._tells(version, found)
            self.look_at(kl)
        if self._over:
            self._before = []

    def look_at(self, kl: float) -> None:
        """Warns if engine and learner differ by more than rounding explains."""
        limit = KL_ALARM[self._dtype]
        if kl > limit and self._quantization is not None:
            self._say(
                f"sampler and learner disagree on log q: policy/mismatch_kl is {kl:.2g} nats a "
                f"sample; the engine has the whole base and the learner a {self._quantization} "
                "one, whose policy on-policy metrics are not exactly of; if they matter, leave "
                "model.quantization at none"
            )
        elif kl > limit:
            self._say(
                f"sampler and learner disagree on log q: policy/mismatch_kl is {kl:.2g} nats a "
                f"sample, while rounding in {self._dtype} stays below {limit:g}; on-policy metrics "
                f"are not exactly the policy's; if they matter, {_REMEDY}"
            )

    @property
    def _over(self) -> bool:
        # Below 0 if several checks were in flight when enough were conclusive.
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
                    f"policy version {version} did not reach the sampling engine: "
                    f"{len(found['starts'])} of its samples show {share.value:.2f} (standard error "
                    f"{share.error:.2g}) of the change of log q since {name}; 1 is right and less "
                    f"than {ENOUGH_SHARE:g} ends the run; {_REMEDY}"
                )
            # The engine may hold any older version; only the newest of them rules out all others.
            told = name == list(found["old"])[-1]
        return told
