"""What MLflow has received of a run: tracking.json in the run's directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from pydantic import BaseModel, NonNegativeInt, PrivateAttr, ValidationError

from gfn_ray.errors import UserError
from gfn_ray.storage.atomic import atomic_file

TRACKING_FILE = "tracking.json"


class TrackingState(BaseModel):
    """run_id: MLflow's. numbers, tables: bytes of each file whose numbers, or rows, MLflow has.
    artifacts: still to be delivered. complete: the run has ended, and MLflow has all of it.
    """

    run_id: str
    numbers: dict[str, NonNegativeInt] = {}
    tables: dict[str, NonNegativeInt] = {}
    artifacts: list[str] = []
    complete: bool = False
    _lock: Any = PrivateAttr(default_factory=RLock)

    @staticmethod
    def read(directory: Path) -> TrackingState | None:
        """Reads the file; None if the run has no MLflow run yet. Raises UserError if damaged."""
        file = directory / TRACKING_FILE
        try:
            return TrackingState.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
            raise UserError(
                f"{file} is damaged ({why}); remove it to continue in a new MLflow run"
            ) from None

    def save(self, directory: Path) -> None:
        """Writes the file. Raises OSError, with the file unchanged, if the disk fails."""
        with self._lock, atomic_file(directory / TRACKING_FILE) as temp:
            temp.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def changing(self, directory: Path) -> Iterator[None]:
        """Wraps a change and saves it. If the disk is full, only this process knows of the change,
        and the next one delivers some things again."""
        with self._lock:
            yield
            with suppress(OSError):
                self.save(directory)

    def begin(self, directory: Path) -> None:
        """Saves the state before anything is delivered; raises OSError as `save` does."""
        for delivered in (self.numbers, self.tables):
            for name, size in delivered.items():  # --resume has cut files back to a checkpoint
                file = directory / name
                delivered[name] = min(size, file.stat().st_size if file.exists() else 0)
        self.complete = False
        self.save(directory)
