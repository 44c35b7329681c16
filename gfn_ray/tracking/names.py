"""Settings and names as MLflow takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

_LONGEST_KEY = 250  # MLflow's MAX_ENTITY_KEY_LENGTH


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted name."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def text(value: Any) -> str:
    """A setting as its flag would spell it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def key(name: str) -> str:
    """A name that MLflow takes: its characters, and no path that means another one."""
    parts = re.sub(r"[^/\w.\- :]", "_", name)[:_LONGEST_KEY].split("/")
    kept = [part if part.strip(".") else "_" * len(part) for part in parts if part]
    return "/".join(kept) or "_"


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in runs of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
