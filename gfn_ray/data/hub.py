"""Tables from the Hugging Face hub, and what is said where they cannot be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from gfn_ray.errors import UserError


class Table(Protocol):
    """What is needed of a `datasets.Dataset`."""

    @property
    def column_names(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Mapping[str, object]]: ...


def load_tables(hub: str) -> Mapping[str, Table]:
    """All tables of a dataset id, by the name of their part."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "--data.hub needs the package datasets: `pip install datasets`, or use --data.path"
        ) from error
    try:
        tables: Mapping[str, Table] = datasets.load_dataset(hub)
    except Exception as error:  # its own kinds, and those of fsspec, httpx and pyarrow
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"--data.hub: cannot load {hub!r}: {reason}; check the id and the network, "
            "or download it as a file and use --data.path"
        ) from error
    return tables
