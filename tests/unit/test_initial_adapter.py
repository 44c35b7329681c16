"""A policy starts from an adapter that it can be, and from no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gfn_ray.config import PolicyConfig
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from gfn_ray.models.lora_targets import with_layer_names
from gfn_ray.policy.adapter import add_adapter, load_adapter, put_adapter, read_adapter
from gfn_ray.policy.initial import check_initial
from gfn_ray.storage.atomic import COMPLETE
from gfn_ray.tasks.infill.config import InfillJob
from testing.policies import load, write_random_adapter
from testing.refusals import refusal
from testing.refused_places import change_json, cut
from testing.tiny import tiny_model

POLICY = PolicyConfig(lora_rank=8)


@pytest.fixture
def adapter(tiny_dir: Path, tmp_path: Path) -> Path:
    return write_random_adapter(tiny_dir, tmp_path / "adapter")


def job(adapter: Path, **policy: Any) -> InfillJob:
    return InfillJob(init_adapter=adapter, policy=POLICY.model_copy(update=policy))


def test_a_policy_that_starts_from_an_adapter_has_its_weights(adapter: Path, tiny_dir: Path):
    check_initial(job(adapter), str(tiny_dir))
    model = add_adapter(load(tiny_dir), POLICY, seed=5)
    put_adapter(model, load_adapter(adapter))
    written, now = load_adapter(adapter).tensors, read_adapter(model, 0).tensors
    assert written.keys() == now.keys()
    for name in written:
        np.testing.assert_array_equal(now[name], written[name])


def test_all_linear_is_the_layers_by_name_for_whoever_compares(adapter: Path, tiny_dir: Path):
    asked = PolicyConfig(lora_rank=8, lora_targets=("all-linear",))
    named = with_layer_names(asked, str(tiny_dir), False)
    assert named == POLICY
    check_initial(InfillJob(init_adapter=adapter, policy=named), str(tiny_dir))


def test_it_is_the_directory_itself_whatever_becomes_of_the_link(tmp_path, monkeypatch):
    """The run that starts from runs/infill-latest/adapter becomes infill-latest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").symlink_to("first")
    config = InfillJob(init_adapter="latest/adapter")
    assert config.init_adapter == tmp_path.resolve() / "first" / "adapter"


def test_an_adapter_of_a_merged_base_starts_on_one_merged_again(adapter: Path, tiny_dir: Path):
    """Merged bases are named by the times of their files, so that names say nothing."""
    merged = shutil.copytree(tiny_dir, adapter.with_name("merged-0123456789"))
    change_json(adapter / CONFIG_FILE, base_model_name_or_path="/cache/merged-abcdef0123")
    check_initial(job(adapter), str(merged))


def of_config(**changes: Any) -> Callable[[Path], None]:
    return lambda adapter: change_json(adapter / CONFIG_FILE, **changes)


def nothing(_: Path) -> None: ...


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], tuple[str, ...]]] = {
    "another rank": (
        nothing,
        {"lora_rank": 16},
        ("has 8 for policy.lora_rank, and this run 16", "set policy.lora_rank"),
    ),
    "another scale": (
        nothing,
        {"lora_alpha": 16.0},
        ("has 32.0 for policy.lora_alpha, and this run 16.0",),
    ),
    "other layers": (
        nothing,
        {"lora_targets": ("v_proj", "q_proj")},
        ("policy.lora_targets, and this run q_proj,v_proj",),
    ),
    "another base": (
        of_config(base_model_name_or_path="gpt2-large"),
        {},
        ("was trained on gpt2-large", "--model.name"),
    ),
    "a base that was not tuned first": (
        of_config(base_model_name_or_path="/cache/merged-0123456789"),
        {},
        ("--task.base-adapter",),
    ),
    "another kind of LoRA": (of_config(use_rslora=True), {}, ("use_rslora is True", "plain LoRA")),
    "no weights": (lambda adapter: (adapter / WEIGHTS_FILE).unlink(), {}, ("holds no",)),
    "torn weights": (lambda adapter: cut(adapter / WEIGHTS_FILE), {}, ("cannot be read",)),
    "a checkpoint that is not as it was written": (
        lambda adapter: (adapter / COMPLETE).write_text(f"{'0' * 64}  {WEIGHTS_FILE}\n"),
        {},
        (WEIGHTS_FILE, "not as it was written"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_policy_cannot_be_is_refused_before_anything_starts(
    case: str,
    adapter: Path,
    tiny_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    spoil, policy, named = REFUSED[case]
    spoil(adapter)
    config = job(adapter, **policy)
    refusal(lambda: check_initial(config, str(tiny_dir)), tmp_path, capsys, str(adapter), *named)


def test_an_adapter_of_wider_layers_is_refused(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wide = tiny_model(tmp_path / "wide" / "tiny", hidden_size=96)
    change_json(adapter / CONFIG_FILE, base_model_name_or_path=str(wide))
    config = job(adapter)
    named = ("does not fit the model", "96 outputs, and the adapter 64")
    refusal(lambda: check_initial(config, str(wide)), tmp_path, capsys, str(adapter), *named)
