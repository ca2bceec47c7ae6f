"""How 4M samples: the settings that its authors recommend, as recipes of an imported model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmtok.generate import Target
from mmtok.inference.recipes import Recipe
from mmtok.modality import Modality

# 4M chose its top_p for the distribution before the temperature.
NUCLEUS: Mapping[str, Any] = {"top_p": 0.8, "tempered_top_p": False}
FALLING: Mapping[str, Any] = {"temperature_schedule": "onex:0.5:0.5"}


def _grid(*, steps: int, temperature: float = 0.01, guidance: float = 2.0, **more: Any) -> Target:
    return Target(
        modality="", scheme="roar", steps=steps, temperature=temperature, guidance=guidance, **{**NUCLEUS, **more}
    )


def _text(temperature: float, **more: Any) -> Target:
    return Target(modality="", temperature=temperature, **NUCLEUS, **more)


TEXTS: Mapping[str, Target] = {
    # 4M draws any token anywhere; texts with a grammar parse more often when only what may follow is drawn.
    "caption": _text(0.3, constrained=False),
    "det": _text(0.7),
    "human_poses": _text(0.1),
    "sam_instance": _text(0.01, length=256),
    "color_palette": _text(0.1),
    "metadata": _text(0.1),
}

PICTURE = _grid(steps=25, temperature=3.0, **FALLING)
VECTOR = _grid(steps=1, temperature=0.1)
ONCE = _grid(steps=1)
FROM_PICTURE: Mapping[str, Target] = {
    "tok_clip": ONCE,
    "tok_dinov2": ONCE,
    "tok_imagebind": ONCE,
    "tok_dinov2_global": VECTOR,
    "tok_imagebind_global": VECTOR,
    "tok_depth": ONCE,
    "tok_normal": ONCE,
    "tok_semseg": ONCE,
    "tok_canny_edge": ONCE,
    "tok_sam_edge": ONCE,
    "tok_rgb": PICTURE,
    **TEXTS,
}
"""Of what a picture shows there is little doubt. In 4M's order, modalities without their resolution."""

DENSE = _grid(steps=8, temperature=3.0, **FALLING)
FROM_ANYTHING: Mapping[str, Target] = {
    "tok_clip": _grid(steps=50, temperature=5.0, guidance=3.0, **FALLING),
    "tok_dinov2": _grid(steps=8),
    "tok_imagebind": _grid(steps=8),
    "tok_dinov2_global": VECTOR,
    "tok_imagebind_global": VECTOR,
    **dict.fromkeys(("tok_depth", "tok_normal", "tok_semseg", "tok_canny_edge", "tok_sam_edge"), DENSE),
    "tok_rgb": PICTURE,
    **TEXTS,
}

TEXT_TO_PICTURE: Mapping[str, Target] = {
    "tok_clip": _grid(steps=49, temperature=6.0, guidance=3.0, top_p=0.9, **FALLING),
    "tok_rgb": _grid(steps=25, temperature=0.5, guidance=3.0, top_p=0.9),
}
"""Through CLIP's features, in which the layout is decided first."""

LARGER = Target(modality="", scheme="maskgit", steps=8, guidance=3.0, top_p=0.9, tempered_top_p=False)
"""Super-resolution: the tokens of a picture twice as large, from those of the picture."""

LARGE = "448"


def recipes(modalities: Sequence[Modality]) -> dict[str, Recipe]:
    """Returns the recipes that a model can follow; the first that fits what is given is chosen where none is named."""
    targets = [item.name for item in modalities if item.is_target]
    if any(_resolution(name) == LARGE for name in targets):
        return {
            "enlarge": Recipe(plan=_plan({"tok_clip": LARGER, "tok_rgb": LARGER}, targets)),
            "enlarge-all": Recipe(plan=default_plan(targets)),
        }
    pictures = [item.source for item in modalities if _base(item.name) in ("rgb", "tok_rgb")]
    found = {
        "from-picture": Recipe(plan=_plan(FROM_PICTURE, targets), given=tuple(dict.fromkeys(pictures))),
        "from-anything": Recipe(plan=_plan(FROM_ANYTHING, targets)),
        "text-to-picture": Recipe(plan=_plan(TEXT_TO_PICTURE, targets)),
    }
    return {name: recipe for name, recipe in found.items() if recipe.plan}


def default_plan(targets: Sequence[str]) -> tuple[Target, ...]:
    """Returns all targets in 4M's order, as they are made of a picture."""
    return _plan(FROM_PICTURE, targets)


def _plan(settings: Mapping[str, Target], targets: Sequence[str]) -> tuple[Target, ...]:
    plan = []
    for base, target in settings.items():
        for name in targets:
            if _base(name) == base:
                larger = LARGER if _resolution(name) == LARGE else target
                plan.append(dataclasses.replace(larger, modality=name))
    return tuple(plan)


def _base(name: str) -> str:
    return name.partition("@")[0]


def _resolution(name: str) -> str:
    return name.partition("@")[2]
