"""Samples with large pictures become samples of windows, and their answers one answer."""

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.inference.answers import Answers
from mmtok.inference.reductions import Likelihood
from mmtok.inference.windows import cut, tiled
from mmtok.modality import Modality, Vocabulary

SIZES = {"rgb": 16, "feature": 4}


def test_all_pictures_are_cut_alike():
    rng = np.random.default_rng(0)
    sample = {"rgb": rng.integers(0, 256, (24, 40, 3), np.uint8), "feature": rng.random((6, 10, 2)), "caption": "x"}
    tiling, windows = cut(sample, SIZES, overlap=0.5)
    assert len(windows) == len(tiling.corners) == 2 * 4
    assert [{name: np.shape(value) for name, value in window.items()} for window in windows] == [
        {"rgb": (16, 16, 3), "feature": (4, 4, 2), "caption": ()}
    ] * 8
    assert {window["caption"] for window in windows} == {"x"}
    for (y, x), window in zip(tiling.corners, windows, strict=True):
        np.testing.assert_array_equal(window["rgb"], sample["rgb"][y : y + 16, x : x + 16])
        np.testing.assert_array_equal(window["feature"], sample["feature"][round(y / 4) :, round(x / 4) :][:4, :4])
    assert sample["rgb"].shape == (24, 40, 3), "what was given stays as it was"


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        ({"caption": "x"}, "tiles: a picture is needed, one of rgb, feature"),
        ({"rgb": "x"}, "tiles: 'rgb' must be a whole picture, found str"),
        ({"rgb": np.zeros((15, 20, 3))}, "tiles: the picture of 20 x 15 pixels is smaller than one window of 16 x 16"),
        (
            {"rgb": np.zeros((32, 16, 3)), "feature": np.zeros((8, 5, 2))},
            "tiles: 'feature' of 5 x 8 does not fit to 'rgb' of 16 x 32, which asks for 4 x 8",
        ),
    ],
)
def test_what_cannot_be_cut(sample, sentence):
    with pytest.raises(MmtokError, match=sentence):
        cut(sample, SIZES, overlap=0.5)


def test_windows_are_answered_as_one_batch_and_blended_by_answer():
    again = Modality(name="again", kind="grid", shape=(2, 2), vocabulary=Vocabulary(size=8), show="feature")
    asked = {}

    def run(samples, numbers, windows):
        asked.update(numbers=numbers, windows=windows)
        rows = [(sample, draw) for sample in samples for draw in range(2)]
        return Answers(
            given=tuple(sample for sample, _ in rows),
            made=tuple({"again": sample["rgb"] + 100.0 * draw} for sample, draw in rows),
            fields={},
            targets={"again": again},
            tokens={},
            columns={"again": TokenColumn(np.zeros((len(rows), 4, 1), int), np.full(len(rows), 4))},
            likelihood=Likelihood(np.ones(len(rows)), np.ones(len(rows), int)),
            draws=2,
        )

    rng = np.random.default_rng(0)
    samples = [{"rgb": rng.random((16, 28, 3))}, {"rgb": rng.random((20, 16, 3))}]
    answers = tiled(run, samples, [5, 9], sizes=SIZES, overlap=0.25)
    assert asked == {"numbers": [5, 5, 9, 9], "windows": [0, 1, 0, 1]}
    assert len(answers) == 4
    assert [answer is given for answer, given in zip(answers.given, [samples[0]] * 2 + [samples[1]] * 2)] == [True] * 4
    for place, (sample, draw) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_allclose(answers[place]["again"], samples[sample]["rgb"] + 100 * draw)
    assert answers.likelihood.count.tolist() == [2, 2, 2, 2]
    assert not answers.columns
