"""Decoders that log R guides, held to what they converge to: a language that can be listed, with a
log R of every text and every beginning that could end, on a random Llama of eight tokens.

log R is far from the model's own log p, so a decoder that took the model for the target, or weighed
a proposal in the wrong direction, would be seen.
"""

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from gfn_ray.decoding import power
from gfn_ray.decoding.decode import decode
from gfn_ray.decoding.decoder import searching_decoders
from gfn_ray.decoding.particles import particles
from gfn_ray.decoding.power import power_samples
from gfn_ray.decoding.resampling import Weights, best_of
from gfn_ray.decoding.sampling import drawn, one_by_one
from gfn_ray.errors import RunFailed
from gfn_ray.seeds import Stream, generator, number, seed_of
from gfn_ray.support import BoundedSupport
from gfn_ray.trajectory import Query
from testing.makers import make_trajectory
from testing.policies import naive_log_probs
from testing.tiny_language import CONTEXT, normalised, random_llama

CONTENT, STOPS = (3, 4, 5), (0, 1)
TEMPERATURE = 0.8
CHANCE = 1e-3  # of a right decoder to fail; seeds are fixed
DRAWS = 800


@pytest.fixture(scope="module")
def base():
    """Flat enough that no text of the posterior is rare: chains and particles then need dozens."""
    model = random_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.15)
    return model


@pytest.fixture(params=[0, 1], ids=["the empty z too", "no empty z"])
def small(base, request):
    """z of at most 3 of three tokens, of which two may end it; two stop tokens."""
    content = np.isin(np.arange(base.config.vocab_size), CONTENT)
    enders = np.isin(np.arange(base.config.vocab_size), CONTENT[:2])
    stops = np.array(STOPS, np.int32)
    return BoundedSupport(content, content, enders, stops, request.param, 3)


@pytest.fixture
def prompt():
    return CONTEXT


def language(support):
    texts = [z for n in range(4) for z in itertools.product(CONTENT, repeat=n)]
    return [z for z in texts if support.contains(z)]


def log_reward(z):
    """Different for every text."""
    return float(1.2 * np.sin(1.0 + sum((i + 2.7) * (token - 2) for i, token in enumerate(z))))


def log_target(texts):
    return np.array([log_reward(one.tokens) / TEMPERATURE for one in texts])


def posterior(support):
    return normalised({z: log_reward(z) / TEMPERATURE for z in language(support)})


def log_z(support):
    return float(np.logaddexp.reduce([log_reward(z) / TEMPERATURE for z in language(support)]))


def of_model(model, support, prompt):
    """q of every text, by one forward a prefix."""
    found = {}
    for z in language(support):
        known = make_trajectory(support, "q", np.array(z, dtype=np.int32))
        log_pf, log_stop = naive_log_probs(model, support, prompt, known)
        found[z] = float(np.exp(sum(log_pf) + log_stop[-1]))
    assert sum(found.values()) == pytest.approx(1, abs=1e-4)
    return found


def choice(at=0):
    drawing = torch.Generator().manual_seed(number(seed_of(Stream.DECODER, 0, at)))
    return drawn(1.0, 1.0, drawing)


def draws(texts):
    return Counter(tuple(one.tokens) for one in texts)


def tv(counts, expected):
    total = sum(counts.values())
    return 0.5 * sum(abs(counts[z] / total - p) for z, p in expected.items())


def agrees(counts, expected):
    """Pearson's chi-square, with rare texts together."""
    total = sum(counts.values())
    assert not counts.keys() - expected.keys()
    rare = [z for z, p in expected.items() if p * total < 10]
    cells = [[z] for z in expected if z not in rare] + ([rare] if rare else [])
    found = [sum(counts[z] for z in cell) for cell in cells]
    meant = np.array([sum(expected[z] for z in cell) for cell in cells])
    return stats.chisquare(found, meant / meant.sum() * total).pvalue


def by_mh(model, support, prompt, proposals, count=DRAWS, at=0):
    rng = generator(seed_of(Stream.DECODER, 1, at))
    return power_samples(model, support, [prompt], count, proposals, log_target, choice(at), rng)


def by_smc(model, support, prompt, size, count=DRAWS, at=0):
    """One draw from each of `count` populations, which are independent."""
    rng = generator(seed_of(Stream.DECODER, 2, at))
    found = particles(model, support, [prompt] * count, size, log_target, choice(at), rng)
    return [one.particles[Weights.of(one.log_weights).draw(1, rng)[0]] for one in found], found


def test_written_z_have_the_log_q_of_one_forward_a_prefix(base, small, prompt):
    meant = of_model(base, small, prompt)
    for one in one_by_one(base, small, [prompt], 100, choice())[0]:
        assert np.exp(one.log_q_from(0)) == pytest.approx(meant[tuple(one.tokens)], rel=1e-3)


@pytest.mark.parametrize("n", [1, 4, 16])
def test_the_best_of_n_has_the_law_of_the_largest_of_n(base, small, prompt, n):
    q = of_model(base, small, prompt)
    below = {z: sum(p for other, p in q.items() if log_reward(other) < log_reward(z)) for z in q}
    law = {z: (below[z] + p) ** n - below[z] ** n for z, p in q.items()}
    texts = one_by_one(base, small, [prompt], DRAWS * n, choice())[0]
    best = best_of([log_reward(one.tokens) for one in texts], n)
    assert agrees(draws([texts[i] for i in best]), law) > CHANCE


def test_resampling_approaches_the_posterior_as_candidates_grow(base, small, prompt):
    p, found = posterior(small), []
    for n in (1, 8, 64):
        texts = one_by_one(base, small, [prompt], 300 * n, choice())[0]
        rng = generator(seed_of(Stream.DECODER, 3, n))
        counts = Counter()
        for start in range(0, len(texts), n):
            some = texts[start : start + n]
            weights = Weights.of(log_target(some) - [one.log_q_from(0) for one in some])
            counts += draws([some[weights.draw(1, rng)[0]]])
        found.append((tv(counts, p), agrees(counts, p)))
    assert found[0][0] > found[1][0] > found[2][0]
    assert found[0][1] < CHANCE


def test_mh_approaches_the_posterior_as_proposals_grow_and_reaches_it(base, small, prompt):
    p = posterior(small)
    counts = [draws(by_mh(base, small, prompt, n)) for n in (1, 4, 32)]
    assert tv(counts[0], p) > tv(counts[1], p) > tv(counts[2], p)
    assert agrees(counts[0], of_model(base, small, prompt)) > CHANCE
    assert agrees(counts[0], p) < CHANCE < agrees(counts[2], p)


@pytest.mark.parametrize("wrong", ["the other direction", "no proposal", "no count of places"])
def test_mh_with_a_wrong_acceptance_misses_the_posterior(base, small, prompt, monkeypatch, wrong):
    right = power.log_proposals

    def spoiled(old, new, at):
        places = np.log(len(old.choices)) - np.log(len(new.choices))
        found = right(old, new, at)
        return {"the other direction": -found, "no proposal": 0.0}.get(wrong, found - places)

    monkeypatch.setattr(power, "log_proposals", spoiled)
    # Most texts have as many places as others, so that their count is seen in more draws only.
    count = 3 * DRAWS if wrong == "no count of places" else DRAWS
    assert agrees(draws(by_mh(base, small, prompt, 32, count)), posterior(small)) < CHANCE


def test_smc_approaches_the_posterior_as_particles_grow_and_reaches_it(base, small, prompt):
    p = posterior(small)
    counts = [
        draws(by_smc(base, small, prompt, size, count)[0])
        for size, count in ((1, DRAWS), (4, DRAWS), (256, 300))
    ]
    assert agrees(counts[0], of_model(base, small, prompt)) > CHANCE
    assert tv(counts[0], p) > tv(counts[1], p)
    assert agrees(counts[0], p) < CHANCE < agrees(counts[2], p)


def test_the_estimate_of_z_by_smc_is_unbiased_with_few_particles(base, small, prompt):
    _, found = by_smc(base, small, prompt, 4)
    ratios = np.exp([one.log_z - log_z(small) for one in found])
    assert stats.ttest_1samp(ratios, 1.0).pvalue > CHANCE
    assert any(one.log_weights.std() == 0 for one in found)  # some were drawn anew at their end


def test_a_policy_that_samples_the_posterior_has_equal_particles(base, small, prompt):
    """R = q: F(s) is q of s, at every beginning that could end."""
    q = of_model(base, small, prompt)
    log_target = lambda texts: np.log([q[tuple(one.tokens)] for one in texts])  # noqa: E731
    rng = generator(seed_of(Stream.DECODER, 4))
    (found,) = particles(base, small, [prompt], 64, log_target, choice(), rng)
    assert found.log_weights == pytest.approx(np.zeros(64), abs=1e-4)
    assert found.log_z == pytest.approx(0.0, abs=1e-4)


def asking(query_id, prompt):
    return Query(query_id, prompt, prompt, prompt[:0])


def scored(pairs):
    return [z.scored(np.full(len(z) + 1, log_reward(z.token_ids.tolist()))) for _, z in pairs]


def test_each_decoder_writes_whole_z_query_by_query_and_tells_its_cost(base, small):
    queries = [asking(f"q{i}", CONTEXT[i:]) for i in range(3)]
    known = searching_decoders(6)
    run = partial(decode, base, small, queries, score=scored, temperature=TEMPERATURE)
    for kind, each, texts in [
        ("best_of", 24, 0),
        ("resample", 24, 0),
        ("mh", 4, 3 * 4 * 6),
        ("smc", 4, None),
    ]:
        (decoder,) = known[kind]
        found = run(decoder, 4, seed_of(Stream.DECODER, 0))
        assert [t.query_id for t in found.trajectories] == [
            q for i in range(3) for q in [f"q{i}"] * each
        ]
        assert all(small.contains(t.token_ids) for t in found.trajectories)
        assert np.isfinite([t.sampler_log_stop for t in found.trajectories]).all()
        assert found.scored == texts or (texts is None and found.scored >= 3 * 24)
        assert 3 * 24 <= found.tokens <= 3 * 24 * 4


def test_a_text_without_log_r_ends_the_search(base, small):
    query = asking("q", CONTEXT)
    nothing = lambda pairs: [z.scored(np.full(len(z) + 1, np.nan)) for _, z in pairs]  # noqa: E731
    (decoder,) = searching_decoders(4)["mh"]
    with pytest.raises(RunFailed, match="needs a finite log R"):
        decode(base, small, [query], decoder, 2, seed_of(Stream.DECODER, 0), score=nothing)
