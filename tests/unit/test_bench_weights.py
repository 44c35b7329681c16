"""The adapters of the weights' figures have the size that they are named after."""

import numpy as np
import pytest

from bench_weights import SHAPES
from gfn_ray.config import PolicyConfig
from gfn_ray.models.embedded import embedded_model_dir
from gfn_ray.models.loading import linear_layers
from weight_actors import Learner, Reader, Shape

SMALL = Shape(layers=2, hidden=8, narrow=4, inner=12, rank=1)


def test_an_adapter_has_as_many_numbers_as_counted():
    assert sum(a.size for a in SMALL.tensors().values()) == SMALL.parameters()
    assert all(a.dtype == np.float32 for a in SMALL.tensors().values())


@pytest.mark.parametrize(
    ("name", "megabytes"), [("135M r16", 20), ("7B r16", 160), ("7B r64", 640)]
)
def test_an_adapter_is_as_large_as_said(name, megabytes):
    assert SHAPES[name].parameters() * 4 / 1e6 == pytest.approx(megabytes, rel=0.03)


def test_the_smallest_is_the_adapter_of_the_embedded_model():
    layers = linear_layers(str(embedded_model_dir()), False)
    shape, targets = SHAPES["135M r16"], PolicyConfig().lora_targets
    expected = {}
    for layer, (outputs, inputs) in layers.items():
        if layer.rsplit(".", 1)[-1] in targets:
            stem = f"base_model.model.{layer}"
            expected[f"{stem}.lora_A.weight"] = (shape.rank, inputs)
            expected[f"{stem}.lora_B.weight"] = (outputs, shape.rank)
    assert {name: a.shape for name, a in shape.tensors().items()} == expected


def test_a_sampler_gets_the_same_adapter_in_both_ways(tmp_path):
    learner, reader = Learner(SMALL), Reader()
    assert reader.receive(learner.publish()) == SMALL.parameters()
    received = reader._tensors
    learner.write(str(tmp_path))
    assert reader.read(str(tmp_path)) == SMALL.parameters()
    assert received.keys() == reader._tensors.keys()
    assert all((received[name] == one).all() for name, one in reader._tensors.items())
