"""How many examples a test of a property tries: few in `make test`, all of them in `make fuzz`."""

from __future__ import annotations

from hypothesis import settings

FEW = 25
THOROUGH = "thorough"


def register_profiles() -> None:
    """The same examples everywhere, so that a test fails by a change and not by a draw; how long
    one takes says how busy the machine is."""
    settings.register_profile("quick", deadline=None, derandomize=True, max_examples=FEW)
    settings.register_profile(THOROUGH, deadline=None, derandomize=True, max_examples=200)
    settings.load_profile("quick")


def examples(number: int) -> settings:
    """As many as this in `make fuzz`, for a test that is dearer or cheaper than most."""
    thorough = settings.get_current_profile_name() == THOROUGH
    return settings(max_examples=number if thorough else min(FEW, number))
