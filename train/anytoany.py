"""Multimodal masked modelling as a task for the training loop."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mmtok.batch import MaskedBatch
from mmtok.config import to_json
from mmtok.metrics import Mean
from mmtok.modality import Modality
from mmtok.model import AnyToAny, ModelConfig
from mmtok.train.task import Batches

EXECUTION = ("remat", "attention")  # fields of a model that change how it is computed, not what: may change on resume


class AnyToAnyTask:
    """Trains an any-to-any model.

    Args:
      config: Size and shape of the model.
      modalities: What it reads and writes, in the order of the indices in the batches.
      batches: The masked batch of each step.
      code_vectors: Per modality, (V, d) float32 vectors of its ids that embeddings start from.
      entropies: Per modality, entropy in nats of its tokens' marginal distribution: what a model that knows only how
        often each token occurs would lose. Logged beside the loss.
      loss: `modality`: mean over the modalities with targets of their mean losses (4M, default of all released models).
        `token`: mean over all targets.
      data: What the batches are made of and how, as dataclasses, mappings and plain values.

    Attributes:
      modalities: What the model reads and writes, in the order of the indices in the batches.
    """

    def __init__(
        self,
        config: ModelConfig,
        modalities: tuple[Modality, ...],
        *,
        batches: Batches,
        code_vectors: Mapping[str, np.ndarray] | None = None,
        entropies: Mapping[str, float] | None = None,
        loss: Literal["modality", "token"] = "modality",
        data: Any = None,
    ):
        self._config, self.modalities, self._batches = config, modalities, batches
        self._code_vectors, self._entropies, self._loss = code_vectors, entropies or {}, loss
        self._data = data
        first = batches(0, np.arange(1))  # read now: damaged data are to be found before anything is compiled
        self._sizes = batches.batch_size, first.encoder.valid.shape[1], first.decoder.valid.shape[1]

    @property
    def name(self) -> str:
        """Shown beside the progress."""
        return "model"

    @property
    def config(self) -> Any:
        """Model, modalities, loss and data."""
        model = {name: value for name, value in to_json(self._config).items() if name not in EXECUTION}
        modalities = {modality.name: modality for modality in self.modalities}
        return {"model": model, "modalities": modalities, "loss": self._loss, "data": self._data}

    @property
    def flops_per_step(self) -> float:
        """Floating point operations of the global batch, forward and backward."""
        return sum(self.flops_by_part.values())

    @functools.cached_property
    def flops_by_part(self) -> dict[str, float]:
        """The same by part of the model; see `AnyToAny.flops`."""
        samples, inputs, targets = self._sizes
        return nnx.eval_shape(lambda: self.init(jax.random.key(0))).flops(samples, inputs, targets)

    @property
    def tokens_per_step(self) -> int:
        """Encoder and decoder slots of the global batch."""
        samples, inputs, targets = self._sizes
        return samples * (inputs + targets)

    @property
    def batch_size(self) -> int:
        """Samples of the global batch."""
        return self._batches.batch_size

    def init(self, key: Array) -> AnyToAny:
        """Makes the model."""
        return AnyToAny(self._config, self.modalities, rngs=nnx.Rngs(key), code_vectors=self._code_vectors)

    def loss(self, module: AnyToAny, batch: MaskedBatch, key: Array) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """Computes the total loss, and per modality `loss/NAME` and `entropy/NAME`; `fill/...` of both budgets."""
        losses = module.losses(batch)
        total = _mean_of_means(losses) if self._loss == "modality" else _mean_of_all(losses)
        means = {f"loss/{name}": mean for name, mean in losses.items()}
        for name, mean in losses.items():
            if name in self._entropies:
                means[f"entropy/{name}"] = Mean(self._entropies[name] * mean.count, mean.count)
        means["fill/input"], means["fill/target"] = _fill(batch.encoder.valid), _fill(batch.decoder.valid)
        return total, means

    def batch(self, step: int, rows: Int[np.ndarray, " b"]) -> MaskedBatch:
        """Makes some rows of the batch of one step."""
        return self._batches(step, rows)


def _mean_of_means(losses: Mapping[str, Mean]) -> Float[Array, ""]:
    """Mean over the modalities that have targets in this batch."""
    present = sum(jnp.minimum(mean.count, 1.0) for mean in losses.values())
    return sum(mean.value for mean in losses.values()) / jnp.maximum(present, 1.0)


def _mean_of_all(losses: Mapping[str, Mean]) -> Float[Array, ""]:
    """Mean over all targets of this batch."""
    return functools.reduce(Mean.__add__, losses.values()).value


def _fill(valid: np.ndarray | jax.Array) -> Mean:
    """Share of the slots in use."""
    return Mean(jnp.sum(valid, dtype=jnp.float32), jnp.float32(valid.size))
