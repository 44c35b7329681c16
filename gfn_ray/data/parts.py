"""Which part of the data an item belongs to, from its name alone."""

from __future__ import annotations

import hashlib


def place_of(name: str) -> float:
    """A number in [0, 1) that looks random: the first bits of the name's SHA-256.

    The same on every machine, in every run, and whatever other items there are.
    """
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact, and below 1
