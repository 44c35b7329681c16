"""Refuses policies whose weights vLLM cannot take merged, before an engine starts."""

from __future__ import annotations

from gfn_ray.config import PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.models.loading import model_config, skeleton

_EXPERTS = "experts"  # transformers' name for them in every mixture


def check_mergeable(policy: PolicyConfig, path: str, trust_remote_code: bool) -> None:
    """Raises UserError for layers that do not have weights of their own in vLLM, as they were
    saved. policy: with the names of its layers."""
    config = model_config(path, trust_remote_code)
    text = config.get_text_config()
    if getattr(config, "quantization_config", None) is not None:
        raise _refusal("the model's weights are quantised")
    if getattr(text, "kv_lora_rank", None) is not None:
        raise _refusal("the model's attention is a latent one, whose weights vLLM multiplies out")
    model = skeleton(path, trust_remote_code)
    head = model.get_output_embeddings()
    mixtures = tuple(
        name.removesuffix(_EXPERTS)
        for name, _ in model.named_modules()
        if name.endswith(f".{_EXPERTS}")
    )
    for name, module in model.named_modules():
        layer = name.rpartition(".")[2]
        if layer not in policy.lora_targets:
            continue
        if module is head and text.tie_word_embeddings:
            raise _refusal(f"{layer!r}, one of policy.lora_targets, is also the input embedding")
        if name.startswith(mixtures):
            raise _refusal(f"{layer!r}, one of policy.lora_targets, is in a mixture of experts")


def _refusal(why: str) -> UserError:
    return UserError(
        f"vLLM cannot take this policy as merged weights (policy.sync): {why}; set "
        "policy.sync to lora where vLLM has it for this model, sampler.backend to transformers, or "
        "other policy.lora_targets"
    )
