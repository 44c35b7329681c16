"""Every setting of a run: typed, documented, one field a setting.

Owns names, types, defaults, bounds and the checks between fields; `cli.py` reads
them from a TOML file and from flags. Imports no torch, Ray or vLLM, so that
`--help` and a refused configuration answer at once.
"""

from gfn_ray.config.arithmetic import ArithmeticConfig, ArithmeticDataConfig, ArithmeticJob
from gfn_ray.config.compare import CompareJob
from gfn_ray.config.continuation import (
    BaselineKind,
    ContinuationConfig,
    ContinuationJob,
    PromptDataConfig,
)
from gfn_ray.config.data import DataConfig, FileConfig, TooLong
from gfn_ray.config.infill import InfillConfig, InfillJob
from gfn_ray.config.job import JobConfig
from gfn_ray.config.random_number import RandomNumberConfig, RandomNumberJob, TargetKind
from gfn_ray.config.sections import (
    CheckpointConfig,
    DType,
    EncoderConfig,
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    ObjectiveConfig,
    PolicyConfig,
    ProfileConfig,
    ReplayConfig,
    RewardConfig,
    RootFlow,
    RuntimeConfig,
    SamplerConfig,
    Section,
    StopConfig,
    TrackingConfig,
    WarmStartConfig,
)
from gfn_ray.config.subjectivity import (
    EMConfig,
    SubjectivityConfig,
    SubjectivityDataConfig,
    SubjectivityJob,
)
from gfn_ray.config.tune_base import TextTuningConfig, TuneBaseJob

__all__ = [
    "ArithmeticConfig",
    "ArithmeticDataConfig",
    "ArithmeticJob",
    "BaselineKind",
    "CheckpointConfig",
    "CompareJob",
    "ContinuationConfig",
    "ContinuationJob",
    "DType",
    "DataConfig",
    "EMConfig",
    "EncoderConfig",
    "EvalConfig",
    "FileConfig",
    "InfillConfig",
    "InfillJob",
    "JobConfig",
    "LearnerConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PolicyConfig",
    "ProfileConfig",
    "PromptDataConfig",
    "RandomNumberConfig",
    "RandomNumberJob",
    "ReplayConfig",
    "RewardConfig",
    "RootFlow",
    "RuntimeConfig",
    "SamplerConfig",
    "Section",
    "StopConfig",
    "SubjectivityConfig",
    "SubjectivityDataConfig",
    "SubjectivityJob",
    "TargetKind",
    "TextTuningConfig",
    "TooLong",
    "TrackingConfig",
    "TuneBaseJob",
    "WarmStartConfig",
]
