"""JSON lines: plain values, one record per line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def line(record: Mapping[str, Any]) -> str:
    """A record as one line, with its line end."""
    return json.dumps(plain(record), ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """Converts to JSON values: numpy unwrapped, paths as text, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
