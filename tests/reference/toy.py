"""A toy model whose conditional distributions are known exactly, and a test of samples against them."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from mmtok.batch import DecoderSlots, EncoderSlots, TokenColumn
from mmtok.generate import Known
from mmtok.modality import Modality, Vocabulary
from mmtok.model import Context

WORDS = Vocabulary(size=14, sentinel_first=4, sentinel_count=6)  # words 10 .. 13
C = Modality(name="c", kind="grid", shape=(1,), vocabulary=Vocabulary(size=2))
X = Modality(name="x", kind="grid", shape=(1, 3), vocabulary=Vocabulary(size=3))
Y = Modality(name="y", kind="grid", shape=(1, 2), vocabulary=Vocabulary(size=2), codes=2)
S = Modality(name="s", kind="sequence", shape=(6,), vocabulary=WORDS)
P = Modality(name="p", kind="continuous", shape=(2,), channels=1)
MODALITIES = (C, X, Y, S, P)

_rng = np.random.default_rng(7)
JOINT = _rng.dirichlet(np.full(27, 0.5), size=2).reshape(2, 3, 3, 3).astype(np.float32)  # p(x | c)
JOINT = np.concatenate([JOINT, JOINT.mean(0, keepdims=True)]) + 1e-3  # [2]: c not visible
NEXT = _rng.normal(size=(3, 14, 14)).astype(np.float32) * 1.5  # logits of the next word, by c and the last token
FOLLOW = _rng.normal(size=(4, 2, 2, 2)).astype(np.float32) * 2  # logits of y[position, code], by x[0] (3: hidden)
TRACES: list[tuple[int, ...]] = []


class Toy(nnx.Module):
    """Looks its answers up in the tables above."""

    def __init__(self) -> None:
        self.modalities = MODALITIES

    def unstacked(self) -> "Toy":
        return self

    def encode(self, slots: EncoderSlots) -> Context:
        """Hands modality, position and id of each slot on to the decoder."""
        TRACES.append(slots.ids.shape)
        tokens = jnp.stack([jnp.asarray(part) for part in (slots.modality, slots.position, slots.ids[..., 0])], axis=-1)
        return Context(tokens.astype(jnp.float32), jnp.asarray(slots.valid))

    def encode_views(self, views) -> tuple[Context, ...]:
        return tuple(map(self.encode, views))

    def head(self, modality: int):
        return jnp.zeros((1, 14))

    def decode(self, slots: DecoderSlots, context: Context):
        modalities, positions, ids = jnp.moveaxis(context.tokens.astype(jnp.int32), -1, 0)

        def visible(modality: int, position: int, absent: int):
            hit = context.valid & (modalities == modality) & (positions == position)
            return jnp.where(hit.any(1), (hit * ids).sum(1), absent)

        c = visible(0, 0, 2)
        weight = jnp.asarray(JOINT)[c]
        for position in range(3):
            known = visible(1, position, -1)[:, None]
            match = (known < 0) | (known == jnp.arange(3))
            weight *= match.reshape(-1, *(3 if axis == position else 1 for axis in range(3)))
        marginals = jnp.stack([weight.sum(tuple({1, 2, 3} - {axis + 1})) for axis in range(3)], axis=1)
        x = jnp.take_along_axis(jnp.log(marginals), jnp.minimum(slots.position, 2)[..., None], axis=1)
        y = jnp.take_along_axis(
            jnp.asarray(FOLLOW)[visible(1, 0, 3)].reshape(-1, 2, 4), jnp.minimum(slots.position, 1)[..., None], axis=1
        )
        s = jnp.asarray(NEXT)[c[:, None], slots.ids[..., 0]]
        kind = jnp.asarray(slots.modality)[..., None]

        def wide(values):
            return jnp.pad(values, ((0, 0), (0, 0), (0, 14 - values.shape[-1])))

        return jnp.where(kind == 3, s, jnp.where(kind == 2, wide(y), wide(x)))

    def begin(self, context: Context, *, size: int) -> Context:
        return context

    def advance(self, slots: DecoderSlots, memory: Context, step):
        """Its words follow from the last one only."""
        return self.decode(slots, memory), memory

    def logits(self, hidden, *, modality: int, head=None):
        item = self.modalities[modality]
        used = hidden[..., : item.codes * item.vocab_size]
        return used.reshape(*hidden.shape[:-1], item.codes, item.vocab_size)


def given_c(values) -> dict[str, Known]:
    values = np.asarray(values, np.int32).reshape(-1, 1, 1)
    return {"c": Known.whole(TokenColumn(values, np.ones(len(values), np.int32)))}


def expect(found: list, probability: dict) -> None:
    """Chi-square test; outcomes of small expectation are pooled."""
    assert set(found) <= set(probability)
    assert sum(probability.values()) == pytest.approx(1, abs=1e-4)
    counts = {outcome: found.count(outcome) for outcome in probability}
    common = [o for o in probability if probability[o] * len(found) >= 5]
    rare = [o for o in probability if o not in common]
    observed = [counts[o] for o in common] + [sum(counts[o] for o in rare)]
    expected = [probability[o] for o in common] + [sum(probability[o] for o in rare)]
    if expected[-1] * len(found) < 5:
        observed[-2:], expected[-2:] = [sum(observed[-2:])], [sum(expected[-2:])]
    expected = np.array(expected, np.float64)
    assert scipy.stats.chisquare(observed, expected / expected.sum() * len(found)).pvalue > 1e-3


def rows(column: TokenColumn) -> list[tuple[int, ...]]:
    return [tuple(row[:length, 0].tolist()) for row, length in zip(column.values, column.length)]


def joint(c: int) -> np.ndarray:
    return JOINT[c] / JOINT[c].sum()
