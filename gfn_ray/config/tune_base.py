"""Settings for tuning a base model on whole texts, on its own or before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from gfn_ray.config.data import DataConfig
from gfn_ray.config.sections import (
    Device,
    ModelConfig,
    PolicyConfig,
    Section,
    TrackingConfig,
)


class TextTuningConfig(Section):
    """Supervised fine-tuning of an adapter on whole texts."""

    steps: int = Field(
        30, ge=0, description="Updates of the base model on whole training texts; 0: none."
    )
    batch: int = Field(8, ge=1, description="Texts in one update.")
    lr: float = Field(6e-4, gt=0, description="AdamW's learning rate, constant.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    seed: int = Field(0, ge=0, description="Seed of the adapter and of the texts' order.")


@runtime_checkable
class TunesItsBase(Protocol):
    """Settings of a run whose base model may be tuned on the task's own texts first."""

    @property
    def base_tuning(self) -> TextTuningConfig | None:
        """How, if the run has to do so."""
        ...

    def on_base(self, adapter: Path) -> Any:
        """Returns these settings with the adapter that base_tuning made as base_adapter."""
        ...


class TuneBaseJob(TextTuningConfig):
    """Supervised fine-tuning of an adapter on whole stories, for infilling's --task.base-adapter.

    Training stories are those of infilling; perplexity is measured on its validation stories,
    and its test stories are never seen.
    """

    steps: int = Field(30, ge=1, description="Updates.")
    threads: int = Field(2, ge=1, description="CPU threads.")
    device: Device = Field("auto", description="Where it runs; auto: CUDA if available.")
    log_every: int = Field(5, ge=1, description="Updates between two progress lines.")
    run_dir: Path | None = Field(
        None, description="Directory of this run's outputs; default runs/tune-base-<time>."
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="The base language model.")
    policy: PolicyConfig = Field(default_factory=PolicyConfig, description="The LoRA adapter.")
    data: DataConfig = Field(default_factory=DataConfig, description="Where stories come from.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow.")
