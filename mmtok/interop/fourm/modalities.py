"""The modalities of 4M-7 and 4M-21 (Mizrahi et al. 2023; Bachmann et al. 2024), as declarations."""

import dataclasses
import hashlib
from collections.abc import Mapping

from mmtok.interop.fourm.classes import CLASSES
from mmtok.modality import Modality, Vocabulary

WORDS = Vocabulary(size=30_000, sentinel_count=200)
"""The vocabulary of all sequences: specials, sentinels, 4 x 1000 coordinate bins, 80 class names, word pieces."""

CHUNKS = dataclasses.replace(WORDS, unit_first=1204, unit_count=1000)
"""The same where a bin of v1 opens a key-value pair, which is masked as a whole."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _text(name: str, length: int, *, positions: int, show: str = "text", vocabulary: Vocabulary = WORDS) -> Modality:
    return Modality(
        name=name,
        kind="sequence",
        shape=(length,),
        vocabulary=vocabulary,
        source=name,
        show=show,
        # The released models were trained with their decoder positions read this way, so it is part of their weights.
        position_limit=positions,
    )


def _pixels(size: int) -> Modality:
    return Modality(
        name=f"rgb@{size}",
        kind="continuous",
        shape=(size // 16, size // 16),
        channels=16 * 16 * 3,
        mean=tuple(255 * mean for mean in IMAGENET_MEAN),
        std=tuple(255 * std for std in IMAGENET_STD),
        source=_field("rgb", size),
        show="rgb",
    )


def _grid(
    name: str,
    vocabulary: int,
    *,
    field: str,
    show: str,
    names: tuple[str, ...] = (),
    size: int = 224,
    patch: int = 16,
) -> Modality:
    return Modality(
        name=f"tok_{name}@{size}",
        kind="grid",
        shape=(size // patch, size // patch),
        vocabulary=Vocabulary(size=vocabulary),
        source=_field(field, size),
        show=show,
        names=names,
    )


def _vector(name: str) -> Modality:
    return Modality(
        name=f"tok_{name}",
        kind="grid",
        shape=(16,),
        vocabulary=Vocabulary(size=8192),
        learned_positions=True,
        source=name,
        show="array",
    )


def _field(name: str, size: int) -> str:
    """The raw field; super-resolution models have two sizes of each, which are not the same knowledge."""
    return name if size == 224 else f"{name}@{size}"


MODALITIES: Mapping[str, Modality] = {
    modality.name: modality
    for modality in (
        *(_pixels(size) for size in (224, 448)),
        *(_grid("rgb", 16_384, field="rgb", show="rgb", size=size) for size in (224, 448)),
        *(_grid("depth", 8192, field="depth", show="relative_depth", size=size) for size in (224, 448)),
        *(_grid("normal", 8192, field="normal", show="normal", size=size) for size in (224, 448)),
        *(_grid("semseg", 4096, field="semseg", show="label", names=CLASSES, size=size) for size in (224, 448)),
        *(_grid("clip", 8192, field="clip", show="feature", size=size) for size in (224, 448)),
        _grid("canny_edge", 8192, field="canny_edge", show="sketch"),
        _grid("sam_edge", 8192, field="sam_edge", show="sketch"),
        _grid("dinov2", 8192, field="dinov2", show="feature", patch=14),
        _grid("imagebind", 8192, field="imagebind", show="feature", patch=14),
        _vector("dinov2_global"),
        _vector("imagebind_global"),
        _text("caption", 256, positions=256),
        _text("det", 256, positions=256, show="box"),
        _text("metadata", 40, positions=40, show="values", vocabulary=CHUNKS),
        _text("human_poses", 275, positions=263, show="pose"),
        _text("color_palette", 23, positions=23, show="palette"),
        _text("sam_instance", 290, positions=290, show="segment"),
        Modality(
            name="t5_caption",
            kind="continuous",
            shape=(77,),
            channels=4096,
            bias=True,
            variable=True,
            source="t5_caption",
            show="array",
        ),
    )
}
"""All input and output keys by name; a model has some of them."""

TOKENIZED: Mapping[str, tuple[str, ...]] = {
    "rgb": ("tok_rgb",),
    "depth": ("tok_depth",),
    "normal": ("tok_normal",),
    "semseg_coco": ("tok_semseg",),
    "CLIP-B16": ("tok_clip",),
    "canny_edge": ("tok_canny_edge", "tok_sam_edge"),  # one tokenizer for both kinds of edges
    "DINOv2-B14": ("tok_dinov2",),
    "ImageBind-H14": ("tok_imagebind",),
    "DINOv2-B14-global": ("tok_dinov2_global",),
    "ImageBind-H14-global": ("tok_imagebind_global",),
    "human_poses": ("human_poses",),
    "sam_mask": ("sam_instance",),
    "sam_instance": ("sam_instance",),
}
"""Domain of a 4M tokenizer -> the modalities whose tokens it makes, without their resolution; those of poses and masks
stand in the text of their modality."""

RELEASED: Mapping[str, str] = {
    "rgb_16k": "rgb",
    "depth_8k": "depth",
    "normal_8k": "normal",
    "semseg_4k": "semseg_coco",
    "CLIP-B16_8k": "CLIP-B16",
    "edge_8k": "canny_edge",
    "DINOv2-B14_8k": "DINOv2-B14",
    "ImageBind-H14_8k": "ImageBind-H14",
    "DINOv2-B14-global_8k": "DINOv2-B14-global",
    "ImageBind-H14-global_8k": "ImageBind-H14-global",
    "sam-instance_1k": "sam_mask",
    "human-poses_1k": "human_poses",
}
"""Part of the name of a released tokenizer -> its domain."""


def identifier(name: str) -> int:
    """Returns the number by which 4M marks a modality's slots."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2**15
