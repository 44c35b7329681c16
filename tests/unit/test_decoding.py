"""Decoders against brute force over a language that can be listed, on the tiny model in float32."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.decoding.beam import beam_search
from gfn_ray.decoding.decode import decode
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.frontier import Frontier
from gfn_ray.decoding.sampling import likeliest, nucleus, one_by_one
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.support import BoundedSupport
from testing.makers import make_trajectory, random_ids, random_query
from testing.policies import naive_log_probs

CONTENT, STOPS = (40, 41, 42), (2, 3)
BEAM = Decoder("beam", "beam")
SEED = seed_of(Stream.DECODER, 0)


@pytest.fixture
def small(base):
    """z of 1 to 3 of three tokens, of which two may end it; two stop tokens."""
    content = np.isin(np.arange(base.config.vocab_size), CONTENT)
    enders = np.isin(np.arange(base.config.vocab_size), CONTENT[:2])
    return BoundedSupport(content, content, enders, np.array(STOPS, np.int32), 1, 3)


@pytest.fixture
def prompts():
    """Of unequal lengths, so that padding counts."""
    rng = np.random.default_rng(0)
    return [random_ids(rng, length) for length in (3, 9, 6)]


def language(support):
    texts = [z for n in (1, 2, 3) for z in itertools.product(CONTENT, repeat=n)]
    return [z for z in texts if support.contains(z)]


def log_p(model, support, prompt, tokens):
    z = make_trajectory(support, "q", np.array(tokens, dtype=np.int32))
    log_pf, log_stop = naive_log_probs(model, support, prompt, z)
    return sum(log_pf) + log_stop[-1]


def ranked(model, support, prompt):
    return sorted(language(support), key=lambda z: -log_p(model, support, prompt, z))


def test_the_cached_distribution_is_that_of_one_forward_a_prefix(base, small, prompts):
    frontier = Frontier(base, small, prompts)
    frontier.extend([0, 1, 1, 2], [40, 41, 42, 40])
    frontier.extend([3, 1], [42, 40])
    assert frontier.tokens == [[40, 42], [41, 40]]
    for row, (prompt, tokens) in enumerate([(prompts[2], [40, 42]), (prompts[1], [41, 40])]):
        found = frontier.log_probs[row]
        assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
        z = make_trajectory(small, "q", np.array([*tokens, 40], dtype=np.int32))
        log_pf, log_stop = naive_log_probs(base, small, prompt, z)
        assert float(found[40]) == pytest.approx(log_pf[2], abs=1e-4)
        expected = log_stop[2] if z.terminable[2] else -np.inf
        assert float(found[frontier.stop]) == pytest.approx(expected, abs=1e-4)


def test_a_beam_as_wide_as_the_language_lists_it_by_likelihood(base, small, prompts):
    size = len(language(small))
    found = beam_search(base, small, prompts, size + 5)
    for prompt, texts in zip(prompts, found, strict=True):
        assert [tuple(z) for z in texts] == ranked(base, small, prompt)


def test_a_beam_finds_nothing_likelier_than_the_likeliest_and_nothing_twice(base, small, prompts):
    for prompt, texts in zip(prompts, beam_search(base, small, prompts, 4), strict=True):
        scores = [log_p(base, small, prompt, z) for z in texts]
        best = log_p(base, small, prompt, ranked(base, small, prompt)[0])
        assert scores == sorted(scores, reverse=True)
        assert scores[0] <= best + 1e-4
        assert len({tuple(z) for z in texts}) == 4


def test_diverse_beam_search_with_one_group_is_beam_search(base, small, prompts):
    plain = beam_search(base, small, prompts, 6)
    assert beam_search(base, small, prompts, 6, groups=1, penalty=3.0) == plain


def test_groups_without_a_penalty_repeat_the_beam(base, small, prompts):
    for texts in beam_search(base, small, prompts, 6, groups=3):
        assert texts[:2] == texts[2:4] == texts[4:]


def test_a_penalty_beyond_all_differences_forbids_an_action_that_an_earlier_group_took(
    base, small, prompts
):
    for texts in beam_search(base, small, prompts, 3, groups=3, penalty=1e4):
        assert sorted(z[0] for z in texts) == list(CONTENT)


def test_the_first_group_of_a_diverse_beam_pays_nothing(base, small, prompts):
    narrow = beam_search(base, small, prompts, 2)
    diverse = beam_search(base, small, prompts, 6, groups=3, penalty=0.7)
    assert [texts[:2] for texts in diverse] == narrow


def test_groups_that_do_not_divide_the_beam_are_refused(base, small, prompts):
    with pytest.raises(ValueError, match="do not divide"):
        beam_search(base, small, prompts, 6, groups=4)


def test_greedy_takes_the_likeliest_action_at_each_step(base, small, prompts):
    found = one_by_one(base, small, prompts, 1, likeliest)
    for prompt, texts in zip(prompts, found, strict=True):
        tokens = []
        while True:
            frontier = Frontier(base, small, [prompt])
            for token in tokens:
                frontier.extend([0], [token])
            action = int(frontier.log_probs[0].argmax())
            if action == frontier.stop:
                break
            tokens.append(action)
        assert [one.tokens for one in texts] == [tokens]


@given(
    weights=st.lists(st.floats(0.001, 1), min_size=1, max_size=12),
    top_p=st.floats(0.01, 0.999),
)
def test_the_nucleus_is_the_smallest_set_of_enough_mass(weights, top_p):
    probs = torch.tensor(weights, dtype=torch.float64)
    probs = probs / probs.sum()
    kept = nucleus(probs[None], top_p)[0]
    inside = kept > 0
    assert torch.equal(kept[inside], probs[inside])
    assert float(kept.sum()) >= top_p - 1e-9
    assert float(kept.sum() - kept[inside].min()) < top_p + 1e-9
    if (~inside).any():
        assert float(probs[~inside].max()) <= float(kept[inside].min())


def shares(trajectories):
    texts = [tuple(t.token_ids.tolist()) for t in trajectories]
    return {z: texts.count(z) / len(texts) for z in set(texts)}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_come_with_the_probabilities_of_the_tempered_steps(base, small, temperature):
    query = random_query(np.random.default_rng(1), "q")
    decoder = Decoder("t", "sample", temperature=temperature)
    found = shares(decode(base, small, [query], decoder, 2000, SEED).trajectories)

    def tempered(z):
        frontier, total = Frontier(base, small, [query.prompt_ids]), 0.0
        for token in [*z, frontier.stop]:
            steps = torch.log_softmax(frontier.log_probs[0] / temperature, dim=-1)
            total += float(steps[token])
            if token != frontier.stop:
                frontier.extend([0], [token])
        return np.exp(total)

    expected = {z: tempered(z) for z in language(small)}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-4)
    for z, probability in expected.items():
        spread = np.sqrt(probability * (1 - probability) / 2000)
        assert abs(found.get(z, 0) - probability) < 4.5 * spread + 1e-3


def test_every_decoder_gives_whole_z_of_the_support_query_by_query(base, small):
    rng = np.random.default_rng(2)
    queries = [random_query(rng, f"q{i}", 4 + i) for i in range(3)]
    for decoder, count in [
        (Decoder("t", "sample", temperature=0.8), 4),
        (Decoder("n", "sample", top_p=0.9), 4),
        (Decoder("d", "beam", groups=2, diversity_penalty=0.5), 4),
        (BEAM, 4),
        (Decoder("g", "greedy"), 1),
    ]:
        found = decode(base, small, queries, decoder, 4, SEED).trajectories
        assert [t.query_id for t in found] == [f"q{i}" for i in range(3) for _ in range(count)]
        for trajectory in found:
            assert small.contains(trajectory.token_ids)
            assert trajectory.terminable.tolist() == [False] * len(trajectory) + [True]
            assert trajectory.stopped == (len(trajectory) < small.max_len)


def test_the_same_seed_gives_the_same_samples(base, small):
    queries = [random_query(np.random.default_rng(3), "q")]
    decoder = Decoder("t", "sample", temperature=3.0)
    runs = [
        [t.token_ids.tolist() for t in decode(base, small, queries, decoder, 30, seed).trajectories]
        for seed in (seed_of(Stream.DECODER, 1, batch) for batch in (2, 2, 3))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_decoder_refuses_settings_without_meaning():
    for bad in ({"temperature": 0.0}, {"top_p": 0.0}, {"groups": 0}):
        with pytest.raises(ValueError, match="needs temperature"):
            Decoder("x", "sample", **bad)
