"""Prepares a process in which vLLM runs a model on CPU: the engine's own, or a tensor-parallel
worker's, where the worker extension is the first of our code that vLLM imports."""

from __future__ import annotations

from vllm.platforms import current_platform

from gfn_ray.sampling import cpu_blocks
from gfn_ray.sampling.weights import lora_on_cpu


def prepare() -> None:
    """Replaces what is wrong or slow in vLLM's CPU backend; on CUDA, changes nothing."""
    if current_platform.is_cpu():
        cpu_blocks.install()
        lora_on_cpu.install()
