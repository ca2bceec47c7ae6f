"""From nothing to any-to-any generation on two CPU cores in minutes: scenes at 32x32, twelve modalities.

    bash scripts/quickstart.sh

runs this file through every command (`mmtok data|tokenizer train|tokenize|train|eval|sample`). About
twelve minutes, set-up included. Expected on 128 held-out scenes, from rgb: depth AbsRel 0.059 (constant 0.122), normals
12.5 degrees (24.1), label mIoU 0.58 (0.31), 56 % of the caption's facts (30 %), box F1 0.50 (0.05).
"""

from pathlib import Path

from mmtok.configs._scenes import fit, image_net, scene_masking, scene_modalities, scene_sampling
from mmtok.eval.harness import Direction
from mmtok.model import sized
from mmtok.project import Project
from mmtok.scenes import ScenesConfig


def config() -> Project:
    """Scenes at 32x32, 16 tokens per picture-like modality, a pico model."""
    return Project(
        root=Path("runs/quickstart"),
        data=ScenesConfig(size=32, train=12_000, validation=500, test=500, compositional=250),
        modalities=scene_modalities(size=32, net=image_net(), steps=400),
        model=sized("pico"),
        masking=scene_masking(input_tokens=48, target_tokens=64),
        batch_size=32,
        fit=fit(steps=1500, learning_rate=5e-3, warmup=100, ema=0.99, log_every=50),
        sampling=scene_sampling(),
        directions=(
            Direction(given=("rgb",), targets=("depth", "normal", "label", "caption", "box")),
            # What a caption leaves open, above all the places, no model can know: see configs/scenes.py for the rest.
            Direction(given=("caption",), through=("rgb",), targets=("caption",)),
            Direction(given=("caption",), targets=("palette", "metadata")),
        ),
    )
