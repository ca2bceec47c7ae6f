"""Random tokens in the shapes of real ones: for measuring, and for compiling before there are data."""

import numpy as np
from jaxtyping import Int

from mmtok.batch import MaskedBatch, TokenBatch, TokenColumn
from mmtok.data.batches import Mask
from mmtok.modality import Modality


class RandomBatches:
    """Masked batches of random tokens, like `mmtok.data.TokenBatches` without a store.

    Args:
      modalities: What every sample has.
      masker: See `mmtok.data.TokenBatches`.
      batch_size: Rows of the whole batch.
      seed: Of tokens and masking.
      samples: Different samples, which come again and again.

    Attributes:
      batch_size: As given.
    """

    def __init__(
        self, modalities: tuple[Modality, ...], masker: Mask, *, batch_size: int, seed: int = 0, samples: int = 64
    ):
        self.batch_size = batch_size
        self._masker, self._seed, self._samples = masker, seed, samples
        self._tokens = random_tokens(modalities, samples=samples, seed=seed)

    def __call__(self, step: int, rows: Int[np.ndarray, " b"] | None = None) -> MaskedBatch:
        """Returns some rows of the batch of a step (None: all)."""
        places = step * self.batch_size + (np.arange(self.batch_size) if rows is None else rows.astype(np.int64))
        tokens = {name: column[places % self._samples] for name, column in self._tokens.items()}
        return self._masker(tokens, seed=self._seed, step=step, samples=places)


def random_tokens(modalities: tuple[Modality, ...], *, samples: int, seed: int) -> TokenBatch:
    """Draws samples that have all modalities: uniform ids, sequences of random lengths that end, normal vectors."""
    rng = np.random.default_rng(seed)
    return {modality.name: _column(modality, samples, rng) for modality in modalities}


def _column(modality: Modality, samples: int, rng: np.random.Generator) -> TokenColumn:
    size = modality.size
    if modality.kind == "continuous":
        length = rng.integers(1, size + 1, samples) if modality.variable else np.full(samples, size)
        values = rng.normal(size=(samples, size, modality.channels)).astype(np.float32)
        mean, std = (
            np.resize(np.array(value, np.float32), modality.channels) for value in (modality.mean, modality.std)
        )
        values = mean + std * values
    else:
        words = modality.vocabulary
        assert words is not None
        sequence = modality.kind == "sequence"
        length = rng.integers(1, size + 1, samples) if sequence else np.full(samples, size)
        first = words.sentinel_first + words.sentinel_count if sequence else 0
        values = rng.integers(min(first, words.size - 1), words.size, (samples, size, modality.codes), dtype=np.int32)
        if sequence:
            values[np.arange(samples), length - 1] = words.end
    values[np.arange(size) >= length[:, None]] = 0
    return TokenColumn(values, length.astype(np.int32))
