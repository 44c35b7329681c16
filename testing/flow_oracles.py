"""Objectives by their definitions, loop by loop, and the exact flows of an enumerable target."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from gfn_ray.objectives import FlowBatch

# Every objective with every root flow it takes, and a decay where that matters.
CASES: list[dict[str, Any]] = [
    *(
        {"kind": kind, "root_flow": root}
        for kind in ("subtb", "db", "tb")
        for root in ("batch_mean", "learned", "terminable")
    ),
    {"kind": "subtb", "subtb_lambda": 0.9},
    {"kind": "subtb", "subtb_lambda": 1.3},
    {"kind": "vargrad"},
    {"kind": "ref_tb"},
]


each_objective = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(map(str, case.values()))
)


def random_batch(
    seed: int, batch: int = 6, length: int = 4, empty_may_stop: bool = True
) -> FlowBatch:
    """Random inputs in float64 of two queries; rows have lengths and dead prefixes of their own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    terminable = torch.rand(batch, length + 1, generator=generator) < 0.5
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    at = torch.arange(length + 1)
    terminable = (terminable & (at < lengths[:, None])) | (at == lengths[:, None])
    terminable[:, 0] = empty_may_stop
    group = torch.arange(batch) % 2
    log_pf = -normal(batch, length).abs() * (at[1:] <= lengths[:, None])
    by_policy = at[1:] <= lengths[:, None]
    by_policy[0, 0] = False  # written by a tool
    log_pf = log_pf * by_policy
    log_pf_reference, log_pf_behavior = (-normal(batch, length).abs() * by_policy for _ in range(2))
    # The empty prefix of a query is one and the same state in all of its trajectories.
    log_stop, log_reward, log_stop_reference = (normal(batch, length + 1) for _ in range(3))
    for values in (log_stop, log_reward, log_stop_reference):
        values[:, 0] = values[:2, 0][group]
    return FlowBatch(
        log_pf=log_pf,
        log_stop=-log_stop.abs(),
        log_reward=5 * log_reward,
        terminable=terminable,
        group=group,
        by_policy=by_policy,
        log_z=normal(2)[group],
        log_pf_reference=log_pf_reference,
        log_stop_reference=-log_stop_reference.abs(),
        log_pf_behavior=log_pf_behavior,
        log_stop_behavior=-normal(batch).abs(),
    )


def reference_loss(
    batch: FlowBatch, kind: str, root_flow: str = "batch_mean", subtb_lambda: float = 1.0
) -> Tensor:
    """The definition of each loss, pair by pair and trajectory by trajectory."""
    rows, width = batch.terminable.shape
    nodes: list[dict[int, tuple[Tensor, Tensor]]] = []  # prefix -> (log F, path), by trajectory
    for b in range(rows):
        path, own = torch.zeros((), dtype=torch.float64), {}
        for t in range(width):
            if t:
                path = path + batch.log_pf[b, t - 1]
            if batch.terminable[b, t]:
                log_flow = batch.log_reward[b, t] - batch.log_stop[b, t]
                if kind == "ref_tb":
                    log_flow = log_flow + batch.log_reference[b, t]
                own[t] = (log_flow, path)
        if kind in ("tb", "vargrad", "ref_tb"):
            own = {t: node for t, node in own.items() if t in (0, max(own))}
            if root_flow != "terminable":
                own = {max(own): own[max(own)]}
        nodes.append(own)
    if kind in ("vargrad", "ref_tb"):
        return _variance(batch, nodes)

    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for b, own in enumerate(nodes):
        chain = [own[t] for t in sorted(own)]
        if root_flow != "terminable":
            chain = [(_root(batch, nodes, b, root_flow), torch.zeros(())), *chain]
        for i, j in itertools.combinations(range(len(chain)), 2):
            delta = chain[i][0] + (chain[j][1] - chain[i][1]) - chain[j][0]
            gap = j - i - 1
            weight = float(gap == 0) if kind == "db" else subtb_lambda**gap
            total = total + weight * delta**2
            weights += weight
    return total / weights


def _root(batch: FlowBatch, nodes: list, b: int, root_flow: str) -> Tensor:
    if root_flow == "learned":
        return batch.log_z[b]
    mates = [m for m in range(len(nodes)) if batch.group[m] == batch.group[b]]
    means = [sum(f - p for f, p in nodes[m].values()) / len(nodes[m]) for m in mates]
    return (sum(means) / len(means)).detach()


def _variance(batch: FlowBatch, nodes: list) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for query in set(batch.group.tolist()):
        u = torch.stack(
            [
                f - p
                for b, own in enumerate(nodes)
                if batch.group[b] == query
                for f, p in own.values()
            ]
        )
        total = total + len(u) * u.var()
    return total / len(nodes)


def solved_batch(temperature: float = 1.0, seed: int = 0) -> FlowBatch:
    """Every z of up to 3 tokens out of 3, the empty one included, for two queries whose policies
    are exactly their posteriors: log_pf and log_stop come from summing log R over continuations.

    log p_ref is random, and taken off log_reward again where a test needs "ref_tb".
    """
    generator = torch.Generator().manual_seed(seed)
    texts = [z for n in range(4) for z in itertools.product(range(3), repeat=n)]
    rows: dict[str, list[Tensor]] = {name: [] for name in ("pf", "stop", "reward", "log_z")}
    for _ in range(2):
        log_r = {z: 9 * torch.randn((), generator=generator, dtype=torch.float64) for z in texts}
        log_r = {z: value / temperature for z, value in log_r.items()}
        mass = {
            s: torch.logsumexp(torch.stack([log_r[z] for z in texts if z[: len(s)] == s]), 0)
            for s in texts
        }
        for z in texts:
            prefixes = [z[:t] for t in range(len(z) + 1)]
            pad = torch.zeros(3 - len(z), dtype=torch.float64)
            steps = [mass[b] - mass[a] for a, b in itertools.pairwise(prefixes)]
            rows["pf"].append(torch.cat([torch.tensor(steps, dtype=torch.float64), pad]))
            rows["stop"].append(
                torch.cat([torch.stack([log_r[s] - mass[s] for s in prefixes]), pad])
            )
            rows["reward"].append(torch.cat([torch.stack([log_r[s] for s in prefixes]), pad]))
            rows["log_z"].append(mass[()])
    lengths = torch.tensor([len(z) for z in texts] * 2)
    batch = {name: torch.stack(values) for name, values in rows.items()}
    by_policy = torch.arange(3) < lengths[:, None]
    return FlowBatch(
        log_pf=batch["pf"],
        log_stop=batch["stop"],
        log_reward=batch["reward"],
        terminable=torch.arange(4) <= lengths[:, None],
        group=torch.arange(2).repeat_interleave(len(texts)),
        by_policy=by_policy,
        log_z=batch["log_z"],
        log_pf_reference=torch.zeros(len(lengths), 3, dtype=torch.float64),
        log_stop_reference=torch.randn(len(lengths), 4, generator=generator, dtype=torch.float64),
    )
