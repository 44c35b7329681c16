"""W0 + BA without an engine: what rounding keeps, and how names of a checkpoint are found."""

import pytest
import torch
from safetensors.torch import save_file

from gfn_ray.sampling.weights.merging import Checkpoint, Merge, stochastically_rounded

RANK, INPUTS, OUTPUTS = 2, 48, 64
CONFIG = {"lora_alpha": 4.0, "r": RANK}


def checkpoint(path, names, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(OUTPUTS, INPUTS, generator=rng).to(dtype) for n in names}
    save_file(tensors, path / "model.safetensors")
    return Checkpoint([path / "model.safetensors"]), tensors


def adapter(layers, size):
    rng = torch.Generator().manual_seed(1)
    found = {}
    for layer in layers:
        found[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(RANK, INPUTS, generator=rng)
        b = torch.randn(OUTPUTS, RANK, generator=rng)
        found[f"base_model.model.{layer}.lora_B.weight"] = size * b
    return found


def merged(files, tensors, dtype):
    return dict(Merge(files, CONFIG, tensors).weights(dtype, torch.device("cpu")))


def test_rounding_by_chance_gives_a_neighbour_and_the_value_in_the_mean():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3
    rng = torch.Generator().manual_seed(1)
    drawn = torch.stack([stochastically_rounded(x, rng).float() for _ in range(2000)])
    step = 2.0 ** (torch.floor(torch.log2(x.abs())) - 7)  # between neighbours in bfloat16
    assert ((drawn - x).abs() < step).all()
    # Of 2000 draws with a standard deviation of at most half a step.
    assert ((drawn.mean(0) - x).abs() < 5 * 0.5 * step / 2000**0.5).all()


def test_a_change_smaller_than_a_step_of_bfloat16_is_kept_on_the_whole(tmp_path):
    """Nearest rounding would lose most of it."""
    name = "h.0.attn.q_proj"
    files, before = checkpoint(tmp_path, [f"{name}.weight"], torch.bfloat16)
    tensors = adapter([name], size=1e-4)
    (after,) = merged(files, tensors, torch.bfloat16).values()
    a, b = tensors.values()
    delta, base = 2.0 * b @ a, before[f"{name}.weight"].float()

    def kept(rounded):
        return float(((rounded.float() - base) * delta).sum() / (delta**2).sum())

    assert kept(after) == pytest.approx(1.0, abs=0.25)
    assert kept((base + delta).to(torch.bfloat16)) < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_an_effect_the_weights_are_the_bases_bit_for_bit(tmp_path, dtype):
    name = "h.0.attn.q_proj"
    files, before = checkpoint(tmp_path, [f"{name}.weight"])
    (after,) = merged(files, adapter([name], size=0.0), dtype).values()
    assert torch.equal(after, before[f"{name}.weight"].to(dtype))


def test_the_same_version_is_rounded_alike_wherever_it_is_loaded(tmp_path):
    name = "h.0.attn.q_proj"
    files, _ = checkpoint(tmp_path, [f"{name}.weight"])
    one, other = (merged(files, adapter([name], 0.1), torch.bfloat16) for _ in range(2))
    assert torch.equal(one[f"{name}.weight"], other[f"{name}.weight"])


def test_all_parts_of_a_module_are_given_and_no_other_module(tmp_path):
    names = [f"h.{i}.{m}.weight" for i in (0, 1) for m in ("attn.q", "attn.k", "mlp.up", "norm")]
    files, _ = checkpoint(tmp_path, names)
    found = merged(files, adapter(["h.1.attn.q"], 0.1), torch.float32)
    assert list(found) == ["h.1.attn.k.weight", "h.1.attn.q.weight"]


def test_a_checkpoint_without_the_name_of_its_body_has_the_same_layers(tmp_path):
    """As GPT-2 of the hub, beside a head that is in no body."""
    files, _ = checkpoint(tmp_path, ["h.0.attn.q.weight", "lm_head.weight"])
    tensors = adapter(["lm_head", "transformer.h.0.attn.q"], 0.1)
    assert list(merged(files, tensors, torch.float32)) == ["h.0.attn.q.weight", "lm_head.weight"]
