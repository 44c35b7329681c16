"""A frozen LM whose layers lie on several devices reads like one that lies on one.

No machine here has two: the devices are pretended, but on them, as on GPUs, an operation on tensors
of two devices is an error. The hooks are those that reward.gpus above 1 gets from accelerate.
"""

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from gfn_ray.config import PolicyConfig
from gfn_ray.decoding.decode import decode
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.frontier import cache_fault
from gfn_ray.packing.forward import Ways, read_by
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.rewards.label_model import LabelModel
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.seeds import Stream, seed_of
from testing.makers import make_support, random_ids, random_query, random_trajectories
from testing.policies import load, write_random_adapter
from testing.pretend_devices import pretend_devices


def spread(directory, head):
    """The tiny model with its first layer on one device and its second on another."""
    model = load(directory)
    first, second = "pretend:0", "pretend:1"
    places = {
        "model.embed_tokens": first,
        "model.rotary_emb": first,
        "model.layers.0": first,
        "model.layers.1": second,
        "model.norm": second,
        "lm_head": head,
    }
    # As with GPUs 0 and 1; of other names, accelerate takes any for its main device.
    return dispatch_model(
        model, places, main_device=first, skip_keys=model._skip_keys_device_placement
    )


@pytest.fixture(params=["pretend:0", "pretend:1"])
def apart(tiny_dir, request):
    """head: with the embedding, as where they are tied, or with the last layer."""
    with pretend_devices():
        yield spread(tiny_dir, request.param)


def test_devices_that_are_pretended_are_as_strict_as_real_ones():
    with pretend_devices():
        here, there = (torch.ones(3, 3, device=f"pretend:{i}") for i in range(2))
        with pytest.raises(RuntimeError, match=r"pretend:0.*pretend:1"):
            here @ there
        with pytest.raises(RuntimeError, match=r"pretend:0.*pretend:1"):
            here[torch.tensor([0], device="pretend:1")]
        assert float((here @ there.to("pretend:0")).sum()) == 27


def scored(model, pairs, ways=None):
    if ways is not None:
        read_by(model, ways, in_blocks=False)
    reward = LikelihoodReward(64)
    reward.load(lambda: model)
    return np.concatenate([t.log_reward for t in reward.score(pairs)])


@pytest.mark.parametrize("ways", [None, Ways(True, False), Ways(False, False)])
def test_log_r_is_that_of_one_device_however_the_model_is_read(apart, tiny_dir, ways):
    rng = np.random.default_rng(0)
    whole = load(tiny_dir)
    support = make_support(vocab_size=whole.config.vocab_size)
    queries = [random_query(rng, f"q{i}") for i in range(3)]
    pairs = [(q, t) for q in queries for t in random_trajectories(rng, support, q.query_id, 4)]
    found, meant = scored(apart, pairs, ways), scored(whole, pairs, ways)
    assert found == pytest.approx(meant, rel=1e-6, nan_ok=True)


def test_decoders_of_the_frozen_lm_draw_the_same(apart, tiny_dir):
    whole = load(tiny_dir)
    support = make_support(vocab_size=whole.config.vocab_size)
    query = random_query(np.random.default_rng(1), "q")
    beam, seed = Decoder("beam", "beam"), seed_of(Stream.DECODER, 0)
    found, meant = (
        [t.token_ids.tolist() for t in decode(model, support, [query], beam, 3, seed).trajectories]
        for model in (apart, whole)
    )
    assert found == meant
    assert cache_fault(apart, support) is None


def test_an_adapter_on_it_is_read_and_put_back(apart, tiny_dir, tmp_path):
    rng = np.random.default_rng(2)
    histories = [random_ids(rng, length) for length in (9, 7, 8)]
    answers = [random_ids(rng, 2) for _ in range(2)]
    directory = write_random_adapter(tiny_dir, tmp_path / "adapter")
    found = []
    for model in (apart, load(tiny_dir)):
        labels = LabelModel(model, PolicyConfig(lora_rank=8), 0, 64)
        labels.take_over(load_adapter(directory))
        found.append((labels.read().tensors, labels.log_probs(histories, answers)))
    (tensors, log_p), (meant, log_p_meant) = found
    assert log_p == pytest.approx(log_p_meant, abs=1e-4)  # of a sum near -20
    assert all(np.array_equal(tensors[name], array) for name, array in meant.items())
