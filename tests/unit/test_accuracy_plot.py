"""The picture of accuracy by length: drawn whole, the same each time."""

from gfn_ray.evaluation.plots.accuracy_plot import LengthAccuracy, draw_accuracy

BEFORE = [LengthAccuracy(n, 20, 0.1, 0.02, 0.3) for n in (3, 4, 5)]
AFTER = [LengthAccuracy(n, 20, 1 - 0.1 * n, 0.4, 0.9) for n in (3, 4, 5)]


def test_equal_numbers_give_equal_pictures(tmp_path):
    for name in ("one", "two"):
        draw_accuracy(tmp_path / name, BEFORE, AFTER, "title", "caption")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    for end in (".png", ".svg"):
        one, two = ((tmp_path / f"{name}{end}").read_bytes() for name in ("one", "two"))
        assert one == two
