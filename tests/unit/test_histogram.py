"""The drawn files: present whole, of the stated size, one bar an integer, byte for byte equal."""

import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from gfn_ray.evaluation.plots.histogram import PNG_SIZE, draw_histogram, tick_step


def draw(path_stem, low=0, count=101, **changes):
    rng = np.random.default_rng(count)
    target = np.full(count, 1 / count)
    arguments = {
        "values": range(low, low + count),
        "target": target,
        "before": rng.dirichlet(np.full(count, 0.3)) * 0.9,
        "after": rng.dirichlet(np.full(count, 300.0)),
        "title": "A title that is no $formula$",
        "caption": "Total variation 0.53 → 0.02",
    }
    return draw_histogram(path_stem, **(arguments | changes))


def bars(svg, name):
    ids = [element.get("id", "") for element in ElementTree.parse(svg).iter()]
    return [
        int(i.removeprefix(f"{name}-")) for i in ids if i.startswith(f"{name}-") and i[-1] != "t"
    ]


@pytest.mark.parametrize(("low", "count"), [(0, 101), (-50, 101), (0, 2), (1, 10), (-200, 1000)])
def test_both_files_show_one_bar_an_integer(tmp_path, low, count):
    png, svg = draw(tmp_path / "numbers.v1", low, count)
    assert sorted(tmp_path.iterdir()) == [png, svg]  # nothing temporary is left
    assert (png.name, svg.name) == ("numbers.v1.png", "numbers.v1.svg")
    header = png.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:]) == PNG_SIZE
    for name in ("before", "after"):
        assert bars(svg, name) == list(range(low, low + count))


def test_drawn_twice_the_bytes_are_equal_and_undated(tmp_path):
    first, second = (draw(tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert b"date" not in one.read_bytes().lower()


def test_files_are_replaced(tmp_path):
    png, svg = draw(tmp_path / "n")
    old = png.read_bytes(), svg.read_bytes()
    draw(tmp_path / "n", caption="another one")
    assert (png.read_bytes(), svg.read_bytes()) != old
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    files = draw(tmp_path / "n")
    old = [file.read_bytes() for file in files]

    def full_disk(path):
        raise OSError("no space left")

    monkeypatch.setattr("gfn_ray.storage.atomic.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        draw(tmp_path / "n", caption="another one")
    assert [file.read_bytes() for file in files] == old
    assert sorted(tmp_path.iterdir()) == files


def test_settings_of_matplotlib_stay_as_they_are(tmp_path):
    before = dict(matplotlib.rcParams)
    draw(tmp_path / "n")
    assert dict(matplotlib.rcParams) == before


def test_a_policy_and_a_target_with_empty_integers(tmp_path):
    point = np.eye(101)[100]
    draw(tmp_path / "n", target=point, before=np.zeros(101), after=point)
    draw(tmp_path / "n", target=np.eye(101)[0], caption="word " * 60)


def test_importing_it_loads_no_matplotlib():
    code = "import sys, gfn_ray.evaluation.plots.histogram; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("count", "step"), [(2, 1), (12, 1), (13, 2), (101, 10), (121, 20), (1000, 100), (5000, 500)]
)
def test_tick_step(count, step):
    assert tick_step(count) == step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [5]}, "consecutive"),
        ({"values": [*range(100), 200]}, "consecutive"),
        ({"after": np.full(100, 0.01)}, r"after has shape \(100,\), expected \(101,\)"),
        ({"before": np.full(101, np.nan)}, "before contains"),
        ({"target": np.full(101, -0.01)}, "target contains"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "n", **changes)
    assert not list(tmp_path.iterdir())
