"""Amortized posterior inference in language models, distributed on Ray.

`gfn_ray.train` trains a policy on prompts and a reward function; `gfn_ray.sample`,
`gfn_ray.predict` and `gfn_ray.open` serve a trained adapter. What they need is imported when one is
first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfn_ray.serving.one_shot import open, predict, sample
    from gfn_ray.training import train

__version__ = "0.1.0"

__all__ = ["__version__", "open", "predict", "sample", "train"]


def __getattr__(name: str) -> Any:
    if name in ("open", "predict", "sample"):
        return getattr(import_module("gfn_ray.serving.one_shot"), name)
    if name == "train":
        return import_module("gfn_ray.training").train
    raise AttributeError(f"module 'gfn_ray' has no attribute {name!r}")
