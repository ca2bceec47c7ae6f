"""Cross-entropy over many vocabularies at once, each target scored against its own modality's only.

A dense array of all targets times all vocabularies would cost sum(N) * sum(V); here the cost is sum over
modalities of N_m * V_m. Targets are sorted by modality and walked in tiles, and the gradients are formed in the
forward pass while a tile's logits are at hand (as in Wijmans et al. 2024, "Cut Your Losses"), so no logits are kept.

Split over devices, each one walks its own targets, and holds its part of the table's width: vocabulary after
vocabulary is gathered, used and its gradient summed and split again, so that no device ever holds the whole table.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmtok import axes

TILES = {"cpu": (256, 96), "gpu": (1024, 128), "tpu": (512, 128)}
"""Targets of a large tile and of a small one. Large ones come first, as long as they are full: each tile adds to the
gradient of a whole vocabulary. Small ones have few empty rows, and on a CPU their logits fit into the cache."""

PIECE = 2**22
"""Largest gradient that is summed over devices at a time, in numbers."""


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
    totals = jnp.asarray(_totals(heads, dtype, hidden, table, targets, group))
    sizes = jnp.sum(group[:, None] == jnp.arange(count), axis=0)
    codes = np.bincount([head.modality for head in heads], minlength=count)
    return totals, (sizes * codes).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _totals(heads: tuple[Head, ...], dtype: str, hidden: Array, table: Array, targets: Array, group: Array) -> Array:
    walk = functools.partial(_walk, heads, dtype, with_gradients=False)
    return axes.per_device(walk, inputs=INPUTS, outputs=((None,),))(hidden, table, targets, group)[0]


def _forward(
    heads: tuple[Head, ...], dtype: str, hidden: Array, table: Array, targets: Array, group: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    walk = functools.partial(_walk, heads, dtype, with_gradients=True)
    outputs = ((None,), ("token", None), (None, "table"))
    totals, d_hidden, d_table = axes.per_device(walk, inputs=INPUTS, outputs=outputs)(hidden, table, targets, group)
    return totals, (d_hidden, d_table, group)


def _backward(
    heads: tuple[Head, ...], dtype: str, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, None, None]:
    """Scales the gradients: every hidden row and every table row belongs to exactly one modality."""
    d_hidden, d_table, group = saved
    owner = np.zeros(len(d_table), np.int32)
    for head in heads:
        owner[head.offset : head.offset + head.size] = head.modality
    return d_hidden * jnp.append(cotangent, 0.0)[group][:, None], d_table * cotangent[owner][:, None], None, None


_totals.defvjp(_forward, _backward)

INPUTS: tuple[axes.Names, ...] = (("token", None), (None, "table"), ("token", None), ("token",))


def _walk(
    heads: tuple[Head, ...],
    dtype: str,
    hidden: Float[Array, "T D"],
    table: Float[Array, "rows d"],
    targets: Int[Array, "T K"],
    group: Int[Array, " T"],
    *,
    with_gradients: bool,
) -> tuple[Array, ...]:
    """Returns totals per modality and, if asked for, the gradients of their sum; of one device's targets and width."""
    count = max(head.modality for head in heads) + 1
    rows, dim = hidden.shape
    large, small = TILES[axes.platform()]
    order = jnp.argsort(group, stable=True)
    sizes = jnp.sum(group[:, None] == jnp.arange(count), axis=0)
    starts = jnp.cumsum(sizes) - sizes
    padded = jnp.pad(hidden[order].astype(dtype), ((0, large), (0, 0)))  # the last tile may reach past the end
    padded_targets = jnp.pad(targets[order], ((0, large), (0, 0)))
    d_hidden = jnp.zeros_like(padded, dtype=jnp.float32) if with_gradients else jnp.zeros((0, dim))
    d_table = jnp.zeros_like(table, dtype=jnp.float32) if with_gradients else jnp.zeros((0, dim))
    carry = (jnp.zeros(count, jnp.float32), d_hidden, d_table)
    for size in sorted({head.size for head in heads}):  # one loop per vocabulary size keeps the program small
        members = [head for head in heads if head.size == size]

        def one_head(carry: tuple[Array, Array, Array], member: dict[str, Array], size=size):
            owner, code, offset = member["modality"], member["code"], member["offset"]
            totals, d_hidden, d_table = carry
            part = jax.lax.dynamic_slice(table, (offset, 0), (size, table.shape[1]))
            w = axes.gather(part.astype(dtype), "table", axis=1)

            def one_tile(start: Array, carry: tuple[Array, Array, Array], tile: int) -> tuple[Array, Array, Array]:
                """Walks the targets of this head from number `start` on."""
                total, d_hidden, dw = carry
                row = starts[owner] + start
                h = jax.lax.dynamic_slice(padded, (row, 0), (tile, dim))
                target = jax.lax.dynamic_slice(padded_targets, (row, code), (tile, 1))
                counts = (start + jnp.arange(tile) < sizes[owner])[:, None]
                nats, d_logits = _score(h, w, target)
                total = total + jnp.sum(jnp.where(counts, nats, 0.0))
                if with_gradients:
                    d_logits = jnp.where(counts, d_logits, 0.0).astype(dtype)
                    dh = jnp.matmul(d_logits, w, preferred_element_type=jnp.float32)
                    dw = dw + jnp.matmul(d_logits.T, h, preferred_element_type=jnp.float32)
                    old = jax.lax.dynamic_slice(d_hidden, (row, 0), dh.shape)
                    d_hidden = jax.lax.dynamic_update_slice(d_hidden, old + dh, (row, 0))
                return total, d_hidden, dw

            many = sizes[owner] // large
            rest = -(-(sizes[owner] - many * large) // small)
            sums = jnp.float32(0), d_hidden, jnp.zeros((size if with_gradients else 0, dim), jnp.float32)
            sums = jax.lax.fori_loop(0, many, lambda i, sums: one_tile(i * large, sums, large), sums)
            total, d_hidden, dw = jax.lax.fori_loop(
                0, rest, lambda i, sums: one_tile(many * large + i * small, sums, small), sums
            )
            if with_gradients:
                d_table = _put(dw, d_table, offset)
            return (totals.at[owner].add(total), d_hidden, d_table), None

        fields = ("modality", "code", "offset")
        stacked = {name: jnp.array([getattr(head, name) for head in members]) for name in fields}
        carry, _ = jax.lax.scan(one_head, carry, stacked)
    totals, d_hidden, d_table = carry
    totals = axes.total(totals, "token")
    if not with_gradients:
        return (totals,)
    d_hidden = jnp.zeros_like(d_hidden, shape=(rows, dim)).at[order].set(d_hidden[:rows], unique_indices=True)
    return totals, d_hidden, axes.total(d_table, "token", beside="table")


def _score(
    h: Float[Array, "t D"], w: Float[Array, "V D"], target: Int[Array, "t 1"]
) -> tuple[Float[Array, "t 1"], Float[Array, "t V"]]:
    """Returns the cross-entropies of a tile in nats, and their gradients by the logits."""
    logits = jnp.matmul(h, w.T, preferred_element_type=jnp.float32)
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    hit = jnp.arange(len(w)) == target
    nats = normaliser - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1, keepdims=True)
    return nats, jnp.exp(logits - normaliser) - hit


def _put(dw: Float[Array, "V D"], d_table: Float[Array, "rows d"], offset: Array) -> Float[Array, "rows d"]:
    """Puts a vocabulary's gradient, summed over the devices that share the table, into its rows.

    One piece after the other, the width first: libtpu sums whole arrays on every device, twice the traffic, where they
    are large, are to be split along columns or have an odd number of them. The last piece reaches back over the one
    before.
    """
    size, dim = dw.shape
    if axes.parts("table") == 1:
        return jax.lax.dynamic_update_slice(d_table, dw, (offset, 0))
    width = min(size, _power_of_two(PIECE // dim))

    def one_piece(index: Array, d_table: Array) -> Array:
        start = jnp.minimum(index * width, size - width)
        piece = jax.lax.dynamic_slice(dw, (start, 0), (width, dim))
        piece = axes.scatter_sum(piece.T, "table", axis=0)
        return jax.lax.dynamic_update_slice(d_table, piece.T, (offset + start, 0))

    return jax.lax.fori_loop(0, -(-size // width), one_piece, d_table)


def _power_of_two(number: int) -> int:
    """Returns the largest one that is no more than `number`; 1 for less."""
    return 1 << max(number, 1).bit_length() - 1
