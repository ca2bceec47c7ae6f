"""A learned tokenizer as a task for the training loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from mmtok.metrics import Mean
from mmtok.tokenizers.artifact import Learned


class TokenizerTask:
    """Trains the module of a tokenizer with the tokenizer's own loss.

    Args:
      tokenizer: Gives module, loss and config.
      batches: The prepared values (`tokenizer.prepare`) of each step, fixed shapes; a pure function.
    """

    def __init__(self, tokenizer: Learned, batches: Callable[[int], Any]):
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
        return self._tokenizer.flops(self._samples)

    @property
    def tokens_per_step(self) -> int:
        """Token positions that the global batch is squeezed into."""
        return self._samples * self._tokenizer.modality.size

    def init(self, key: Array) -> nnx.Module:
        """Makes the module."""
        return self._tokenizer.init(key)

    def loss(self, module: nnx.Module, batch: Any, key: Array) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """Computes the tokenizer's loss."""
        return self._tokenizer.loss(module, batch, key)

    def batch(self, step: int) -> Any:
        """Makes the batch of one step."""
        return self._batches(step)

    @functools.cached_property
    def _samples(self) -> int:
        return len(jax.tree.leaves(self.batch(0))[0])
