"""Forty faults in one run: what is survived, how fast, what is lost, and what it costs the policy.

    make chaos                                      # 40 faults, some 30 minutes on two cores
    make chaos ARGS="--faults 4 --steps 600"        # a short form

A policy of random integers is trained on the tiny model of the tests, first undisturbed, with
one seed or several, then once more while a seeded schedule of faults befalls it (they stand in
faults.py).
Prints a line a fault, then a Markdown table; --out keeps both, and the run, in a directory.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from faults import DISK_FULL, Fault, Release, SmallDisk, faults
from testing.job_runner import tiny_number_flags
from testing.tiny import tiny_model
from testing.victim import Lost, MlflowServer, Victim, await_true

SETTINGS = {
    "task__high": 100,
    "policy__lora_rank": 32,  # so that adapters are too large to travel inside a message
    "learner__lr": "1e-2",
    "learner__lr_end": 0.05,
    "eval__every": 0,
    "checkpoint__every": 5,
    "runtime__call_timeout_s": 12,
    "runtime__max_restarts": 200,
    "runtime__log_every": 20,
}
FIRST_FAULT_AFTER = 10  # updates
BETWEEN_FAULTS = 4  # updates
NOTICE = "restarting it in"  # what a run says of an actor that is lost
LIMIT_S = 240.0  # for a run to be itself again after a fault
FELT_WITHIN_S = 40.0  # for an actor that has to be started again: time limit, end and notice


@dataclass(frozen=True)
class Outcome:
    """seconds: from the fault until an update was applied with all that it took away restored.
    felt: False where nothing came of it, as when a process that may have no further memory wants
    none; such a fault is taken back and not counted."""

    number: int
    fault: str
    target: str
    step: int
    seconds: float
    survived: bool
    felt: bool = True
    remark: str = ""


@dataclass
class Tally:
    """Trajectories: acknowledged to the job, and those that the files of replay have."""

    acknowledged: int = 0
    stored_before: int = 0
    lost: int = 0

    def settle(self, victim: Victim) -> None:
        """The account of a job that has ended, however it did."""
        acknowledged, stored = victim.acknowledged(), victim.stored()
        self.lost += max(0, acknowledged - (stored - self.stored_before))
        self.acknowledged += acknowledged
        self.stored_before = stored


def matching(kinds: list[Fault], only: str | None) -> list[Fault]:
    """Those whose name and target match a pattern; all without one."""
    return [kind for kind in kinds if not only or re.search(only, f"{kind.name} {kind.target}")]


def schedule(kinds: list[Fault], seed: int) -> Iterator[Fault]:
    """Every kind once in a random order, and so on without an end."""
    rng = np.random.default_rng(seed)
    return cycle([kinds[i] for i in rng.permutation(len(kinds))])


def undisturbed(model: Path, home: Path, uri: str, seed: int, steps: int) -> float:
    """Total variation to the target after a run that nothing happened to."""
    victim = Victim(home, flags(model, home, uri, seed, steps))
    victim.wait(lambda: victim.process.poll() == 0, 1800.0, "a run without faults did not end")
    assert victim.summary is not None
    return float(victim.summary["after"]["tv"])


def flags(model: Path, home: Path, uri: str, seed: int, steps: int) -> list[str]:
    return tiny_number_flags(model, home, seed=seed, steps=steps, tracking__uri=uri, **SETTINGS)


def befall(victim: Victim, fault: Fault, number: int, tally: Tally) -> Outcome:
    """One fault, from its beginning until the run is itself again; taken back in any case."""
    step, started = victim.step, time.monotonic()

    def outcome(seconds: float, survived: bool, felt: bool = True, remark: str = "") -> Outcome:
        return Outcome(number, fault.name, fault.target, step, seconds, survived, felt, remark)

    try:
        said, before = victim.output().count(NOTICE), len(victim.restarts)
        discard = fault.inflict(victim)
        if fault.whole:
            return outcome(resumed(victim, discard, tally, started), True)
        try:
            if fault.restarts and not noticed(victim, said):
                return outcome(FELT_WITHIN_S, True, felt=False)
            if fault.restarts:
                victim.wait(
                    lambda: len(victim.restarts) > before,
                    LIMIT_S,
                    f"the {fault.target} was not started again",
                )
            seconds = goes_on(victim, started)
            target = step + fault.updates
            victim.wait(lambda: victim.step >= target, LIMIT_S, "updates ceased")
        finally:
            discard()
    except (Lost, AssertionError) as error:
        return outcome(time.monotonic() - started, False, remark=str(error))
    return outcome(seconds, True)


def goes_on(victim: Victim, started: float) -> float:
    """Seconds from `started` to the next update."""
    step = victim.step
    victim.wait(lambda: victim.step > step, LIMIT_S, "there was no further update")
    return time.monotonic() - started


def resumed(victim: Victim, kill: Release, tally: Tally, started: float) -> float:
    """The same for a job that is killed, and goes on from its last checkpoint."""
    kill()
    tally.settle(victim)
    victim.go_on()
    file = victim.run_dir / "metrics.jsonl"
    size = file.stat().st_size
    victim.wait(lambda: file.stat().st_size != size, LIMIT_S, "it did not go on")
    return goes_on(victim, started)


def noticed(victim: Victim, said: int) -> bool:
    """Whether the run says once more than before that an actor is started again."""
    try:
        victim.wait(lambda: victim.output().count(NOTICE) > said, FELT_WITHIN_S, "not felt")
    except Lost:
        if victim.process.poll() is not None:
            raise
        return False
    return True


def tormented(
    victim: Victim, kinds: list[Fault], count: int, seed: int, tally: Tally
) -> list[Outcome]:
    """A run that befalls all that is scheduled; fewer outcomes where it ends before, in whatever
    way."""
    outcomes: list[Outcome] = []
    victim.wait(lambda: victim.step >= FIRST_FAULT_AFTER, LIMIT_S, "training did not begin")
    for fault in schedule(kinds, seed):
        step = victim.step
        try:
            victim.wait(
                lambda step=step: victim.step >= step + BETWEEN_FAULTS, LIMIT_S, "no updates"
            )
        except Lost as error:
            print(f"no further faults: {error}", flush=True)
            return outcomes
        found = befall(victim, fault, len(outcomes) + 1, tally)
        print(line(found), flush=True)
        if found.felt:
            outcomes.append(found)
        if victim.process.poll() is not None or len(outcomes) == count:
            return outcomes
    raise AssertionError("a schedule has no end")


def line(outcome: Outcome) -> str:
    state = "survived" if outcome.survived else f"NOT survived: {outcome.remark}"
    if not outcome.felt:
        state = "not felt, and taken back"
    return (
        f"{outcome.number:3d}  after update {outcome.step:4d}  {outcome.fault} of "
        f"{outcome.target}: {state}, {outcome.seconds:.1f} s"
    )


def table(outcomes: list[Outcome]) -> str:
    rows = [
        "| fault | befell | times | survived | seconds, median | 95th percentile |",
        "|---|---|---|---|---|---|",
    ]
    kinds = sorted({(one.fault, one.target) for one in outcomes})
    for fault, target in [*kinds, ("all", "")] if outcomes else []:
        of_kind = [o for o in outcomes if fault == "all" or (o.fault, o.target) == (fault, target)]
        seconds = [one.seconds for one in of_kind]
        rows.append(
            f"| {fault} | {target} | {len(of_kind)} | {sum(o.survived for o in of_kind)} "
            f"| {statistics.median(seconds):.1f} | {np.percentile(seconds, 95):.1f} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faults", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--controls", type=int, default=1, help="runs without faults (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default 0)")
    parser.add_argument("--only", help="only faults whose name and target match this")
    parser.add_argument(
        "--steps",
        type=int,
        default=6000,
        help="updates of a run; more where it ends before the last fault (default 6000)",
    )
    parser.add_argument("--out", type=Path, help="a new directory for the report and the runs")
    given = parser.parse_args()
    if not matching(faults(MlflowServer(Path()), Path()), given.only):
        parser.error(f"--only {given.only} matches no fault")
    home = given.out or Path(tempfile.mkdtemp(prefix="gfn-ray-chaos-"))
    home.mkdir(parents=True, exist_ok=True)
    report = chaos(
        home.absolute(), given.faults, given.controls, given.seed, given.only, given.steps
    )
    print(f"\n{report.pop('table')}\n")
    for name, value in report.items():
        print(f"{name}: {value}")
    survived = report["survived"] == report["faults"] == given.faults
    return 0 if survived and not report["trajectories_lost"] else 1


def chaos(
    home: Path, count: int, controls: int, seed: int, only: str | None, steps: int
) -> dict[str, Any]:
    """The report; outcomes and runs stay in `home`. Without controls, the run is told to stop once
    nothing more befalls it."""
    model = tiny_model(home / "model")
    server = MlflowServer(home)
    server.start()
    victims: list[Victim] = []
    disk: SmallDisk | None = None
    try:
        variation = []
        for number in range(controls):
            place = home / f"control-{number}"
            place.mkdir()
            variation.append(undisturbed(model, place, server.uri, number, steps))
            print(f"without faults, seed {number}: total variation {variation[-1]:.4f}", flush=True)
        place = home / "chaos"
        place.mkdir()
        victim = Victim(place, flags(model, place, server.uri, 0, steps))
        victims.append(victim)
        victim.wait(victim.checkpoints.is_dir, LIMIT_S, "the run made no directory")
        kinds = matching(faults(server, victim.checkpoints), only)
        if any(kind.name == DISK_FULL for kind in kinds):
            disk = SmallDisk(victim.checkpoints)
            if not disk.mount():
                print(f"no small disk can be mounted here: '{DISK_FULL}' is left out")
                kinds = [kind for kind in kinds if kind.name != DISK_FULL]
                disk = None
        tally = Tally()
        outcomes = tormented(victim, kinds, count, seed, tally)
        if not controls:  # there is no policy to compare this one's with
            victim.process.terminate()
        await_true(lambda: victim.process.poll() is not None, 1800.0, "the run did not end")
        tally.settle(victim)
        found = {
            "table": table(outcomes),
            "faults": len(outcomes),
            "survived": sum(one.survived for one in outcomes),
            "trajectories_acknowledged": tally.acknowledged,
            "trajectories_lost": tally.lost,
            "actors_restarted": len(victim.restarts),
            "exit_code": victim.process.returncode,
            "total_variation": victim.summary and round(victim.summary["after"]["tv"], 4),
            "total_variation_without_faults": [round(one, 4) for one in variation],
        }
        report = {**found, "outcomes": [asdict(one) for one in outcomes]}
        (home / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (home / "report.md").write_text(found["table"] + "\n")
        return found
    finally:
        for one in victims:
            one.kill()
        server.kill()
        if disk is not None:
            disk.unmount()


if __name__ == "__main__":
    sys.exit(main())
