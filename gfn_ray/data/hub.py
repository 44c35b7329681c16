"""Tables from the Hugging Face hub, and errors if they cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from gfn_ray.config import DataConfig
from gfn_ray.errors import UserError, cut

_LONGEST_REASON = 250  # characters of the package's error
# Words in the error, in lower case, and the remedy. The last matches all others.
_CURES = (
    (
        ("scripts are no longer supported", "trust_remote_code", "custom code"),
        "it is loaded by its own Python script, which is not run; give a dataset of plain files "
        "such as Parquet, or download the data as a file and use --data.path",
    ),
    (("config name is missing", "builderconfig"), "choose one by --data.hub-config"),
    (("unknown split", "bad split", "instruction"), "change --data.split or --data.test-split"),
    (
        ("",),
        "check the id and the network, or download it as a file and use --data.path",
    ),
)


class Table(Protocol):
    """The part of `datasets.Dataset` that is used."""

    @property
    def column_names(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Mapping[str, object]]: ...


def load_tables(config: DataConfig) -> Mapping[str, Table]:
    """Loads the tables of data.hub except the test, by the name of their split."""
    if config.split is not None:
        return {config.split: _load(config, config.split)}
    tables = {
        name: table for name, table in _load(config, None).items() if name != config.test_split
    }
    if not tables:
        raise UserError(
            f"--data.hub: {config.hub} has no split except data.test_split "
            f"({config.test_split}); give another dataset, or --data.split with a part of it"
        )
    return tables


def load_test_table(config: DataConfig) -> dict[str, Table]:
    """Loads the table of data.test_split, by its name."""
    assert config.test_split is not None
    return {config.test_split: _load(config, config.test_split)}


def _load(config: DataConfig, split: str | None) -> Any:
    """Loads one split of the dataset, or all of them by name."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "--data.hub needs the package datasets: `pip install datasets`, or use --data.path"
        ) from error
    try:
        return datasets.load_dataset(config.hub, config.hub_config, split=split)
    except Exception as error:  # kinds of datasets, fsspec, httpx and pyarrow
        reason = _reason(error)
        cure = next(cure for words, cure in _CURES if any(word in reason.lower() for word in words))
        raise UserError(f"--data.hub: cannot load {config.hub!r}: {reason}; {cure}") from error


def _reason(error: Exception) -> str:
    """Returns the package's error without its examples, on one line."""
    said = str(error).partition("Example of usage")[0]
    return cut(" ".join(said.split()).rstrip("."), _LONGEST_REASON) or type(error).__name__
