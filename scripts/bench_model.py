"""Times one training step (forward and backward) of a model beside a plain matrix product, in the same run.

    python scripts/bench_model.py --size nano
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python scripts/bench_model.py --size nano    # huge pages: 1.4x on CPU

Prints milliseconds, GFLOP/s of the model's own count and their share of what a 1024 x 1024 float32 product reaches;
the share is what compares between machines. Also times the heads alone against masked dense logits of each modality
over all targets.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.modality import Modality, Vocabulary
from mmtok.model import AnyToAny, sized
from mmtok.model.heads import cross_entropy

GRIDS = {"rgb": 1000, "depth": 1000, "normal": 1000, "label": 300, "instance": 300, "edge": 300, "feature": 4000}
SEQUENCES = {"caption": 48, "box": 30, "palette": 20, "metadata": 24, "camera": 8}


def modalities() -> tuple[Modality, ...]:
    grids = (
        Modality(name=name, kind="grid", shape=(8, 8), vocabulary=Vocabulary(size=size)) for name, size in GRIDS.items()
    )
    vocabulary = Vocabulary(size=1200, sentinel_count=40)
    sequences = (
        Modality(name=name, kind="sequence", shape=(length,), vocabulary=vocabulary)
        for name, length in SEQUENCES.items()
    )
    return *grids, *sequences


def random_batch(members: tuple[Modality, ...], *, samples: int, encoder: int, decoder: int) -> MaskedBatch:
    rng = np.random.default_rng(0)
    vocab, size = np.array([item.vocab_size for item in members]), np.array([item.size for item in members])

    def draw(limit: np.ndarray) -> np.ndarray:
        return (rng.random(limit.shape) * limit).astype(np.int32)

    m, n = (np.sort(draw(np.full((samples, slots), len(members))), axis=1) for slots in (decoder, encoder))
    return MaskedBatch(
        EncoderSlots(draw(vocab[n])[..., None], n, draw(size[n]), np.ones_like(n, bool), {}),
        DecoderSlots(draw(vocab[m])[..., None], m, draw(size[m]), np.ones_like(m, bool), np.full_like(m, decoder)),
        draw(vocab[m])[..., None],
    )


def best_times(calls: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
    """Returns the shortest seconds of each call; they take turns, so that other load on the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def main(*, size: str = "nano", batch_size: int = 64, slots: int = 64, repeats: int = 10) -> None:
    """Runs the benchmark.

    Args:
      size: Name in `mmtok.model.SIZES`.
      batch_size: Samples.
      slots: Tokens that the encoder sees, and queries of the decoder, per sample.
      repeats: Timed calls; the best counts.
    """
    members = modalities()
    batch = jax.device_put(random_batch(members, samples=batch_size, encoder=slots, decoder=slots))
    model = AnyToAny(sized(size), members, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    heads, dim = model.heads, model.config.dim

    def mean_loss(state: nnx.State) -> jax.Array:
        losses = nnx.merge(graph, state).losses(batch).values()
        return sum((loss.total for loss in losses), jnp.zeros(())) / batch.targets.size

    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(batch_size * slots, dim)), jnp.float32)
    table = model.embeddings.tokens.outputs
    flat = batch.targets.reshape(-1, 1), batch.decoder.modality.reshape(-1), batch.decoder.valid.reshape(-1)

    def grouped(hidden: jax.Array, table: jax.Array) -> jax.Array:
        return cross_entropy(hidden, table, *map(jnp.asarray, flat), heads=heads, dtype="float32")[0].sum()

    def dense(hidden: jax.Array, table: jax.Array) -> jax.Array:
        total = jnp.zeros(())
        for head in heads:
            logits = jax.nn.log_softmax(hidden @ table[head.offset : head.offset + head.size].T)
            nats = -jnp.take_along_axis(logits, jnp.minimum(flat[0], head.size - 1), axis=1)[:, 0]
            total += jnp.where(flat[1] == head.modality, nats, 0).sum()
        return total

    square = jnp.ones((1024, 1024))
    product = jax.jit(jnp.matmul)
    step = jax.jit(jax.value_and_grad(mean_loss))
    grouped_step, dense_step = (jax.jit(jax.grad(f, argnums=(0, 1))) for f in (grouped, dense))
    seconds = best_times(
        {
            "matmul": lambda: product(square, square),
            "step": lambda: step(state),
            "heads": lambda: grouped_step(hidden, table),
            "dense heads": lambda: dense_step(hidden, table),
        },
        repeats=repeats,
    )
    peak = 2 * 1024**3 / seconds["matmul"]
    rate = sum(model.flops(batch_size, slots, slots).values()) / seconds["step"]
    count = sum(leaf.size for leaf in jax.tree.leaves(state))
    print(f"{size}: {count:,} parameters, {batch_size} samples of {slots} + {slots} tokens")
    print(f"matrix product {peak / 1e9:6.0f} GFLOP/s")
    print(f"training step  {rate / 1e9:6.0f} GFLOP/s, {1e3 * seconds['step']:.0f} ms, {rate / peak:.2f} of the product")
    ratio = seconds["dense heads"] / seconds["heads"]
    print(f"heads grouped by modality {1e3 * seconds['heads']:.1f} ms, {ratio:.1f}x faster than masked dense ones")


if __name__ == "__main__":
    tyro.cli(main)
