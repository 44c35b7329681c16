"""GPUs by their data sheets, and what share of them our stages have reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """memory: bytes. flops: of dense bfloat16, a second. bandwidth: of its memory, bytes a second.
    link: to the others of its machine, bytes a second in one direction."""

    memory: float
    flops: float
    bandwidth: float
    link: float


_GIB = 1 << 30
GPUS = {
    "l40s": GPU(45 * _GIB, 362e12, 864e9, 32e9),
    "a100-40": GPU(39 * _GIB, 312e12, 1555e9, 300e9),
    "a100-80": GPU(79 * _GIB, 312e12, 2039e9, 300e9),
    "h100": GPU(79 * _GIB, 989e12, 3350e9, 450e9),
    "h200": GPU(140 * _GIB, 989e12, 4800e9, 450e9),
    "b200": GPU(178 * _GIB, 2250e12, 8000e9, 900e9),
}

# Of a 7B shape in bfloat16 on one H100 at 7,600 nodes (docs/performance.md): 337 and 384 TFLOP/s.
UPDATE_SHARE, FORWARD_SHARE = 0.34, 0.39
# Seconds a layer of an update and of a forward, however few nodes: launching kernels, measured on
# the same card with a model of 30 layers (165 and 55 ms).
UPDATE_LAUNCH, FORWARD_LAUNCH = 0.165 / 30, 0.055 / 30
# Not measured here: what servers of language models commonly reach of the memory's bandwidth while
# they decode, and the seconds that one step takes at least.
DECODE_SHARE, DECODE_STEP = 0.6, 0.004
# Bytes that a process takes on a GPU before any weights: context, kernels, workspaces.
OVERHEAD = 1.5 * _GIB
