"""Model directories that are made once and shared.

Locates the cache and makes one promise: any number of processes may ask for a directory at
once; one makes it, the others wait, and an incomplete one is never used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from gfn_ray.errors import UserError
from gfn_ray.storage.atomic import fsync

MARKER = "complete.json"
LOCK_TIMEOUT_S = 600.0  # a conversion takes half a minute on two busy cores


def cache_root() -> Path:
    """Returns $GFN_RAY_CACHE, else $XDG_CACHE_HOME/gfn_ray, else ~/.cache/gfn_ray."""
    if chosen := os.environ.get("GFN_RAY_CACHE"):
        root = Path(chosen)
        # Actors have other working directories: a relative path would name a cache in each.
        if not root.is_absolute():
            raise UserError(f"$GFN_RAY_CACHE must be an absolute path, got {chosen!r}")
        return root
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification says to ignore a relative one
        return xdg / "gfn_ray"
    try:
        return Path.home() / ".cache" / "gfn_ray"
    except RuntimeError as error:
        raise UserError("this account has no home directory; set $GFN_RAY_CACHE") from error


def models_dir() -> Path:
    """Returns the cache's directory of models."""
    return cache_root() / "models"


def cached_model_dir(
    name: str,
    what: str,
    needed_bytes: int,
    write: Callable[[Path], None],
    patience_s: float = LOCK_TIMEOUT_S,
) -> Path:
    """Returns the directory of this name below the cache's models/, made on first use.

    name: must change with anything that affects the contents. what: the model, in words.
    needed_bytes: free space required to make it. write: fills an empty directory. patience_s:
    how long to wait for another process that is making it.
    """
    models = models_dir()
    target = models / name
    if is_complete(target):  # this check needs neither the lock nor a writable cache
        return target
    try:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f"{name}.lock", timeout=patience_s):
            if not is_complete(target):
                free = shutil.disk_usage(models).free
                if free < needed_bytes:
                    raise UserError(
                        f"{what} needs {needed_bytes >> 20} MiB in {models}, and "
                        f"{free >> 20} MiB are free; make room or point $GFN_RAY_CACHE elsewhere"
                    )
                _publish(target, write)
    except Timeout as error:
        raise UserError(
            f"another process has held {error.lock_file} for {patience_s:.0f} s to make "
            f"{what}; end it, or point $GFN_RAY_CACHE elsewhere"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {models} ({error}); "
            "point $GFN_RAY_CACHE to a writable directory with room for it"
        ) from error
    return target


def is_complete(directory: Path) -> bool:
    """Whether every file in the marker exists with the listed size."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        if marker["directory"] != directory.name:
            return False
        sizes: dict[str, int] = marker["bytes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _publish(target: Path, write: Callable[[Path], None]) -> None:
    """Writes a directory next to the target, makes it durable, and renames it into place.

    Called with the lock held, so files left by an earlier writer belong to nobody.
    """
    for leftover in target.parent.glob(f"{target.name}.tmp-*"):
        _remove(leftover)
    work = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    work.mkdir()
    try:
        write(work)
        sizes = {}
        for file in sorted(work.iterdir()):
            file.chmod(0o644)  # safetensors writes 0600, and caches are shared between accounts
            fsync(file)
            sizes[file.name] = file.stat().st_size
        marker = {"directory": target.name, "bytes": sizes}
        (work / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        fsync(work / MARKER)
        fsync(work)
        _remove(target)
        work.rename(target)
        fsync(target.parent)
    finally:
        _remove(work)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
