"""The engine on a toy model whose conditional distributions are known exactly."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Known, Sampler, Target
from reference.toy import FOLLOW, JOINT, NEXT, TRACES, Toy, expect, given_c, joint, rows


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(Toy())


# Gumbel noise far above all confidences makes the order of MaskGIT random.
@pytest.mark.parametrize("how", [{"scheme": "halton"}, {"scheme": "roar"}, {"scheme": "maskgit", "noise": 1e4}])
def test_one_token_per_step_samples_the_joint_distribution(sampler, how):
    plan = (Target(modality="x", steps=3, token_schedule="linear", **how),)
    column = sampler.sample(given_c([1] * 3000), plan, seed=1, batch_size=1000)["x"]
    assert (column.length == 3).all()
    expect(rows(column), {key: float(joint(1)[key]) for key in itertools.product(range(3), repeat=3)})


def test_one_step_samples_the_product_of_marginals(sampler):
    column = sampler.sample(given_c([0] * 3000), (Target(modality="x", steps=1),), seed=2, batch_size=1000)["x"]
    marginal = [joint(0).sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    expect(
        rows(column),
        {k: float(np.prod([marginal[i][v] for i, v in enumerate(k)])) for k in itertools.product(range(3), repeat=3)},
    )


def maskgit_distribution(c: int, state: tuple, temperature: float) -> dict[tuple, float]:
    """One token per step: all hidden ones are drawn, the most confident is kept."""
    hidden = [i for i, v in enumerate(state) if v < 0]
    if not hidden:
        return {state: 1.0}
    weight = joint(c)
    for i, v in enumerate(state):
        if v >= 0:
            weight = weight * (np.arange(3) == v).reshape([3 if a == i else 1 for a in range(3)])
    marginal = {}
    for i in hidden:
        p = weight.sum(tuple({0, 1, 2} - {i})) ** (1 / temperature)
        marginal[i] = p / p.sum()
    result: dict[tuple, float] = {}
    for drawn in itertools.product(range(3), repeat=len(hidden)):
        chance = math.prod(marginal[i][v] for i, v in zip(hidden, drawn))
        best = max(range(len(hidden)), key=lambda n: (marginal[hidden[n]][drawn[n]], -n))
        following = tuple(drawn[best] if i == hidden[best] else v for i, v in enumerate(state))
        for outcome, p in maskgit_distribution(c, following, temperature).items():
            result[outcome] = result.get(outcome, 0) + chance * p
    return result


def test_maskgit_keeps_the_most_confident(sampler):
    target = Target(modality="x", scheme="maskgit", token_schedule="linear", steps=3, temperature=0.8)
    column = sampler.sample(given_c([1] * 3000), (target,), seed=3, batch_size=1000)["x"]
    expect(rows(column), maskgit_distribution(1, (-1, -1, -1), 0.8))


def sequence_distribution(c: int, *, words: int, last: int = 5, table=NEXT) -> dict[tuple, float]:
    """All sentences of at most `words` words, the end included in the outcome."""
    legal = [3, 6, *([10, 11, 12, 13, 1] if words else [])]  # end, the closing sentinel, words and the unknown word
    p = np.exp(table[c][last][legal].astype(np.float64))
    p /= p.sum()
    result: dict[tuple, float] = {}
    for token, chance in zip(legal, p):
        if token in (3, 6):
            result[(3,)] = result.get((3,), 0) + chance
        else:
            for rest, q in sequence_distribution(c, words=words - 1, last=token, table=table).items():
                result[(token, *rest)] = result.get((token, *rest), 0) + chance * q
    return result


def test_autoregressive_samples_the_chain(sampler):
    column = sampler.sample(given_c([0] * 4000), (Target(modality="s", length=3),), seed=4, batch_size=1000)["s"]
    expect(rows(column), sequence_distribution(0, words=2))
    assert (column.values[np.arange(6) >= column.length[:, None]] == 0).all()


def unconstrained_distribution(c: int, *, words: int, last: int = 5) -> dict[tuple, float]:
    """The same where every token is drawn, and the sentence cut at the first that is no word."""
    p = np.exp(NEXT[c][last].astype(np.float64))
    p /= p.sum()
    result = {(3,): 1 - p[[1, 2, 10, 11, 12, 13]].sum() if words else 1.0}
    for token in (1, 2, 10, 11, 12, 13) if words else ():
        for rest, q in unconstrained_distribution(c, words=words - 1, last=token).items():
            result[(token, *rest)] = float(p[token] * q)
    return result


def test_unconstrained_sequences_may_draw_anything_and_are_cut(sampler):
    target = Target(modality="s", length=3, constrained=False)
    column = sampler.sample(given_c([0] * 4000), (target,), seed=4, batch_size=1000)["s"]
    expect(rows(column), unconstrained_distribution(0, words=2))


def test_unconstrained_gaps_are_filled_by_what_follows_their_sentinels(sampler):
    visible = np.tile([True, False, True, False, False, False], (200, 1))
    prefix = Known(np.tile([10, 0, 11, 0, 0, 0], (200, 1))[..., None], visible)
    found = set(rows(sampler.sample({"s": prefix}, (Target(modality="s", constrained=False),), seed=15)["s"]))
    for tokens in found:
        assert (tokens[0], tokens[-1]) == (10, 3)
        assert 11 in tokens[1:-1]
        assert not set(tokens[:-1]) & {0, 3, *range(4, 10)}
    assert len({tokens[1:-1].index(11) for tokens in found}) > 1


def test_guided_sequences_follow_the_combined_logits(sampler):
    table = NEXT[2] + 2.5 * (NEXT[1] - NEXT[2])
    plan = (Target(modality="s", length=2, guidance=2.5),)
    column = sampler.sample(given_c([1] * 3000), plan, seed=5, batch_size=1000)["s"]
    expect(rows(column), sequence_distribution(0, words=1, table=table[None]))


def test_guided_grids_follow_the_combined_logits(sampler):
    plan = (Target(modality="x", steps=1, guidance=3.0),)
    column = sampler.sample(given_c([1] * 3000), plan, seed=6, batch_size=1000)["x"]
    marginals = []
    for axis in range(3):
        conditional, free = (np.log(JOINT[c].sum(tuple({0, 1, 2} - {axis}))) for c in (1, 2))
        p = np.exp(free + 3 * (conditional - free))
        marginals.append(p / p.sum())
    expect(
        rows(column),
        {k: float(np.prod([marginals[i][v] for i, v in enumerate(k)])) for k in itertools.product(range(3), repeat=3)},
    )


def test_guidance_keeps_the_targets_own_tokens_visible_in_both_passes(sampler):
    values = np.array([2, 0, 0]).reshape(1, 3, 1).repeat(2000, 0)
    known = given_c([1] * 2000) | {"x": Known(values, np.tile([True, False, True], (2000, 1)))}
    column = sampler.sample(known, (Target(modality="x", steps=1, guidance=2.0),), seed=7, batch_size=1000)["x"]
    conditional, free = np.log(JOINT[1][2, :, 0]), np.log(JOINT[2][2, :, 0])
    p = np.exp(free + 2 * (conditional - free))
    assert (column.values[:, [0, 2], 0] == [2, 0]).all()
    expect(column.values[:, 1, 0].tolist(), dict(enumerate((p / p.sum()).tolist())))


def test_known_tokens_are_kept_and_the_rest_is_generated(sampler):
    rng = np.random.default_rng(0)
    visible = rng.random((20, 3)) < 0.5
    values = rng.integers(0, 3, (20, 3, 1))
    for scheme in ("roar", "maskgit"):
        plan = (Target(modality="x", scheme=scheme, steps=3),)
        made = sampler.generate(given_c([0] * 20) | {"x": Known(values, visible)}, plan, seed=8)["x"]
        assert (made.column.values[visible] == values[visible]).all()
        assert ((made.log_probs[..., 0] < 0) == ~visible).all()
        assert (made.column.values >= 0).all()
        assert (made.column.values < 3).all()


def test_codes_are_sampled_independently_from_their_own_heads(sampler):
    known = {"x": Known(np.full((3000, 3, 1), 2), np.ones((3000, 3), bool))}
    values = sampler.sample(known, (Target(modality="y", steps=2),), seed=9, batch_size=1000)["y"].values
    p = np.exp(FOLLOW[2]) / np.exp(FOLLOW[2]).sum(-1, keepdims=True)
    bits = itertools.product(range(2), repeat=4)
    expect(
        [tuple(row) for row in values.reshape(-1, 4).tolist()],
        {b: float(np.prod([p[i // 2, i % 2, v] for i, v in enumerate(b)])) for b in bits},
    )


def test_later_targets_are_conditioned_on_earlier_ones(sampler):
    plan = (Target(modality="x", steps=3), Target(modality="y", steps=2, temperature=0.0))
    made = sampler.sample(given_c([0, 1] * 10), plan, seed=10)
    first = made["x"].values[:, 0, 0]
    assert len(set(first.tolist())) > 1
    assert (made["y"].values == FOLLOW[first].argmax(-1)).all()  # changing x changes y


def test_earlier_targets_do_not_depend_on_later_ones(sampler):
    x = Target(modality="x", steps=3)
    alone = sampler.sample(given_c([0] * 20), (x,), seed=11)["x"]
    chain = sampler.sample(given_c([0] * 20), (x, Target(modality="s"), Target(modality="y", steps=1)), seed=11)["x"]
    assert (alone.values == chain.values).all()


def test_batches_equal_one_by_one(sampler):
    c, known_x = np.arange(20) % 2, np.random.default_rng(1).random((20, 3)) < 0.4
    known = given_c(c) | {"x": Known(np.ones((20, 3, 1), int), known_x)}
    known["s"] = Known(np.tile([10, 11, 12, 3, 0, 0], (20, 1))[..., None], np.arange(6) < (np.arange(20) % 5)[:, None])
    plan = (
        Target(modality="x", scheme="maskgit", steps=2, top_p=0.9),
        Target(modality="s", top_k=3, guidance=1.5),
        Target(modality="y", steps=2, guidance=2.0),
    )
    together = sampler.generate(known, plan, seed=12)
    split = sampler.generate(known, plan, seed=12, batch_size=13)
    for row in range(0, 20, 2):
        alone = sampler.generate({name: item[[row]] for name, item in known.items()}, plan, seed=12, samples=[row])
        for name, item in together.items():
            assert (item.column.values[row] == alone[name].column.values[0]).all()
            assert (item.column.values[row] == split[name].column.values[row]).all()
            assert item.column.length[row] == alone[name].column.length[0]
            np.testing.assert_allclose(item.log_probs[row], alone[name].log_probs[0], rtol=1e-4, atol=1e-5)


def test_seeds_and_sample_numbers_decide_the_result(sampler):
    plan = (Target(modality="x", steps=3),)
    first, again, other = (sampler.sample(given_c([0] * 20), plan, seed=seed)["x"].values for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    moved = sampler.sample(given_c([0] * 20), plan, seed=1, samples=range(1, 21))["x"].values
    assert (moved[:-1] == first[1:]).all()


def test_greedy_ignores_the_seed(sampler):
    plan = (Target(modality="x", steps=1, temperature=0.0), Target(modality="s", temperature=0.0))
    one, two = (sampler.sample(given_c([0, 1] * 10), plan, seed=seed) for seed in (1, 2))
    marginal = [[joint(c).sum(tuple({0, 1, 2} - {axis})).argmax() for axis in range(3)] for c in [0, 1] * 10]
    assert (one["x"].values[..., 0] == marginal).all()
    assert (one["s"].values == two["s"].values).all()


def test_greedy_maskgit_reveals_the_surest_first(sampler):
    plan = (Target(modality="x", scheme="maskgit", token_schedule="linear", steps=3, temperature=0.0),)
    state, sure = [-1, -1, -1], joint(1)
    while -1 in state:
        best = max(
            (float(sure.sum(tuple({0, 1, 2} - {a})).max() / sure.sum()), -a, a) for a in range(3) if state[a] < 0
        )[2]
        state[best] = int(sure.sum(tuple({0, 1, 2} - {best})).argmax())
        sure = sure * (np.arange(3) == state[best]).reshape([3 if a == best else 1 for a in range(3)])
    assert sampler.sample(given_c([1] * 20), plan, seed=3)["x"].values[0, :, 0].tolist() == state


def test_log_probs_are_the_models(sampler):
    made = sampler.generate(given_c([0] * 20), (Target(modality="s", temperature=0.5),), seed=13)["s"]
    for tokens, scores in zip(rows(made.column), made.log_probs[..., 0]):
        last, room = 5, 5
        for token, score in zip(tokens, scores):
            legal = [3, 6, *([10, 11, 12, 13, 1] if room else [])]
            p = NEXT[0][last][legal] - np.log(np.exp(NEXT[0][last][legal]).sum())
            options = [p[legal.index(token)]] + ([p[1]] if token == 3 else [])
            assert min(abs(option - score) for option in options) < 1e-4
            last, room = token, room - 1


def test_sequences_never_exceed_their_length_and_always_end(sampler):
    for length in (1, 2, 6):
        column = sampler.sample(given_c([0] * 20), (Target(modality="s", length=length),), seed=14)["s"]
        assert all(row[-1] == 3 and 3 not in row[:-1] and 1 <= len(row) <= length for row in rows(column))


def test_gaps_of_a_sequence_are_filled_where_they_are(sampler):
    values = np.tile([10, 0, 11, 0, 0, 0], (20, 1))[..., None]
    prefix = Known(values, np.tile([True, False, True, False, False, False], (20, 1)))
    for tokens in rows(sampler.sample({"s": prefix}, (Target(modality="s"),), seed=15)["s"]):
        assert tokens[0] == 10
        assert 11 in tokens[1:]
        assert tokens[-1] == 3
        assert not set(tokens[:-1]) & {0, 2, 3, *range(4, 10)}
    ended = Known(
        np.tile([10, 0, 3, 0, 0, 0], (20, 1))[..., None], np.tile(np.array([1, 0, 1, 0, 0, 0], bool), (20, 1))
    )
    results = rows(sampler.sample({"s": ended}, (Target(modality="s"),), seed=16)["s"])
    assert all(tokens[0] == 10 and tokens[-1] == 3 and tokens.count(3) == 1 and len(tokens) <= 6 for tokens in results)
    assert len({len(tokens) for tokens in results}) > 1  # a gap has no fixed length


def test_whole_sequences_are_left_alone(sampler):
    whole = Known.whole(TokenColumn(np.array([[10, 12, 3, 0, 0, 0]])[..., None], np.array([3], np.int32)))
    made = sampler.generate({"s": whole}, (Target(modality="s"),), seed=0)["s"]
    assert rows(made.column) == [(10, 12, 3)]
    assert not made.log_probs.any()


def test_absent_conditions_of_single_samples(sampler):
    """Samples 0, 2, .. know c, the others do not; both as in batches of their own."""
    column = TokenColumn(np.ones((40, 1, 1), np.int32), (np.arange(40) % 2 == 0).astype(np.int32))
    plan = (Target(modality="x", steps=3),)
    mixed = sampler.sample({"c": Known.whole(column)}, plan, seed=17, batch_size=20)["x"].values
    absent = sampler.sample({}, plan, seed=17, samples=range(1, 40, 2))["x"].values
    there = sampler.sample(given_c([1] * 20), plan, seed=17, samples=range(0, 40, 2))["x"].values
    assert (mixed[1::2] == absent).all()
    assert (mixed[::2] == there).all()


def test_no_recompilation_across_calls(sampler):
    plan = (Target(modality="x", steps=2), Target(modality="s"), Target(modality="y", steps=1, guidance=1.7))
    part = {"x": Known(np.zeros((20, 3, 1), int), np.tile([True, False, False], (20, 1)))}
    sampler.sample(given_c([0] * 20), plan, seed=0)
    sampler.sample(part, plan[:1], seed=0)
    before = len(TRACES)
    for seed, count in ((1, 20), (2, 20)):
        sampler.sample(given_c(np.arange(count) % 2), plan, seed=seed)
    warmer = tuple(dataclasses.replace(target, temperature=0.3, guidance=1.1 * target.guidance) for target in plan[:2])
    sampler.sample(given_c([1] * 20), plan[:2], seed=3)
    sampler.sample(part, plan[:1], seed=3)
    Sampler(Toy()).sample(given_c([1] * 20), plan, seed=4)
    assert len(TRACES) == before
    sampler.sample(given_c([1] * 20), warmer, seed=3)  # guidance switched on: twice the rows
    assert len(TRACES) > before


def test_sample_numbers_must_fit(sampler):
    plan = (Target(modality="x", steps=1),)
    assert len(sampler.sample({}, plan, samples=range(5))["x"].values) == 5
    with pytest.raises(MmtokError, match="samples holds 3 numbers, but 2 samples are given"):
        sampler.sample(given_c([0, 1]), plan, samples=range(3))
    with pytest.raises(MmtokError, match="batch_size must be at least 1"):
        sampler.sample(given_c([0, 1]), plan, batch_size=0)
