"""A learned tokenizer as a task for the training loop."""

from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.metrics import Mean
from mmtok.tokenizers.artifact import Learned
from mmtok.train.task import Batches


class TokenizerTask:
    """Trains the module of a tokenizer with the tokenizer's own loss.

    Args:
      tokenizer: Gives module, loss and config.
      batches: The prepared values (`tokenizer.prepare`) of each step.
    """

    def __init__(self, tokenizer: Learned, batches: Batches):
        self._tokenizer, self._batches = tokenizer, batches

    @property
    def name(self) -> str:
        """Name of the tokenizer."""
        return self._tokenizer.name

    @property
    def config(self) -> Any:
        """Config of the tokenizer."""
        return self._tokenizer.config

    @property
    def flops_per_step(self) -> float:
        """Floating point operations of the global batch, forward and backward."""
        return self._tokenizer.flops(self.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Token positions that the global batch is squeezed into."""
        return self.batch_size * self._tokenizer.modality.size

    @property
    def batch_size(self) -> int:
        """Samples of the global batch."""
        return self._batches.batch_size

    def init(self, key: Array) -> nnx.Module:
        """Makes the module."""
        return self._tokenizer.init(key)

    def loss(self, module: nnx.Module, batch: Any, key: Array) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """Computes the tokenizer's loss."""
        return self._tokenizer.loss(module, batch, key)

    def batch(self, step: int, rows: Int[np.ndarray, " b"]) -> Any:
        """Makes some rows of the batch of one step."""
        return self._batches(step, rows)
