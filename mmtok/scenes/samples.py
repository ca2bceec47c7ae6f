"""All modalities of scenes."""

from typing import Any

import numpy as np
from jaxtyping import Int64

from mmtok.scenes import measures
from mmtok.scenes.captions import DRAWS, caption
from mmtok.scenes.draws import uniform
from mmtok.scenes.edges import canny
from mmtok.scenes.render import describe, render
from mmtok.scenes.tables import METADATA_RANGES, SHAPES
from mmtok.scenes.world import Scenes

FIELDS = (
    "rgb",
    "depth",
    "normal",
    "label",
    "instance",
    "edge",
    "caption",
    "box",
    "palette",
    "metadata",
    "camera",
    "feature",
)
"""Fields of every sample."""

_CAPTION_STREAM = 1
_PIXELS = 1 << 16  # measured together: their arrays stay in the cache


def samples(
    setting: str, numbers: Int64[np.ndarray, " B"], *, size: int, seed: int = 0, held_out: bool = False
) -> list[dict[str, Any]]:
    """Makes samples with all `FIELDS`: a pure function of the arguments, sample by sample.

    Args:
      setting: Name of the setting.
      numbers: Which scenes; not negative.
      size: Pixels along one side, a multiple of 8.
      seed: Of all scenes.
      held_out: Scenes with at least one combination of `HELD_OUT`; otherwise they have none.
    """
    scenes = describe(setting, numbers, seed=seed, held_out=held_out)
    step = max(1, _PIXELS // size**2)
    return [sample for start in range(0, len(scenes), step) for sample in _samples(scenes[start : start + step], size)]


def _samples(scenes: Scenes, size: int) -> list[dict[str, Any]]:
    pictures = render(scenes, size=size)
    numeric = {
        "edge": canny(measures.luma(pictures.rgb) * np.float32(1 / 255)),
        "palette": measures.palettes(pictures.rgb),
        "feature": measures.features(pictures.rgb),
        "camera": scenes.camera.astype(np.float32),
    }
    counts = np.stack([((scenes.shape == index) & (scenes.radius > 0)).sum(1) for index in range(len(SHAPES))], 1)
    table = measures.metadata(pictures.rgb, pictures.depth, pictures.instance, counts).tolist()
    boxes = measures.boxes(pictures.instance, scenes.shape.shape[1]).tolist()
    texts = captions(scenes)
    return [
        {
            **{name: getattr(pictures, name)[row] for name in ("rgb", "depth", "normal", "label", "instance")},
            **{name: values[row] for name, values in numeric.items()},
            "caption": texts[row],
            "box": [
                {"label": SHAPES[scenes.shape[row, slot]], "box": boxes[row][slot]} for slot in range(scenes.count[row])
            ],
            "metadata": dict(zip(METADATA_RANGES, table[row])),
        }
        for row in range(len(scenes))
    ]


def captions(scenes: Scenes) -> list[str]:
    """Returns one caption per scene."""
    numbers = uniform(scenes.key, _CAPTION_STREAM, DRAWS)
    return [caption(scenes.scene(row), numbers[row]) for row in range(len(scenes))]
