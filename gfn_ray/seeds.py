"""Random number streams: one per purpose, all different, derived from the run's seed.

Owns how a seed and a purpose become a generator. Seeds other than the run's have no stream: those
that select examples of a data set (`gfn_ray/data`), and the one of a comparison, which is a program
of its own.

A seed travels as plain numbers, [stream, seed, *at]. numpy pads a seed with zeros to four words, so
that [s], [s, 0] and [s, 0, 0] are the same stream; a spawn key comes after the padding, and keys of
different lengths differ.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

Seed = list[int]

# The first word of every spawn key, "gfn ". Without it, a longer list without a key, as used for
# data sets, could equal a shorter one with a key.
_KEY = 0x67666E20


class Stream(IntEnum):
    """The purpose of random numbers; `at` distinguishes draws for the same purpose."""

    QUERY_ORDER = 0
    TRAINING_CALL = 1  # at: number of the sampling call
    EVALUATION = 2  # the same before and after training; at: number of the batch
    EVALUATION_DURING = 3  # at: update, number of the batch
    SFT_ORDER = 4
    DECODER = 5  # at: first query of the batch
    M_STEP_CALL = 6  # at: round, first query of the call
    M_STEP_ORDER = 7  # at: round
    REPLAY = 8
    LATER_TURN = 9  # from the seed of a z interrupted by a tool; at: number of the turn
    SERVED = 10
    TEXT_ORDER = 11
    POLICY_ADAPTER = 12
    LABEL_ADAPTER = 13
    TEXT_ADAPTER = 14
    RESAMPLED = 16  # of served candidates
    DIAGNOSTIC = 15  # the same before and after training; at: number of the draw
    SIMULATED = 17  # at: number of the batch, of its call
    ROUNDING = 19  # of merged weights, with seed 0: the same on every machine and rank
    STAR_CALL = 21  # at: round, whether with hints, first query of the call
    STAR_ORDER = 22  # at: round
    SIMULATED_SAMPLES = 18  # the same before and after training; at: number of the batch
    SIMULATED_DURING = 20  # at: update, number of the batch
    DECODER_SELECTION = 23  # at: number of the held-out query
    FAITHFULNESS = 24  # at: 0 for a reader, 1 for a writer


def seed_of(stream: Stream, seed: int, *at: int) -> Seed:
    """Returns the seed of a stream. seed: at least 0. at: 32 bits each."""
    return [int(stream), seed, *at]


def generator(seed: Seed) -> np.random.Generator:
    """Makes numpy's generator for a seed from seed_of()."""
    stream, entropy, *at = seed
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(_KEY, stream, *at)))


def number(seed: Seed) -> int:
    """Returns a 63-bit number, to seed other libraries' generators."""
    return int(generator(seed).integers(2**63))
