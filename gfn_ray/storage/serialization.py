"""Serializes nested dicts of arrays and plain values.

A record is one safetensors block. Its tensors are the arrays, named by the path of their keys, and
one more tensor of bytes with everything else as JSON. Round trips are exact: floats keep every bit,
as does a NaN in an array. Reading never executes code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Array = npt.NDArray[Any]
Record = dict[str, Any]

_JSON = "json"
_PATH = "/"  # separates the keys of a path; no key above an array contains it


def pack(record: Mapping[str, Any]) -> bytes:
    """Serializes a dict with string keys, of arrays, JSON values and such dicts."""
    arrays: dict[str, Array] = {}
    plain = _without_arrays(record, "", arrays)
    text = json.dumps(plain, separators=(",", ":")).encode()
    return save({**arrays, _JSON: np.frombuffer(text, dtype=np.uint8)})


def unpack(data: bytes) -> Record:
    """Restores what was packed. Raises ValueError if the bytes were not made by pack()."""
    try:
        arrays = load(data)
        record = json.loads(arrays.pop(_JSON).tobytes())
    except (SafetensorError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a packed record: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("not a packed record: its plain part is not a JSON object")
    for path, array in arrays.items():
        *parents, name = path.split(_PATH)
        place: Any = record
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise ValueError(f"not a packed record: array {path!r} belongs nowhere")
        place[name] = array
    return record


def _without_arrays(record: Mapping[str, Any], path: str, arrays: dict[str, Array]) -> Record:
    """Moves a record's arrays into `arrays`; returns the rest."""
    plain: Record = {}
    for name, value in record.items():
        if isinstance(value, np.ndarray):
            arrays[path + name] = value
        elif isinstance(value, Mapping):
            plain[name] = _without_arrays(value, f"{path}{name}{_PATH}", arrays)
        else:
            plain[name] = value
    return plain
