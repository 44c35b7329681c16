"""A pickle that shows whether anybody has read it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


def write_pickle(file: Path, marker: Path) -> None:
    """marker: what exists once the pickle was read."""
    file.write_bytes(pickle.dumps(Payload(marker), protocol=2))
