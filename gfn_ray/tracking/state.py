"""What MLflow has of a run: tracking.json in the run's directory."""

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
    """run_id: MLflow's. numbers, tables: by file, the bytes of which MLflow has all numbers, and
    all rows. artifacts: those that it has yet to get. complete: the run has ended, and MLflow has
    all of it.
    """

    run_id: str
    numbers: dict[str, NonNegativeInt] = {}
    tables: dict[str, NonNegativeInt] = {}
    artifacts: list[str] = []
    complete: bool = False
    _lock: Any = PrivateAttr(default_factory=RLock)

    @staticmethod
    def read(directory: Path) -> TrackingState | None:
        """None where the run has no MLflow run yet; raises UserError for a damaged file."""
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
        """Raises OSError where the disk does not take it; the file is then as it was."""
        with self._lock, atomic_file(directory / TRACKING_FILE) as temp:
            temp.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def changing(self, directory: Path) -> Iterator[None]:
        """Around a change. Where a full disk does not take it, only this process knows of it, and
        the next one delivers some things again."""
        with self._lock:
            yield
            with suppress(OSError):
                self.save(directory)

    def begin(self, directory: Path) -> None:
        """Before anything is followed; raises OSError as `save` does."""
        for delivered in (self.numbers, self.tables):
            for name, size in delivered.items():  # --resume has cut files back to a checkpoint
                file = directory / name
                delivered[name] = min(size, file.stat().st_size if file.exists() else 0)
        self.complete = False
        self.save(directory)
