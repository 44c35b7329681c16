"""Errors after which a process cannot be trusted with its device, its peers or its engine.

A CUDA context stays broken after its first error, a process group after a peer's death, and vLLM's
engine after a worker's. Another call in the same process would fail again, or hang; a new process
works. Recognised by type and text, so that nobody has to import torch or vLLM for it.
"""

from __future__ import annotations

_TYPES = (
    "AcceleratorError",  # torch: CUDA, and every other device
    "DistError",  # torch.distributed, with its backend, network and store errors
    "EngineDeadError",  # vLLM
)
# What raises a bare RuntimeError.
_WORDS = (
    "cuda error",
    "cuda driver error",
    "cublas_status",
    "cudnn_status",
    "cudnn error",
    "nccl error",
    "device-side assert",
    "gloo/transport",  # a peer of a collective is gone, or silent
    "watchdog caught collective operation timeout",
    "died unexpectedly",  # vLLM, of a worker process
    "executor failed",
)
# vLLM, for calls that a tensor-parallel worker's death cut short; the whole text.
_CUT_SHORT = "cancelled"


def is_device_error(error: BaseException) -> bool:
    """Whether only a new process can repeat the call that raised this."""
    if any(kind.__name__ in _TYPES for kind in type(error).__mro__):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        text == _CUT_SHORT or any(words in text for words in _WORDS)
    )
