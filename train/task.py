"""What the training loop needs to know of the thing it trains."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.metrics import Mean


@runtime_checkable
class Batches(Protocol):
    """The batches of a run, of which any rows can be asked for; see `Task.batch`."""

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    def __call__(self, step: int, rows: Int[np.ndarray, " b"], /) -> Any: ...  # noqa: D102


@runtime_checkable
class Task(Protocol):
    """A module, its loss and its batches: an any-to-any model, a tokenizer, or anything else.

    Attributes:
      name: Shown beside the progress.
      config: What is trained, as dataclasses, mappings and plain values (for `mmtok.config.to_json`). A checkpoint
        made with another one is refused.
      flops_per_step: Floating point operations of one optimizer step, forward and backward; 0 where unknown.
      tokens_per_step: Tokens of one global batch, the unit of the reported speed.
      batch_size: Samples of one global batch.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def config(self) -> Any: ...  # noqa: D102

    @property
    def flops_per_step(self) -> float: ...  # noqa: D102

    @property
    def tokens_per_step(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    def init(self, key: Array) -> nnx.Module:
        """Makes the module from a PRNG key; traced once for its shapes, then compiled."""
        ...

    def loss(self, module: Any, batch: Any, key: Array) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """Computes the loss to minimise and what is to be logged; traced.

        Variables of the module other than parameters (running statistics, codebook counts) may be assigned to.
        The names of the means must not depend on the values in the batch.
        """
        ...

    def batch(self, step: int, rows: Int[np.ndarray, " b"]) -> Any:
        """Makes some rows of the global batch of `step`: a pytree of numpy arrays, samples along the first axis.

        Each row must be a pure function of the step and its number, from 0 to `batch_size` - 1; the other axes have
        fixed sizes. Called from several threads.
        """
        ...
