"""A run over several machines: power cuts, a cut cable, and a network as it is between them.

    make test-cluster                                   # some ten minutes on two cores
    make test-cluster ARGS="--delay 20 --loss 1"        # a worse network

Trains a policy of random integers on the tiny model of the tests. Sampler, reward actor and
learner each have a machine of their own, in a network namespace with a raylet, behind a link that
delays, loses and limits if asked to. One machine after another is lost and another joins. Needs
root. Prints a row a fault, with the seconds until the next update, and how many trajectories that
replay had acknowledged are lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from machines import Link, Machines, machines, possible, shapeable
from testing.job_runner import await_output, start, summary, tiny_number_flags
from testing.tiny import tiny_model
from testing.victim import stored_in

FAULTS = (
    ("power cut", "SamplerActor"),
    ("power cut", "LearnerActor"),
    ("power cut", "RewardActor"),
    ("cut cable", "SamplerActor"),
    ("cut cable", "LearnerActor"),
)
BETWEEN = 4  # updates
ACTORS = 3


def rows(file: Path) -> list[dict[str, float]]:
    """The updates on record; a line that is being written is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in whole if row["phase"] == "train"]


class Run:
    def __init__(self, cluster: Machines, home: Path) -> None:
        self._home = home
        self._metrics = home / "run" / "metrics.jsonl"
        flags = tiny_number_flags(
            tiny_model(home / "model" / "tiny"),
            home,
            steps=BETWEEN * (len(FAULTS) + 1),
            policy__lora_rank=32,  # so that adapters lie in the store of the learner's machine
            runtime__cpus_per_actor=1,
            runtime__placement="spread",
            runtime__call_timeout_s=60,
            eval__every=0,
        )
        self.process = start(flags, home, "random_number", **cluster.access)

    def await_update(self, number: int) -> None:
        await_output(
            self.process,
            self._home,
            lambda: len(rows(self._metrics)) >= number,
            f"update {number} did not come in time",
        )

    @property
    def updates(self) -> int:
        return len(rows(self._metrics))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=Link.delay, help="ms in one direction")
    parser.add_argument("--loss", type=float, default=Link.loss, help="percent of packets")
    parser.add_argument("--rate", default=Link.rate, help="of each link, as tc writes it")
    asked = parser.parse_args()
    if not possible():
        print(
            "error: this account may not make network namespaces, which takes root, ip and tc; "
            "tests/integration/test_nodes.py loses nodes without them",
            file=sys.stderr,
        )
        return 2
    link = Link(asked.delay, asked.loss, asked.rate)
    if link.shapes and not shapeable():
        print("error: no netem in this kernel; leave --delay, --loss, --rate out", file=sys.stderr)
        return 2
    print(f"each link: {link.delay:g} ms, {link.loss:g} % lost, {link.rate}")
    print("| fault | machine of | seconds to the next update |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place, machines(ACTORS, link) as cluster:
        run = Run(cluster, Path(place))
        try:
            for number, (fault, actor) in enumerate(FAULTS):
                run.await_update(2 + BETWEEN * number)
                machine = cluster.that_of(actor)
                done, began = run.updates, time.monotonic()
                machine.power_off() if fault == "power cut" else machine.cut_off()
                cluster.add()
                # What was under way on other machines may still be finished.
                run.await_update(done + 2)
                print(f"| {fault} | {actor} | {time.monotonic() - began:.1f} |", flush=True)
            code = run.process.wait(timeout=600)
        finally:
            run.process.kill()
        if code:
            print((Path(place) / "err").read_text(), file=sys.stderr)
            return 1
        found = summary(Path(place))
        lost = max(0, found["trajectories"] - stored_in(Path(place) / "run"))
        print(
            f"{len(FAULTS)} faults, {found['restarts']} restarts, {found['steps']} updates; "
            f"{lost} of {found['trajectories']} acknowledged trajectories lost"
        )
        return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
