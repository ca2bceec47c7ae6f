"""What the engine says of tokens: log-probabilities, entropies, and scores of given outputs."""

import dataclasses

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Known, Sampler, Target
from mmtok.grammar import ILLEGAL, Grammar
from reference.toy import NEXT, WORDS, Toy, given_c, joint, rows

_classes = np.zeros(WORDS.size, np.int32)
_classes[[10, 11]], _classes[[12, 13]] = 1, 2
_step = np.array([[ILLEGAL, 1, ILLEGAL], [ILLEGAL, ILLEGAL, 0]], np.int32)
PAIRS = Grammar(_classes, _step, np.array([True, False]))  # (10 or 11, then 12 or 13), any number of times


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(Toy())


def entropy(p: np.ndarray) -> float:
    p = p / p.sum()
    return float(-(p * np.log(p)).sum())


def test_entropies_of_a_grid_in_one_step(sampler):
    made = sampler.generate(given_c([1] * 20), (Target(modality="x", steps=1, temperature=0.2, top_k=1),), seed=1)["x"]
    expected = [entropy(joint(1).sum(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    np.testing.assert_allclose(made.entropies[..., 0], np.tile(expected, (20, 1)), rtol=1e-4)


def test_entropies_of_a_sequence_are_those_of_the_legal_tokens(sampler):
    made = sampler.generate(given_c([0] * 20), (Target(modality="s", length=3),), seed=2)["s"]
    for tokens, found in zip(rows(made.column), made.entropies[..., 0]):
        last, room = 5, 2
        for token, value in zip(tokens, found):
            legal = [3, 6, *([10, 11, 12, 13, 1] if room else [])]
            assert value == pytest.approx(entropy(np.exp(NEXT[0][last][legal].astype(np.float64))), abs=1e-4)
            last, room = token, room - 1
        assert not found[len(tokens) :].any()


PLANS = [
    (Target(modality="x", steps=2), Target(modality="y", steps=2)),
    (Target(modality="x", scheme="roar", steps=3, guidance=2.0, guidance_schedule="linear"),),
    (Target(modality="s"), Target(modality="x", steps=1)),
    (Target(modality="s", weights={"c": 1.5}, length=4),),
]


@pytest.mark.parametrize("plan", PLANS)
def test_scoring_what_was_generated_says_the_same(sampler, plan):
    known = given_c([0, 1] * 10)
    made = sampler.generate(known, plan, seed=3)
    outputs = {name: item.column for name, item in made.items()}
    scored = sampler.score(known, plan, outputs, seed=3)
    for name, item in made.items():
        assert (scored[name].column.values == item.column.values).all()
        if name == "s":  # the sentinel that closes a span may have been drawn in place of the end
            words = np.cumsum(item.column.values == 3, axis=1) == 0
            np.testing.assert_allclose(scored[name].log_probs[words], item.log_probs[words], atol=1e-5)
            np.testing.assert_allclose(scored[name].entropies[words], item.entropies[words], atol=1e-5)
        else:
            np.testing.assert_allclose(scored[name].log_probs, item.log_probs, atol=1e-5)
            np.testing.assert_allclose(scored[name].entropies, item.entropies, atol=1e-5)


def test_token_by_token_scores_are_the_exact_likelihood(sampler):
    """Whatever the order of the positions, the chain rule gives the joint probability."""
    values = np.array([[0, 2, 1], [1, 1, 1], [2, 0, 0]], np.int32)
    column = TokenColumn(values[..., None], np.full(3, 3, np.int32))
    for seed in range(3):
        scored = sampler.score(given_c([1] * 3), (Target(modality="x", steps=3),), {"x": column}, seed=seed)["x"]
        expected = np.log([joint(1)[tuple(row)] for row in values])
        np.testing.assert_allclose(scored.log_probs.sum((1, 2)), expected, rtol=1e-4)


def test_scores_of_sequences_by_hand(sampler):
    column = TokenColumn(
        np.array([[11, 13, 3, 0, 0, 0], [3, 0, 0, 0, 0, 0]], np.int32)[..., None], np.array([3, 1], np.int32)
    )
    scored = sampler.score(given_c([1, 0]), (Target(modality="s"),), {"s": column})["s"].log_probs[..., 0]
    legal = [3, 6, 10, 11, 12, 13, 1]
    for row, (c, tokens) in enumerate([(1, (11, 13, 3)), (0, (3,))]):
        last = 5
        for place, token in enumerate(tokens):
            logits = NEXT[c][last].astype(np.float64)
            assert scored[row, place] == pytest.approx(logits[token] - np.log(np.exp(logits[legal]).sum()), abs=1e-4)
            last = token
        assert not scored[row, len(tokens) :].any()


def test_grammars_keep_every_output_well_formed():
    sampler = Sampler(Toy(), grammars={"s": PAIRS})
    for length in (1, 2, 3, 4, 6):
        column = sampler.sample(given_c([0, 1] * 20), (Target(modality="s", length=length),), seed=4)["s"]
        found = rows(column)
        assert all(PAIRS.accepts(list(tokens[:-1])) and tokens[-1] == 3 and len(tokens) <= length for tokens in found)
        assert len({*found}) > 1 or length < 3  # the end needs a place of its own
    free = sampler.sample(given_c([0] * 40), (Target(modality="s", constrained=False),), seed=4)["s"]
    assert not all(PAIRS.accepts(list(tokens[:-1])) for tokens in rows(free))


def test_grammars_share_out_the_probability_of_what_they_forbid():
    sampler = Sampler(Toy(), grammars={"s": PAIRS})
    column = TokenColumn(
        np.array([[10, 12, 3, 0, 0, 0], [10, 11, 3, 0, 0, 0]], np.int32)[..., None], np.array([3, 3], np.int32)
    )
    scored = sampler.score(given_c([0, 0]), (Target(modality="s"),), {"s": column})["s"].log_probs[..., 0]
    first, second, end = NEXT[0][5], NEXT[0][10], NEXT[0][12]
    expected = [
        first[10] - np.log(np.exp(first[[3, 6, 10, 11]]).sum()),
        second[12] - np.log(np.exp(second[[12, 13]]).sum()),
        end[3] - np.log(np.exp(end[[3, 6, 10, 11]]).sum()),
    ]
    np.testing.assert_allclose(scored[0, :3], expected, atol=1e-4)
    assert scored[1, 1] == -np.inf  # 11 may not follow 10


def test_draws_are_different_answers_to_the_same_sample(sampler):
    plan = (Target(modality="x", steps=3), Target(modality="s"))
    plain = sampler.sample(given_c([1] * 20), plan, seed=5)
    first = sampler.sample(given_c([1] * 20), plan, seed=5, draws=[0] * 20)
    others = sampler.sample(
        given_c([1] * 40), plan, seed=5, samples=[*range(20)] * 2, draws=[0] * 20 + [1] * 20, batch_size=7
    )
    for name in plain:
        assert (plain[name].values == first[name].values).all()
        assert (plain[name].values == others[name].values[:20]).all()
        assert (plain[name].values != others[name].values[20:]).any()
    with pytest.raises(MmtokError, match="draws holds 3 numbers, but 20 samples are given"):
        sampler.sample(given_c([1] * 20), plan, draws=[0, 1, 2])


def test_what_cannot_be_scored(sampler):
    plan, column = (Target(modality="s"),), TokenColumn(np.full((2, 6, 1), 3, np.int32), np.ones(2, np.int32))
    with pytest.raises(MmtokError, match="unknown output to score 's'"):
        sampler.score(given_c([0, 1]), plan, {})
    with pytest.raises(MmtokError, match="output 's': a part of it is known"):
        sampler.score({"s": Known.whole(column)}, plan, {"s": column})
    absent = dataclasses.replace(column, length=np.array([1, 0], np.int32))
    with pytest.raises(MmtokError, match="output 's': some samples have none"):
        sampler.score(given_c([0, 1]), plan, {"s": absent})
    with pytest.raises(MmtokError, match="numbers of samples differ: c 3, output s 2"):
        sampler.score(given_c([0, 1, 0]), plan, {"s": column})
