"""Whether a Ray of our own has what it needs on this machine, before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gfn_ray.runtime.resources.ray_places import (
    LONGEST,
    check_shared_memory,
    provide_home,
    temporary_directory,
)
from testing.full_disk import no_room_beyond
from testing.refusals import refusal

TOO_LONG = "/tmp/" + "l" * 85  # 90 characters
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
VARIABLES = ("TMPDIR", "RAY_TMPDIR", "XDG_RUNTIME_DIR", "RAY_AUTH_MODE", *TOKENS)


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def a_file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("in the way")
    return str(tmp_path / "file")


UNFIT: dict[str, Callable[[Path], str]] = {
    "too long": lambda _: TOO_LONG,
    "a file": a_file,
    "nowhere": lambda _: "/proc/nowhere",
    "relative": lambda _: "tmp",
}


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory that is short enough, which pytest's own need not be."""
    place = Path(f"/tmp/r{os.getpid()}")
    place.mkdir()
    yield place
    place.rmdir()


@pytest.mark.parametrize("kind", UNFIT)
def test_where_rays_own_place_will_not_do_another_is_taken(
    kind: str, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", UNFIT[kind](tmp_path))
    assert temporary_directory() == "/tmp/ray"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert temporary_directory() == str(short / "ray")
    assert not (short / "ray").exists()


def test_a_place_that_will_do_is_left_to_ray(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary_directory() is None
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(short))
        assert temporary_directory() is None
        monkeypatch.setenv(name, str(short / "made by Ray"))
        assert temporary_directory() is None


def test_the_longest_place_leaves_a_socket_just_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for length, taken in ((LONGEST, None), (LONGEST + 1, "/tmp/ray")):
        monkeypatch.setenv("TMPDIR", "/tmp/" + "l" * (length - 5))
        assert temporary_directory() == taken


@pytest.mark.parametrize("kind", UNFIT)
def test_a_place_that_is_meant_for_ray_is_that_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = UNFIT[kind](tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", place)
    refusal(temporary_directory, tmp_path, capsys, f"{place} ", "; set RAY_TMPDIR to a dir")


def test_where_no_place_has_room_all_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask() -> None:
        with no_room_beyond(1000):
            temporary_directory()

    why = "cannot be written (File too large)"
    refusal(ask, tmp_path, capsys, f"/tmp {why}", f"/var/tmp {why}", "set TMPDIR to")


@pytest.mark.parametrize("kind", ["a file", "nowhere"])
def test_a_home_that_cannot_be_written_is_refused_unless_nothing_is_kept_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", UNFIT[kind](tmp_path))
    refusal(provide_home, tmp_path, capsys, "Ray keeps its token", "; set HOME to a directory")
    for name in TOKENS:
        with monkeypatch.context() as given:
            given.setenv(name, "0123456789abcdef")
            provide_home()


def test_rays_token_is_this_accounts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_home()
    assert (tmp_path / ".ray").stat().st_mode & 0o777 == 0o700


def test_a_home_that_only_the_system_knows_is_told_to_rays_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME")
    provide_home()
    assert os.environ["HOME"] == str(Path.home())


def test_a_machine_without_shared_memory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "shm"
    refusal(
        lambda: check_shared_memory(missing), tmp_path, capsys, str(missing), "is missing", "mount"
    )
