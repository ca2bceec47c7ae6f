"""Token and temperature schedules against the golden values of the 4M specification (section 5.2)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtok.errors import MmtokError
from mmtok.generate.schedules import TOKEN_SCHEDULES, cosine, linear, ramp, temperatures


def test_cosine_golden():
    assert cosine(8, 784).tolist() == [30, 85, 127, 150, 150, 127, 85, 30]
    few = [1, 2, 4, 5, 7, 8, 9, 10, 11, 11, 12, 12, 12, 12, 12, 11, 11, 10, 9, 8, 7, 5, 4, 2, 1]
    assert cosine(25, 196).tolist() == few


def test_linear_golden():
    assert linear(25, 196).tolist() == [8] * 21 + [7] * 4
    assert linear(8, 196).tolist() == [25] * 4 + [24] * 4
    assert linear(50, 196).tolist() == [4] * 46 + [3] * 4
    assert linear(5, 3).tolist() == [1, 1, 1, 0, 0]


def test_onex_golden():
    found = temperatures("onex:0.5:0.5", 3.0, linear(8, 196))
    np.testing.assert_allclose(found, [2.6811, 1.9782, 1.5365, 1.2205, 0.9841, 0.7936, 0.6351, 0.5], atol=5e-5)
    found = temperatures("onex:0.5:0.5", 6.0, cosine(8, 784))
    np.testing.assert_allclose(found, [5.7895, 4.8919, 3.8519, 2.7962, 1.8486, 1.112, 0.653, 0.5], atol=5e-5)


def test_constant_and_linear_temperature():
    counts = np.array([4, 3, 2, 1])
    assert temperatures("constant", 0.7, counts).tolist() == [0.7] * 4
    np.testing.assert_allclose(temperatures("linear", 2.0, counts), [2.0, 1.2, 0.6, 0.2])
    assert temperatures("linear", 0.0, counts).tolist() == [0.0] * 4  # greedy stays greedy


@given(st.sampled_from(sorted(TOKEN_SCHEDULES)), st.integers(1, 40), st.integers(0, 300))
def test_every_schedule_reveals_every_token_once(name, steps, tokens):
    counts = TOKEN_SCHEDULES[name](steps, tokens)
    assert len(counts) == steps
    assert counts.sum() == tokens
    assert (counts >= 0).all()


@given(st.sampled_from(["constant", "linear", "onex:0.5:0.5", "onex:0:0"]), st.integers(1, 9), st.integers(0, 30))
def test_temperatures_are_positive_and_finite(name, steps, tokens):
    found = temperatures(name, 1.5, linear(steps, tokens))
    assert found.shape == (steps,)
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize("schedule", ["onex", "onex:1", "onex:a:b", "constant:1", "onex:-1:1", "onex:1:inf"])
def test_malformed_schedules(schedule):
    with pytest.raises(MmtokError, match="expected constant, linear or onex:LOW:POWER"):
        temperatures(schedule, 1.0, linear(2, 4))


def test_unknown_schedule():
    with pytest.raises(MmtokError, match="unknown temperature schedule 'linaer'"):
        temperatures("linaer", 1.0, linear(2, 4))


def test_guidance_rises_with_the_share_of_revealed_tokens():
    counts = np.array([4, 3, 2, 1])
    assert ramp("constant", counts).tolist() == [1] * 4
    np.testing.assert_allclose(ramp("linear", counts), [0.4, 0.7, 0.9, 1])
    np.testing.assert_allclose(ramp("cosine", counts), np.sin(np.pi / 2 * np.array([0.4, 0.7, 0.9, 1])) ** 2)
    assert ramp("linear", np.array([0, 0])).tolist() == [0, 0]  # nothing to reveal
