"""Masks over a vocabulary as text, for settings that travel as JSON."""

from __future__ import annotations

import base64

import numpy as np

from gfn_ray.trajectory import BoolArray


def pack_mask(mask: BoolArray) -> str:
    """The bits of a mask as base64 text."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack_mask(text: str, size: int) -> BoolArray:
    """A mask [size] from `pack_mask`'s text."""
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=size).astype(np.bool_)
