"""`mmtok.load` on a trained model: what Python users do."""

import numpy as np
import pytest

import mmtok


@pytest.fixture(scope="module")
def model(tiny):
    return mmtok.load(tiny.model)


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_answers_to_a_sample_do_not_hang_on_the_others(model):
    settings = {"draws": 2, "seed": 3, "temperature": 1.0, "steps": 2}
    both = model.sample([{"rgb": photo(0)}, {"rgb": photo(1)}], ["camera", "depth"], **settings)
    assert (len(both), both[0]["depth"].shape, both[0]["depth"].dtype) == (4, (32, 32), np.float32)
    alone = model.sample({"rgb": photo(1)}, ["camera", "depth"], numbers=[1], **settings)
    for ours, theirs in zip(both[2:], alone, strict=True):
        np.testing.assert_array_equal(ours["camera"], theirs["camera"])
    first, second = (both.tokens["camera"].column.values[row] for row in (0, 1))
    assert (first != second).any()
    assert both.picture().height > 4 * 160


def test_scores_of_an_answer(model):
    sample = {"rgb": photo(0)}
    settings = {"temperature": 1.0, "steps": 2, "guidance": 1.0, "seed": 5}
    (answer,) = model.sample(sample, "camera", **settings)
    scores = model.score(sample, answer, **settings)
    column = scores.tokens["camera"].column
    np.testing.assert_array_equal(column.values, model.tokenizers["camera"].encode([answer["camera"]]).values)
    total = scores.total["camera"]
    assert total.shape == (1,)
    assert total[0] < 0
    np.testing.assert_allclose(scores.per_token["camera"] * column.values[0].size, total, rtol=1e-5)


def test_features_of_one_sample_and_of_several(model):
    one, both = model.embed({"rgb": photo(0)}), model.embed([{"rgb": photo(0)}, {"rgb": photo(1)}])
    assert (one.pooled.shape, both.pooled.shape) == ((1, 32), (2, 32))
    np.testing.assert_allclose(one.pooled[0], both.pooled[0], atol=1e-5)
