"""Supports: which tokens are legal after a prefix. Independent of torch, Ray and vLLM."""

from gfn_ray.support.bounded import BoundedSupport
from gfn_ray.support.characters import CharacterGrammar, lift
from gfn_ray.support.grammar import GrammarSupport
from gfn_ray.support.protocol import Answer, Cursor, Support
from gfn_ray.support.whole import WholeSupport

__all__ = [
    "Answer",
    "BoundedSupport",
    "CharacterGrammar",
    "Cursor",
    "GrammarSupport",
    "Support",
    "WholeSupport",
    "lift",
]
