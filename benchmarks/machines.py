"""Machines of a cluster in network namespaces: each has its own address, its own raylet, and a link
that delays, loses and limits. Needs root, and Linux's ip and tc."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from gfn_ray.runtime.resources.ray_address import check_answers
from testing.processes import actor_processes

BRIDGE, PREFIX, HEAD, PORT = "gfnray0", "10.77.0", "10.77.0.1", 6399
START_S = 120.0
_TRY = "gfnray-try"
# Gives a machine its own sockets, logs and shared memory.
_OWN_PLACES = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm && exec "$@"',
    "sh",
)
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Link:
    """delay: milliseconds in one direction. loss: of packets, in percent. rate: as tc writes it."""

    delay: float = 0.0
    loss: float = 0.0
    rate: str = "10gbit"

    @property
    def shapes(self) -> bool:
        return self != Link()


def possible() -> bool:
    """Whether this account may make network namespaces here."""
    if os.geteuid() or not shutil.which("ip"):
        return False
    made = subprocess.run(["ip", "netns", "add", _TRY], capture_output=True)
    subprocess.run(["ip", "netns", "delete", _TRY], capture_output=True)
    return made.returncode == 0


def shapeable() -> bool:
    """Whether this kernel can delay and lose packets."""
    if not shutil.which("tc"):
        return False
    _run("ip", "link", "add", _TRY, "type", "bridge")
    made = subprocess.run(["tc", *_netem(_TRY, Link(delay=1.0))], capture_output=True)
    _run("ip", "link", "delete", _TRY)
    return made.returncode == 0


class Machine:
    """One namespace with one raylet of one core."""

    def __init__(self, number: int, link: Link, environment: Mapping[str, str]) -> None:
        self.name, self._inner = f"gfnray-{number}", f"gfnray{number}i"
        self._outer = f"gfnray{number}o"
        address = f"{PREFIX}.{number + 1}"
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self._outer, "type", "veth", "peer", "name", self._inner)
        _run("ip", "link", "set", self._outer, "master", BRIDGE, "up")
        _run("ip", "link", "set", self._inner, "netns", self.name)
        inside = ("ip", "netns", "exec", self.name)
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "address", "add", f"{address}/24", "dev", self._inner)
        _run(*inside, "ip", "link", "set", self._inner, "up")
        if link.shapes:
            _run("tc", *_netem(self._outer, link))
            _run(*inside, "tc", *_netem(self._inner, link))
        words = ("start", "--address", f"{HEAD}:{PORT}", "--node-ip-address", address)
        inside = (*inside, *_OWN_PLACES)
        self._raylet = _ray(environment, *words, "--num-cpus", "1", inside=inside)

    def runs(self, kind: str) -> bool:
        """Whether an actor of a class is on it."""
        return bool(actor_processes(self._raylet.pid, kind))

    def power_off(self) -> None:
        """All of its processes end at once."""
        for one in self._processes():
            with suppress(psutil.NoSuchProcess):
                one.kill()

    def cut_off(self) -> None:
        """Its processes live, and nobody hears them."""
        _run("ip", "link", "set", self._outer, "down")

    def end(self) -> None:
        self.power_off()
        with suppress(subprocess.TimeoutExpired):
            self._raylet.wait(START_S)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)
        subprocess.run(["ip", "link", "delete", self._outer], capture_output=True)

    def _processes(self) -> list[psutil.Process]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        processes = []
        for pid in found.stdout.split():
            with suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(int(pid)))
        return processes


class Machines:
    """A head without cores, on which the job runs, and machines behind links. access: variables
    for a job's environment."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._made: list[Machine] = []
        # What a job needs to join: the address, and a token, since others can reach it.
        self.access = {
            "RAY_ADDRESS": f"{HEAD}:{PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(),
        }
        # These start a cluster; a job of ours, on Ray of its own, forbids that.
        left_out = ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
        given = {**os.environ, **self.access}
        self._environment = {name: given[name] for name in given if name not in left_out}
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{HEAD}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        self._head = _ray(
            self._environment,
            *("start", "--head", "--node-ip-address", HEAD, "--port", str(PORT)),
            *("--num-cpus", "0", "--include-dashboard", "false"),
        )
        self._await_head()

    def _await_head(self) -> None:
        """A raylet that asks too early asks in vain."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(ConnectionError):
                check_answers(f"{HEAD}:{PORT}")
                return
            time.sleep(0.2)
        raise TimeoutError(f"no head answers after {START_S:g} s")

    def add(self) -> None:
        self._made.append(Machine(len(self._made) + 1, self._link, self._environment))

    def that_of(self, kind: str, patience_s: float = START_S) -> Machine:
        """The machine with an actor of a class, once there is one."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for machine in self._made:
                if machine.runs(kind):
                    return machine
            time.sleep(0.1)
        raise TimeoutError(f"no machine runs a {kind}")

    def end(self) -> None:
        for machine in self._made:
            machine.end()
        for one in [*psutil.Process(self._head.pid).children(recursive=True), self._head]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.send_signal(signal.SIGKILL)
        self._head.wait(START_S)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)


@contextmanager
def machines(number: int, link: Link) -> Iterator[Machines]:
    made = Machines(link)
    try:
        for _ in range(number):
            made.add()
        yield made
    finally:
        made.end()


def _netem(device: str, link: Link) -> tuple[str, ...]:
    shaped = ("delay", f"{link.delay}ms", "loss", f"{link.loss}%", "rate", link.rate)
    return ("qdisc", "add", "dev", device, "root", "netem", *shaped)


def _ray(
    environment: Mapping[str, str], *words: str, inside: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    command = [*inside, RAY, *words, "--block"]
    return subprocess.Popen(command, env=dict(environment), stdout=quiet, stderr=quiet)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
