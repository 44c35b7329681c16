"""An adapter on its way to the samplers: one object, in the precision in which they compute."""

import pickle

import numpy as np
import torch

from gfn_ray.config import SamplerConfig
from gfn_ray.policy.flat_tensors import FlatTensors
from testing.policies import groups_of, job, load, lora_trainer

TENSORS = {
    "b": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "a": torch.randn(2, 4, generator=torch.Generator().manual_seed(1)),
}


def test_tensors_keep_names_order_shapes_and_bits():
    flat = FlatTensors.of(TENSORS, "float32")
    assert list(flat) == ["b", "a"] and len(flat) == 2
    assert all(np.array_equal(flat[name], TENSORS[name].numpy()) for name in TENSORS)
    assert all(np.shares_memory(array, flat.buffer) for array in flat.values())


def test_bfloat16_is_half_as_long_and_rounds_as_the_engine_would():
    flat = FlatTensors.of(TENSORS, "bfloat16")
    assert flat.buffer.nbytes == 2 * (15 + 8)
    for name, tensor in TENSORS.items():
        assert flat[name].dtype == np.float32
        assert np.array_equal(flat[name], tensor.bfloat16().float().numpy())


def test_tensors_are_a_copy():
    own = {"a": torch.ones(3)}
    flat = FlatTensors.of(own, "float32")
    own["a"].zero_()
    assert (flat["a"] == 1).all()


def test_whoever_moves_tensors_moves_one_buffer():
    """Pickled as Ray does it, with the arrays beside the pickle."""
    buffers = []
    flat = FlatTensors.of(TENSORS, "float32")
    flat["a"]  # views that are there already do not travel
    words = pickle.dumps(flat, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    again = pickle.loads(words, buffers=buffers)  # noqa: S301
    assert all(np.array_equal(again[name], flat[name]) for name in TENSORS)


def test_weights_are_published_in_the_engines_precision_and_saved_in_full(tiny_dir, support):
    config = job().model_copy(update={"sampler": SamplerConfig(dtype="bfloat16")})
    trainer = lora_trainer(load(tiny_dir), config, support)
    trainer.step(groups_of(support))
    published, full = trainer.publish(), trainer.adapter()
    assert published.version == full.version == 0
    for name, array in full.tensors.items():
        rounded = torch.from_numpy(array.copy()).bfloat16().float().numpy()
        assert np.array_equal(published.tensors[name], rounded)
        assert "lora_A" not in name or not np.array_equal(rounded, array)
