"""Auto-encoders whose decoder is a diffusion model that is given the tokens (DiVAE, arXiv 2206.00386)."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmtok.errors import MmtokError
from mmtok.metrics import Mean
from mmtok.tokenizers.diffusion import NoiseConfig, SamplerConfig, noised, sample, starting_noise
from mmtok.tokenizers.networks.unet import UNet, UNetConfig
from mmtok.tokenizers.networks.uvit import UViT, UViTConfig
from mmtok.tokenizers.vq import EncoderConfig, GridVQTokenizer, VQEncoder, distance, exact


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiVAEConfig:
    """An image tokenizer with a diffusion decoder.

    Attributes:
      encoder: From pictures to tokens.
      unet: The decoder, if it is a U-Net.
      uvit: The decoder, if it is a U-ViT; exactly one of the two is given.
      noise: Noise schedule and what the network predicts.
      sampler: How tokens are decoded.
      loss: Distance of prediction and target.
      drop: Share of the pictures that are denoised without their tokens in training.
      show: How `mmtok.show` draws it.
    """

    family: ClassVar[str] = "divae"

    encoder: EncoderConfig
    unet: UNetConfig | None = None
    uvit: UViTConfig | None = None
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    loss: Literal["mse", "l1", "smooth_l1"] = "mse"
    drop: float = 0.0
    show: str = "rgb"

    def __post_init__(self) -> None:
        if (self.unet is None) == (self.uvit is None):
            raise MmtokError("divae tokenizer: give either `unet` or `uvit`")
        if self.encoder.units.values in ("classes", "mask"):
            raise MmtokError(f"divae tokenizer: values '{self.encoder.units.values}' cannot be noised; use family `vq`")
        if self.encoder.size % self.network.multiple:
            raise MmtokError(
                f"divae tokenizer: size {self.encoder.size} must be a multiple of {self.network.multiple},"
                " the coarsest cells of the decoder"
            )

    @property
    def network(self) -> UNetConfig | UViTConfig:
        """The decoder."""
        network = self.unet or self.uvit
        assert network is not None
        return network


class DiffusionAutoEncoder(VQEncoder):
    """Pictures to tokens, and a network that takes noise away from pictures with these tokens."""

    def __init__(self, config: DiVAEConfig, *, rngs: nnx.Rngs):
        super().__init__(config.encoder, rngs=rngs)
        network, common = config.network, {"condition": config.encoder.quantizer.latent, "rngs": rngs}
        channels = config.encoder.units.channels
        if isinstance(network, UNetConfig):
            self.denoiser = UNet(network, channels=channels, **common)
        else:
            self.denoiser = UViT(network, channels=channels, **common)

    def denoise(
        self,
        noisy: Float[Array, "B H W C"],
        time: Int[Array, " B"],
        quantized: Float[Array, "B h w latent"],
        dropped: Bool[Array, "B h w"] | None = None,
    ) -> Float[Array, "B H W C"]:
        """Returns the prediction of the network; it does not see the dropped cells of the quantized latents."""
        return self.denoiser(noisy, time, quantized, dropped)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DiVAETokenizer(GridVQTokenizer):
    """Tokenizes one kind of picture and decodes it in many passes.

    Attributes:
      steps: Passes of `decode`, which say nothing about the tokens and are not saved; None are those of the config.
    """

    Config = DiVAEConfig
    config: DiVAEConfig
    batches: ClassVar[tuple[int, ...]] = (1, 8)

    steps: int | None = None

    @property
    def sampler(self) -> SamplerConfig:
        """How `decode` takes the noise away."""
        chosen = self.config.sampler
        return chosen if self.steps is None else dataclasses.replace(chosen, steps=self.steps)

    @property
    def decoding_steps(self) -> int:
        """Passes through the network that `decode` makes; a few more where they do not divide the noise levels."""
        return self.sampler.steps

    def with_decoding_steps(self, steps: int) -> "DiVAETokenizer":
        """Returns this tokenizer with another number of passes (see `SamplerConfig.steps`).

        Raises:
          MmtokError: there are not as many noise levels.
        """
        levels = self.config.noise.steps
        if not 1 <= steps <= levels:
            raise MmtokError(f"tokenizer '{self.name}': it decodes in 1 to {levels} steps, not in {steps}")
        return dataclasses.replace(self, steps=steps)

    def init(self, key: jax.Array) -> nnx.Module:
        """Returns the network with fresh parameters."""
        return DiffusionAutoEncoder(self.config, rngs=nnx.Rngs(key))

    def decoded(self, module: Any, ids: Int[Array, "B L K"]) -> Float[Array, "B H W C"]:
        """Returns samples of the pictures with these tokens."""
        size, channels = self.config.encoder.size, self.config.encoder.units.channels
        noise = starting_noise(self.sampler, (size, size, channels))
        start = jnp.broadcast_to(noise, (len(ids), *noise.shape))
        with exact():
            return self.sampled(module, module.quantizer.vectors(self._grid(ids)), start)

    def sampled(
        self, module: Any, quantized: Float[Array, "B h w latent"], start: Float[Array, "B H W C"]
    ) -> Float[Array, "B H W C"]:
        """Returns what the sampler makes of noise, given quantized latents."""
        return sample(
            lambda x, time: module.denoise(x, time, quantized),
            start,
            noise=self.config.noise,
            sampler=self.sampler,
        )

    def loss(self, module: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        """Returns denoising plus commitment loss, and both; the codebook of `module` moves."""
        inputs, config = self.inputs(batch), self.config
        codes, times, noise, drops = jax.random.split(key, 4)
        quantized, commitment = module.quantizer.straight_through(module.latents(inputs), codes)
        time = jax.random.randint(times, (len(inputs),), 0, config.noise.steps)
        noisy, target = noised(config.noise, inputs, jax.random.normal(noise, inputs.shape), time)
        dropped = jax.random.bernoulli(drops, config.drop, (len(inputs), 1, 1)) if config.drop else None
        dropped = None if dropped is None else jnp.broadcast_to(dropped, quantized.shape[:3])
        losses = distance(module.denoise(noisy, time, quantized, dropped), target, config.loss)
        mean = Mean(jnp.sum(losses), jnp.float32(losses.size))
        return mean.value + commitment, {config.loss: mean, "commitment": Mean(commitment, jnp.float32(1))}
