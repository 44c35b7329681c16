"""Which tokens are legal where. Knows no torch, Ray or vLLM."""

from __future__ import annotations

from typing import Any

from gfn_ray.support import bounded
from gfn_ray.support.bounded import BoundedSupport
from gfn_ray.support.protocol import Cursor, Support

__all__ = ["BoundedSupport", "Cursor", "Support", "support_from_wire"]

_KINDS = {bounded.KIND: BoundedSupport}


def support_from_wire(wire: dict[str, Any]) -> Support:
    """The support that `to_wire` wrote."""
    return _KINDS[wire["kind"]].from_wire(wire)
