"""Training batches as pure functions of the step, so that a resumed run sees what an uninterrupted one would."""

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

from mmtok.batch import MaskedBatch, TokenBatch
from mmtok.data.shuffle import Order
from mmtok.data.store import Store
from mmtok.errors import MmtokError, unknown

Arrays = TypeVar("Arrays", bound=np.ndarray | Mapping[str, np.ndarray] | tuple[np.ndarray, ...])


@runtime_checkable
class Mask(Protocol):
    """Turns token samples into a training batch; pure in its arguments, each row by itself."""

    def __call__(self, tokens: TokenBatch, /, *, seed: int, step: int, samples: Int[np.ndarray, " B"]) -> MaskedBatch:
        """Masks a batch."""
        ...


class TokenBatches:
    """Masked batches of one split of a token store.

    Args:
      store: The token store.
      split: Name of the split.
      batch_size: Rows of the whole batch, over all processes.
      seed: Of sample order and masking.
      masker: Gets the token samples, the seed, the step and for every row its place in the endless stream of samples
        (epoch * samples + place in the epoch), unique to each visit of a sample.

    Attributes:
      batch_size: As given.

    Raises:
      MmtokError: there is no such split, or it has fewer samples than a batch.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        *,
        batch_size: int,
        seed: int,
        masker: Mask,
    ):
        if split not in store.splits:
            raise unknown(f"split of token store {store.folder}", split, store.splits)
        if store.splits[split] < batch_size:
            raise MmtokError(
                f"token store {store.folder}: split '{split}' has {store.splits[split]} samples, fewer than a batch of"
                f" {batch_size}; lower the batch size or tokenize more data"
            )
        self.batch_size = batch_size
        self._store, self._split, self._seed, self._masker = store, split, seed, masker
        self._order = Order(size=store.splits[split], batch_size=batch_size, seed=seed)

    def __call__(self, step: int, rows: Int[np.ndarray, " b"] | None = None) -> MaskedBatch:
        """Returns some rows of the batch of a step (None: all); nothing else is read."""
        samples = self._order.ordinals(step, rows)
        tokens = self._store.read(self._split, self._order.indices(samples))
        return self._masker(tokens, seed=self._seed, step=step, samples=samples)


class ArrayBatches(Generic[Arrays]):
    """Batches of arrays in memory, in the same order as `TokenBatches` would use.

    Args:
      arrays: An array, or a mapping or tuple of arrays, with one row per sample.
      batch_size: Rows of the whole batch, over all processes.
      seed: Of the sample order.

    Attributes:
      batch_size: As given.
    """

    def __init__(self, arrays: Arrays, *, batch_size: int, seed: int):
        sizes = {len(array) for array in jax.tree.leaves(arrays)}
        if len(sizes) != 1 or 0 in sizes:
            raise MmtokError(f"arrays of one and the same positive length expected, lengths {sorted(sizes)} found")
        self.batch_size = batch_size
        self._arrays = arrays
        self._order = Order(size=sizes.pop(), batch_size=batch_size, seed=seed)

    def __call__(self, step: int, rows: Int[np.ndarray, " b"] | None = None) -> Arrays:
        """Returns some rows of the batch of a step (None: all), in the structure of `arrays`."""
        indices = self._order.indices(self._order.ordinals(step, rows))
        return jax.tree.map(lambda array: array[indices], self._arrays)
