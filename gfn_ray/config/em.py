"""Settings of a run by expectation maximisation."""

from __future__ import annotations

from pydantic import Field

from gfn_ray.config.sections import Section


class EMConfig(Section):
    rounds: int = Field(
        2,
        ge=1,
        description="Rounds of EM; each trains the policy for its share of --steps, then "
        "tunes p(y | x, z).",
    )
    m_steps: int = Field(20, ge=1, description="Updates of p(y | x, z) in one M-step.")
    m_lr: float = Field(5e-4, gt=0, description="AdamW's constant learning rate in the M-step.")
    samples: int = Field(
        4, ge=1, description="Rationales per labelled sentence that an M-step learns from."
    )
    batch: int = Field(8, ge=1, description="Rationales in one update of an M-step.")
