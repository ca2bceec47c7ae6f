import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmtok.errors import MmtokError
from mmtok.tokenizers.diffusion import NoiseConfig, SamplerConfig, advance, noised, sample, starting_noise, steps

AT = [0, 1, 100, 250, 500, 750, 900, 998, 999]
GOLDEN = {  # computed by the PyTorch implementation of 4M
    "linear": [0.9999, 0.999779, 0.89449, 0.518861, 0.0752462, 0.00264411, 1.03038e-4, 4.21327e-9, 0],
    "squared_cosine": [0.999959, 0.999913, 0.971574, 0.845881, 0.492265, 0.143156, 0.0236033, 2.27781e-6, 0],
    "shifted_cosine": [1.0, 0.999999, 0.993755, 0.958783, 0.799496, 0.405372, 0.0896787, 9.88928e-6, 0],
}
BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "scaled_linear": np.linspace(1e-2, 0.02**0.5, 1000) ** 2,
    "sigmoid": 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.02 - 1e-4) + 1e-4,
}


@pytest.mark.parametrize("schedule", GOLDEN)
def test_schedules_agree_with_those_of_4m(schedule: Any):
    signal = NoiseConfig(schedule=schedule, shift=0.5).signal()
    np.testing.assert_allclose(signal[AT], GOLDEN[schedule], rtol=2e-5)


@pytest.mark.parametrize(
    ("schedule", "levels"),
    [
        ("linear", {218: 0.607654691, 500: 0.0777966529, 750: 0.00330015854, 999: 4.03583035e-05}),
        ("scaled_linear", {273: 0.78350395, 500: 0.331274629, 750: 0.0381496511, 999: 0.000733411987}),
    ],
)
def test_schedules_are_rounded_as_by_pytorch(schedule: Any, levels: dict[int, float]):
    signal = NoiseConfig(schedule=schedule, zero_terminal=False).signal()
    np.testing.assert_array_equal(signal[list(levels)], np.array(list(levels.values()), np.float32))


@pytest.mark.parametrize("schedule", BETAS)
def test_schedules_agree_with_their_closed_forms(schedule: Any):
    plain = np.cumprod(1 - BETAS[schedule])
    np.testing.assert_allclose(NoiseConfig(schedule=schedule, zero_terminal=False).signal(), plain, rtol=1e-4)
    root = np.sqrt(plain)
    rescaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    np.testing.assert_allclose(NoiseConfig(schedule=schedule).signal(), rescaled, rtol=1e-3, atol=1e-8)


def test_visited_levels():
    assert SamplerConfig(steps=25).times(1000).tolist() == list(range(999, 0, -40))
    assert len(SamplerConfig(steps=30).times(1000)) == 31  # as in 4M: the stride is rounded down
    assert SamplerConfig(steps=4, spacing="leading").times(1000).tolist() == [750, 500, 250, 0]
    assert SamplerConfig(steps=4, spacing="linspace").times(1000).tolist() == [999, 666, 333, 0]
    assert SamplerConfig(steps=25, method="ddpm").times(1000)[0] == 960
    with pytest.raises(MmtokError, match=r"steps must be 1 \.\. 10, the number of noise levels, found 11"):
        SamplerConfig(steps=11).times(10)


CASES = list(itertools.product(["sample", "epsilon", "velocity"], ["linear", "squared_cosine", "shifted_cosine"]))


@pytest.mark.parametrize(("prediction", "schedule"), CASES)
def test_a_perfect_network_leads_from_its_noise_to_the_picture(prediction: Any, schedule: Any):
    spacing: Any = "leading" if prediction == "epsilon" else "trailing"
    config = NoiseConfig(prediction=prediction, schedule=schedule, shift=0.5)
    sampler = SamplerConfig(steps=5, spacing=spacing)
    clean, epsilon = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
    start, _ = noised(config, clean, epsilon, jnp.full(2, sampler.times(1000)[0]))
    result = sample(lambda x, time: noised(config, clean, epsilon, time)[1], start, noise=config, sampler=sampler)
    np.testing.assert_allclose(result, clean, atol=1e-4)


def reference(method, prediction, clip, x, out, now, after, draw):
    """One step by the formulas of the papers."""
    clean, epsilon = {
        "sample": lambda: (out, (x - np.sqrt(now) * out) / np.sqrt(1 - now)),
        "epsilon": lambda: ((x - np.sqrt(1 - now) * out) / np.sqrt(now), out),
        "velocity": lambda: (
            np.sqrt(now) * x - np.sqrt(1 - now) * out,
            np.sqrt(now) * out + np.sqrt(1 - now) * x,
        ),
    }[prediction]()
    clean = np.clip(clean, -1, 1) if clip else clean
    if method == "ddim":
        return np.sqrt(after) * clean + np.sqrt(1 - after) * epsilon
    beta = 1 - now / after
    mean = np.sqrt(after) * beta / (1 - now) * clean + np.sqrt(1 - beta) * (1 - after) / (1 - now) * x
    return mean + np.sqrt(max((1 - after) / (1 - now) * beta, 1e-20)) * draw


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("prediction", ["sample", "epsilon", "velocity"])
def test_steps_agree_with_the_papers(method: Any, prediction: Any, clip: bool):
    config = NoiseConfig(prediction=prediction, clip=clip, steps=100)
    sampler = SamplerConfig(method=method, steps=10, spacing="leading")
    table, signal = steps(config, sampler), config.signal().astype(np.float64)
    rng = np.random.default_rng(1)
    for index, time in enumerate(table.time):
        x, out, draw = rng.normal(size=(3, 2, 5))
        after = signal[time - 10] if time >= 10 else 1.0
        want = reference(method, prediction, clip, x, out, signal[time], after, draw if time else 0 * draw)
        row = jax.tree.map(lambda rows, index=index: jnp.asarray(rows[index]), table)
        noise = jnp.asarray(draw, jnp.float32) if method == "ddpm" else None
        got = advance(row, jnp.asarray(x, jnp.float32), jnp.asarray(out, jnp.float32), noise, clip=clip)
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


def test_predicting_noise_cannot_start_from_pure_noise():
    with pytest.raises(MmtokError, match="prediction 'epsilon' says nothing at level 999"):
        steps(NoiseConfig(prediction="epsilon"), SamplerConfig())


def test_sampling_does_not_depend_on_the_other_pictures():
    config, sampler = NoiseConfig(steps=10), SamplerConfig(method="ddpm", steps=5)
    noise = starting_noise(sampler, (2, 2, 1))

    def run(count: int) -> np.ndarray:
        start = jnp.broadcast_to(noise, (count, 2, 2, 1))
        return np.asarray(sample(lambda x, time: 0.1 * x, start, noise=config, sampler=sampler))

    np.testing.assert_allclose(run(3), np.repeat(run(1), 3, axis=0), rtol=1e-6)
    assert np.isfinite(run(1)).all()


@pytest.mark.parametrize("change", [{"steps": 1}, {"shift": 0.0}])
def test_schedules_without_meaning_are_refused(change: dict):
    with pytest.raises(MmtokError, match="noise schedule: steps"):
        NoiseConfig(**change)
