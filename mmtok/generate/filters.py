"""From logits to the distribution a token is drawn from: temperature, top-k, top-p, min-p. All in float32."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

GREEDY = 1e-10  # temperatures up to this one take the most likely token


def filtered(
    logits: Float[Array, "*rows V"],
    *,
    temperature: Float[Array, "*#rows"],
    top_k: int,
    top_p: float,
    min_p: float = 0.0,
    tempered: bool = True,
) -> Float[Array, "*rows V"]:
    """Returns the log-probabilities tokens are drawn from; -inf for those filtered out.

    The order is temperature, top-k, top-p, so that top-p speaks of the very distribution that is sampled; min-p
    speaks of the same. Ties at a threshold are kept.

    Args:
      logits: Of any float dtype; -inf excludes a token.
      temperature: At least 0; 0 leaves the most likely token only.
      top_k: Keep the k most likely tokens; 0 keeps all.
      top_p: Keep the fewest most likely tokens that together have at least this probability; 1 keeps all.
      min_p: Keep tokens at least this times as likely as the most likely one; 0 keeps all.
      tempered: False lets top-p and min-p speak of the distribution at temperature 1, whatever is sampled.
    """
    logits = logits.astype(jnp.float32)
    size = logits.shape[-1]
    greedy = (temperature <= GREEDY)[..., None]
    best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), size, dtype=jnp.bool_)
    plain = logits - jnp.max(logits, axis=-1, keepdims=True)
    scaled = plain / jnp.where(greedy, 1, temperature[..., None])
    measured = scaled if tempered else plain
    if 0 < top_k < size or top_p < 1:
        ordered = jnp.sort(measured, axis=-1, descending=True)
        if 0 < top_k < size:
            ordered = jnp.where(ordered < ordered[..., top_k - 1, None], -jnp.inf, ordered)
        if top_p < 1:
            probability = jax.nn.softmax(ordered, axis=-1)
            before = jnp.cumsum(probability, axis=-1) - probability
            ordered = jnp.where(before < top_p, ordered, -jnp.inf)
        least = jnp.min(jnp.where(ordered > -jnp.inf, ordered, jnp.inf), axis=-1, keepdims=True)
        scaled = jnp.where(measured < least, -jnp.inf, scaled)
    if min_p > 0:
        scaled = jnp.where(measured < math.log(min_p), -jnp.inf, scaled)
    return jax.nn.log_softmax(jnp.where(greedy & ~best, -jnp.inf, scaled), axis=-1)


def draw(keys: Key[Array, "*rows"], log_probs: Float[Array, "*rows V"]) -> Int[Array, "*rows"]:
    """Draws one id per row, each from its own key."""
    flat = jax.vmap(jax.random.categorical)(keys.reshape(-1), log_probs.reshape(-1, log_probs.shape[-1]))
    return flat.reshape(keys.shape).astype(jnp.int32)
