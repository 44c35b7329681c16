"""A linear layer with a LoRA adapter as one operation: y = x Wᵀ + bias + s (x Aᵀ) Bᵀ.

PEFT's own layer takes five operations and keeps two copies of the output's size and, if the base is
at half precision, a float32 copy of x for the gradient, because its A and B are float32 for the
optimizer. Here A and B are cast to the base's precision instead, as in the sampler; the parameters
and their gradients stay float32. Names, saving and merging are left to PEFT.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn


class LoraLinear(Linear):  # type: ignore[misc]
    """PEFT's layer, fused if it is a plain LoRA layer on a frozen base."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns outputs [..., O] for inputs [..., I]."""
        if args or kwargs or not self._is_plain():
            way_of_peft: Tensor = super().forward(x, *args, **kwargs)
            return way_of_peft
        (name,) = self.active_adapters
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        y: Tensor = _LoraProduct.apply(x, base.weight, base.bias, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        return y

    def _is_plain(self) -> bool:
        """Whether a single plain adapter is active, on a linear layer that is not trained."""
        names = self.active_adapters
        return (
            not self.disable_adapters
            and not self.merged
            and len(names) == 1
            and names[0] in self.lora_A
            and names[0] not in self.lora_variant  # DoRA and similar
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
            and self.lora_B[names[0]].bias is None
            and type(self.base_layer) is nn.Linear
            and not any(p.requires_grad for p in self.base_layer.parameters())
        )


class _LoraProduct(torch.autograd.Function):
    """Saves x and x Aᵀ [N, r]; W and its bias get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ a.to(x.dtype).T
        y = F.linear(rows, weight, bias).addmm_(inner, b.to(x.dtype).T, alpha=scale)
        ctx.scale = scale
        ctx.save_for_backward(x, weight, a, b, inner)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        rows, of_rows = x.reshape(-1, x.shape[-1]), of_y.reshape(-1, of_y.shape[-1])
        of_inner = (of_rows @ b.to(x.dtype)).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (of_rows @ weight).addmm_(of_inner, a.to(x.dtype)).view_as(x)
        of_a = (of_inner.T @ rows).to(a.dtype)
        of_b = (of_rows.T @ inner).mul_(ctx.scale).to(b.dtype)
        return of_x, None, None, of_a, of_b, None
