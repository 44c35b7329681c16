"""Cache blocks for vLLM on CPU that are as small as its attention kernel takes.

Samples of one query share the whole blocks of its prompt; what is left of the prompt is computed
again for each. vLLM's CPU backend offers multiples of 32 tokens, and its kernel takes 16.
"""

from __future__ import annotations

import vllm

from gfn_ray.sampling.adapter_swap import TESTED_VERSIONS

OFFERED = 32
SMALLEST = 16


def install() -> int:
    """Tokens of a block that the backend takes in this process from now on; on an untested vLLM
    those that it offers."""
    if not vllm.__version__.startswith(TESTED_VERSIONS):
        return OFFERED
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(
        lambda kv_cache_spec=None: [MultipleOf(SMALLEST)]
    )
    return SMALLEST
