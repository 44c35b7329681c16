"""The division of GPUs among samplers, reward actors and learners that makes most updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.formatting import byte_size
from gfn_ray.runtime.planning import memory
from gfn_ray.runtime.planning.hardware import GPU
from gfn_ray.runtime.planning.memory import Need
from gfn_ray.runtime.planning.pace import FormulaDurations, Lengths
from gfn_ray.runtime.planning.processors import OwnDevice
from gfn_ray.runtime.planning.shapes import Shape
from gfn_ray.runtime.planning.simulation import Simulated, Simulation

# Updates that are simulated: enough for the start to weigh little.
_SIMULATED_UPDATES = 200
_MOST_LEARNERS = 4096


@dataclass(frozen=True)
class Division:
    """config: the run's settings with this division. gpus: of one sampler, reward actor and
    learner. rates: updates a second that each stage alone could keep up with."""

    config: JobConfig
    needs: tuple[Need, Need, Need]
    gpus: tuple[int, int, int]
    rates: dict[str, float]

    @property
    def bound(self) -> str:
        """The stage that limits the pace."""
        return min(self.rates, key=lambda stage: self.rates[stage])

    @property
    def used(self) -> int:
        config = self.config
        numbers = (config.samplers, config.reward_actors, config.learners)
        return sum(n * each for n, each in zip(numbers, self.gpus, strict=True))


def best(config: JobConfig, shape: Shape, gpu: GPU, gpus: int, lengths: Lengths) -> Division:
    """Raises UserError, with the shortfall, if the actors cannot fit."""
    found = list(_divisions(config, shape, gpu, gpus, lengths))
    if not found:
        smallest = _smallest(config, shape, gpu, lengths)
        raise UserError(
            f"{gpus} GPUs are too few: one sampler, one reward actor and the learner need "
            f"{smallest.used} of {byte_size(gpu.memory)} ({_in_words(smallest)}); raise plan.gpus, "
            "choose a larger plan.gpu, or lower sampler.max_batch or learner.tokens_per_forward"
        )
    # Of those that are as fast, the one with fewest GPUs.
    return max(found, key=lambda one: (round(min(one.rates.values()), 6), -one.used))


def simulate(division: Division, shape: Shape, gpu: GPU, lengths: Lengths) -> Simulated:
    config = division.config
    config = config.model_copy(update={"steps": min(config.steps, _SIMULATED_UPDATES) or 1})
    actors = config.samplers + config.reward_actors + 1
    durations = FormulaDurations(config, shape, gpu, lengths)
    return Simulation(config, durations, [OwnDevice() for _ in range(actors)]).run()


def _divisions(
    config: JobConfig, shape: Shape, gpu: GPU, gpus: int, lengths: Lengths
) -> Iterator[Division]:
    base = _smallest(config, shape, gpu, lengths)
    each_sampler, each_reward, _ = base.gpus
    learners = base.config.learners
    while learners < gpus:
        left = gpus - learners
        for rewards in range(1, left // each_reward + 1):
            room = (left - rewards * each_reward) // each_sampler
            if room < 1:
                break
            numbers = {"samplers": 1, "reward_actors": rewards, "learners": learners}
            one = _rated(base.config.model_copy(update=numbers), shape, gpu, lengths, base.gpus)
            others = min(one.rates["reward actors"], one.rates["learners"])
            enough = ceil(others / one.rates["samplers"])  # more would wait
            config = one.config.model_copy(update={"samplers": min(room, enough)})
            yield _rated(config, shape, gpu, lengths, base.gpus)
        learners *= 2


def _smallest(config: JobConfig, shape: Shape, gpu: GPU, lengths: Lengths) -> Division:
    """One actor of each kind, on as few GPUs as hold it."""
    config = _with_sampler_that_fits(config, shape, gpu, lengths)
    config = _with_learners_that_fit(config, shape, gpu)
    config = _with_reward_that_fits(config, shape, gpu, lengths)
    one = config.model_copy(update={"samplers": 1, "reward_actors": 1})
    each = (one.sampler.tensor_parallel, one.reward.spread, 1)
    return _rated(one, shape, gpu, lengths, each)


def _with_sampler_that_fits(
    config: JobConfig, shape: Shape, gpu: GPU, lengths: Lengths
) -> JobConfig:
    for split in _doubling(shape.heads):
        update = {"tensor_parallel": split, "gpus": float(split)}
        sampler = config.sampler.model_copy(update=update)
        tried = config.model_copy(update={"sampler": sampler})
        need = memory.sampler(shape, tried, lengths.prompt + lengths.z)
        if need.total <= gpu.memory:
            return tried
    raise UserError(
        f"a sampler needs {byte_size(need.total)} on each of {split} GPUs, and one has "
        f"{byte_size(gpu.memory)}; lower sampler.max_batch"
    )


def _with_reward_that_fits(
    config: JobConfig, shape: Shape, gpu: GPU, lengths: Lengths
) -> JobConfig:
    context = lengths.prompt + lengths.z + lengths.answer
    for spread in range(1, shape.layers + 1):
        own = config.reward.model_copy(update={"gpus": float(spread)})
        tried = config.model_copy(update={"reward": own})
        need = memory.reward(shape, tried, context)
        if need.total <= gpu.memory:
            return tried
    raise UserError(
        f"a reward actor needs {byte_size(need.total)} on each of {spread} GPUs, and one has "
        f"{byte_size(gpu.memory)}; lower reward.tokens_per_forward"
    )


def _with_learners_that_fit(config: JobConfig, shape: Shape, gpu: GPU) -> JobConfig:
    """Recomputes activations before it spreads the base over more GPUs."""
    for learners in _doubling(_MOST_LEARNERS):
        for checkpoints in (False, True):
            update = {
                "shard": learners > 1,
                "checkpoint_activations": checkpoints,
                "gpus": 1.0,
            }
            own = config.learner.model_copy(update=update)
            tried = config.model_copy(update={"learner": own, "learners": learners})
            need = memory.learner(shape, tried)
            if need.total <= gpu.memory:
                return tried
    raise UserError(
        f"a learner needs {byte_size(need.total)} on a GPU, however many share the base, and one "
        f"has {byte_size(gpu.memory)}; lower learner.tokens_per_forward or policy.lora_rank"
    )


def _rated(
    config: JobConfig, shape: Shape, gpu: GPU, lengths: Lengths, gpus: tuple[int, int, int]
) -> Division:
    durations = FormulaDurations(config, shape, gpu, lengths)
    group = config.sampler.queries_per_call * config.sampler.trajectories_per_query
    batch = config.learner.queries_per_step * config.learner.trajectories_per_query
    updates_a_call = group * config.replay.samples_per_insert / batch
    context = lengths.prompt + lengths.z
    needs = (
        memory.sampler(shape, config, context),
        memory.reward(shape, config, context + lengths.answer),
        memory.learner(shape, config),
    )
    rates = {
        "samplers": config.samplers * updates_a_call / durations.sample(),
        "reward actors": config.reward_actors * updates_a_call / durations.score(),
        "learners": 1 / durations.learn(),
    }
    return Division(config, needs, gpus, rates)


def _doubling(largest: int) -> Iterator[int]:
    number = 1
    while number <= largest:
        yield number
        number *= 2


def _in_words(division: Division) -> str:
    return ", ".join(
        f"{need.name} {byte_size(need.total)} on {count_} of them"
        for need, count_ in zip(
            division.needs, (*division.gpus[:2], division.config.learners), strict=True
        )
    )
