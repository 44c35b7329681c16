"""Arrays as text, for settings that travel as JSON."""

from __future__ import annotations

import base64
import zlib

import numpy as np

from gfn_ray.trajectory import BoolArray, IntArray


def pack_mask(mask: BoolArray) -> str:
    """The bits of a mask, row by row, as base64 text."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack_mask(text: str, size: int) -> BoolArray:
    """A mask [size] from `pack_mask`'s text."""
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=size).astype(np.bool_)


def pack_ints(values: IntArray) -> str:
    """The integers of an array, row by row, compressed, as base64 text."""
    return base64.b64encode(zlib.compress(values.astype("<i4").tobytes())).decode("ascii")


def unpack_ints(text: str) -> IntArray:
    """Integers [N] from `pack_ints`'s text."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i4").astype(np.int32)
