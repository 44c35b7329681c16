"""Columns of tables and keys of JSON by the names that are expected of them.

Owns `data.columns`, under which data has them by other names, and the sentences for those that
are missing or that a name of `data.columns` is not among. Does not own what the cells hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from gfn_ray.config import FileConfig
from gfn_ray.errors import UserError, cut

_LONGEST_LIST = 120  # characters of the names that a message lists


class Columns:
    """How the columns of all the data of a run are named."""

    def __init__(self, renamed: Mapping[str, str]) -> None:
        """renamed: the expected name of each that is found under another."""
        self._renamed = dict(renamed)
        self._missed = set(renamed)

    @classmethod
    def of(cls, config: FileConfig) -> Columns:
        return cls(config.renamed)

    def expected(self, found: Sequence[str]) -> list[str]:
        """The names by which columns are read. One that is renamed takes the place of another
        that has its new name already, which is then read by none: its name here is empty."""
        self._missed -= set(found)
        taken = {self._renamed[name] for name in found if name in self._renamed}
        return [self._renamed.get(name, "" if name in taken else name) for name in found]

    def row(self, cells: Mapping[str, object]) -> dict[str, object]:
        """The cells by those names."""
        names = zip(self.expected(list(cells)), cells.values(), strict=True)
        return {name: cell for name, cell in names if name}

    def check_all_found(self) -> None:
        """Raises UserError where data.columns renames what none of the data has. Once all is
        read: files may differ in their names."""
        if self._missed:
            raise UserError(
                f"data.columns renames {listed(sorted(self._missed))}, and no data have a column "
                "or key of that name; mend it, or leave it out"
            )


def refuse_missing(
    where: str, what: str, missing: Sequence[str], found: Iterable[str], also: str = ""
) -> NoReturn:
    """what: "column" or "key". found: as the data name them. also: further expectations."""
    names = list(found)
    have = f"found {listed(names)}" if names else f"found no {what}"
    example = f"{names[0] if names else 'FOUND'}={missing[0]}"
    raise UserError(
        f"{where}: missing {what}{'s' * (len(missing) > 1)} {', '.join(missing)}; {have}{also}; "
        f"--data.columns {cut(example, 40)} would read one as another"
    ) from None


def listed(names: Iterable[str]) -> str:
    """Names of a person's own, as one message has room for."""
    return cut(", ".join(name or "''" for name in names), _LONGEST_LIST)
