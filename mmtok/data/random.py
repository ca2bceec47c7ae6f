"""Random tokens in the shapes of real ones: for measuring, and for compiling before there are data."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Real

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
      dtypes: See `random_tokens`.

    Attributes:
      modalities: As given.
      batch_size: As given.
    """

    def __init__(
        self,
        modalities: tuple[Modality, ...],
        masker: Mask,
        *,
        batch_size: int,
        seed: int = 0,
        samples: int = 64,
        dtypes: Mapping[str, np.dtype],
    ):
        self.modalities, self.batch_size = modalities, batch_size
        self._masker, self._seed, self._samples = masker, seed, samples
        self._tokens = random_tokens(modalities, samples=samples, seed=seed, dtypes=dtypes)

    def __call__(self, step: int, rows: Int[np.ndarray, " b"] | None = None) -> MaskedBatch:
        """Returns some rows of the batch of a step (None: all)."""
        places = step * self.batch_size + (np.arange(self.batch_size) if rows is None else rows.astype(np.int64))
        tokens = {name: column[places % self._samples] for name, column in self._tokens.items()}
        return self._masker(tokens, seed=self._seed, step=step, samples=places)


def random_tokens(
    modalities: tuple[Modality, ...], *, samples: int, seed: int, dtypes: Mapping[str, np.dtype]
) -> TokenBatch:
    """Draws samples that have all modalities: uniform ids, sequences of random lengths that end, normal vectors.

    Args:
      modalities: What every sample has.
      samples: How many.
      seed: Of everything.
      dtypes: Of the vectors of each continuous modality, by name: what `mmtok.data.tokenize.stored_dtype` says.
    """
    rng = np.random.default_rng(seed)
    return {modality.name: _column(modality, samples, rng, dtypes) for modality in modalities}


def _column(modality: Modality, samples: int, rng: np.random.Generator, dtypes: Mapping[str, np.dtype]) -> TokenColumn:
    size = modality.size
    if modality.kind == "continuous":
        length = rng.integers(1, size + 1, samples) if modality.variable else np.full(samples, size)
        values = _vectors(modality, samples, rng, dtypes[modality.name])
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


def _vectors(
    modality: Modality, samples: int, rng: np.random.Generator, dtype: np.dtype
) -> Real[np.ndarray, "B L channels"]:
    """Draws vectors of the modality's mean and standard deviation; whole numbers are rounded into their range."""
    values = rng.standard_normal((samples, modality.size, modality.channels), np.float32)
    values *= np.resize(np.array(modality.std, np.float32), modality.channels)
    values += np.resize(np.array(modality.mean, np.float32), modality.channels)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
    return values.astype(dtype, copy=False)
