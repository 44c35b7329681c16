"""What SECURITY.md promises of our own code, and of model and adapter files from strangers."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import dynamic_module_utils

from gfn_ray.config import ModelConfig, ReplayConfig, RuntimeConfig
from gfn_ray.errors import UserError
from gfn_ray.formatting import one_line
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model, vocab_size
from gfn_ray.models.merged import merged_model_dir
from gfn_ray.models.sentence_encoder import SentenceEncoder
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.replay.journal.store import ReplayStore
from gfn_ray.runs.nonfinite_batches import NonFiniteBatch, NonFiniteBatches
from gfn_ray.serving.command import _print
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tracking.names import key
from testing.makers import make_support, random_trajectories
from testing.pickles import write_pickle
from testing.policies import write_random_adapter
from testing.refused_places import change_json
from testing.unsafe_code import unsafe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
OURS = sorted(
    file
    for folder in ("gfn_ray", "jobs", "benchmarks", "scripts", "docs")
    for file in (ROOT / folder).rglob("*.py")
)


# Our own code


def test_no_module_of_ours_does_what_is_unsafe():
    assert len(OURS) > 100
    found = {str(file.relative_to(ROOT)): unsafe(file.read_text("utf-8")) for file in OURS}
    asked_for = found.pop("gfn_ray/rewards/functions/calling.py")  # a person's own reward function
    assert [fault.split(": ")[1].split("(")[0] for fault in asked_for] == [
        "pkgutil.resolve_name",
        "exec_module",
    ]
    of_a_class = found.pop("gfn_ray/objectives/choice.py")  # its maker's name stands in code
    assert [fault.split(": ")[1].split("(")[0] for fault in of_a_class] == ["pkgutil.resolve_name"]
    assert {file: faults for file, faults in found.items() if faults} == {}


def test_a_reward_function_is_imported_by_its_own_process_alone():
    """Whoever finds a function by its name runs what the name says."""
    users = [file.name for file in OURS if "find_function" in file.read_text("utf-8")]
    assert sorted(users) == ["calling.py", "process.py", "worker.py"]
    assert "import find_function" not in (ROOT / "gfn_ray/rewards/functions/process.py").read_text()


def resumed(tmp_path, *flags):
    """The settings of a stranger's run, whose reward is code of theirs."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w').close()\n")
    reward = f"{tmp_path / 'evil.py'}:reward"
    (tmp_path / "config.toml").write_text(f'[task]\nreward = ["{reward}"]\n')
    return subprocess.run(
        [sys.executable, ROOT / "jobs" / "prompts.py", "--resume", tmp_path, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )


def test_a_resumed_runs_reward_function_is_not_imported_unasked(tmp_path):
    ended = resumed(tmp_path)
    assert ended.returncode == 2 and not (tmp_path / "it-ran").exists()
    assert "give it again, as --task.reward" in ended.stderr


def test_a_resumed_runs_reward_function_is_imported_where_it_is_named_again(tmp_path):
    ended = resumed(tmp_path, "--task.reward", f"{tmp_path / 'evil.py'}:reward")
    assert ended.returncode == 2 and (tmp_path / "it-ran").exists()
    assert "AttributeError" in ended.stderr  # it has no such function


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "import dill as json",
        "from cloudpickle import loads",
        "import marshal",
        "import shelve",
        "import joblib",
        "from ray import cloudpickle",
        "import ray\nray.cloudpickle.loads(b'')",
        "eval(text)",
        "import builtins\nbuiltins.eval(text)",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "import os\nos.system(text)",
        "from os import system as run\nrun(text)",
        "import os\nos.popen(text)",
        "import subprocess\nsubprocess.run(words, shell=True)",
        "import subprocess\nsubprocess.run('ls')",
        "from subprocess import check_output\ncheck_output(f'ls {place}')",
        "import subprocess as s\ns.Popen('ls ' + place)",
        "import subprocess\nsubprocess.getoutput(words)",
        "import asyncio\nasyncio.create_subprocess_shell(text)",
        "import torch\ntorch.load(file)",
        "from torch import load\nload(file)",
        "read(file, weights_only=False)",
        "import pandas as pd\npd.read_pickle(file)",
        "import yaml\nyaml.load(text)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import tempfile\ntempfile.mktemp()",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "def load(path, trust_remote_code=True): ...",
        "def load(path, *, trust_remote_code: bool = True): ...",
        "class C:\n    trust_remote_code: bool = True",
        "class C:\n    trust_remote_code: bool = Field(True, description='x')",
        "config.trust_remote_code = True",
        "import tarfile\ntarfile.open(file).extractall(place)",
        "import shutil\nshutil.unpack_archive(file)",
        "from importlib import import_module\nimport_module(name)",
        "__import__(name)",
        "import pkgutil\npkgutil.resolve_name(name)",
        "spec.loader.exec_module(module)",
    ],
)
def test_each_unsafe_thing_is_noticed(snippet):
    assert unsafe(snippet)


@pytest.mark.parametrize(
    "snippet",
    [
        "import re\nre.compile('x')",
        "model.eval()",
        "import subprocess\nsubprocess.run(['ls', place])",
        "import numpy as np\nnp.load(file, allow_pickle=False)",
        "def load(path, trust_remote_code=False): ...",
        "from importlib import import_module\nimport_module('gfn_ray.cli')",
        "import yaml\nyaml.safe_load(text)",
    ],
)
def test_what_is_safe_is_let_through(snippet):
    assert unsafe(snippet) == []


# The page


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


# A model directory with code in it


@pytest.fixture
def marker(tmp_path):
    """A file that exists once somebody else's code has run."""
    return tmp_path / "it-ran"


@pytest.fixture
def with_code(tiny_dir, tmp_path, marker, monkeypatch):
    """The tiny model, by a directory that asks for classes of its own."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "with_code"))
    (directory / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class C(LlamaConfig): model_type = 'evil'\n"
        "class M(LlamaForCausalLM): config_class = C\n"
        "class T(PreTrainedTokenizerFast): pass\n"
    )
    classes = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForCausalLM": "evil.M"}
    change_json(directory / "config.json", auto_map=classes)
    change_json(
        directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}
    )
    return directory


LOADERS = {
    "configuration": lambda path, trust: vocab_size(path, trust),
    "tokenizer": lambda path, trust: load_tokenizer(path, trust),
    "model": lambda path, trust: load_causal_lm(path, "float32", "cpu", trust),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("known", [True, False], ids=["known type", "type of its own"])
def test_code_in_a_model_directory_does_not_run(with_code, marker, load, known):
    if not known:
        change_json(with_code / "config.json", model_type="evil")
    try:
        load(str(with_code), False)
    except UserError as refused:
        assert "\n" not in str(refused)
    assert not marker.exists()


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_it_runs_only_where_it_is_asked_for(with_code, marker, load):
    """So the test above can fail."""
    change_json(with_code / "config.json", model_type="evil")
    load(str(with_code), True)
    assert marker.exists()


def test_code_in_an_encoders_directory_does_not_run(with_code, marker):
    change_json(with_code / "config.json", model_type="evil")
    with pytest.raises(UserError, match=r"--encoder\.name"):
        SentenceEncoder(str(with_code))
    assert not marker.exists()


# Pickles in the place of weights


def test_the_pickle_of_these_tests_runs_code_when_it_is_read(tmp_path, marker):
    write_pickle(tmp_path / "x.bin", marker)
    pickle.loads((tmp_path / "x.bin").read_bytes())  # noqa: S301
    assert marker.exists()


def test_a_model_whose_weights_are_pickled_is_refused(tiny_dir, tmp_path, marker):
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "pickled"))
    (directory / "model.safetensors").unlink()
    write_pickle(directory / "pytorch_model.bin", marker)
    with pytest.raises(UserError, match=r"are pickled \(pytorch_model\.bin\)") as refused:
        resolve_model(ModelConfig(name=str(directory)))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot load the model"):
        load_causal_lm(str(directory), "float32", "cpu", False)
    assert not marker.exists()


def test_even_sound_weights_are_not_read_from_a_pickle(tiny_dir, tmp_path):
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "pickled"))
    weights = load_causal_lm(str(tiny_dir), "float32", "cpu", False).state_dict()
    torch.save(weights, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the model"):
        load_causal_lm(str(directory), "float32", "cpu", False)


def test_pickled_weights_beside_safetensors_are_passed_over(tiny_dir, tmp_path, marker):
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "both"))
    write_pickle(directory / "pytorch_model.bin", marker)
    load_causal_lm(resolve_model(ModelConfig(name=str(directory))), "float32", "cpu", False)
    assert not marker.exists()


@pytest.fixture
def adapter(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))
    return write_random_adapter(tiny_dir, tmp_path / "adapter")


def test_an_adapter_that_is_a_pickle_is_refused(tiny_dir, adapter, marker):
    (adapter / WEIGHTS_FILE).unlink()
    write_pickle(adapter / "adapter_model.bin", marker)
    for read in (load_adapter, lambda place: merged_model_dir(str(tiny_dir), place, False)):
        with pytest.raises(UserError, match=WEIGHTS_FILE) as refused:
            read(adapter)
        assert "\n" not in str(refused.value)
    assert not marker.exists()


def test_a_pickle_by_the_name_of_safetensors_is_refused(tiny_dir, adapter, marker):
    write_pickle(adapter / WEIGHTS_FILE, marker)
    for read in (load_adapter, lambda place: merged_model_dir(str(tiny_dir), place, False)):
        with pytest.raises(UserError):
            read(adapter)
    assert not marker.exists()


def test_a_pickle_beside_an_adapters_weights_is_passed_over(tiny_dir, adapter, marker):
    write_pickle(adapter / "adapter_model.bin", marker)
    assert load_adapter(adapter).tensors.keys() == load_file(adapter / WEIGHTS_FILE).keys()
    merged_model_dir(str(tiny_dir), adapter, False)
    assert not marker.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"megatron_config": {"x": 1}, "megatron_core": "evil_module"},
        {"auto_mapping": {"base_model_class": "M", "parent_library": "evil_module"}},
        {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": 4,
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": "x",
            "tokenizer_name_or_path": "{with_code}",
            "tokenizer_kwargs": {"trust_remote_code": True},
        },
    ],
    ids=["a module to import", "a library to import", "a tokenizer with code"],
)
def test_an_adapters_settings_cannot_have_code_run(
    tiny_dir, adapter, with_code, marker, tmp_path, monkeypatch, settings
):
    modules = tmp_path / "importable"
    modules.mkdir()
    (modules / "evil_module.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(modules))
    if "tokenizer_name_or_path" in settings:
        settings = {**settings, "tokenizer_name_or_path": str(with_code)}
    change_json(adapter / CONFIG_FILE, **settings)
    try:
        merged_model_dir(str(tiny_dir), adapter, False)
    except UserError as refused:
        assert "\n" not in str(refused)
    assert not marker.exists()


# Ids never become paths

HOSTILE = ["../../escaped", "/tmp/escaped", "a/../../../escaped", "..", ".", "a\0b", "x" * 5000]


@pytest.mark.parametrize("query_id", HOSTILE, ids=repr)
def test_a_querys_id_names_no_file(tmp_path, query_id):
    home = tmp_path / "deep" / "er" / "run"
    home.mkdir(parents=True)
    group = random_trajectories(np.random.default_rng(0), make_support(), query_id, 2)
    scored = [t.scored(np.where(t.terminable, -3.0, np.nan)) for t in group]
    store = ReplayStore(home / "replay", ReplayConfig(), 0)
    store.add(pack_trajectories(scored))
    config = InfillJob(runtime=RuntimeConfig(max_nonfinite_batches=5))
    bad = NonFiniteBatches(config, home / "bad", lambda ids: "text", lambda: 1, lambda report: None)
    bad.dropped(NonFiniteBatch("group", "log R is nan", scored))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in written} == {home / "replay", home / "bad"}
    assert not any("escaped" in path.name for path in written)


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_an_experiments_name_leads_no_artifact_out_of_its_place(tmp_path, name):
    place = (tmp_path / key(name)).resolve()
    assert place != tmp_path.resolve()
    assert place.is_relative_to(tmp_path.resolve())


# What a model writes is shown as text


@pytest.mark.parametrize("as_json", [True, False])
def test_a_terminal_gets_no_command_from_a_model(as_json, capsys):
    text = " He ran.\x1b]0;owned\x07\x9b2J\nAway."
    _print({"text": text}, one_line(text), as_json)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert not as_json or json.loads(line) == {"text": text}
