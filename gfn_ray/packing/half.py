"""LoRA's products at the base model's half precision, on CUDA.

PEFT keeps an adapter's weights in float32, for the optimizer's sake, and widens what they are
multiplied with: a float32 copy of the input of every layer, kept for the gradient. Under autocast
the small weights are narrowed instead, as in the sampler; weights and gradients stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

HALVES = (torch.bfloat16, torch.float16)


@contextmanager
def half_precision(model: Any) -> Iterator[None]:
    """Within it, a half-precision model on CUDA multiplies its adapter at that precision."""
    weight = next(model.parameters())
    if not (weight.is_cuda and weight.dtype in HALVES and hasattr(model, "peft_config")):
        yield
        return
    from peft.helpers import disable_input_dtype_casting

    with torch.autocast("cuda", weight.dtype), disable_input_dtype_casting(model):
        yield
