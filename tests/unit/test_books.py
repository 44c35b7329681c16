"""What is said of data that MLflow has not taken: where it goes from there."""

from pathlib import Path

import pytest

from gfn_ray.config import TuneBaseJob
from gfn_ray.config.sections import TrackingConfig
from gfn_ray.runs.opening import delivery
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.tasks.infill.config import InfillJob

RUN = RunDir(Path("/runs/one"))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///mlflow.db", "--resume /runs/one delivers it"),
        (
            "http://me:secret@host",
            "--resume /runs/one --tracking.uri URI, with its password, delivers it",
        ),
    ],
)
def test_a_run_that_can_be_resumed_says_how(uri: str, said: str) -> None:
    assert delivery(InfillJob(tracking=TrackingConfig(uri=uri)), RUN) == said


def test_a_job_without_resume_does_not_promise_it() -> None:
    assert "no job delivers it" in delivery(TuneBaseJob(), RUN)
