"""The smallest cache blocks that vLLM's CPU attention kernel supports.

Samples of one query share the whole blocks of its prompt; the rest of the prompt is recomputed for
each. vLLM's CPU backend offers multiples of 32 tokens, but its kernel supports 16.
"""

from __future__ import annotations

import vllm

from gfn_ray.sampling.weights.swap import TESTED_VERSIONS

OFFERED = 32
SMALLEST = 16


def install() -> int:
    """Sets the smallest block in this process and returns its tokens; on an untested vLLM, changes
    nothing and returns what the backend offers."""
    if not vllm.__version__.startswith(TESTED_VERSIONS):
        return OFFERED
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(
        lambda kv_cache_spec=None: [MultipleOf(SMALLEST)]
    )
    return SMALLEST
