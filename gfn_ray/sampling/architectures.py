"""Which models the sampling engine can put an adapter on, told without loading the engine.

Owns the reading of vLLM's own words: its registry names the class that stands for an architecture,
and a class that takes adapters has SupportsLoRA among its bases. Both are read as text, since to
import vLLM costs ten CPU seconds. Where the text does not tell, the engine will.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gfn_ray.errors import UserError

# Often met, and all of vLLM's own making.
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
"""vLLM's words for a model that it can put no adapter on, or does not know at all."""


def check_architectures(names: Sequence[str]) -> None:
    """Raises UserError where vLLM is known to put no adapter on any of these architectures."""
    if names and all(takes_adapters(name) is False for name in names):
        raise UserError(no_adapter(f"a {' or '.join(names)}"))


def no_adapter(model: str) -> str:
    """The sentence for a model, which is told by its architecture or by what vLLM says of it."""
    return (
        f"vLLM, which samples, can put no LoRA adapter on the model of model.name ({model}); "
        f"set sampler.backend to transformers, or choose one of another architecture, such as "
        f"{', '.join(WELL_KNOWN)}"
    )


def says_no_adapter(error: Exception) -> bool:
    """Whether it is vLLM's own refusal of a model."""
    return any(words in str(error) for words in _NO_ADAPTER)


def takes_adapters(architecture: str) -> bool | None:
    """Whether vLLM can put an adapter on it; None where that is not known."""
    registry = _registry()
    if architecture in registry:
        module, name = registry[architecture]
        module = module if module.startswith("vllm.") else f"{_MODELS}.{module}"
        return _has_base(module, name)
    return _takes_transformers(architecture) if registry else None


def _takes_transformers(architecture: str) -> bool | None:
    """For those that vLLM knows only by transformers: its backend takes every model, with adapters,
    whose attention can be exchanged."""
    import transformers

    model: Any = getattr(transformers, architecture, None)
    if model is None:  # the model's own code, or a plugin of vLLM's
        return None
    return bool(model.is_backend_compatible() or model._can_set_attn_implementation())


def _registry() -> dict[str, tuple[str, str]]:
    """Module and class by architecture; nothing where vLLM is not installed or reads otherwise."""
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
    """Whether a class of vLLM's has SupportsLoRA among its bases, or theirs; None: not known."""
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
    """The module that a statement imports from, by its full name."""
    parts = package.split(".")
    parents = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*parents, *([node.module] if node.module else [])])


def _any(answers: Iterator[bool | None]) -> bool | None:
    """True at the first that is; None where none is and one is not known."""
    found: bool | None = False
    for answer in answers:
        if answer:
            return True
        found = None if answer is None else found
    return found


def _file(module: str) -> Path | None:
    """The source of a module of vLLM's, which is not imported for that."""
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
