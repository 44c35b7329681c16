"""Settings of a comparison between runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from gfn_ray.config.sections import Section


class CompareJob(Section):
    """Compares runs on the same held-out queries, with paired bootstrap intervals."""

    runs: tuple[Path, ...] = Field(
        description="Directories of finished runs; the first is compared with the others and "
        "with itself before training."
    )
    resamples: int = Field(
        10_000, ge=100, le=1_000_000, description="Bootstrap resamples of the queries."
    )
    seed: int = Field(0, ge=0, description="Seed of the resampling.")
