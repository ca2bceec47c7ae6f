"""The built-in data set: procedural scenes with exact aligned modalities."""

from mmtok.scenes.captions import caption
from mmtok.scenes.config import ScenesConfig
from mmtok.scenes.facts import Facts, facts, parse, score
from mmtok.scenes.render import Rendering, describe, render
from mmtok.scenes.samples import FIELDS, samples
from mmtok.scenes.tables import CAMERA, COLOURS, HELD_OUT, LABELS, METADATA_RANGES, SETTINGS, SHAPES
from mmtok.scenes.world import Scene, Scenes

__all__ = [
    "CAMERA",
    "COLOURS",
    "FIELDS",
    "HELD_OUT",
    "LABELS",
    "METADATA_RANGES",
    "SETTINGS",
    "SHAPES",
    "Facts",
    "Rendering",
    "Scene",
    "Scenes",
    "ScenesConfig",
    "caption",
    "describe",
    "facts",
    "parse",
    "render",
    "samples",
    "score",
]
