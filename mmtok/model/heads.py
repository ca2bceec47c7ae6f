"""Cross-entropy over many vocabularies at once, each target scored against its own modality's only.

A dense array of all targets times all vocabularies would cost sum(N) * sum(V); here the cost is sum over
modalities of N_m * V_m. Targets are sorted by modality and walked in tiles, and the gradients are formed in the
forward pass while a tile's logits are at hand (as in Wijmans et al. 2024, "Cut Your Losses"), so no logits are kept.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

TILE = 128


@dataclasses.dataclass(frozen=True)
class Head:
    """One code of one modality: rows `offset .. offset + size - 1` of the table.

    Attributes:
      modality: Index of the modality.
      code: Which of its codes.
      offset: First row.
      size: Ids.
    """

    modality: int
    code: int
    offset: int
    size: int


def cross_entropy(
    hidden: Float[Array, "T D"],
    table: Float[Array, "rows D"],
    targets: Int[Array, "T K"],
    modality: Int[Array, " T"],
    valid: Bool[Array, " T"],
    *,
    heads: tuple[Head, ...],
    dtype: str,
) -> tuple[Float[Array, " modalities"], Float[Array, " modalities"]]:
    """Returns the summed cross-entropy in nats of each modality, over its targets and codes, and their number.

    Args:
      hidden: Decoder outputs of T slots.
      table: Output heads of all modalities, concatenated.
      targets: Ids within the vocabulary of each code.
      modality: Index of each slot's modality.
      valid: Slots that count.
      heads: All (modality, code) pairs.
      dtype: Of the matrix products; the softmax is float32.
    """
    count = max(head.modality for head in heads) + 1
    group = jnp.where(valid, modality, count)
    order = jnp.argsort(group, stable=True)
    sizes = jnp.zeros(count + 1, jnp.int32).at[group].add(1)[:count]
    starts = jnp.cumsum(sizes) - sizes
    codes = np.bincount([head.modality for head in heads], minlength=count)
    totals = _totals(heads, dtype, hidden[order], table, targets[order], starts, sizes)
    return jnp.asarray(totals), (sizes * codes).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _totals(
    heads: tuple[Head, ...], dtype: str, hidden: Array, table: Array, targets: Array, starts: Array, sizes: Array
) -> Array:
    return _walk(heads, dtype, hidden, table, targets, starts, sizes, with_gradients=False)[0]


def _forward(
    heads: tuple[Head, ...], dtype: str, hidden: Array, table: Array, targets: Array, starts: Array, sizes: Array
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    totals, d_hidden, d_table = _walk(heads, dtype, hidden, table, targets, starts, sizes, with_gradients=True)
    return totals, (d_hidden, d_table, starts, sizes)


def _backward(
    heads: tuple[Head, ...], dtype: str, saved: tuple[Array, Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, None, None, None]:
    """Scales the gradients: every hidden row and every table row belongs to exactly one modality."""
    d_hidden, d_table, starts, sizes = saved
    row = jnp.arange(len(d_hidden))
    owner = jnp.searchsorted(starts + sizes, row, side="right")
    hidden_scale = jnp.append(cotangent, 0.0)[owner]
    table_scale = np.zeros(len(d_table), np.int32)
    for head in heads:
        table_scale[head.offset : head.offset + head.size] = head.modality
    return d_hidden * hidden_scale[:, None], d_table * cotangent[table_scale][:, None], None, None, None


_totals.defvjp(_forward, _backward)


def _walk(
    heads: tuple[Head, ...],
    dtype: str,
    hidden: Array,
    table: Array,
    targets: Array,
    starts: Array,
    sizes: Array,
    *,
    with_gradients: bool,
) -> tuple[Array, Array, Array]:
    """Returns totals per modality and, if asked for, the gradients of their sum (empty arrays otherwise)."""
    rows, dim = hidden.shape
    padded = jnp.pad(hidden, ((0, TILE), (0, 0)))  # the last tile may reach past the end
    padded_targets = jnp.pad(targets, ((0, TILE), (0, 0)))
    d_hidden = jnp.zeros_like(padded, dtype=jnp.float32) if with_gradients else jnp.zeros((0, dim))
    d_table = jnp.zeros_like(table, dtype=jnp.float32) if with_gradients else jnp.zeros((0, dim))
    totals = jnp.zeros(len(sizes), jnp.float32)
    carry = (totals, d_hidden, d_table)
    for size in sorted({head.size for head in heads}):  # one loop per vocabulary size keeps the program small
        members = [head for head in heads if head.size == size]
        owners, codes, offsets = (
            jnp.array([getattr(head, name) for head in members]) for name in ("modality", "code", "offset")
        )
        tiles = jnp.cumsum(-(-sizes[owners] // TILE))

        def step(
            tile: Array,
            carry: tuple[Array, Array, Array],
            size=size,
            owners=owners,
            codes=codes,
            offsets=offsets,
            tiles=tiles,
        ) -> tuple[Array, Array, Array]:
            totals, d_hidden, d_table = carry
            member = jnp.searchsorted(tiles, tile, side="right")
            owner, offset = owners[member], offsets[member]
            first = (tile - jnp.where(member > 0, tiles[member - 1], 0)) * TILE
            start = starts[owner] + first
            h = jax.lax.dynamic_slice(padded, (start, 0), (TILE, dim)).astype(dtype)
            w = jax.lax.dynamic_slice(table, (offset, 0), (size, dim)).astype(dtype)
            target = jax.lax.dynamic_slice(padded_targets, (start, codes[member]), (TILE, 1))
            counts = (first + jnp.arange(TILE) < sizes[owner])[:, None]
            logits = jnp.matmul(h, w.T, preferred_element_type=jnp.float32)
            normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
            hit = jnp.arange(size) == target
            nats = normaliser - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1, keepdims=True)
            totals = totals.at[owner].add(jnp.sum(jnp.where(counts, nats, 0.0)))
            if with_gradients:
                d_logits = jnp.where(counts, jnp.exp(logits - normaliser) - hit, 0.0).astype(dtype)
                dh = jnp.matmul(d_logits, w, preferred_element_type=jnp.float32)
                dw = jnp.matmul(d_logits.T, h, preferred_element_type=jnp.float32)
                d_hidden = _add_at(d_hidden, start, dh)
                d_table = _add_at(d_table, offset, dw)
            return totals, d_hidden, d_table

        carry = jax.lax.fori_loop(0, tiles[-1], step, carry)
    totals, d_hidden, d_table = carry
    return totals, d_hidden[:rows], d_table


def _add_at(array: Array, start: Array, rows: Array) -> Array:
    old = jax.lax.dynamic_slice(array, (start, 0), rows.shape)
    return jax.lax.dynamic_update_slice(array, old + rows, (start, 0))
