"""Which tokens are legal where. Knows no torch, Ray or vLLM."""

from __future__ import annotations

from typing import Any

from gfn_ray.support import bounded, grammar
from gfn_ray.support.bounded import BoundedSupport
from gfn_ray.support.characters import CharacterGrammar, lift
from gfn_ray.support.grammar import GrammarSupport
from gfn_ray.support.protocol import Answer, Cursor, Support

__all__ = [
    "Answer",
    "BoundedSupport",
    "CharacterGrammar",
    "Cursor",
    "GrammarSupport",
    "Support",
    "lift",
    "support_from_wire",
]

_KINDS: dict[str, type[BoundedSupport] | type[GrammarSupport]] = {
    bounded.KIND: BoundedSupport,
    grammar.KIND: GrammarSupport,
}


def support_from_wire(wire: dict[str, Any]) -> Support:
    """The support that `to_wire` wrote."""
    return _KINDS[wire["kind"]].from_wire(wire)
