"""Constant answers are the best there are: no rival does better on the samples they are chosen from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmtok.eval import METRICS, metrics
from mmtok.eval.constants import best_constant

RNG = np.random.default_rng(0)
DEPTH = np.where(RNG.random((9, 4, 4)) < 0.2, np.inf, RNG.uniform(1, 20, (9, 4, 4))).astype(np.float32)
SETS = {
    "rgb": RNG.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8),
    "depth": DEPTH,
    "label": RNG.integers(0, 4, (9, 4, 4), dtype=np.uint8),
    "instance": RNG.integers(0, 3, (9, 4, 4), dtype=np.uint8),
    "edge": (RNG.random((9, 4, 4)) < 0.4).astype(np.uint8),
    "normal": RNG.normal(size=(9, 4, 4, 3)).astype(np.float32) + [0, 0, 2],
    "feature": RNG.normal(size=(9, 4, 4, 5)).astype(np.float32) + 1,
    "array": RNG.normal(size=(9, 7)).astype(np.float32) + 1,
}


def _score(metric, constant, truths) -> float:
    return metric([constant] * len(truths), truths)


@pytest.mark.parametrize(
    ("show", "metric"),
    [(show, metric) for show in SETS for metric in METRICS[show] if metric.name != "PSNR dB"],
    ids=lambda item: getattr(item, "name", item),
)
def test_no_sample_is_a_better_constant(show, metric):
    truths = list(SETS[show].astype(np.float32) if SETS[show].dtype == np.float64 else SETS[show])
    constant = best_constant(metric, truths)
    assert constant.shape == truths[0].shape
    best = _score(metric, constant, truths)
    assert all(metric.gain(best, _score(metric, rival, truths)) >= -1e-6 for rival in truths)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, (6, 1, 2), elements=st.floats(1, 9, width=16)), st.floats(0.5, 10))
def test_relative_median_is_the_optimum(depth, rival):
    truths = list(depth)
    best = _score(metrics.ABS_REL, best_constant(metrics.ABS_REL, truths), truths)
    assert best <= _score(metrics.ABS_REL, np.full((1, 2), rival, np.float32), truths) + 1e-6


def test_mean_picture_has_the_least_squared_error():
    truths = [np.full((2, 2, 3), level, np.uint8) for level in (0, 10, 50)]
    assert (best_constant(metrics.PSNR, truths) == 20).all()
    assert (best_constant(metrics.MAE, truths) == 10).all()


def test_depth_where_nothing_is_ever_defined():
    truths = [np.array([[np.inf, 4.0]], np.float32), np.array([[np.inf, 2.0]], np.float32)]
    constant = best_constant(metrics.ABS_REL, truths)
    assert np.isfinite(constant).all()


def test_lists_texts_and_numbers():
    box = [{"label": "cube", "box": [0.0, 0.0, 0.5, 0.5]}]
    other = [{"label": "cone", "box": [0.5, 0.5, 1.0, 1.0]}]
    assert best_constant(metrics.BOX_F1, [other, box, box]) == box
    assert best_constant(metrics.EXACT, ["a", "b", "b"]) == "b"
    assert best_constant(metrics.FACTS, ["a red cube", "a blue cone", "a red cone"]) == "a red cone"
    assert best_constant(metrics.VALUES, [{"a": 1.0}, {"a": 2.0}, {"a": 9.0, "b": 3.0}]) == {"a": 2.0, "b": 3.0}
    assert best_constant(metrics.VALUES, [np.array([1.0, 4.0]), np.array([3.0, 4.0])]).tolist() == [2.0, 4.0]
    palette = np.array([[9, 9, 9]], np.uint8)
    assert best_constant(metrics.PALETTE, [palette, palette, 255 - palette]) is palette


def test_the_best_mask_beats_all_and_nothing():
    truths = list((RNG.random((40, 6, 6)) < np.linspace(0, 1, 36).reshape(6, 6)).astype(np.uint8))
    best = _score(metrics.EDGE_F1, best_constant(metrics.EDGE_F1, truths), truths)
    assert best > _score(metrics.EDGE_F1, np.ones((6, 6), np.uint8), truths)
