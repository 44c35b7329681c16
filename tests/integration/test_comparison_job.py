"""A comparison from its first run to its pages, on the tiny model.

A job of its own, because the comparison starts it and makes its page of it.
"""

import json

import pytest

from gfn_ray.comparison.pages import markdown, page
from gfn_ray.comparison.records import Records
from gfn_ray.comparison.results import rows
from gfn_ray.comparison.runner import left, run_cells
from gfn_ray.comparison.section import Axis, Method, Section
from testing.job_runner import tiny_number_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

TV = Axis("total variation", ("after.tv",), "lower", "to the posterior")
MODES = Axis("modes", ("coverage.modes_covered",), "higher", "share of modes with half their mass")


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
        "tiny",
        "Tiny",
        "Shared.",
        "random-number",
        shared,
        (rloo,),
        (TV, MODES),
        ("total variation",),
        about_s=60.0,
        seeds=(0,),
    )
    said = []
    records = Records(tmp_path / "records")
    run_cells([section], tmp_path, records, 5.0, said.append)
    (record,) = rows(section, Records(records.directory))[0].records
    assert said == ["tiny: 1 run left, about 1:00", f"1 run left, about 1:00: {record.name}"]
    assert list(left(section, records)) == []
    assert record.command.startswith("gfn-ray random-number --") and record.seconds > 0
    assert record.coverage.after.sum() == pytest.approx(
        record.values["coverage.in_range"], abs=1e-3
    )
    found = [(section, rows(section, records))]
    summary = json.loads((tmp_path / record.name / "summary.json").read_text())
    assert f"{summary['after']['tv']:.2f}" in markdown(found)
    assert "RLOO, matched" in page(found, {}, tmp_path)
