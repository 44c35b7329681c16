"""The calculator: exact on what it reads, and a reason for what it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.sampling.calculator import Calculator
from gfn_ray.sampling.tools import ToolError

numbers = st.integers(-(10**14), 10**14)


@given(numbers, st.sampled_from("+-"), numbers, st.sampled_from(["", " 1 + 1 = 2,", "\n"]))
def test_it_adds_and_subtracts_what_stands_last(left, sign, right, before):
    value = left + right if sign == "+" else left - right
    assert Calculator().answer(f"{before} {left} {sign} {right} =") == f" {value}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        " 3 =",
        " 3 * 4 =",
        " 3 + 4 - 2 =",
        " 3 + x =",
        " 3 + 4",
        " 3 ++ 4 =",
        " 3 + ٤ =",
        " 2 - 1 + 4 =",
        "__import__('os') =",
    ],
)
def test_anything_else_is_refused_with_what_it_was(text):
    with pytest.raises(ToolError, match="does not end in a sum of two integers"):
        Calculator().answer(text)
