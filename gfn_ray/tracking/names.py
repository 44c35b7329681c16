"""Settings and names in a form that MLflow accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

_LONGEST_KEY = 250  # MLflow's MAX_ENTITY_KEY_LENGTH


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flattens nested settings to dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def text(value: Any) -> str:
    """A setting as its flag spells it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def key(name: str) -> str:
    """A name that MLflow accepts: allowed characters only, and no path that means another one."""
    parts = re.sub(r"[^/\w.\- :]", "_", name)[:_LONGEST_KEY].split("/")
    kept = [part if part.strip(".") else "_" * len(part) for part in parts if part]
    return "/".join(kept) or "_"


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Splits the items into batches of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
