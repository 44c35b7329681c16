"""Where a split puts what it splits, by an identity of it alone.

So equal ones stay together, on every machine, in every run, and whatever else the data holds.
"""

from __future__ import annotations

import hashlib


def place(identity: str) -> float:
    """The identity's SHA-256 as a number in [0, 1)."""
    digest = hashlib.sha256(identity.encode("utf-8")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact, and below 1
