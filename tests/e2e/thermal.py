"""A modality of one's own: the quickstart with `thermal`, a grey picture of the warmth that reaches the camera."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmtok.configs.quickstart import config as quickstart
from mmtok.data import Derived
from mmtok.eval.harness import Direction


def thermal(sample):
    """Red things are warm, and warmth fades with distance (metres)."""
    return (sample["rgb"][..., 0] * np.exp(-sample["depth"] / 10)).astype(np.uint8)


def config():
    base = quickstart()
    rgb = base.modalities["rgb"]
    grey = replace(rgb, tokenizer=replace(rgb.tokenizer, channels=1, show="grey"))
    return replace(
        base,
        root=Path("runs/thermal"),
        data=Derived(base=base.data, needs=("rgb", "depth"), fields={"thermal": thermal}),
        modalities={**base.modalities, "thermal": grey},
        directions=(Direction(given=("rgb",), targets=("thermal", "depth")),),
    )
