"""The number of threads of each actor with a model: a setting, or a share of the cores.

Owns the arithmetic and the current numbers; balance.py measures and tells the actors. A run starts
with all cores in use and, if stages work at the same time, divides them again once the needs of
each stage are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

# With fewer, a sampler, a reward actor and a learner get one each, whatever they need.
FEWEST_CORES = 4


def divide(cores: int, needs: Sequence[float]) -> list[int]:
    """Divides the cores in proportion to the needs, in whole numbers, with at least one each. Uses
    all cores, or one each if there are fewer; leftovers go to the largest remainders."""
    found = [1] * len(needs)
    rest, left = list(range(len(needs))), cores
    if cores <= len(needs):
        return found
    if not sum(needs):
        needs = [1.0] * len(needs)
    # A need below one core gets one, which leaves less for the others.
    while True:
        whole = sum(needs[i] for i in rest)
        small = [i for i in rest if needs[i] * left < whole]
        if not small:
            break
        rest = [i for i in rest if i not in small]
        left -= len(small)
    quotas = {i: needs[i] * left / whole for i in rest}
    for i in rest:
        found[i] = int(quotas[i])
    by_remainder = sorted(rest, key=lambda i: quotas[i] - int(quotas[i]), reverse=True)
    for i in by_remainder[: left - sum(found[i] for i in rest)]:
        found[i] += 1
    return found


class ThreadPlan:
    """Threads by an actor's name.

    asked: the settings. samplers: which of these actors sample. machines: where each actor is.
    cores: of each machine. in_turn: stages wait for one another, so nothing is gained, and
    measured numbers would make two runs differ.
    """

    def __init__(
        self,
        asked: Mapping[str, int | Literal["auto"]],
        samplers: Collection[str],
        machines: Mapping[str, str],
        cores: Mapping[str, int],
        *,
        in_turn: bool,
    ) -> None:
        self._asked = asked
        self._machines = machines
        self._cores = cores
        self._now = {name: 1 if number == "auto" else number for name, number in asked.items()}
        self._alone: str | None = None
        self.undivided = False
        for machine in dict.fromkeys(machines.values()):
            free, mine = self._to_divide(machine)
            if not mine:
                continue
            self.undivided |= len(mine) > 1 and not in_turn
            # vLLM's kernels treat the number of threads of their first run as a maximum: a sampler
            # can get fewer later, but not more. So it starts with all there are.
            first = [name for name in mine if name in samplers]
            if in_turn or not first:
                first = mine
            others = len(mine) - len(first)
            self._now |= dict.fromkeys(first, (free - others) // len(first))

    def of(self, name: str) -> int:
        if name == self._alone and self._asked[name] == "auto":
            return max(self._cores_of(self._machines[name]), self._now[name])
        return self._now[name]

    def leave_to(self, name: str | None) -> None:
        """Gives all cores to the one actor that works; None: all actors work again."""
        self._alone = name

    @property
    def automatic(self) -> list[str]:
        """The actors whose number no setting fixes."""
        return [name for name, number in self._asked.items() if number == "auto"]

    def share_out(self, needs: Mapping[str, float], machines: Mapping[str, str]) -> None:
        """Divides each machine's cores among the actors on it, in proportion to their needs."""
        self.undivided = False
        self._machines = machines
        self._now |= dict.fromkeys(self.automatic, 1)
        for machine in dict.fromkeys(machines.values()):
            free, mine = self._to_divide(machine)
            self._now |= zip(mine, divide(free, [needs[name] for name in mine]), strict=True)

    def _to_divide(self, machine: str) -> tuple[int, list[str]]:
        """A machine's cores that no setting takes, and the actors that share them; none where the
        cores are too few."""
        there = [name for name in self._asked if self._machines[name] == machine]
        mine = [name for name in there if self._asked[name] == "auto"]
        cores = self._cores_of(machine)
        free = cores - sum(self._fixed(name) for name in there)
        scarce = free <= len(mine) or (len(there) > 1 and cores < FEWEST_CORES)
        return (0, []) if scarce else (free, mine)

    def _cores_of(self, machine: str) -> int:
        return self._cores.get(machine, 1)

    def _fixed(self, name: str) -> int:
        number = self._asked[name]
        return 0 if number == "auto" else number
