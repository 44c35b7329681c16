"""The settings that jobs share, one typed and documented field each.

Defines names, types, defaults, bounds and the checks between fields. A task keeps its own settings
in its folder; `cli.py` reads both from a TOML file and from flags. Imports no torch, Ray or vLLM,
so that `--help` and configuration errors appear at once.
"""

from gfn_ray.config.compare import CompareJob
from gfn_ray.config.data import DataConfig, FileConfig, TooLong
from gfn_ray.config.em import EMConfig
from gfn_ray.config.job import JobConfig
from gfn_ray.config.objectives import BaseObjectiveConfig, ObjectiveConfig, RootFlow
from gfn_ray.config.sections import (
    CheckpointConfig,
    DType,
    EncoderConfig,
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    PolicyConfig,
    ProfileConfig,
    ReplayConfig,
    RewardConfig,
    RuntimeConfig,
    SamplerConfig,
    Section,
    SFTConfig,
    StopConfig,
    Sync,
    TrackingConfig,
)
from gfn_ray.config.star import STaRConfig
from gfn_ray.config.tune_base import TextTuningConfig, TuneBaseJob

__all__ = [
    "BaseObjectiveConfig",
    "CheckpointConfig",
    "CompareJob",
    "DType",
    "DataConfig",
    "EMConfig",
    "EncoderConfig",
    "EvalConfig",
    "FileConfig",
    "JobConfig",
    "LearnerConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PolicyConfig",
    "ProfileConfig",
    "ReplayConfig",
    "RewardConfig",
    "RootFlow",
    "RuntimeConfig",
    "SFTConfig",
    "STaRConfig",
    "SamplerConfig",
    "Section",
    "StopConfig",
    "Sync",
    "TextTuningConfig",
    "TooLong",
    "TrackingConfig",
    "TuneBaseJob",
]
