"""Plans as data: targets and their settings from names, recipes, files and words of the command line."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtok.config import from_json, to_json
from mmtok.errors import MmtokError, unknown
from mmtok.files import read_json
from mmtok.generate import Target
from mmtok.generate.target import SCHEMES
from mmtok.modality import Modality

Plan = tuple[Target, ...]

_FITS_ONLY = {
    **dict.fromkeys(("steps", "token_schedule", "temperature_schedule", "guidance_schedule", "noise"), "grid"),
    **dict.fromkeys(("length", "constrained"), "sequence"),
}
"""Settings of one kind of modality."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFile:
    """What a plan file holds; a list of targets alone is short for `plan`.

    Attributes:
      plan: Targets of the model.
      then: Those of a second model, which continues where the first ends.
    """

    plan: Plan
    then: Plan = ()

    def to_json(self) -> Any:
        """Returns what `read_plan` reads: a list where there is no second model."""
        return to_json(self) if self.then else to_json(self.plan)


def read_plan(path: str | Path) -> PlanFile:
    """Reads a plan file.

    Raises:
      MmtokError: no such file, not JSON, an unknown key (the nearest is named), or a value that a setting cannot have.
    """
    data = read_json(path)
    if isinstance(data, list):
        data = {"plan": data}
    if not isinstance(data, dict) or not all(isinstance(data.get(key, []), list) for key in ("plan", "then")):
        raise MmtokError(f'{path}: a plan is a list of targets such as [{{"modality": "depth", "steps": 4}}]')
    parsed = from_json(PlanFile, data, where=str(path))
    if not parsed.plan:
        raise MmtokError(f"{path}: the plan holds no target")
    return parsed


def with_settings(plan: Sequence[Target], modalities: Mapping[str, Modality], settings: Mapping[str, Any]) -> Plan:
    """Changes settings of all targets whose kind they fit: steps those of grids, length those of sequences.

    Raises:
      MmtokError: a target that is not among the modalities, no such setting, or a value that it cannot have.
    """
    for target in plan:
        if target.modality not in modalities:
            names = [name for name, item in modalities.items() if item.is_target]
            raise unknown("target modality", target.modality, names)
    for key in settings:
        _check_key(key)
    return tuple(
        dataclasses.replace(
            target, **{key: value for key, value in settings.items() if _fits(key, value, modalities[target.modality])}
        )
        for target in plan
    )


def check_fit(targets: Mapping[str, Modality], settings: Mapping[str, Any]) -> None:
    """Raises MmtokError for a setting that fits none of the targets."""
    for key, value in settings.items():
        if not any(_fits(key, value, modality) for modality in targets.values()):
            raise MmtokError(f"{key} = {value} fits none of the targets {', '.join(targets)}; leave it out")


def parse_settings(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads words such as `depth.steps=4`; values are JSON, or else text.

    Returns:
      Target -> setting -> value.

    Raises:
      MmtokError: a word of another form, or a setting that targets do not have or that is given twice.
    """
    settings: dict[str, dict[str, Any]] = {}
    for word in words:
        place, equals, text = word.partition("=")
        name, dot, key = place.rpartition(".")
        if not (equals and dot and name and text):
            raise MmtokError(f"{word}: TARGET.SETTING=VALUE was expected, such as depth.steps=4")
        _check_key(key)
        if key in settings.setdefault(name, {}):
            raise MmtokError(f"{place}: set twice; one value per setting")
        settings[name][key] = _parsed(text)
    return settings


def with_own_settings(plan: Sequence[Target], settings: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Changes settings of single targets, those of others are left alone.

    Raises:
      MmtokError: a value that the setting cannot have.
    """
    return tuple(_changed(target, settings.get(target.modality, {})) for target in plan)


def _changed(target: Target, settings: Mapping[str, Any]) -> Target:
    """Weights take the place of the guidance that the target had."""
    values = ({"guidance": 1.0} if settings.get("weights") else {}) | dict(settings)
    where = " ".join(f"{target.modality}.{key}={value}" for key, value in settings.items())
    changed = from_json(Target, {**to_json(target), **values}, where=where)
    for key, value in settings.items():
        if to_json(getattr(changed, key)) != value:  # such as 2.5 steps, of which a conversion would make 2
            found = f"{target.modality}.{key}={value}: this would be read as {getattr(changed, key)}"
            raise MmtokError(f"{found}; give a value of that type")
    return changed


def _check_key(key: str) -> None:
    known = [field.name for field in dataclasses.fields(Target) if field.name != "modality"]
    if key not in known:
        raise unknown("setting of a target", key, known)


def _fits(key: str, value: Any, modality: Modality) -> bool:
    if key == "scheme":
        return value in SCHEMES[modality.kind] and (value != "halton" or len(modality.shape) == 2)
    return _FITS_ONLY.get(key, modality.kind) == modality.kind


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
