"""Columns of tables and keys of JSON, by their expected names.

Implements `data.columns`, which renames them, and the errors for columns that are missing and for
names in `data.columns` that no data have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from gfn_ray.config import FileConfig
from gfn_ray.errors import UserError, cut

_LONGEST_LIST = 120  # characters of names that a message lists


class Columns:
    """The column names of all data of a run."""

    def __init__(self, renamed: Mapping[str, str]) -> None:
        """renamed: the expected name of each renamed column, by its name in the data."""
        self._renamed = dict(renamed)
        self._missed = set(renamed)

    @classmethod
    def of(cls, config: FileConfig) -> Columns:
        return cls(config.renamed)

    def expected(self, found: Sequence[str]) -> list[str]:
        """Returns the names by which columns are read. A renamed column replaces one that already
        has its new name; that one is not read, so its name here is empty."""
        self._missed -= set(found)
        taken = {self._renamed[name] for name in found if name in self._renamed}
        return [self._renamed.get(name, "" if name in taken else name) for name in found]

    def row(self, cells: Mapping[str, object]) -> dict[str, object]:
        """Returns the cells by their expected names."""
        names = zip(self.expected(list(cells)), cells.values(), strict=True)
        return {name: cell for name, cell in names if name}

    def check_all_found(self) -> None:
        """Raises UserError if data.columns renames a column that no data have. Called after all
        are read, because files may differ in their names."""
        if self._missed:
            raise UserError(
                f"data.columns renames {listed(sorted(self._missed))}, and no data have a column "
                "or key of that name; correct it, or leave it out"
            )


def refuse_missing(
    where: str, what: str, missing: Sequence[str], found: Iterable[str], also: str = ""
) -> NoReturn:
    """Raises UserError for missing columns.

    what: "column" or "key". found: as the data name them. also: further expectations.
    """
    names = list(found)
    have = f"found {listed(names)}" if names else f"found no {what}"
    example = f"{names[0] if names else 'FOUND'}={missing[0]}"
    raise UserError(
        f"{where}: missing {what}{'s' * (len(missing) > 1)} {', '.join(missing)}; {have}{also}; "
        f"--data.columns {cut(example, 40)} would read one as another"
    ) from None


def listed(names: Iterable[str]) -> str:
    """Joins names from the user's data, cut to fit a message."""
    return cut(", ".join(name or "''" for name in names), _LONGEST_LIST)
