"""What our own code may not do: read back what can run, run what is data, or trust a path in data.

A reader of source, which runs nothing. Names are followed through imports and their aliases, not
through variables: it catches a slip, not someone who hides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

RUNS_WHEN_READ = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
FORBIDDEN_CALLS = {
    **dict.fromkeys(("eval", "exec", "compile"), "runs text as code"),
    **dict.fromkeys(
        ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
        "runs a shell",
    ),
    "asyncio.create_subprocess_shell": "runs a shell",
    "torch.load": "reads pickles",
    "pandas.read_pickle": "reads pickles",
    "yaml.load": "can make any object",
    "yaml.unsafe_load": "can make any object",
    "pkgutil.resolve_name": "imports what a variable says",
    "runpy.run_path": "runs what a variable says",
    "runpy.run_module": "runs what a variable says",
    "tempfile.mktemp": "names a file that another may make first",
    "shutil.unpack_archive": "unpacks wherever the archive says",
}
FORBIDDEN_METHODS = {
    "exec_module": "runs what a variable says",
    "extractall": "unpacks wherever the archive says",
    "read_pickle": "reads pickles",
}
FORBIDDEN_KEYWORDS = {
    "allow_pickle": "reads pickles",
    "trust_remote_code": "runs a model's code unasked",
    "shell": "runs a shell",
}
SUBPROCESS = ("run", "Popen", "call", "check_call", "check_output")


def unsafe(source: str) -> list[str]:
    """A line for each unsafe thing in the text of a module."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    found = [
        f"{node.lineno}: {fault}"
        for node in ast.walk(tree)
        for fault in (*_imports(node), *_calls(node, aliases), *_defaults(node))
    ]
    return sorted(found, key=lambda line: int(line.split(":")[0]))


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Names of this module to what they were imported as: np to numpy, run to subprocess.run."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.asname:
                    aliases[name.asname] = name.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
    return aliases


def _imports(node: ast.AST) -> Iterator[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [name.name for name in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    elif isinstance(node, ast.Attribute) and node.attr in RUNS_WHEN_READ:
        names = [node.attr]  # ray.cloudpickle
    for name in names:
        if set(name.split(".")) & set(RUNS_WHEN_READ):
            yield f"{name} runs what it reads"
            return


def _calls(node: ast.AST, aliases: dict[str, str]) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    name = _dotted(node.func, aliases)
    if name in FORBIDDEN_CALLS:
        yield f"{name}() {FORBIDDEN_CALLS[name]}"
    elif isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_METHODS:
        yield f"{node.func.attr}() {FORBIDDEN_METHODS[node.func.attr]}"
    if name in ("importlib.import_module", "__import__") and not (
        node.args and isinstance(node.args[0], ast.Constant)
    ):
        yield f"{name}() imports what a variable says"
    for keyword in node.keywords:
        value = keyword.value
        literal = isinstance(value, ast.Constant)
        if keyword.arg in FORBIDDEN_KEYWORDS and literal and value.value:
            yield f"{keyword.arg}={value.value} {FORBIDDEN_KEYWORDS[keyword.arg]}"
        elif keyword.arg == "weights_only" and literal and not value.value:
            yield "weights_only=False reads pickles"
    if name in {f"subprocess.{call}" for call in SUBPROCESS} and node.args:
        command = node.args[0]
        if isinstance(command, ast.JoinedStr | ast.BinOp) or (
            isinstance(command, ast.Constant) and isinstance(command.value, str)
        ):
            yield f"{name}() takes a list of words, not one text"


def _defaults(node: ast.AST) -> Iterator[str]:
    """trust_remote_code = True by any other way than a call: a parameter, a field, a dict."""
    pairs: list[tuple[str | None, ast.AST | None]] = []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        positional = [*node.args.posonlyargs, *node.args.args]
        defaults = node.args.defaults
        last = positional[len(positional) - len(defaults) :]
        pairs += [(arg.arg, value) for arg, value in zip(last, defaults, strict=True)]
        pairs += [
            (arg.arg, value)
            for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        ]
    elif isinstance(node, ast.AnnAssign):
        value = node.value
        if isinstance(value, ast.Call) and value.args:  # pydantic's Field(True, ...)
            value = value.args[0]
        pairs.append((getattr(node.target, "id", getattr(node.target, "attr", None)), value))
    elif isinstance(node, ast.Assign):
        pairs += [
            (getattr(target, "id", getattr(target, "attr", None)), node.value)
            for target in node.targets
        ]
    elif isinstance(node, ast.Dict):
        pairs += [
            (getattr(key, "value", None), value)
            for key, value in zip(node.keys, node.values, strict=True)
        ]
    for name, value in pairs:
        if name == "trust_remote_code" and isinstance(value, ast.Constant) and value.value:
            yield "trust_remote_code is on by default"


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id).removeprefix("builtins.")
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}".removeprefix("builtins.")
    return ""
