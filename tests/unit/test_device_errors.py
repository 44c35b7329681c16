"""Which errors end an actor's process, because only a new one can repeat the call."""

import pytest
import torch
from torch import distributed

from gfn_ray.runtime.supervision.device_errors import is_device_error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        distributed.DistBackendError("NCCL communicator was aborted on rank 1"),
        distributed.DistNetworkError("failed to recv, got 0 bytes"),
        distributed.DistStoreError("wait timeout after 300000ms"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
        RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:4"),
        RuntimeError("Worker proc VllmWorker-1 died unexpectedly"),
        RuntimeError("cancelled"),  # a tensor-parallel worker died in the middle of a call
    ],
    ids=str,
)
def test_errors_of_a_device_a_collective_or_an_engine_are_told(error):
    assert is_device_error(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        RuntimeError("the job was cancelled by its user"),
        ValueError("CUDA error: in a text that somebody else wrote"),
        KeyError("cancelled"),
    ],
    ids=str,
)
def test_a_bug_is_none_of_them(error):
    assert not is_device_error(error)
