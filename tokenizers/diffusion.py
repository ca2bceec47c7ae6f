"""Noise schedules and samplers of denoising diffusion (Ho et al., arXiv 2006.11239; Song et al., arXiv 2010.02502)."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key

from mmtok.errors import MmtokError

Schedule = Literal["linear", "scaled_linear", "squared_cosine", "sigmoid", "shifted_cosine"]
Prediction = Literal["sample", "epsilon", "velocity"]
Spacing = Literal["trailing", "leading", "linspace"]

_FIRST, _LAST = 1e-4, 0.02  # betas
_CAP = 0.999  # largest beta of the cosine schedule
_LOG_SNR = 15.0  # bound of the shifted cosine
_LEAST_VARIANCE = 1e-20


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How noise is added in training, and what the network predicts.

    Attributes:
      steps: Number of noise levels.
      schedule: How the betas grow; `shifted_cosine` is given by its signal-to-noise ratio (arXiv 2301.11093).
      shift: Of `shifted_cosine`: more than 1 means more noise.
      zero_terminal: Whether the other schedules are rescaled so that nothing of the signal is left at the last level
        (arXiv 2305.08891, algorithm 1).
      prediction: The clean `sample`, the noise `epsilon`, or the `velocity` (arXiv 2202.00512, section 4).
      clip: Whether predicted samples are clipped to [-1, 1] while sampling.
    """

    steps: int = 1000
    schedule: Schedule = "linear"
    shift: float = 1.0
    zero_terminal: bool = True
    prediction: Prediction = "velocity"
    clip: bool = False

    def __post_init__(self) -> None:
        if self.steps < 2 or self.shift <= 0:
            raise MmtokError(f"noise schedule: steps {self.steps} must be 2 or more, and shift {self.shift} positive")

    def signal(self) -> Float32[np.ndarray, " T"]:
        """Returns the share of the signal's variance at each level (alpha bar).

        The order and precision of the operations are those of common PyTorch implementations: what is left at the
        last levels depends on their rounding.
        """
        if self.schedule == "shifted_cosine":
            return _shifted_cosine(self.steps, self.shift)
        betas = _betas(self.schedule, self.steps)
        alphas = 1 - (_zero_terminal(betas) if self.zero_terminal else betas)
        return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How noise is taken away.

    Attributes:
      method: `ddim`, deterministic (eta 0), or `ddpm`, ancestral.
      steps: Passes through the network; where they do not divide the noise levels, there may be some more.
      spacing: Which levels DDIM visits (arXiv 2305.08891, table 2); DDPM's are `leading`.
      seed: Of the noise that is started from, the same for every picture: decoding is a function of the tokens.
    """

    method: Literal["ddim", "ddpm"] = "ddim"
    steps: int = 25
    spacing: Spacing = "trailing"
    seed: int = 0

    def times(self, levels: int) -> Int[np.ndarray, " S"]:
        """Returns the noise levels that are visited, in this order.

        Raises:
          MmtokError: more steps than levels.
        """
        if not 1 <= self.steps <= levels:
            raise MmtokError(f"sampler: steps must be 1 .. {levels}, the number of noise levels, found {self.steps}")
        stride = levels // self.steps
        spacing = "leading" if self.method == "ddpm" else self.spacing
        match spacing:
            case "trailing":
                return np.arange(levels, 0, -stride) - 1
            case "leading":
                return np.arange(self.steps)[::-1] * stride
            case "linspace":
                return np.linspace(levels, 1, self.steps).round().astype(np.int64) - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """The coefficients of all steps; each step is linear but for the clipping.

    Attributes:
      time: Noise level.
      clean: Weights of noisy picture and prediction in the clean picture.
      mean: Weights of clean picture (clipped), noisy picture and prediction in the mean of the next picture.
      std: Standard deviation of the next picture.
    """

    time: Int[Array | np.ndarray, "*S"]
    clean: Float[Array | np.ndarray, "*S 2"]
    mean: Float[Array | np.ndarray, "*S 3"]
    std: Float[Array | np.ndarray, "*S"]


def steps(noise: NoiseConfig, sampler: SamplerConfig) -> Steps:
    """Returns the coefficients of a sampler.

    Raises:
      MmtokError: more steps than levels, or noise is predicted at a level where nothing of the signal is left.
    """
    time = sampler.times(noise.steps)
    levels = noise.signal().astype(np.float64)
    before = time - noise.steps // sampler.steps
    signal, next_signal = levels[time], np.where(before >= 0, levels[before], 1.0)
    if noise.prediction == "epsilon" and not signal.all():
        raise MmtokError(
            f"sampler: prediction 'epsilon' says nothing at level {time[0]}, where all is noise; use spacing 'leading'"
        )
    root, rest = np.sqrt(signal), np.sqrt(1 - signal)
    one, zero = np.ones_like(root), np.zeros_like(root)
    match noise.prediction:
        case "sample":
            clean, epsilon = (zero, one), (1 / rest, -root / rest)
        case "epsilon":
            clean, epsilon = (1 / root, -rest / root), (zero, one)
        case "velocity":
            clean, epsilon = (root, -rest), (rest, root)
    if sampler.method == "ddim":
        direction = np.sqrt(1 - next_signal)
        mean, std = (np.sqrt(next_signal), direction * epsilon[0], direction * epsilon[1]), zero
    else:  # arXiv 2006.11239, equation 7
        alpha = signal / next_signal
        kept = (1 - next_signal) / (1 - signal)
        mean = (np.sqrt(next_signal) * (1 - alpha) / (1 - signal), np.sqrt(alpha) * kept, zero)
        std = np.where(time > 0, np.sqrt(np.maximum(kept * (1 - alpha), _LEAST_VARIANCE)), 0.0)
    return Steps(time, np.stack(clean, -1), np.stack(mean, -1), std)


def advance(
    step: Steps,
    x: Float[Array, "*B"],
    prediction: Float[Array, "*B"],
    draw: Float[Array, "*B"] | None = None,
    *,
    clip: bool,
) -> Float[Array, "*B"]:
    """Takes one step.

    Args:
      step: Its coefficients, without the leading axis.
      x: Noisy pictures.
      prediction: What the network made of them.
      draw: Standard normal noise, for an ancestral step.
      clip: Whether clean pictures are clipped to [-1, 1].

    Returns:
      Less noisy pictures.
    """
    clean = step.clean[0] * x + step.clean[1] * prediction
    clean = jnp.clip(clean, -1, 1) if clip else clean
    x = step.mean[0] * clean + step.mean[1] * x + step.mean[2] * prediction
    return x if draw is None else x + step.std * draw


def sample(
    denoise: Callable[[Float[Array, "B *S"], Int[Array, " B"]], Float[Array, "B *S"]],
    start: Float[Array, "B *S"],
    *,
    noise: NoiseConfig,
    sampler: SamplerConfig,
) -> Float[Array, "B *S"]:
    """Takes all steps; may be jitted.

    Args:
      denoise: The network: its prediction for pictures and their noise levels.
      start: Pure noise.
      noise: Schedule that the network was trained with.
      sampler: Which steps.

    Returns:
      Clean pictures.
    """

    def body(x: Array, row: tuple[Steps, Key[Array, ""]]) -> tuple[Array, None]:
        step, key = row
        prediction = denoise(x, jnp.full(len(x), step.time))
        ancestral = sampler.method == "ddpm"
        draw = jnp.broadcast_to(jax.random.normal(key, x.shape[1:]), x.shape) if ancestral else None
        return advance(step, x, prediction, draw, clip=noise.clip), None

    table = jax.tree.map(
        lambda rows: jnp.asarray(rows, jnp.int32 if rows.dtype.kind == "i" else jnp.float32), steps(noise, sampler)
    )
    keys = jax.random.split(jax.random.fold_in(jax.random.key(sampler.seed), 1), len(table.time))
    return jax.lax.scan(body, start, (table, keys))[0]


def starting_noise(sampler: SamplerConfig, shape: tuple[int, ...]) -> Float[Array, "*S"]:
    """Returns the noise that every picture is started from."""
    return jax.random.normal(jax.random.key(sampler.seed), shape)


def noised(
    config: NoiseConfig, clean: Float[Array, "B *S"], epsilon: Float[Array, "B *S"], time: Int[Array, " B"]
) -> tuple[Float[Array, "B *S"], Float[Array, "B *S"]]:
    """Returns noisy pictures, and what the network should predict from them."""
    signal = jnp.asarray(config.signal())[time].reshape(-1, *[1] * (clean.ndim - 1))
    root, rest = jnp.sqrt(signal), jnp.sqrt(1 - signal)
    target = {"sample": clean, "epsilon": epsilon, "velocity": root * epsilon - rest * clean}[config.prediction]
    return root * clean + rest * epsilon, target


def _betas(schedule: Schedule, count: int) -> Float32[np.ndarray, " T"]:
    match schedule:
        case "linear":
            return _line(_FIRST, _LAST, count)
        case "scaled_linear":
            return _line(_FIRST**0.5, _LAST**0.5, count) ** 2
        case "sigmoid":
            return _sigmoid(_line(-6.0, 6.0, count)) * np.float32(_LAST - _FIRST) + np.float32(_FIRST)
        case "squared_cosine":  # arXiv 2102.09672, equation 17
            edge = np.arange(count + 1) / count
            share = np.cos((edge + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.minimum(1 - share[1:] / share[:-1], _CAP).astype(np.float32)
        case "shifted_cosine":
            raise AssertionError("is not given by betas")


def _zero_terminal(betas: Float32[np.ndarray, " T"]) -> Float32[np.ndarray, " T"]:
    root = np.sqrt(np.cumprod(1 - betas, dtype=np.float64).astype(np.float32))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    signal = root**2
    return 1 - np.concatenate([signal[:1], signal[1:] / signal[:-1]])


def _shifted_cosine(count: int, shift: float) -> Float32[np.ndarray, " T"]:
    time = _line(0.0, 1.0, count).astype(np.float64)
    with np.errstate(divide="ignore"):
        log_snr = -2 * (np.log(np.tan(np.pi * time / 2)) + np.log(shift))
    signal = _sigmoid(np.clip(log_snr, -_LOG_SNR, _LOG_SNR).astype(np.float32))
    signal[-1] = 0
    return signal


def _line(first: float, last: float, count: int) -> Float32[np.ndarray, " T"]:
    """Evenly spaced numbers in float32, from both ends towards the middle; each is rounded once."""
    ends = np.array([first, last], np.float32).astype(np.float64)
    step = np.float64(np.float32(np.float32(ends[1] - ends[0]) / np.float32(count - 1)))
    index = np.arange(count)
    return np.where(index < count // 2, ends[0] + step * index, ends[1] - step * index[::-1]).astype(np.float32)


def _sigmoid(x: Float32[np.ndarray, " T"]) -> Float32[np.ndarray, " T"]:
    return np.float32(1) / (np.float32(1) + np.exp(-x))
