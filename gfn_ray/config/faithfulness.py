"""Settings of the faithfulness of a finished run's z."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from gfn_ray.config.sections import Section


class FaithfulnessJob(Section):
    """Measures whether answers depend on z, by the model before training and after it."""

    run: Path = Field(
        description="Directory of a finished run of arithmetic or subjectivity; its summary.json "
        "gets the numbers."
    )
    queries: int = Field(24, ge=2, description="Held-out queries of the run that are taken.")
    seed: int = Field(0, ge=0, description="Seed of what is changed in a z, and by how much.")
