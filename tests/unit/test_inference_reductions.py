"""Several answers: which one is the most likely, and what they have in common."""

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Generated, Known
from mmtok.inference.kinds import unit
from mmtok.inference.reductions import Likelihood, check_reduction, reduce
from mmtok.modality import Modality, Vocabulary


def shown(show: str, **changes) -> Modality:
    return Modality(
        **{"name": "m", "kind": "grid", "shape": (2, 2), "vocabulary": Vocabulary(size=8)} | changes, show=show
    )


TEXT = shown("text", kind="sequence", shape=(6,), vocabulary=Vocabulary(size=40, sentinel_count=9))


def stack(*shape: int, answers: int = 5) -> list[np.ndarray]:
    return list(np.random.default_rng(0).uniform(1, 9, (answers, *shape)).astype(np.float32))


@pytest.mark.parametrize(("show", "shape"), [("depth", (4, 5)), ("feature", (4, 5, 3)), ("values", (7,))])
def test_mean_and_median_of_numbers(show, shape):
    values = stack(*shape)
    mean, median = (reduce(values, how, shown(show)) for how in ("mean", "median"))
    spread = np.std(values, axis=0) if len(shape) < 3 else np.sqrt(np.var(values, axis=0).mean(-1))
    np.testing.assert_allclose(mean.value, np.mean(values, axis=0), rtol=1e-5)
    np.testing.assert_allclose(mean.uncertainty, spread, rtol=1e-4)
    np.testing.assert_allclose(median.value, np.median(values, axis=0), rtol=1e-5)
    if len(shape) < 3:
        away = np.median(np.abs(values - np.median(values, axis=0)), axis=0)
        np.testing.assert_allclose(median.uncertainty, away, rtol=1e-4, atol=1e-6)
    assert mean.value.dtype == mean.uncertainty.dtype == np.float32


def test_pictures_keep_their_type():
    values = [np.full((2, 2, 3), level, np.uint8) for level in (254, 255, 255)]
    found = reduce(values, "mean", shown("rgb"))
    assert found.value.dtype == np.uint8
    assert (found.value == 255).all()
    assert found.uncertainty.shape == (2, 2)
    np.testing.assert_allclose(found.uncertainty, np.std([254, 255, 255]), rtol=1e-6)


@pytest.mark.parametrize("how", ["mean", "median"])
def test_pixels_without_a_value_in_most_answers_have_none(how):
    values = stack(2, 2, answers=3)
    values[0][0] = np.inf
    values[1][0, 0] = np.nan
    found = reduce(values, how, shown("depth"))
    assert np.isfinite(found.value).tolist() == [[False, True], [True, True]]
    assert np.isnan(found.uncertainty).tolist() == [[True, False], [False, False]]
    np.testing.assert_allclose(found.value[0, 1], (values[1][0, 1] + values[2][0, 1]) / 2, rtol=1e-6)
    assert np.isposinf(found.value[0, 0])


@pytest.mark.parametrize("how", ["mean", "median"])
def test_directions_are_normalised_and_differ_by_an_angle(how):
    tilt = np.radians(10)
    here, there = np.array([np.sin(tilt), 0, np.cos(tilt)]), np.array([-np.sin(tilt), 0, np.cos(tilt)])
    values = [np.tile(vector, (2, 2, 1)).astype(np.float32) for vector in (here, there)]
    values[0][0, 0] = values[1][0, 0] = 0
    found = reduce(values, how, shown("normal"))
    np.testing.assert_allclose(found.value[1, 1], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found.uncertainty[1, 1], 10, rtol=1e-4)
    assert not found.value[0, 0].any()
    assert np.isnan(found.uncertainty[0, 0])
    random = [unit(np.random.default_rng(seed).normal(size=(2, 2, 3))) for seed in range(4)]
    np.testing.assert_allclose(np.linalg.norm(reduce(random, how, shown("normal")).value, axis=-1), 1, rtol=1e-9)


@pytest.mark.parametrize("how", ["mean", "median", "vote"])
def test_classes_are_voted_on(how):
    values = [np.array(row, np.uint8).reshape(2, 2) for row in ([3, 1, 0, 5], [3, 2, 0, 4], [1, 2, 0, 6])]
    found = reduce(values, how, shown("label"))
    assert found.value.tolist() == [[3, 2], [0, 4]]
    assert found.value.dtype == np.uint8
    np.testing.assert_allclose(found.uncertainty, [[1 / 3, 1 / 3], [0, 2 / 3]], rtol=1e-6)
    assert reduce([values[0].astype(np.int32)], "mean", shown("array")).value.tolist() == [[3, 1], [0, 5]]


@pytest.mark.parametrize(
    "modality",
    [
        TEXT,
        shown("box"),
        shown("instance"),
        shown("palette"),
        shown("values", kind="sequence", shape=(6,), vocabulary=TEXT.vocabulary),
    ],
)
def test_what_cannot_be_reduced_is_refused_before_anything_is_made(modality):
    with pytest.raises(MmtokError, match=r"reduce: several answers of 'm' .* take the best of them \(--best 1\)"):
        check_reduction("mean", modality)


def test_what_else_is_refused():
    check_reduction("vote", shown("label"))
    check_reduction("vote", shown("array"))
    with pytest.raises(MmtokError, match="reduce: 'm' holds numbers, only classes are voted on; use mean or median"):
        check_reduction("vote", shown("rgb"))
    with pytest.raises(MmtokError, match="reduce: 'm' holds numbers, only classes are voted on"):
        reduce(stack(3), "vote", shown("array"))
    with pytest.raises(MmtokError, match="reduce: the answers of 'm' differ in shape"):
        reduce([np.zeros(2, int), np.zeros(3, int)], "vote", shown("array"))


def test_the_likelihood_is_the_mean_over_the_tokens_that_were_made():
    rng = np.random.default_rng(0)
    visible = np.array([[True, False, False, True], [False] * 4])
    log_probs = np.where(visible[..., None], 0, -rng.random((2, 4, 2))).astype(np.float32)
    words = np.array([[[-1.0], [-2.0], [0.0]], [[-3.0], [0.0], [0.0]]], np.float32)
    made = {
        "grid": Generated(TokenColumn(np.zeros((2, 4, 2), int), np.array([4, 4])), log_probs, -log_probs),
        "text": Generated(TokenColumn(np.zeros((2, 3, 1), int), np.array([2, 1])), words, -words),
    }
    found = Likelihood.of(
        made, {"grid": Known(np.zeros((2, 4, 2), int), visible), "text": Known.nothing(TEXT, samples=2)}
    )
    np.testing.assert_array_equal(found.count, [2 * 2 + 2, 4 * 2 + 1])
    np.testing.assert_allclose(found.total, log_probs.sum((1, 2)) + [-3, -3], rtol=1e-6)
    np.testing.assert_allclose(found.mean, found.total / found.count)
    alone = Likelihood.of({"text": made["text"]}, {})
    np.testing.assert_allclose((found + alone).total, found.total - 3)
    np.testing.assert_allclose(found.summed([np.array([0, 1]), np.array([1])]).count, [15, 9])
    np.testing.assert_array_equal(found[np.array([1])].count, [9])
    assert Likelihood(np.zeros(1), np.zeros(1, int)).mean == 0
