"""The plane of likelihood and diversity: every point is there; equal input, equal bytes."""

import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from gfn_ray.evaluation.plots.diversity_plot import (
    PNG_SIZE,
    Mark,
    _overlaps,
    _places,
    draw_diversity,
)


def marks(count=9, spread=1.0):
    rng = np.random.default_rng(count)
    found = [
        Mark(f"decoder {i}", -40 + spread * 20 * rng.random(), spread * rng.random(), "decoder")
        for i in range(count - 2)
    ]
    return [*found, Mark("sampling", -50.0, 0.8, "before"), Mark("GFlowNet", -40.0, 0.8, "after")]


def draw(stem, points, joined=((0, 1, 2),)):
    return draw_diversity(stem, points, "A title that is no $formula$", "A caption. " * 20, joined)


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_both_files_show_every_point(tmp_path, spread):
    points = marks(spread=spread)
    png, svg = draw(tmp_path / "plane", points)
    assert sorted(tmp_path.iterdir()) == [png, svg]
    assert struct.unpack(">II", png.read_bytes()[16:24]) == PNG_SIZE
    ids = {element.get("id", "") for element in ElementTree.parse(svg).iter()}
    assert {f"point-{index}" for index in range(len(points))} <= ids


def test_drawn_twice_the_bytes_are_equal(tmp_path):
    first, second = (draw(tmp_path / name, marks()) for name in ("first", "second"))
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_one_mark_without_a_line_is_a_plane_and_none_is_not(tmp_path):
    assert draw(tmp_path / "one", [Mark("only", -3.0, 0.5, "after")], joined=[[]])
    with pytest.raises(ValueError, match="needs at least one mark"):
        draw(tmp_path / "none", [], joined=[])


def test_a_name_has_free_places_beside_a_crowded_point():
    crowd = [(10.0, -4.0, 60.0, 4.0)]
    places = _places(0.0, 0.0, 30.0)
    edges = (-500.0, 500.0)
    assert _overlaps(places[0], crowd, edges) == 1
    assert min(_overlaps(place, crowd, edges) for place in places) == 0
    assert _overlaps(places[0], [], (-500.0, 20.0)) == 1
