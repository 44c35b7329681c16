"""Settings of the comparison of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gfn_ray.config.sections import Section


class ComparisonJob(Section):
    """Runs GFlowNet training and other methods on the same tasks, and tabulates them."""

    table: Literal["quick", "full"] = Field(
        "quick", description="quick: a quarter of an hour on two cores; full: hours."
    )
    sections: tuple[str, ...] | None = Field(
        None, description="Only these sections of the table; default: all."
    )
    directory: Path = Field(
        Path("runs/comparison"),
        description="Directory of the runs and of index.html; an interrupted run goes on there.",
    )
    records: Path | None = Field(
        None,
        description="Directory with a line for each finished run, of which the pages are made; a "
        "run that has its line is not run again. Default: docs/comparison for the full table, "
        "records beside its runs for the quick one.",
    )
    document: Path | None = Field(
        None, description="Markdown file for the table, such as docs/comparison.md."
    )
    cell_minutes: float = Field(40.0, gt=0, description="Longest that one run may take.")
    only_pages: bool = Field(
        False, description="Make the pages of the records; a missing one is an error."
    )
