"""Decoding slot by slot with a memory, against decoding the whole prefix anew."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok.batch import DecoderSlots, EncoderSlots
from mmtok.modality import Modality, Vocabulary
from mmtok.model import AnyToAny, ModelConfig

TEXT = Vocabulary(size=40, sentinel_count=8)
MODALITIES = (
    Modality(name="rgb", kind="grid", shape=(3, 3), vocabulary=Vocabulary(size=11)),
    Modality(name="text", kind="sequence", shape=(9,), vocabulary=TEXT, position_limit=6),
)
SMALL = functools.partial(
    ModelConfig, dim=32, encoder_depth=1, decoder_depth=3, heads=2, head_dim=8, mlp_hidden=48, registers=2
)
VARIANTS = {
    "plain": {},
    "query norms and biases": {"qk_norm": True, **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias"), True)},
    "gelu, norms with biases": {"gated": False, "activation": "gelu", "norm_bias": True, "decoder_modality": True},
    "bfloat16": {"dtype": "bfloat16"},
    "many layers": {"decoder_depth": 6},
}
STEPS = 8


def encoder(rng: np.random.Generator) -> EncoderSlots:
    """Two samples with pictures, one of them half hidden, and a third without anything."""
    used = np.arange(9) < np.array([[9], [4], [0]])
    return EncoderSlots(
        ids=rng.integers(0, 11, (3, 9, 1)).astype(np.int32),
        modality=np.zeros((3, 9), np.int32),
        position=np.where(used, np.arange(9), 0).astype(np.int32),
        valid=used,
        vectors={},
    )


def decoder(ids: np.ndarray) -> DecoderSlots:
    position = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    ones = np.ones(ids.shape, bool)
    return DecoderSlots(ids[..., None], ones.astype(np.int32), position, ones, position + 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_slot_by_slot_equals_the_whole(variant):
    rng = np.random.default_rng(0)
    model = AnyToAny(SMALL(**VARIANTS[variant]), MODALITIES, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    state = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), state)
    ids, given = rng.integers(0, 40, (3, STEPS)).astype(np.int32), encoder(rng)

    @jax.jit
    def whole(state):
        model = nnx.merge(graph, state)
        return model.decode(decoder(ids), model.encode(given))

    @jax.jit
    def begin(state):
        model = nnx.merge(graph, state)
        return model.begin(model.encode(given), size=STEPS + 3)

    @jax.jit
    def advance(state, slot, memory, step):
        return nnx.merge(graph, state).advance(slot, memory, step)

    memory, hidden = begin(state), []
    for step in range(STEPS):
        slot = jax.tree.map(lambda part, step=step: part[:, step : step + 1], decoder(ids))
        here, memory = advance(state, slot, memory, jnp.int32(step))
        hidden.append(np.asarray(here))
    expected, found = np.asarray(whole(state)), np.concatenate(hidden, axis=1)
    tolerance = 0.05 if variant == "bfloat16" else 1e-5
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
    assert np.abs(expected[:, 1:] - expected[:, :-1]).max() > 0.1
