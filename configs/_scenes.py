"""What the configurations of the built-in scenes share: modalities, masking, sampling, what is evaluated."""

from collections.abc import Mapping
from typing import Any

from mmtok.eval.harness import Direction
from mmtok.generate import Target
from mmtok.masking import Component, MaskingConfig, Role
from mmtok.project import Field
from mmtok.scenes import CAMERA, LABELS, METADATA_RANGES, SHAPES
from mmtok.scenes.measures import CELL, FEATURES
from mmtok.tokenizers.autoencoder import NetworkConfig
from mmtok.tokenizers.coordinates import BoxConfig, MetadataConfig, PaletteConfig
from mmtok.tokenizers.features import FeatureConfig
from mmtok.tokenizers.images import ImageConfig
from mmtok.tokenizers.pixels import PixelConfig
from mmtok.tokenizers.scalars import ScalarConfig
from mmtok.tokenizers.text import TextConfig
from mmtok.train.config import FitConfig, OptimizerConfig

GRIDS = ("rgb", "depth", "normal", "label", "instance", "edge", "feature", "camera")
OBJECTS = 4  # most instances a picture of `scenes` shows, background included


def fit(*, steps: int, learning_rate: float, warmup: int, ema: float = 0.0, log_every: int = 100) -> FitConfig:
    """AdamW with warm-up and cosine; one checkpoint per tenth of the run."""
    return FitConfig(
        steps=steps,
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=warmup),
        ema=ema,
        log_every=log_every,
        checkpoint_every=max(steps // 10, 1),
    )


def image_net() -> NetworkConfig:
    """A small ViT with 2 560 FSQ codes."""
    return NetworkConfig(width=128, depth=1, levels=(8, 8, 8, 5))


def scene_modalities(*, size: int, net: NetworkConfig, steps: int) -> Mapping[str, Field]:
    """The twelve modalities of `mmtok.scenes`, and the pixels of `rgb` as a second, encoder-only view of it.

    Args:
      size: Pixels along one side of a picture.
      net: Network and codebook of the picture-like tokenizers.
      steps: Training steps of each of them.
    """
    training = fit(steps=steps, learning_rate=3e-3, warmup=50)

    def image(**values: Any) -> Field:
        return Field(tokenizer=ImageConfig(size=size, patch=8, net=net, **values), batch_size=64, fit=training)

    def classes(count: int, show: str) -> Field:
        return image(values="classes", channels=1, classes=count, loss="cross_entropy", show=show)

    return {
        "pixels": Field(tokenizer=PixelConfig(size=size, patch=8), source="rgb"),
        "rgb": image(loss="mse", show="rgb"),
        "depth": image(values="depth", channels=1, near=4.0, far=22.0, show="depth"),
        "normal": image(values="unit", loss="cosine", show="normal"),
        "label": classes(len(LABELS), "label"),
        "instance": classes(OBJECTS, "instance"),
        "edge": classes(2, "edge"),
        "feature": Field(
            tokenizer=FeatureConfig(size=size // CELL, channels=FEATURES, net=net), batch_size=64, fit=training
        ),
        "caption": Field(tokenizer=TextConfig(length=40, pieces=200)),
        "box": Field(tokenizer=BoxConfig(boxes=3, bins=64, labels=tuple(SHAPES))),
        "palette": Field(tokenizer=PaletteConfig(bins=64)),
        "metadata": Field(tokenizer=MetadataConfig(ranges=METADATA_RANGES)),
        "camera": Field(tokenizer=ScalarConfig(length=len(CAMERA), bins=32)),
    }


def scene_masking(*, input_tokens: int, target_tokens: int) -> MaskingConfig:
    """Anything to anything, with the picture alone, the caption alone and whole modalities seen more often."""
    hidden = Role(input_alpha=0.0, target_alpha=0.5)  # alpha 0 takes no share, not even of budget left over
    caption = Role(input_alpha=5.0, target_alpha=0.0, keep="all")
    return MaskingConfig(
        input_tokens=input_tokens,
        min_input_tokens=min(16, input_tokens),  # a picture's patches
        target_tokens=target_tokens,
        components=(
            Component(weight=1.0, default=Role(input_alpha=0.2, target_alpha=0.2)),
            Component(
                weight=2.0,
                default=hidden,
                roles={
                    "pixels": Role(input_alpha=1000.0, target_alpha=0.0),
                    "rgb": Role(input_alpha=0.0, target_alpha=0.1),
                },
            ),
            Component(weight=1.0, default=hidden, roles={"caption": caption}),
            # With part of the picture, as while the picture is made from the caption; a whole one, as after that.
            Component(
                weight=1.0,
                default=hidden,
                roles={"caption": caption, "rgb": Role(input_alpha=0.2, target_alpha=1.0)},
            ),
            Component(weight=1.0, whole=True),
        ),
    )


def scene_sampling() -> Mapping[str, Target]:
    """Few, rather certain steps, right where the input decides nearly everything; a picture is made more freely."""
    grids = {name: Target(modality=name, steps=4, temperature=0.3) for name in GRIDS}
    texts = {name: Target(modality=name, temperature=0.1) for name in ("caption", "box", "palette", "metadata")}
    return grids | texts | {"rgb": Target(modality="rgb", steps=16, temperature=0.7, guidance=2.0)}


def scene_directions() -> tuple[Direction, ...]:
    """From the picture alone, and from the caption alone by way of a picture."""
    targets = ("depth", "normal", "label", "caption", "box")
    return (
        Direction(given=("rgb",), targets=targets),
        Direction(given=("caption",), through=("rgb",), targets=targets),
        Direction(given=("caption",), targets=("palette", "metadata")),
    )
