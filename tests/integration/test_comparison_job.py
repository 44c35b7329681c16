"""A comparison from its first run to its pages, on the tiny model.

A job of its own, because the comparison starts it and makes its page of it.
"""

import json

import pytest

from gfn_ray.comparison.pages import markdown, page
from gfn_ray.comparison.results import rows
from gfn_ray.comparison.runner import ABOUT, left, run_cells
from gfn_ray.comparison.sections import Axis, Method, Section
from testing.job_runner import tiny_number_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

TV = Axis("total variation", "after.tv", "lower", "to the posterior")
MODES = Axis("modes", "coverage.modes_covered", "higher", "share of modes with half their mass")


def test_what_is_left_is_run_and_its_pages_hold_it(tiny_dir, tmp_path):
    words = tiny_number_flags(tiny_dir, tmp_path, steps=2, task__target="modes")
    shared = {
        flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    del shared["run-dir"]
    rloo = Method(
        "RLOO",
        {
            "objective.kind": "rloo",
            "sampler.tempered-fraction": "0",
            "sampler.epsilon-fraction": "0",
            "replay.edit-distance": "none",
            "replay.max-times-sampled": "1",
            "replay.samples-per-insert": "1",
        },
        "matched",
    )
    section = Section(
        "tiny", "Tiny", "Shared.", "random-number", shared, (rloo,), (TV, MODES), seeds=(0,)
    )
    said = []
    run_cells([section], tmp_path, 5.0, said.append)
    (cell,) = rows(section, tmp_path)[0].cells
    assert said == [f"1 run left: {cell.name}"]
    assert list(left([section], tmp_path)) == []
    about = json.loads((cell.directory(tmp_path) / ABOUT).read_text())
    assert about["command"].startswith("gfn-ray random-number --") and about["seconds"] > 0
    found = [(section, rows(section, tmp_path))]
    summary = json.loads((cell.directory(tmp_path) / "summary.json").read_text())
    assert f"{summary['after']['tv']:.2f}" in markdown(found, tmp_path)
    assert "RLOO, matched" in page(found, {}, tmp_path)
