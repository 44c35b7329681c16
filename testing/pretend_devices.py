"""Devices that do not exist: their tensors are computed on the CPU, and none meets another's.

As on GPUs, an operation on tensors of two devices is an error, be it a product or an index. So what
runs here with a model's layers on several devices moves every tensor that has to move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_BELOW = torch.library.Library("aten", "IMPL")  # what torch calls below both modes


class _Elsewhere(Tensor):
    """held: the numbers, on the CPU."""

    held: Tensor

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {self.device}"

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> _Elsewhere:
        made: _Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(operation, args, kwargs or {})


@contextmanager
def pretend_devices() -> Iterator[None]:
    """Meanwhile tensors can be made on and moved to "pretend:0", "pretend:1" and so on."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
        _BELOW.impl("empty_strided", _empty, "PrivateUse1")
        _BELOW.impl("_copy_from", _copy, "PrivateUse1")
    with _Makes(), _Operations():
        yield


def _empty(size: Any, stride: Any, *, device: torch.device, **more: Any) -> Tensor:
    return _Elsewhere(torch.empty_strided(size, stride, dtype=more["dtype"]), device)


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    return _held(target).copy_(_held(source))


class _Makes(TorchFunctionMode):
    """What torch does below the reach of the other mode: tensors from and to Python's numbers."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is Tensor.tolist:
            return function(args[0].cpu())
        if function not in (torch.tensor, torch.as_tensor):
            return function(*args, **kwargs)
        device = kwargs.pop("device", None)
        made = function(*args, **kwargs)
        return made if device is None else made.to(device)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(operation, args, kwargs or {})


def _computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if operation is torch.ops.aten.copy_.default:
        device = given[0].device
    else:
        device = kwargs.get("device") or _common(operation, given)
    if torch.device(device).type != NAME and not any(isinstance(t, _Elsewhere) for t in given):
        return operation(*args, **kwargs)
    result = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
    if operation._schema.is_mutable:  # the argument holds it already
        return args[0]
    if torch.device(device).type != NAME:
        return result
    return tree_map(lambda r: _Elsewhere(r, device) if isinstance(r, Tensor) else r, result)


def _common(operation: Any, given: list[Tensor]) -> torch.device:
    """As torch has it: a single number may lie anywhere, and an index on the CPU."""
    devices = {tensor.device for tensor in given if tensor.dim()}
    if operation is torch.ops.aten.index.Tensor:
        devices = {given[0].device, *(one for one in devices if one.type != "cpu")}
    if len(devices) > 1:
        raise RuntimeError(f"{operation} got tensors of {sorted(map(str, devices))}")
    return devices.pop() if devices else given[0].device if given else torch.device("cpu")


def _held(given: Any) -> Any:
    if isinstance(given, torch.device):
        return torch.device("cpu")
    return given.held if isinstance(given, _Elsewhere) else given
