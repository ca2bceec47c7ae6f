"""Dense feature maps: one token per cell."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.autoencoder import AutoEncoder, GridTokenizer, NetworkConfig
from mmtok.tokenizers.preprocess import ImagePreprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """A feature map tokenizer.

    Attributes:
      size: Cells along one side of the square map.
      channels: Length of the vector in each cell.
      loss: `mse` of the standardised features, or `cosine` distance of those vectors.
      net: Network and codebook.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "feature"

    size: int
    channels: int
    loss: Literal["mse", "cosine"] = "mse"
    net: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    show: str = "feature"


class FeatureTokenizer(GridTokenizer):
    """Tokenizes feature maps (h, w, C), standardised by channel; `fit` measures mean and spread before the training."""

    Config = FeatureConfig
    config: FeatureConfig

    @functools.cached_property
    def modality(self) -> Modality:
        """A square grid of cells."""
        return Modality(
            name=self.name,
            kind="grid",
            shape=(self.config.size, self.config.size),
            vocabulary=Vocabulary(size=int(np.prod(self.config.net.levels))),
            codes=self.config.net.codes,
            source=self.source,
            show=self.config.show,
            fingerprint=self.fingerprint,
        )

    def fit(self, values: Iterable[Any]) -> "FeatureTokenizer":
        """Returns the tokenizer with mean and standard deviation of each channel, and the start of its training."""
        values = [value for value in values if value is not None]
        if not values:
            raise MmtokError(f"tokenizer '{self.name}': no values to fit to")
        maps = self.prepare(values)
        vectors = maps.reshape(-1, self.config.channels).astype(np.float64)
        mean, std = vectors.mean(axis=0), np.maximum(vectors.std(axis=0), 1e-6)
        arrays = {"channel_mean": mean.astype(np.float32), "channel_std": std.astype(np.float32)}
        standardised = dataclasses.replace(self, arrays={**self.arrays, **arrays})
        return dataclasses.replace(standardised, start=GridTokenizer.fit(standardised, values).start)

    @property
    def patch(self) -> int:
        """One cell."""
        return 1

    def expected(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Returns shape and dtype of the parameters and of the fitted tables."""
        table = ((self.config.channels,), np.dtype(np.float32))
        return {**super().expected(), "channel_mean": table, "channel_std": table}

    def init(self, key: jax.Array) -> nnx.Module:
        """Returns the network with fresh parameters."""
        channels = self.config.channels
        return AutoEncoder(
            self.config.net, size=self.config.size, patch=1, channels=channels, rngs=nnx.Rngs(key), start=self.start
        )

    def prepare(self, values: Sequence[Any]) -> np.ndarray:
        """Returns (B, h, w, C) float32, not yet standardised; zeros for a None."""
        maps = ImagePreprocess(size=self.config.size, channels=self.config.channels, dtype="float32")
        batch = maps.batch(values, name=self.name)
        return batch[..., None] if self.config.channels == 1 else batch

    def inputs(self, batch: Any) -> Float[Array, "B H W C"]:
        """Returns the standardised features."""
        if "channel_mean" not in self.arrays:
            raise MmtokError(f"tokenizer '{self.name}' must be fitted (`fit`) before it is trained")
        return (jnp.asarray(batch) - self.arrays["channel_mean"]) / self.arrays["channel_std"]

    def loss(self, module: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        """Returns the mean loss of the standardised features."""
        target = self.inputs(batch)
        output = module(target)
        if self.config.loss == "mse":
            losses = jnp.square(output - target)
        else:
            losses = 1 - jnp.sum(_unit(output) * _unit(target), axis=-1)
        mean = Mean(jnp.sum(losses), jnp.asarray(losses.size, jnp.float32))
        return mean.value, {self.config.loss: mean}

    def values(self, output: Float[np.ndarray, "B H W C"]) -> list[np.ndarray]:
        """Returns feature maps on their own scale."""
        maps = (output * self.arrays["channel_std"] + self.arrays["channel_mean"]).astype(np.float32)
        return list(maps[..., 0] if self.config.channels == 1 else maps)


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
