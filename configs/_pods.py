"""What the configurations for pods share: the modalities and budgets of 4M-21 (Bachmann et al. 2024).

The tokens are taken as they are (folders of integer arrays), so that nothing has to be trained before `mmtok compile`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtok.data import FoldersConfig
from mmtok.eval.harness import Direction
from mmtok.generate import Target
from mmtok.interop.fourm.modalities import IMAGENET_MEAN, IMAGENET_STD, MODALITIES
from mmtok.masking import MaskingConfig
from mmtok.modality import Modality
from mmtok.model import sized
from mmtok.project import Field, Project
from mmtok.tokenizers.embeddings import EmbeddingConfig
from mmtok.tokenizers.ids import IdConfig
from mmtok.tokenizers.pixels import PixelConfig
from mmtok.train.config import FitConfig, MeshConfig, OptimizerConfig

SAMPLES = 500_000_000_000 // 512
"""Of 4M-21's runs: 500 billion tokens, inputs and targets."""


def pods(size: str, *, fsdp: int, learning_rate: float = 1e-4) -> Project:
    """256 + 256 tokens of 4M-21's modalities at a global batch of 8192, in bfloat16.

    Args:
      size: Of the model, in `mmtok.model.SIZES`.
      fsdp: Devices that a copy of the parameters is split over; the others split the batch.
      learning_rate: Peak.
    """
    batch_size = 8192
    steps = SAMPLES // batch_size
    # 19 arrays, of which 17 are targets, as in the public configuration of 4M-21
    modalities = [modality for name, modality in MODALITIES.items() if not name.endswith("@448")]
    fields = {modality.name.partition("@")[0]: _field(modality) for modality in modalities}
    targets = [modality.name.partition("@")[0] for modality in modalities if modality.is_target]
    return Project(
        root=Path(f"runs/pods_{size}".lower()),
        data=FoldersConfig(root=Path("data/4m-21"), fields={name: name for name in fields}),
        modalities=fields,
        model=sized(size, dtype="bfloat16", remat="full"),
        masking=MaskingConfig(input_tokens=256, target_tokens=256),
        batch_size=batch_size,
        fit=FitConfig(
            steps=steps,
            optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=steps // 50),
            mesh=MeshConfig(fsdp=fsdp, rules="fsdp"),
        ),
        sampling={name: Target(modality=name) for name in targets},
        directions=(Direction(given=("rgb",), targets=("tok_depth",)),),
    )


def _field(modality: Modality) -> Field:
    size = max(modality.shape)
    if modality.variable:
        return Field(tokenizer=EmbeddingConfig(length=size, channels=modality.channels, bias=modality.bias))
    if modality.kind == "continuous":
        mean, std = (tuple(255 * value for value in values) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return Field(tokenizer=PixelConfig(size=16 * size, patch=16, mean=mean, std=std))
    assert modality.vocabulary is not None
    common: Mapping[str, Any] = {"shape": modality.shape, "vocabulary": modality.vocabulary, "show": modality.show}
    kind = "sequence" if modality.kind == "sequence" else "grid"
    return Field(tokenizer=IdConfig(kind=kind, learned_positions=modality.learned_positions, **common))
