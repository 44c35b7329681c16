"""The picture of exact draws beside samples: drawn whole, the same each time."""

import numpy as np

from gfn_ray.evaluation.calibration import SimulatedScores
from gfn_ray.evaluation.plots.calibration_plot import Side, draw_calibration

SAMPLES = 4


def scores(shift):
    rng = np.random.default_rng(0)
    found = []
    for i in range(24):
        w, tokens = rng.normal(size=1 + SAMPLES), rng.integers(4, 20, 1 + SAMPLES).astype(float)
        w[0] += shift
        found.append(SimulatedScores(str(i), w[0], w, np.zeros(5), np.zeros(5), tokens))
    return found


def test_equal_numbers_give_equal_pictures(tmp_path):
    before, after = (Side.of(scores(shift), 1.0) for shift in (5.0, 0.0))
    assert before.ranks.mean() > 0.9 and abs(after.ranks.mean() - 0.5) < 0.2
    for name in ("one", "two"):
        draw_calibration(tmp_path / name, before, after, SAMPLES, "title", "caption " * 30)
    assert (tmp_path / "one.png").stat().st_size > 10_000
    for end in (".png", ".svg"):
        one, two = ((tmp_path / f"{name}{end}").read_bytes() for name in ("one", "two"))
        assert one == two
