"""Samples per second from a token store to masked batches, on one process: `python scripts/bench_data.py`."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmtok.batch import TokenColumn
from mmtok.data import Store, TokenBatches, tokenize
from mmtok.masking import Masker, MaskingConfig
from mmtok.modality import Modality, Vocabulary
from mmtok.source import Sample

SAMPLES, BATCH_SIZE, STEPS = 8192, 256, 20
TOKENS = Vocabulary(size=4096)
WORDS = Vocabulary(size=4096, sentinel_count=200)


def modalities(grids: int, sequences: int, *, size: int) -> tuple[Modality, ...]:
    """Returns grids of `size` tokens and sequences of at most 64."""
    return (
        *(Modality(name=f"grid {i}", kind="grid", shape=(size,), vocabulary=TOKENS, source="x") for i in range(grids)),
        *(
            Modality(name=f"sequence {i}", kind="sequence", shape=(64,), vocabulary=WORDS, source="x")
            for i in range(sequences)
        ),
    )


class RandomSource:
    """Samples that are their own index."""

    fields = ("x",)

    def __len__(self) -> int:
        return SAMPLES

    def key(self, index: int) -> str:
        return f"{index:07d}"

    def read(self, indices, fields) -> list[Sample]:
        return [{"x": index} for index in indices]


class RandomCodec:
    """Uniformly random tokens behind the special ids."""

    def __init__(self, modality: Modality):
        self.modality = modality

    def encode(self, values) -> TokenColumn:
        size, count = self.modality.size, len(values)
        rng = np.random.default_rng([values[0], *self.modality.name.encode()])
        sequence = self.modality.kind == "sequence"
        length = rng.integers(8, size + 1, count) if sequence else np.full(count, size)
        ids = rng.integers(204, self.modality.vocab_size, (count, size, 1))
        if sequence:
            ids[np.arange(count), length - 1] = WORDS.end
        ids[np.arange(size) >= length[:, None]] = 0
        return TokenColumn(ids, length.astype(np.int32))

    def decode(self, column):
        raise NotImplementedError


def unmasked(tokens, **_) -> Any:
    """Leaves a batch as it is."""
    return tokens


def rate(batches: Callable[[int], object]) -> float:
    """Returns samples per second after a first call."""
    batches(0)
    start = time.perf_counter()
    for step in range(1, STEPS + 1):
        batches(step)
    return STEPS * BATCH_SIZE / (time.perf_counter() - start)


def main() -> None:
    """Prints one row per kind of store."""
    columns = ("modalities", "tokens", "bytes / raw", "read from memory", "read from disk", "read and masked")
    table = Table(*columns, title="Token store, samples per second")
    budget = MaskingConfig(input_tokens=256, target_tokens=256)
    for grids, sequences, size in ((8, 4, 16), (6, 2, 196), (15, 4, 196)):
        kinds = modalities(grids, sequences, size=size)
        with tempfile.TemporaryDirectory() as folder:
            tokenize(RandomSource(), [RandomCodec(m) for m in kinds], folder=folder, split="train", batch_size=256)
            store, disk = Store(folder), Store(folder, memory=0)
            used = {name: int(counts.sum()) for name, counts in store.counts("train").items()}
            written = sum(path.stat().st_size for path in Path(folder).iterdir())
            masker = Masker(budget, kinds)
            order = {"batch_size": BATCH_SIZE, "seed": 0}
            table.add_row(
                f"{grids} grids of {size}, {sequences} sequences",
                f"{sum(used.values()) / SAMPLES:.0f}",
                f"{written / (2 * sum(used.values())):.3f}",
                f"{rate(TokenBatches(store, 'train', masker=unmasked, **order)):,.0f}",
                f"{rate(TokenBatches(disk, 'train', masker=unmasked, **order)):,.0f}",
                f"{rate(TokenBatches(store, 'train', masker=masker, **order)):,.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
