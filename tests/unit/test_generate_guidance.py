"""Guidance by weighted conditions, against the toy model's exact distributions."""

import itertools

import numpy as np
import pytest

from mmtok.errors import MmtokError
from mmtok.generate import Known, Sampler, Target
from mmtok.generate.context import show
from mmtok.generate.passes import coefficients, views
from mmtok.modality import Modality, Vocabulary
from reference.toy import JOINT, NEXT, Toy, expect, given_c, rows


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(Toy())


@pytest.mark.parametrize("weight", [2.0, -1.0])
def test_weighted_conditions_of_a_grid(sampler, weight):
    plan = (Target(modality="x", steps=1, weights={"c": weight}),)
    column = sampler.sample(given_c([1] * 3000), plan, seed=1, batch_size=1000)["x"]
    marginals = []
    for axis in range(3):
        conditional, free = (np.log(JOINT[c].sum(tuple({0, 1, 2} - {axis}))) for c in (1, 2))
        p = np.exp(free + weight * (conditional - free))
        marginals.append(p / p.sum())
    outcomes = itertools.product(range(3), repeat=3)
    expect(rows(column), {o: float(np.prod([marginals[i][v] for i, v in enumerate(o)])) for o in outcomes})


def test_negative_weights_of_a_sequence(sampler):
    """One word at most, drawn from the logits that point away from the condition."""
    table = NEXT[2] - 1.5 * (NEXT[0] - NEXT[2])
    plan = (Target(modality="s", length=2, weights={"c": -1.5}),)
    column = sampler.sample(given_c([0] * 3000), plan, seed=2, batch_size=1000)["s"]
    p = np.exp(table[5][[3, 6, 1, 10, 11, 12, 13]].astype(np.float64))
    p /= p.sum()
    expect(rows(column), {(3,): p[0] + p[1], **{(word, 3): chance for word, chance in zip((1, 10, 11, 12, 13), p[2:])}})


def test_one_weight_is_plain_guidance(sampler):
    for name in ("x", "s"):
        single = sampler.generate(given_c([0, 1] * 10), (Target(modality=name, guidance=2.5),), seed=3)[name]
        weighted = sampler.generate(given_c([0, 1] * 10), (Target(modality=name, weights={"c": 2.5}),), seed=3)[name]
        assert (single.column.values == weighted.column.values).all()
        np.testing.assert_allclose(single.log_probs, weighted.log_probs, atol=1e-4)


def test_a_weight_of_an_absent_condition_changes_nothing(sampler):
    """Of 20 samples every other one lacks c."""
    known = given_c([1] * 20)["c"]
    known = {"c": Known(known.values, known.visible & (np.arange(20) % 2 == 0)[:, None])}
    mixed = sampler.sample(known, (Target(modality="x", weights={"c": 3.0}),), seed=4)["x"]
    without = sampler.sample({}, (Target(modality="x"),), seed=4, samples=range(20))["x"]
    assert (mixed.values[1::2] == without.values[1::2]).all()
    assert (mixed.values[::2] != without.values[::2]).any()


def test_rising_guidance(sampler):
    """The first token is drawn almost without guidance, the last one with all of it."""
    counts = np.array([1, 1, 1])
    rising = Target(modality="x", guidance=4.0, guidance_schedule="linear")
    np.testing.assert_allclose(coefficients(rising, ["c"], counts), [[2, -1], [3, -2], [4, -3]])
    weighted = Target(modality="x", weights={"a": 3.0, "b": -1.5}, guidance_schedule="linear")
    np.testing.assert_allclose(
        coefficients(weighted, ["a", "b"], counts), [[1, -0.5, 0.5], [2, -1, 0], [3, -1.5, -0.5]]
    )
    assert coefficients(rising, [], counts).tolist() == [[1], [1], [1]]  # nothing to be guided by
    full = sampler.generate(given_c([1] * 20), (Target(modality="x", steps=1, guidance=4.0),), seed=5)["x"]
    once = Target(modality="x", steps=1, guidance=4.0, guidance_schedule="cosine")
    assert (sampler.generate(given_c([1] * 20), (once,), seed=5)["x"].log_probs == full.log_probs).all()


GRID = Vocabulary(size=5)
ITEMS = {
    name: Modality(name=name, kind="grid", shape=(2, 2), vocabulary=GRID) for name in ("target", "a", "b", "always")
}


def test_each_pass_sees_one_weighted_condition_and_all_that_has_no_weight():
    whole = Known(np.ones((1, 4, 1), np.int32), np.ones((1, 4), bool))
    part = Known(whole.values, np.array([[True, False, False, False]]))
    state = {"target": part, "a": whole, "b": whole, "always": whole}
    passes = views(Target(modality="target", weights={"a": 2.0, "b": -1.0}), state, ITEMS)
    seen = [{name for name, item in view.items() if item.valid.any()} for view in passes]
    assert seen == [{"target", "always", "a"}, {"target", "always", "b"}, {"target", "always"}]
    single = views(Target(modality="target", guidance=2.0), state, ITEMS)
    assert [{name for name, item in view.items() if item.valid.any()} for view in single] == [{*state}, {"target"}]
    (plain,) = views(Target(modality="target"), state, ITEMS)
    assert (plain["target"].valid == show(part, ITEMS["target"], asked=np.ones(1, bool)).valid).all()


def test_a_condition_must_be_there(sampler):
    with pytest.raises(MmtokError, match="its condition 'c' is neither given nor generated before it"):
        sampler.sample({}, (Target(modality="x", weights={"c": 2.0}),))
