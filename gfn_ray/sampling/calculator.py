"""The calculator of arithmetic: answers a sum of two integers at each "=".

It matches its input with a pattern and adds; no text is ever run as code.
"""

from __future__ import annotations

import re

from gfn_ray.sampling.tools import ToolError

# Anchored by what may precede an expression, so that a longer one is not matched from its middle.
_EXPRESSION = re.compile(r"(?:^|[,\n])\s*(-?[0-9]{1,15})\s*([+-])\s*(-?[0-9]{1,15})\s*=$")
_SHOWN = 40


class Calculator:
    """A tool (gfn_ray.sampling.tools.Tool) for expressions such as "-3 - 5 =", which gets " -8"."""

    trigger = "="
    error_text = " error"

    def answer(self, text: str) -> str:
        """Returns the value of the last expression of a text, after a space.

        Raises ToolError if the text does not end in an integer, + or -, an integer, and "=".
        """
        found = _EXPRESSION.search(text)
        if found is None:
            raise ToolError(f"{text[-_SHOWN:]!r} does not end in a sum of two integers and '='")
        left, sign, right = int(found[1]), found[2], int(found[3])
        return f" {left + right if sign == '+' else left - right}"
