"""`gfn-ray plan`: what it prints, from settings to exit code."""

from __future__ import annotations

from pathlib import Path

from gfn_ray.config import JobConfig
from gfn_ray.formatting import byte_size
from gfn_ray.runtime.planning import search
from gfn_ray.runtime.planning.config import PlanConfig, PlanJob
from gfn_ray.runtime.planning.hardware import GPUS
from gfn_ray.runtime.planning.measured import MeasuredDurations
from gfn_ray.runtime.planning.pace import Lengths
from gfn_ray.runtime.planning.processors import SharedCores
from gfn_ray.runtime.planning.search import Division
from gfn_ray.runtime.planning.shapes import Shape, known, shape_of
from gfn_ray.runtime.planning.simulation import Simulated, Simulation

_CAVEAT = "By formula and simulation; nobody has measured a whole run on GPUs yet."


def plan(config: PlanJob) -> int:
    """Prints the plan; raises UserError if nothing fits."""
    if config.plan.profile is not None:
        print(_on_cores(config))
        return 0
    wanted = config.plan
    shape = _shape(config)
    lengths = Lengths(wanted.prompt_tokens, wanted.z_tokens, wanted.answer_tokens, wanted.prefixes)
    gpu = GPUS[wanted.gpu]
    division = search.best(config, shape, gpu, wanted.gpus, lengths)
    simulated = search.simulate(division, shape, gpu, lengths)
    print(_report(wanted, shape, gpu.memory, division, simulated))
    return 0


def _shape(config: PlanJob) -> Shape:
    if config.plan.size is not None:
        return known(config.plan.size)
    from gfn_ray.models.loading import body_layers, model_config, resolve_model

    path = resolve_model(config.model)
    trusted = config.model.trust_remote_code
    text = model_config(path, trusted).get_text_config()
    return shape_of(text, body_layers(path, trusted))


def _report(
    wanted: PlanConfig, shape: Shape, room: float, division: Division, simulated: Simulated
) -> str:
    config = division.config
    numbers = (config.samplers, config.reward_actors, config.learners)
    head = (
        f"{shape.parameters / 1e9:.2f} billion parameters on {wanted.gpus} x {wanted.gpu} "
        f"({byte_size(room)} each); {division.used} are used"
    )
    rows = ["", f"{'actors':<16}{'number':>7}{'GPUs each':>11}{'a GPU needs':>13}{'busy':>7}"]
    kinds = ("sampler", "reward actor", "learner")
    for kind, number, each, need in zip(kinds, numbers, division.gpus, division.needs, strict=True):
        rows.append(
            f"{kind:<16}{number:>7}{each:>11}{byte_size(need.total):>13}"
            f"{simulated.busy[kind]:>7.0%}"
        )
    rate = simulated.updates / simulated.seconds
    pace = (
        f"{rate:.3g} updates a second, {simulated.trajectories / simulated.seconds:.3g} "
        f"trajectories a second; {division.bound} are the bound; a trajectory is at most "
        f"{simulated.staleness} versions behind when it reaches replay"
    )
    settings = [
        f"--samplers {config.samplers} --reward-actors {config.reward_actors} "
        f"--learners {config.learners}",
        f"--sampler.tensor-parallel {config.sampler.tensor_parallel}"
        if config.sampler.tensor_parallel > 1
        else "--sampler.gpus 1",
        f"--reward.gpus {division.gpus[1]} --learner.gpus 1",
        *(["--learner.shard"] if config.learner.shard else []),
        *(["--learner.checkpoint-activations"] if config.learner.checkpoint_activations else []),
    ]
    largest = [
        f"{need.name}: "
        + ", ".join(
            f"{part} {byte_size(size)}"
            for part, size in sorted(need.parts.items(), key=lambda one: -one[1])
        )
        for need in division.needs
    ]
    return "\n".join(
        [head, *rows, "", *largest, "", pace, "", "settings: " + " ".join(settings), _CAVEAT]
    )


def on_cores(config: JobConfig, profiled: Path, cores: int, seeded: int = 0) -> Simulated:
    """Simulates a run whose actors share cores, by the calls of a profiled one. seeded:
    demonstrations that are put into replay first."""
    durations = MeasuredDurations.read(profiled, config)
    actors = config.samplers + config.reward_actors + 1
    return Simulation(config, durations, [SharedCores(cores)] * actors, seeded).run()


def _on_cores(config: PlanJob) -> str:
    assert config.plan.profile is not None
    found = on_cores(config, config.plan.profile.expanduser(), config.plan.cores)
    busy = ", ".join(f"{kind} {share:.0%}" for kind, share in found.busy.items())
    return (
        f"{found.updates} updates in {found.seconds:.1f} s of training "
        f"({found.seconds / max(1, found.updates):.2f} s each) on {config.plan.cores} cores\n"
        f"{found.trajectories} trajectories, at most {found.staleness} versions behind when they "
        f"reach replay\nbusy: {busy}"
    )
