"""The quickstart, made so small that it goes through every command in seconds (and learns nothing)."""

from collections.abc import Sequence
from dataclasses import replace

from mmtok.configs._scenes import fit
from mmtok.configs.quickstart import config as quickstart
from mmtok.eval.harness import Direction
from mmtok.project import Field, Project
from mmtok.scenes import ScenesConfig
from mmtok.tokenizers.autoencoder import NetworkConfig
from mmtok.train.config import FitConfig

SCENES = ScenesConfig(size=32, train=48, validation=8, test=8, compositional=2)


def config() -> Project:
    """Six of its modalities, two of them with a network to train."""
    small = shrink(quickstart(), modalities=("pixels", "rgb", "depth", "caption", "box", "camera"))
    chained = Direction(given=("caption",), through=("rgb",), targets=("depth",))
    return replace(small, directions=(Direction(given=("rgb",), targets=("depth", "box")), chained))


def shrink(project: Project, *, modalities: Sequence[str]) -> Project:
    """Keeps some modalities of a project and makes everything small."""
    directions = (
        replace(direction, targets=tuple(name for name in direction.targets if name in modalities))
        for direction in project.directions
    )
    short = fit(steps=60, learning_rate=1e-2, warmup=5, ema=project.fit.ema, log_every=20)
    return replace(
        project,
        data=replace(project.data, base=SCENES) if hasattr(project.data, "base") else SCENES,
        modalities={name: _small(project.modalities[name]) for name in modalities},
        model=replace(project.model, dim=32, encoder_depth=1, decoder_depth=1, heads=2, head_dim=16, mlp_hidden=32),
        masking=replace(project.masking, input_tokens=16, target_tokens=16),
        batch_size=8,
        fit=replace(short, checkpoint_every=10),
        sampling={name: target for name, target in project.sampling.items() if name in modalities},
        directions=tuple(direction for direction in directions if direction.targets),
        eval_samples=8,
    )


def _small(field: Field) -> Field:
    tokenizer = field.tokenizer
    if hasattr(tokenizer, "net"):
        tokenizer = replace(tokenizer, net=NetworkConfig(width=32, levels=(4, 4, 4)))
    return replace(field, tokenizer=tokenizer, batch_size=8, fit=FitConfig(steps=5, log_every=5, trackers=()))
