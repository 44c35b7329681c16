"""Random numbers by what they are for: the streams of a run's seed, no two of them the same.

Owns how a seed and what is drawn by it become a generator. Seeds that are not the run's own have
no stream: those that name examples of a data set (`gfn_ray/data`), and that of a comparison,
which is a program by itself.

A seed travels as plain numbers, [stream, seed, *at]. numpy fills a seed up to four words with
zeros, so that [s], [s, 0] and [s, 0, 0] are one stream; a spawn key comes after that filling,
and keys of different lengths differ.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

Seed = list[int]

# The first word of every spawn key, "gfn ". A longer list without a key, as data sets are drawn
# by, would else be the same as a shorter one with it.
_KEY = 0x67666E20


class Stream(IntEnum):
    """What random numbers are drawn for; `at` tells apart draws for the same purpose."""

    QUERY_ORDER = 0
    TRAINING_CALL = 1  # at: number of the sampling call
    EVALUATION = 2  # before and after training alike; at: number of the batch
    EVALUATION_DURING = 3  # at: update, number of the batch
    SFT_ORDER = 4
    DECODER = 5  # at: first query of the batch
    M_STEP_CALL = 6  # at: round, first query of the call
    M_STEP_ORDER = 7  # at: round
    REPLAY = 8
    LATER_TURN = 9  # by the seed of a z that a tool has interrupted; at: number of the turn
    SERVED = 10
    TEXT_ORDER = 11
    POLICY_ADAPTER = 12
    LABEL_ADAPTER = 13
    TEXT_ADAPTER = 14
    DIAGNOSTIC = 15  # before and after training alike; at: number of the draw
    RESAMPLED = 16  # of served candidates


def seed_of(stream: Stream, seed: int, *at: int) -> Seed:
    """What a generator is made from. seed: at least 0. at: of 32 bits each."""
    return [int(stream), seed, *at]


def generator(seed: Seed) -> np.random.Generator:
    """numpy's generator for a seed of seed_of()."""
    stream, entropy, *at = seed
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(_KEY, stream, *at)))


def number(seed: Seed) -> int:
    """One number of 63 bits, for generators that are not numpy's."""
    return int(generator(seed).integers(2**63))
