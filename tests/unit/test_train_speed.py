"""What a device could do, and what a step makes of it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmtok.project.speed import InputSpeed
from mmtok.train import speed
from mmtok.train.bench import Speed


def test_the_peak_is_that_of_random_products_in_a_row(monkeypatch):
    given, ticks = [], iter(range(100))
    products = speed._products
    monkeypatch.setattr(speed, "_products", lambda matrix, count: given.append(count) or products(matrix, count=count))
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert speed.measure_peak(jax.devices()[0]) == 2 * 2 * 1024**3
    assert given == [2], "compiled once"


def test_products_keep_their_size():
    matrix = jax.random.normal(jax.random.key(0), (256, 256)) / 16
    root = float(jnp.sqrt(jnp.mean(speed._products(matrix, count=10) ** 2)))
    assert 0.2 / 16 < root < 5 / 16
    expected = np.linalg.matrix_power(np.asarray(matrix, np.float64), 11)
    np.testing.assert_allclose(speed._products(matrix, count=10), expected, rtol=1e-3, atol=1e-5)


def test_utilisation_of_both_peaks():
    common = {"compile_seconds": 1.0, "samples": 8, "tokens": 64, "rule": "a rule", "memory": None}
    one = Speed(device="d", devices=2, seconds=0.5, flops={"encoder": 1e12}, peak=4e12, stated=8e12, **common)
    assert "utilisation         50.0%, 25.0% of its maker's 8e+12 FLOP/s" in str(one)
    unknown = Speed(device="d", devices=2, seconds=0.5, flops={"encoder": 1e12}, peak=4e12, stated=None, **common)
    assert "utilisation         50.0%\n" in str(unknown)


@pytest.mark.parametrize(
    ("modalities", "said"),
    [(7, "2.0 x 4M's input at 8 modalities, 128 + 128 tokens"), (21, "4.4 x 4M's input at 19 modalities, 256 + 256")],
)
def test_the_reference_is_said_with_its_setting(modalities, said):
    text = str(InputSpeed(source="random", modalities=modalities, read=None, masked=2016.0))
    assert f"2,016 samples/s by one thread ({said}" in text
