"""The small model that ships with mmtok (`mmtok/pretrained/scenes`): the quickstart's scenes, more of them, for longer.

    mmtok data|tokenizer train|tokenize|train|eval configs/scenes.py
    python scripts/ship_model.py runs/scenes mmtok/pretrained/scenes

About 80 minutes on two CPU cores shared with other work: 9 for the tokenizers, 67 for the model. On 256 held-out
scenes, from rgb alone: depth AbsRel 0.037, normals 7.9 degrees, label mIoU 0.849, 87 % of the caption's facts, box F1
0.963; from a caption by way of a picture, 62 % of its facts. The whole table is in README.md.
"""

import dataclasses
from pathlib import Path

from mmtok.configs import quickstart
from mmtok.configs._scenes import fit, image_net, scene_directions, scene_modalities
from mmtok.model import sized
from mmtok.project import Project


def config() -> Project:
    """Forty thousand scenes at 32x32; tokenizers and the nano model trained longer."""
    base = quickstart.config()
    return dataclasses.replace(
        base,
        root=Path("runs/scenes"),
        data=dataclasses.replace(base.data, train=40_000, validation=1000, test=1000, compositional=500),
        modalities=scene_modalities(size=32, net=image_net(), steps=2000),
        tokenizer_samples=40_000,
        fit=fit(steps=8000, learning_rate=3e-3, warmup=200, ema=0.999),
        model=sized("nano"),
        batch_size=64,
        directions=scene_directions(),
        eval_samples=256,
    )
