"""Simulated queries of a run: drawn by the reward actors' frozen LM once, and kept in the cache.

The cache knows them by everything they depend on, so that runs of the same data and model are
measured on the same exact draws.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gfn_ray.config import JobConfig
from gfn_ray.decoding.simulation import (
    QUERIES_AT_ONCE,
    Drafted,
    SimulatedQuery,
    Simulation,
    drafts_at_once,
)
from gfn_ray.formatting import count, duration
from gfn_ray.models.cache import cached_model_dir
from gfn_ray.models.loading import max_positions, resolve_model
from gfn_ray.models.merged import fingerprint
from gfn_ray.runtime.actors.worker_group import Deployment, WorkerGroup
from gfn_ray.runtime.supervision.worker import Worker
from gfn_ray.seeds import Seed, Stream, seed_of
from gfn_ray.storage.serialization import pack, unpack
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Query

FORMAT = 1  # part of the key: raise it when drafts or files change
FILE = "queries.safetensors"
MOST_DRAFTS = 128
"""Drafts of a query, after which it is left out: a support that so few texts meet is measured
elsewhere. That depends on its context alone, so the others stay exact."""
ROOM_BYTES = 2**24


class Drawn(NamedTuple):
    """Simulated queries in order, all drafts together, and the seconds they took; fault as in
    `Drafted`."""

    found: list[SimulatedQuery]
    drafts: int
    accepted: int
    seconds: float
    fault: str = ""


def simulated_queries(
    config: JobConfig, data: TaskData, workers: WorkerGroup, deployment: Deployment
) -> tuple[list[SimulatedQuery], str]:
    """Returns the simulated queries of the held-out ones, and a remark on how they were drawn."""
    simulation = data.simulation
    contexts = _contexts(config, data)
    if simulation is None or not contexts:
        return [], ""
    key = _key(config, simulation, contexts, deployment)
    directory = cached_model_dir(
        f"simulated-{key}",
        "the simulated queries",
        ROOM_BYTES,
        lambda made: write_drawn(made / FILE, _drawn(config, simulation, contexts, workers)),
    )
    return read_drawn(directory / FILE, len(contexts))


def _contexts(config: JobConfig, data: TaskData) -> list[Query]:
    """Held-out queries, spread evenly, after which the longest draft fits into the model."""
    positions = max_positions(resolve_model(config.model), config.model.trust_remote_code)
    longest = 0 if data.simulation is None else data.simulation.longest
    judged = [query for query in data.held_out if query.query_id not in data.calibration]
    asked = config.eval.simulated_queries
    # Some tasks sort them, as by the number of operands.
    spread = judged[:: max(1, len(judged) // asked)][:asked] if asked else []
    return [
        query
        for query in spread
        if positions is None or len(query.context_ids) + longest <= positions
    ]


def _key(
    config: JobConfig, simulation: Simulation, contexts: list[Query], deployment: Deployment
) -> str:
    model, base = resolve_model(config.model), deployment.base
    settings = (config.seed, config.reward.precision, deployment.device)
    known = (
        FORMAT,
        drafts_at_once(config.reward.tokens_per_forward),
        QUERIES_AT_ONCE,
        MOST_DRAFTS,
        fingerprint(model),
        settings,
        simulation.identity,
    )
    digest = hashlib.sha256(repr(known).encode())
    for part in () if base is None else (base.config, base.weights):
        digest.update(part)
    for query in contexts:
        digest.update(repr((query.query_id, query.context_ids.tolist(), query.texts)).encode())
    return digest.hexdigest()[:12]


def _drawn(
    config: JobConfig, simulation: Simulation, contexts: list[Query], workers: WorkerGroup
) -> Drawn:
    started = time.monotonic()
    calls, sent = workers.calls(), workers.put(simulation)
    found: dict[str, SimulatedQuery] = {}
    drafts = accepted = 0
    fault = ""
    batches = [
        contexts[start : start + QUERIES_AT_ONCE]
        for start in range(0, len(contexts), QUERIES_AT_ONCE)
    ]
    waiting = iter(enumerate(batches))

    async def draw(worker: Worker) -> None:
        """Draws batch after batch, each until all of its queries are found or given up."""
        nonlocal drafts, accepted, fault
        for index, batch in waiting:
            left, made, wave = list(batch), 0, 0
            while left and made < MOST_DRAFTS:
                copies = drafts_at_once(config.reward.tokens_per_forward) // len(left)
                seed = seed_of(Stream.SIMULATED, config.seed, index, wave)
                ids = [query.query_id for query in left]
                drafting = partial(_draft, sent, ids, copies, seed)
                drafted: Drafted = await calls.make(worker, "draft simulated queries", drafting)
                if drafted.fault:
                    fault = drafted.fault
                    return
                for query, kept in zip(left, drafted.kept, strict=True):
                    if kept is not None:
                        found[query.query_id] = kept
                drafts, accepted = drafts + drafted.drafts, accepted + drafted.accepted
                left = [query for query in left if query.query_id not in found]
                made, wave = made + copies, wave + 1

    for worker in workers.rewards:
        calls.start(draw(worker))
    calls.run_all()
    in_order = [found[q.query_id] for q in contexts if q.query_id in found]
    return Drawn(in_order, drafts, accepted, time.monotonic() - started, fault)


def _draft(simulation: Any, ids: list[str], copies: int, seed: Seed, actor: Any) -> Any:
    return actor.simulate.remote(simulation, ids, copies, seed)


def write_drawn(file: Path, drawn: Drawn) -> None:
    """Writes one file with all of it."""
    rows = {
        str(index): {
            **asdict(one.query),
            "demonstrations": None,  # a simulated query has none
            "token_ids": one.token_ids,
            "log_density": one.log_density,
        }
        for index, one in enumerate(drawn.found)
    }
    numbers = {name: getattr(drawn, name) for name in ("drafts", "accepted", "seconds", "fault")}
    file.write_bytes(pack({"queries": rows, **numbers}))


def read_drawn(file: Path, asked: int) -> tuple[list[SimulatedQuery], str]:
    """Returns the queries of a file, and a remark on how they were drawn. asked: how many were to
    be drawn."""
    record = unpack(file.read_bytes())
    rows = [record["queries"][str(index)] for index in range(len(record["queries"]))]
    found = []
    for row in rows:
        z, log_density = row.pop("token_ids"), row.pop("log_density")
        found.append(SimulatedQuery(Query(**{**row, "demonstrations": ()}), z, log_density))
    if record["fault"]:
        return [], (
            "no simulated queries, so jeffreys is not measured: the frozen model cannot be sampled "
            f"with a key-value cache of transformers ({record['fault']})"
        )
    remark = (
        f"{len(found)} of {count(asked, 'simulated query')}: the frozen LM wrote "
        f"{record['drafts']:,} drafts, of which {record['accepted']:,} were in the target, in "
        f"{duration(record['seconds'])}"
    )
    return found, remark
