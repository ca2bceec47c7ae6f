"""Metrics against hand-computed cases, independent implementations, and what must hold for any values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import peak_signal_noise_ratio

from mmtok.errors import MmtokError
from mmtok.eval import METRICS, metrics, metrics_of
from mmtok.show import SHOWS

RNG = np.random.default_rng(0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def _truths(show: str, metric: metrics.Metric, seed: int, count: int = 5) -> list:
    rng = np.random.default_rng(seed)
    things = ["cube", "cone"] if metric is metrics.FACTS else ["apple", "pear"]
    make = {
        "rgb": lambda: rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
        "grey": lambda: rng.integers(0, 256, (6, 5), dtype=np.uint8),
        "depth": lambda: np.where(rng.random((6, 5)) < 0.2, np.inf, rng.uniform(1, 20, (6, 5))).astype(np.float32),
        "normal": lambda: _unit(rng.normal(size=(6, 5, 3))),
        "label": lambda: rng.integers(0, 6, (6, 5), dtype=np.uint8),
        "instance": lambda: rng.integers(0, 3, (6, 5), dtype=np.uint8),
        "edge": lambda: rng.integers(0, 2, (6, 5), dtype=np.uint8),
        "mask": lambda: rng.integers(0, 2, (6, 5), dtype=np.uint8),
        "text": lambda: f"a {rng.choice(['red', 'blue'])} {rng.choice(things)}",
        "box": lambda: [
            {"label": "ab"[i % 2], "box": [0.1 * i, 0.1, 0.1 * i + 0.3, 0.9]} for i in range(rng.integers(1, 4))
        ],
        "pose": lambda: [
            {"box": [0.1 * i, 0.1, 0.1 * i + 0.3, 0.9], "pose": rng.normal(size=(23, 3, 3))}
            for i in range(rng.integers(1, 4))
        ],
        "segment": lambda: [
            {"point": [0.1, 0.1], "instances": [{"box": [0.1 * i, 0.1, 0.1 * i + 0.3, 0.9], "mask": [1] * 16}]}
            for i in range(rng.integers(1, 4))
        ],
        "relative_depth": lambda: rng.normal(size=(6, 5)).astype(np.float32),
        "sketch": lambda: rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
        "palette": lambda: rng.integers(0, 256, (rng.integers(1, 6), 3), dtype=np.uint8),
        "values": lambda: {"a": float(rng.normal()), "b": float(rng.integers(5))},
        "feature": lambda: rng.normal(size=(3, 3, 4)).astype(np.float32),
        "amount": lambda: rng.random((3, 4)).astype(np.float32),
        "array": lambda: rng.normal(size=(2, 3, 4)).astype(np.float32),
    }[show]
    return [make() for _ in range(count)]


BEST = {"PSNR dB": 100.0, "cosine": 1.0}
CASES = [(show, metric) for show in METRICS for metric in METRICS[show]]
IDS = [f"{show} {metric.name}" for show, metric in CASES]


def test_every_way_to_show_has_metrics():
    assert METRICS.keys() == SHOWS.keys()
    with pytest.raises(MmtokError, match="did you mean 'depth'"):
        metrics_of("dept")


@pytest.mark.parametrize(("show", "metric"), CASES, ids=IDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_perfect_is_best_and_order_is_nothing(show, metric, seed):
    truths, others = _truths(show, metric, seed), _truths(show, metric, seed + 1)
    best = BEST.get(metric.name, 1.0 if metric.better == "higher" else 0.0)
    assert metric(truths, truths) == pytest.approx(best, abs=1e-3)
    score = metric(others, truths)
    assert metric.gain(best, score) >= -1e-3
    assert metric(others[::-1], truths[::-1]) == pytest.approx(score, nan_ok=True)


@pytest.mark.parametrize(("show", "metric"), CASES, ids=IDS)
def test_statistics_add(show, metric):
    truths, others = _truths(show, metric, 3, 8), _truths(show, metric, 4, 8)
    rows = metric.statistics(others, truths)
    assert metric.value(np.stack([rows.sum(0)] * 2)).tolist() == pytest.approx([metric(others, truths)] * 2)
    if show != "values":  # whose ranges are those of the set
        half = metric.statistics(others[:4], truths[:4])
        assert np.allclose(half, rows[:4])


def test_psnr_is_that_of_scikit_image():
    first, second = RNG.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    third = np.clip(first.astype(int) + 3, 0, 255).astype(np.uint8)
    expected = np.mean([peak_signal_noise_ratio(first, second), peak_signal_noise_ratio(first, third)])
    assert metrics.PSNR([second, third], [first, first]) == pytest.approx(expected)


def test_mae_by_hand():
    assert metrics.MAE([np.array([[[0, 10, 20]]], np.uint8)], [np.array([[[10, 0, 20]]], np.uint8)]) == pytest.approx(
        20 / 3
    )


def test_depth_by_hand():
    truth = np.array([[2.0, 4.0, np.inf, 10.0, 1.0]], np.float32)
    seen = np.array([[3.0, 4.4, 7.0, np.inf, 1.0]], np.float32)
    assert metrics.ABS_REL([seen], [truth]) == pytest.approx((0.5 + 0.1 + 1.0 + 0.0) / 4)
    assert metrics.DELTA1([seen], [truth]) == pytest.approx(2 / 4)


def test_depth_of_the_whole_set_weighs_pixels_alike():
    truths = [np.array([[1.0, np.inf]], np.float32), np.array([[1.0, 1.0]], np.float32)]
    seen = [np.array([[2.0, 5.0]], np.float32), np.array([[1.0, 1.0]], np.float32)]
    assert metrics.ABS_REL(seen, truths) == pytest.approx(1 / 3)


def test_nothing_defined_is_nan():
    assert np.isnan(metrics.ABS_REL([np.ones((1, 1))], [np.full((1, 1), np.inf)]))


def test_normal_angle_by_hand():
    truth = np.array([[[0, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]]], np.float32)
    seen = np.array([[[0, 0, 5], [1, 0, 1], [0, 0, 0], [1, 0, 0]]], np.float32)
    assert metrics.NORMAL_ANGLE([seen], [truth]) == pytest.approx((0 + 45 + 90) / 3, abs=1e-4)


def test_mean_iou_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    truths, seen = RNG.integers(0, 5, (2, 4, 7, 7), dtype=np.uint8)
    seen[seen == 2] = 1  # never predicted
    truths[truths == 4] = 0  # never true
    expected = sklearn.jaccard_score(truths.ravel(), seen.ravel(), average="macro", zero_division=0)
    assert metrics.MEAN_IOU(list(seen), list(truths)) == pytest.approx(expected)
    assert metrics.ACCURACY(list(seen), list(truths)) == pytest.approx((truths == seen).mean())
    assert metrics.EDGE_F1(list(seen % 2), list(truths % 2)) == pytest.approx(
        sklearn.f1_score((truths % 2).ravel(), (seen % 2).ravel())
    )


def test_mean_iou_refuses_what_it_cannot_count():
    with pytest.raises(MmtokError, match="300"):
        metrics.MEAN_IOU([np.full((2, 2), 300)], [np.zeros((2, 2), np.int64)])


def test_instances_may_be_permuted_and_extra_ones_cost():
    truth = np.array([[1, 1, 2, 2, 0, 0]], np.uint8)
    assert metrics.MATCHED_IOU([np.array([[2, 2, 1, 1, 0, 0]], np.uint8)], [truth]) == 1
    assert metrics.MATCHED_IOU([np.array([[2, 2, 1, 1, 3, 0]], np.uint8)], [truth]) == pytest.approx(2 / 3)
    assert metrics.MATCHED_IOU([np.array([[1, 1, 1, 1, 0, 0]], np.uint8)], [truth]) == pytest.approx(0.5 / 2)


def _box(label, *box):
    return {"label": label, "box": [float(x) for x in box]}


def test_box_f1_by_hand():
    truth = [_box("cube", 0, 0, 0.5, 0.5), _box("cone", 0.5, 0.5, 1, 1)]
    assert metrics.BOX_F1([truth[::-1]], [truth]) == 1
    assert metrics.BOX_F1([[_box("cone", 0, 0, 0.5, 0.5), truth[1]]], [truth]) == 0.5  # a wrong class
    assert metrics.BOX_F1([[truth[0], truth[0], truth[0]]], [truth]) == pytest.approx(2 / 5)  # found once only
    assert metrics.BOX_F1([[_box("cube", 0, 0, 0.5, 0.24)]], [truth]) == 0  # IoU 0.48
    assert metrics.BOX_F1([[_box("cube", 0, 0, 0.5, 0.26)]], [truth]) == pytest.approx(2 / 3)  # IoU 0.52
    assert metrics.BOX_F1([None, []], [truth, []]) == 0.5
    elsewhere = [_box(item["label"], 0.9, 0.9, 1.0, 1.0) for item in truth]
    assert metrics.BOX_F1([elsewhere], [truth]) == 0
    assert metrics.CLASS_F1([elsewhere], [truth]) == 1
    assert metrics.CLASS_F1([elsewhere[:1]], [truth]) == pytest.approx(2 / 3)
    assert metrics.CLASS_F1([None, []], [truth, []]) == 0.5


def test_joint_error_by_hand():
    rest = np.broadcast_to(np.eye(3), (23, 3, 3))
    bent = rest.copy()
    bent[17] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]  # the left elbow by a right angle: wrist and hand are elsewhere
    box = [0.0, 0.0, 0.5, 1.0]
    moved = (0.25 + 0.33) * np.sqrt(2) / 24
    one, other = {"box": box, "pose": rest}, {"box": box, "pose": bent}
    assert metrics.JOINTS([[other]], [[one]]) == pytest.approx(1000 * moved)
    assert metrics.JOINTS([[other, one]], [[one, other]]) == pytest.approx(0, abs=1e-6)
    away = {"box": [0.5, 0.0, 1.0, 1.0], "pose": rest}
    assert metrics.JOINTS([[away]], [[one, other]]) == pytest.approx(500)
    assert metrics.JOINTS([[]], [[one]]) == metrics.JOINTS([None], [[one]]) == 1000
    assert metrics.JOINTS([[]], [[]]) == 0


def test_instances_match_by_their_boxes():
    def points(*boxes):
        return [{"point": [0, 0], "instances": [{"box": list(box), "mask": [1] * 16}]} for box in boxes]

    one, other = (0, 0, 0.5, 1), (0.5, 0, 1, 1)
    assert metrics.SEGMENT_F1([points(other, one)], [points(one, other)]) == 1
    assert metrics.SEGMENT_F1([points(one)], [points(one, other)]) == pytest.approx(2 / 3)
    assert metrics.SEGMENT_F1([points()], [points(one)]) == 0
    assert metrics.SEGMENT_F1([points()], [[{"point": [0, 0], "instances": []}]]) == 1


def test_correlation_is_that_of_numpy():
    seen, truth = RNG.normal(size=(2, 6, 5)).astype(np.float32)
    expected = np.corrcoef(seen.ravel(), truth.ravel())[0, 1]
    assert metrics.CORRELATION([seen], [truth]) == pytest.approx(expected, abs=1e-6)
    assert metrics.CORRELATION([3 * seen + 4], [truth]) == pytest.approx(expected, abs=1e-5)
    holes = np.where(np.arange(30).reshape(6, 5) % 3 == 0, np.inf, truth)
    inside = np.isfinite(holes)
    expected = np.corrcoef(seen[inside], truth[inside])[0, 1]
    assert metrics.CORRELATION([seen], [holes]) == pytest.approx(expected, abs=1e-6)


def test_box_matching_finds_the_most_matches():
    # Greedy matching of the first box would take the only partner of the second.
    truth = [_box("a", 0, 0, 1, 0.6), _box("a", 0, 0.3, 1, 0.9)]
    seen = [_box("a", 0, 0.15, 1, 0.75), _box("a", 0, 0.0, 1, 0.6)]
    assert metrics.BOX_F1([seen], [truth]) == 1


@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1)), hnp.arrays(np.float64, (2, 4), elements=st.floats(0, 1))
)
def test_box_iou_is_symmetric_and_in_range(first, second):
    iou = metrics.box_iou(list(first), list(second))
    assert np.allclose(iou, metrics.box_iou(list(second), list(first)).T)
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()


def test_box_iou_by_hand():
    assert metrics.box_iou([[0, 0, 2, 2]], [[1, 1, 3, 3], [0, 0, 2, 2], [3, 3, 2, 2]])[0].tolist() == pytest.approx(
        [1 / 7, 1, 0]
    )


def test_facts_of_captions():
    truth = "There are two objects: a red cube and a blue sphere."
    assert metrics.FACTS([truth], [truth]) == 1
    assert metrics.FACTS([None], [truth]) == 0
    assert 0 < metrics.FACTS(["A red sphere and a blue sphere."], [truth]) < 1
    assert np.isnan(metrics.FACTS(["grinning face"], ["grinning face"]))


def test_words_and_exact_match():
    assert metrics.EXACT(["A  red apple.", "x"], ["a red apple", "y"]) == 0.5
    assert metrics.WORD_F1(["a red apple"], ["A blue apple!"]) == pytest.approx(2 / 3)
    assert metrics.WORD_F1(["red red red"], ["red"]) == pytest.approx(0.5)
    assert metrics.WORD_F1([None], ["red"]) == 0
    for metric in (metrics.WORD_F1, metrics.EXACT):  # of captions of scenes, the facts are scored
        assert np.isnan(metric(["a red cube"], ["one red cube"]))


def test_palette_by_hand():
    truth = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    assert metrics.PALETTE([truth[::-1]], [truth]) == 0
    assert metrics.PALETTE([np.array([[3, 4, 0], [255, 255, 255]], np.uint8)], [truth]) == pytest.approx(2.5)
    assert metrics.PALETTE([None], [truth]) == metrics.PALETTE([truth[:0]], [truth]) == pytest.approx(255 * 3**0.5)


def test_values_relative_to_their_range():
    truths = [{"a": 0.0, "b": 1.0}, {"a": 10.0, "b": 1.0}]
    assert metrics.VALUES([{"a": 1.0, "b": 1.0}, {"a": 10.0, "b": 2.0}], truths) == pytest.approx((0.1 + 0 + 0 + 1) / 4)
    assert metrics.VALUES([None, {"a": 10.0}], truths) == pytest.approx(3 / 4)
    vectors = list(np.array([[0, 0], [2, 4]], np.float32))
    assert metrics.VALUES([vectors[1], vectors[1]], vectors) == pytest.approx(0.5)


def test_features_by_hand():
    truth = np.array([[[3, 4], [1, 0]]], np.float32)
    seen = np.array([[[6, 8], [0, 1]]], np.float32)
    assert metrics.COSINE([seen], [truth]) == pytest.approx(0.5)
    assert metrics.RELATIVE([seen], [truth]) == pytest.approx(np.linalg.norm(seen - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("show", ["rgb", "grey", "depth", "normal", "label", "instance", "edge", "feature"])
def test_shapes_that_differ_are_refused(show):
    (truth,) = _truths(show, metrics_of(show)[0], 0, 1)
    with pytest.raises(MmtokError, match="sample 1"):
        METRICS[show][0]([truth, truth[:-1]], [truth, truth])
    with pytest.raises(MmtokError, match="sample 0"):
        METRICS[show][0]([None], [truth])
    with pytest.raises(ValueError, match="1 predictions"):
        METRICS[show][0]([truth], [truth, truth])
