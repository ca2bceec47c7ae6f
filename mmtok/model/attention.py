"""Scaled dot-product attention: the plain one, and those that platforms have fused."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jaxtyping import Array, Bool, Float

from mmtok import axes
from mmtok.errors import MmtokError

Kind = Literal["auto", "plain", "cudnn", "splash"]
OLDEST_CUDNN = 8.0  # compute capability that cuDNN's attention starts at (Ampere)
LARGEST_BLOCK = 512
LANES = 128  # of a TPU: what splash attention takes its sequences in multiples of


def attend(
    query: Float[Array, "B Q H d"],
    key: Float[Array, "B S H d"],
    value: Float[Array, "B S H d"],
    mask: Bool[Array, "B #Q S"],
    *,
    kind: Kind,
) -> Float[Array, "B Q H d"]:
    """Attends with a float32 softmax; a query that may see nothing reads zeros.

    A mask with one row says how many keys are valid, the valid ones first; one row per query says anything.

    Args:
      query: Queries, not yet scaled.
      key: Keys.
      value: Values.
      mask: True where a query may look.
      kind: `plain`; `cudnn` on GPUs; `splash` on TPUs, which a mask with one row per query is left out of; `auto`:
        `cudnn` on GPUs where it can do it, plain elsewhere.

    Raises:
      MmtokError: `cudnn` or `splash` is asked for and cannot be had.
    """
    if kind == "auto":
        kind = "cudnn" if jax.default_backend() == "gpu" and not _why_no_cudnn(query, key) else "plain"
    if kind == "splash" and mask.shape[1] > 1:
        kind = "plain"
    if kind == "plain":
        return _plain(query, key, value, mask)
    function, why = {"cudnn": (_cudnn, _why_no_cudnn), "splash": (_splash, _why_no_splash)}[kind]
    if why(query, key):
        raise MmtokError(f"attention '{kind}': {why(query, key)}; take attention 'plain' or 'auto'")
    names = ("batch", None, "heads", None)
    inputs = (names, names, names, ("batch", None, None))
    return axes.per_device(function, inputs=inputs, outputs=(names,))(query, key, value, mask)[0]


def _plain(query: Array, key: Array, value: Array, mask: Array) -> Array:
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # heads first: fewer copies on CPU
    logits = jnp.einsum("bhqd,bhsd->bhqs", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = jnp.where(mask.any(-1)[:, None], weights.sum(-1), jnp.inf)[..., None]
    mixed = jnp.einsum("bhqs,bhsd->bhqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return jnp.swapaxes((mixed / total).astype(value.dtype), 1, 2)  # dividing last touches fewer numbers


def _why_no_cudnn(query: Array, key: Array) -> str:
    if jax.default_backend() != "gpu":
        return "there is no GPU"
    capability = str(jax.devices()[0].compute_capability)  # such as 9.0; AMD's say gfx942
    if capability.startswith("gfx") or float(capability) < OLDEST_CUDNN:
        return f"it wants an NVIDIA GPU of compute capability {OLDEST_CUDNN}, this one says {capability}"
    if query.dtype != jnp.bfloat16:
        return f"it computes in bfloat16, the model in {query.dtype}"
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return f"head_dim {query.shape[-1]} is no multiple of 8 up to 128"
    if query.shape[1] % 2 or key.shape[1] % 2:
        return f"{query.shape[1]} queries and {key.shape[1]} keys must be even numbers"
    return ""


def _cudnn(query: Array, key: Array, value: Array, mask: Array) -> tuple[Array]:
    sees = mask.any(-1)[..., None, None]
    attend = functools.partial(jax.nn.dot_product_attention, query, key, value, implementation="cudnn")
    if mask.shape[1] == 1:  # lengths are quicker than a mask
        queries = jnp.full(len(query), query.shape[1], jnp.int32)
        keys = jnp.maximum(mask[:, 0].sum(-1, dtype=jnp.int32), 1)
        mixed = attend(query_seq_lengths=queries, key_value_seq_lengths=keys)
    else:  # a row of nothing would be divided by zero
        mixed = attend(mask=(mask | ~mask.any(-1, keepdims=True))[:, None])
    return (jnp.where(sees, mixed, 0),)


def _why_no_splash(query: Array, key: Array) -> str:
    if axes.platform() not in ("tpu", "cpu"):
        return "there is no TPU"
    if query.shape[1] % LANES or key.shape[1] % LANES or query.shape[-1] % LANES:
        shapes = f"{query.shape[1]} queries, {key.shape[1]} keys and head_dim {query.shape[-1]}"
        return f"{shapes} must be multiples of {LANES}"
    return ""


def _splash(query: Array, key: Array, value: Array, mask: Array) -> tuple[Array]:
    """Pallas's splash attention; interpreted on CPU, for tests."""
    everything = splash_attention_mask.FullMask((query.shape[1], key.shape[1]))
    q, kv = _block(query.shape[1]), _block(key.shape[1])
    kernel: Any = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([everything] * query.shape[2]),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=axes.platform() == "cpu",
    )

    def one_sample(query: Array, key: Array, value: Array, valid: Array) -> Array:
        segments = splash_attention_kernel.SegmentIds(jnp.ones(query.shape[1], jnp.int32), valid.astype(jnp.int32))
        return kernel(query, key, value, segment_ids=segments)

    sees = mask.any(-1)
    valid = mask[:, 0] | ~sees  # a row of nothing would be divided by zero
    scaled = query * query.shape[-1] ** -0.5
    scaled, key, value = (jnp.swapaxes(x, 1, 2) for x in (scaled, key, value))
    mixed = jnp.swapaxes(jax.vmap(one_sample)(scaled, key, value, valid), 1, 2)
    return (jnp.where(sees[..., None, None], mixed, 0).astype(value.dtype),)


def _block(length: int) -> int:
    """Returns the largest block of splash attention that divides a length; its own default is one lane."""
    return max(size for size in range(LANES, LARGEST_BLOCK + 1, LANES) if length % size == 0)
