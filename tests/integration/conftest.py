"""What several files of tracking share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gfn_ray.tracking import Tracker


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, for the first connection takes many seconds."""
    home = tmp_path_factory.mktemp("mlflow")
    file = home / "migrated.db"
    options: Any = {"artifact_root": home / "mlruns", "delivery": ""}
    Tracker(f"sqlite:///{file}", "warm-up", "warm-up", {}, home, **options).end("FINISHED")
    return file
