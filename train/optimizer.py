"""AdamW, its schedule and which parameters decay."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmtok.errors import MmtokError
from mmtok.train.config import OptimizerConfig
from mmtok.train.layout import Parameter


def make_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step (from 0), float32.

    Raises:
      MmtokError: warmup and decay do not fit the number of steps.
    """
    warmup = config.warmup_steps
    decay = {"cosine": steps - warmup, "wsd": round(config.decay_fraction * steps), "constant": 0}[config.schedule]
    if not 0 <= warmup <= steps - (decay if config.schedule == "wsd" else 0):
        raise MmtokError(f"training config: warmup_steps {warmup} and the decay ({decay}) do not fit {steps} steps")

    def schedule(step: jax.typing.ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum((step + 1) / max(warmup, 1), 1.0) if warmup else jnp.float32(1)
        gone = jnp.clip((step - (steps - decay)) / max(decay, 1), 0.0, 1.0)  # share of the decay that has passed
        fall = 0.5 * (1 + jnp.cos(jnp.pi * gone)) if config.schedule == "cosine" else 1 - gone
        return config.learning_rate * rise * (config.final_fraction + (1 - config.final_fraction) * fall)

    return schedule


def decays(path: str, parameter: Parameter) -> bool:
    """Says whether weight decay applies: to matrices, not to norms, biases and other vectors (stacked or not)."""
    stacked = parameter.axes is not None and "layers" in parameter.axes
    return len(parameter.shape) - stacked >= 2 and path.rpartition(".")[2] not in ("scale", "bias")


def make_optimizer(
    config: OptimizerConfig, *, steps: int, parameters: Mapping[str, Parameter]
) -> optax.GradientTransformation:
    """Returns clipping by global norm, then AdamW (Loshchilov and Hutter 2019) with the schedule."""
    mask = {path: decays(path, parameter) for path, parameter in parameters.items()}
    clip = [_clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    adamw = optax.adamw(
        make_schedule(config, steps=steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=mask,
    )
    return optax.chain(*clip, adamw if config.moments == "float32" else _stored(adamw, config.moments))


def _clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """Shortens gradients to a global norm of `most`, as `optax.clip_by_global_norm` does, by one factor.

    Optax divides each number; XLA, which repeats no division, then writes clipped gradients to memory and reads them
    again, which makes the optimizer half as slow again on CPU.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = most / jnp.maximum(optax.global_norm(updates), most)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _stored(inner: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """Keeps the float32 state of `inner` in another dtype between steps."""

    def cast(state: optax.OptState, old: DTypeLike, new: DTypeLike) -> optax.OptState:
        return jax.tree.map(lambda x: x.astype(new) if x.dtype == old else x, state)

    def init(params: optax.Params) -> optax.OptState:
        return cast(inner.init(params), jnp.float32, dtype)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(updates, cast(state, dtype, jnp.float32), params)
        return updates, cast(state, jnp.float32, dtype)

    return optax.GradientTransformation(init, update)
