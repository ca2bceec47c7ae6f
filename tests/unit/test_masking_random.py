import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmtok.masking import budgets
from mmtok.masking.random import Draws


def draws(count: int, seed: int = 0) -> Draws:
    return Draws.of(np.arange(count), seed=seed, step=0)


def test_the_generator_is_splitmix64():
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # published outputs for seed 0
    assert Draws(np.zeros(1, np.uint64)).bits(3)[0].tolist() == expected


def test_streams_seeds_and_rows_are_independent():
    base = draws(4)
    rows = [*base.keys, *draws(4, seed=1).keys, *base.stream(0).keys, *base.stream(1).keys, *base.stream(1, 0).keys]
    assert len(set(rows)) == len(rows)
    huge = Draws.of(np.array([-1, 2**62]), seed=2**80 + 1, step=10**12)
    assert len(set(huge.keys)) == 2


def test_uniform_numbers_are_uniform_within_and_across_rows():
    numbers = draws(400).uniform(250)
    assert 0 < numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(numbers[:, 0], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.2
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.2


def test_permutations_hold_every_index_once_and_are_uniform():
    orders = draws(6000).permutation(3)
    assert (np.sort(orders, axis=1) == np.arange(3)).all()
    counts = np.bincount(orders[:, 0] * 3 + orders[:, 1], minlength=9)
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    assert (counts > 0).sum() == 6


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 5.0, 1000.0])
def test_gamma_variates_have_the_right_distribution(alpha):
    numbers = draws(2000).log_gamma(np.full((2000, 4), alpha))
    assert stats.kstest(np.exp(numbers.ravel()), "gamma", args=(alpha,)).pvalue > 1e-3


def test_tiny_concentrations_give_finite_logarithms_that_pick_one():
    weights = draws(3000).log_gamma(np.full((3000, 3), 1e-9))
    assert np.isfinite(weights).all()
    counts = np.bincount(weights.argmax(axis=1), minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


@settings(max_examples=200, deadline=None)
@given(
    caps=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    weights=st.lists(st.floats(-1e9, 50), min_size=8, max_size=8),
    total=st.integers(0, 100),
    rounding=st.floats(1e-9, 1 - 1e-9),
)
def test_fill_divides_like_water(caps, weights, total, rounding):
    weights = weights[: len(caps)]
    result = budgets.fill(
        np.array([weights]), caps=np.array([caps]), total=np.array([total]), rounding=np.array([[rounding]])
    )[0]
    assert result.sum() == min(total, sum(caps))
    assert (result >= 0).all()
    assert (result <= caps).all()
    assert np.abs(result - poured(weights, caps, total)).max() <= 1 + 1e-6


def poured(weights: list[float], caps: list[int], total: int) -> np.ndarray:
    """min(cap, level * weight) by handing the excess on until nobody overflows."""
    share, full = np.zeros(len(caps)), np.array(caps) == 0
    left = min(total, sum(caps))
    while left > 1e-9 and not full.all():
        log = np.where(full, -np.inf, weights)
        part = np.exp(log - log.max())
        wish = left * part / part.sum()
        over = ~full & (wish >= np.array(caps) - 1e-12)
        if not over.any():
            return np.where(full, share, wish)
        share[over] = np.array(caps)[over]
        full |= over
        left = min(total, sum(caps)) - share.sum()
    return share


def test_rounding_keeps_expectations():
    rounding = draws(20000).uniform(1)
    weights = np.tile(np.log([[0.5, 0.3, 0.2]]), (20000, 1))
    caps = np.full((20000, 3), 9)
    result = budgets.fill(weights, caps=caps, total=np.full(20000, 7), rounding=rounding)
    np.testing.assert_allclose(result.mean(axis=0), [3.5, 2.1, 1.4], atol=0.02)


def test_subsets_fit_and_have_uniform_sizes():
    pool = np.tile([[True, False, True, True, True]], (8000, 1))
    cost = np.full((8000, 5), 1)
    picked = budgets.subset(draws(8000), pool, cost=cost, total=np.full(8000, 4))
    assert not picked[:, 1].any()
    counts = np.bincount(picked.sum(axis=1), minlength=5)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    tight = budgets.subset(draws(8000), pool, cost=cost * 3, total=np.full(8000, 7))
    assert set(tight.sum(axis=1)) == {1, 2}
    assert (budgets.subset(draws(8000), pool, cost=cost * 3, total=np.full(8000, 1)).sum(axis=1) == 1).all()
