"""Tells which models the sampling engine can put an adapter on, without loading the engine, and so
how it takes the policy's weights.

Reads vLLM's source: its registry names the class of an architecture, and a class that supports
adapters has SupportsLoRA among its bases. Both are read as text, because importing vLLM costs ten
CPU seconds. If the text is inconclusive, the engine decides when it loads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gfn_ray.config import Sync
from gfn_ray.errors import UserError

# Common, and all implemented by vLLM itself.
WELL_KNOWN = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Phi3ForCausalLM",
    "OPTForCausalLM",
)

_MODELS = "vllm.model_executor.models"
_NO_ADAPTER = (
    "does not support LoRA",
    "not supported for now",
    "not supported anymore",
    "not supported in-tree",
)
"""vLLM's messages for a model that it cannot put an adapter on, or does not know."""


def choose_sync(asked: Sync, names: Sequence[str]) -> Literal["lora", "merged"]:
    """Decides policy.sync for a model of one of these architectures.

    auto: merged only if vLLM runs all of them and has LoRA for none. Raises UserError if vLLM is
    known not to take them as asked.
    """
    without_lora = bool(names) and all(takes_adapters(name) is False for name in names)
    if asked != "lora" and without_lora and all(name in _registry() for name in names):
        return "merged"
    if without_lora:
        raise UserError(no_adapter(f"a {' or '.join(names)}"))
    return "merged" if asked == "merged" else "lora"


def no_adapter(model: str) -> str:
    """The message for a model, named by its architecture or by vLLM's message."""
    return (
        f"vLLM, which samples, cannot put a LoRA adapter on the model of model.name ({model}); "
        "set policy.sync to merged if vLLM runs it without, set sampler.backend to transformers, "
        f"or choose a model of another architecture, such as {', '.join(WELL_KNOWN)}"
    )


def says_no_adapter(error: str) -> bool:
    """Whether vLLM's error says that it does not support the model."""
    return any(words in error for words in _NO_ADAPTER)


def takes_adapters(architecture: str) -> bool | None:
    """Whether vLLM can put an adapter on it; None if unknown."""
    registry = _registry()
    if architecture in registry:
        module, name = registry[architecture]
        module = module if module.startswith("vllm.") else f"{_MODELS}.{module}"
        return _has_base(module, name)
    return _takes_transformers(architecture) if registry else None


def _takes_transformers(architecture: str) -> bool | None:
    """For architectures that vLLM runs through transformers: with adapters, it supports every model
    whose attention can be exchanged."""
    import transformers

    model: Any = getattr(transformers, architecture, None)
    if model is None:  # the model's own code, or a plugin of vLLM's
        return None
    return bool(model.is_backend_compatible() or model._can_set_attn_implementation())


def _registry() -> dict[str, tuple[str, str]]:
    """Module and class by architecture; empty if vLLM is missing or its source has changed."""
    found = {}
    file = _file(f"{_MODELS}.registry")
    for node in ast.walk(_parsed(file)) if file else ():
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                match key, value:
                    case (
                        ast.Constant(value=str(name)),
                        ast.Tuple(
                            elts=[ast.Constant(value=str(module)), ast.Constant(value=str(kind))]
                        ),
                    ):
                        found[name] = (module, kind)
    return found


def _has_base(module: str, name: str) -> bool | None:
    """Whether a vLLM class has SupportsLoRA among its bases, or theirs; None if unknown."""
    if name == "SupportsLoRA":
        return True
    if module.partition(".")[0] != "vllm":
        return False
    file = _file(module)
    if file is None:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _any(_base(module, base) for base in node.bases)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _has_base(_source(node, package), alias.name)
    return None


def _base(module: str, base: ast.expr) -> bool | None:
    if isinstance(base, ast.Subscript):  # a generic one
        base = base.value
    if isinstance(base, ast.Name):
        return _has_base(module, base.id)
    return False if ast.unparse(base) in ("nn.Module", "torch.nn.Module") else None


def _source(node: ast.ImportFrom, package: str) -> str:
    """The full name of the module that a statement imports from."""
    parts = package.split(".")
    parents = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*parents, *([node.module] if node.module else [])])


def _any(answers: Iterator[bool | None]) -> bool | None:
    """True if any answer is; otherwise None if any is unknown, else False."""
    found: bool | None = False
    for answer in answers:
        if answer:
            return True
        found = None if answer is None else found
    return found


def _file(module: str) -> Path | None:
    """The source file of a vLLM module, found without importing it."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root, *rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
