"""The embedded model: converted once, whole, and a language model afterwards.

A conversion takes about half a minute, so one module-wide cache serves every test.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gfn_ray.config import ModelConfig
from gfn_ray.errors import UserError
from gfn_ray.models import embedded
from gfn_ray.models.cache import MARKER, is_complete
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model
from gfn_ray.packing.forward import supports_trees

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
# Prints the directory and what would differ had it been built again.
CALL = """
from gfn_ray.models.embedded import embedded_model_dir
directory = embedded_model_dir()
built = (directory / "complete.json").stat()
print(directory, built.st_ino, built.st_mtime_ns)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _environment(cache, monkeypatch):
    monkeypatch.setenv("GFN_RAY_CACHE", str(cache))


def start(cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"GFN_RAY_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CALL], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def converted(cache) -> list[str]:
    """What two processes print that ask for the model at once, in an empty cache."""
    processes = [start(cache), start(cache)]
    return [process.communicate(timeout=400)[0].strip() for process in processes]


@pytest.fixture(scope="module")
def directory(converted) -> Path:
    return Path(converted[0].split()[0])


def test_two_processes_at_once_convert_once(converted, cache):
    assert converted[0] == converted[1] != ""
    models = list((cache / "models").iterdir())
    assert sum(path.is_dir() for path in models) == 1


def test_a_later_call_only_looks(directory):
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(ModelConfig()) == str(directory)
    assert (directory / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_speaks_english(directory, dtype):
    tokenizer = load_tokenizer(str(directory), False)
    model = load_causal_lm(str(directory), dtype, "cpu", False)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**prompt, do_sample=False, max_new_tokens=2)
    assert tokenizer.decode(output[0]) == "The capital of France is Paris."


def test_its_log_probs_prefer_sense(directory):
    tokenizer = load_tokenizer(str(directory), False)
    model = load_causal_lm(str(directory), "float32", "cpu", False)

    def log_p(text: str) -> float:
        ids = torch.tensor([tokenizer.encode(text)])
        rows = model(ids).logits[0, :-1].log_softmax(-1)
        return rows.gather(-1, ids[0, 1:, None]).sum().item()

    sense = "She was thirsty. She drank a glass of water."
    nonsense = "She was thirsty. She water a drank of glass."
    assert log_p(sense) > log_p(nonsense) + 10


def test_its_tokenizer_is_the_one_it_was_trained_with(directory):
    tokenizer = load_tokenizer(str(directory), False)
    text = " She ran.\nHe didn't, émigré 🍮.  Then\n\n12 more"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokenize(" She ran. He") == ["ĠShe", "Ġran", ".", "ĠHe"]
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]  # digits are split off first
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert "assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )


def test_a_foreign_directory_is_not_taken_for_the_model(directory, tmp_path):
    foreign = tmp_path / directory.name
    foreign.mkdir()
    assert not is_complete(foreign)
    (foreign / "config.json").write_text("{}")
    for marker in ("", "[]", "{}", '{"directory": "other", "bytes": {}}'):
        (foreign / MARKER).write_text(marker)
        assert not is_complete(foreign)


def test_a_torn_directory_is_built_again(directory):
    weights = directory / "model.safetensors"
    whole = weights.stat().st_size
    os.truncate(weights, whole // 2)
    leftover = directory.with_name(f"{directory.name}.tmp-1")
    leftover.mkdir()
    assert embedded.embedded_model_dir() == directory
    assert weights.stat().st_size == whole
    assert not leftover.exists()


def test_a_disk_that_fills_up_is_named_and_leaves_nothing_half_done(
    directory, tmp_path, monkeypatch
):
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .* point \$GFN_RAY_CACHE"):
            embedded.embedded_model_dir()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_damaged_gguf_file_is_named(tmp_path, monkeypatch):
    package = tmp_path / embedded.MODULE
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"GGUF and nothing more")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*model\.gguf.*reinstall"):
        embedded.embedded_model_dir()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_forest_is_read_at_any_precision(directory, dtype):
    # Two right readings of this model in bfloat16 are tenths of a nat apart.
    assert supports_trees(load_causal_lm(str(directory), dtype, "cpu", False))
