"""Masks of pictures that are given beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtok.errors import MmtokError
from mmtok.inference.loaded import Loaded
from mmtok.inference.regions import Part, read_mask

MASK = ".mask"
"""Behind the name of a raw field: where the masks of its pictures are, a sub-folder or a column."""


def mask_columns(model: Loaded) -> dict[str, str]:
    """Returns the name that masks go by -> the raw field of their pictures."""
    pictures = [field for field, item in model.sources.items() if len(item.shape) == 2]
    return {f"{field}{MASK}": field for field in pictures if f"{field}{MASK}" not in model.fields}


def with_mask(values: Mapping[str, Any], field: str, path: Path) -> dict[str, Any]:
    """Returns a sample with a mask (see `mmtok.inference.read_mask`) laid on the picture of a field.

    Raises:
      MmtokError: there is no picture, or the mask does not fit.
    """
    if field not in values:
        raise MmtokError(f"{path}: a mask without a picture of '{field}'")
    known = read_mask(path)
    try:
        return {**values, field: Part(values[field], known)}
    except MmtokError as error:
        raise MmtokError(f"{path}: {error}") from None
