"""Samples whose pictures are larger than the tokenizers take, cut into samples that are not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmtok.errors import MmtokError
from mmtok.project.tiles import Tiling, blend
from mmtok.source import Sample


def cut(sample: Sample, sizes: Mapping[str, int], *, overlap: int | float) -> tuple[Tiling, Sequence[Sample]]:
    """Cuts all pictures of a sample into windows; all else is given to each window as it is.

    Args:
      sample: Raw values.
      sizes: Side of a window for each field that is a picture or a feature map.
      overlap: Least share of a side that a window has in common with the next, at most 0.9.

    Returns:
      The windows of the first picture, and one sample for each.

    Raises:
      MmtokError: there is no picture, one is smaller than a window, or several differ in size.
    """
    fields = [field for field in sizes if sample.get(field) is not None]
    if not fields:
        raise MmtokError(f"tiles: a picture is needed, one of {', '.join(sizes)}")
    for field in fields:
        if not isinstance(sample[field], np.ndarray) or sample[field].ndim < 2:
            raise MmtokError(f"tiles: '{field}' must be a whole picture, found {type(sample[field]).__name__}")
    first = fields[0]
    height, width = sample[first].shape[:2]
    tiling = Tiling.over(height, width, size=sizes[first], overlap=overlap)
    windows = [dict(sample) for _ in tiling.corners]
    for field in fields:
        own, found = tiling.resized(sizes[field]), sample[field].shape[:2]
        if found != (own.height, own.width):
            raise MmtokError(
                f"tiles: '{field}' of {found[1]} x {found[0]} does not fit to '{first}' of {width} x {height}, which"
                f" asks for {own.width} x {own.height}"
            )
        for window, part in zip(windows, own.cut(sample[field]), strict=True):
            window[field] = part
    return tiling, windows


def join(answers: Sequence[Mapping[str, Any]], tiling: Tiling, shows: Mapping[str, str]) -> dict[str, Any]:
    """Blends the answers to all windows of a sample into one.

    Args:
      answers: Target -> decoded value, for each window.
      tiling: The windows.
      shows: Target -> `Modality.show`.

    Raises:
      MmtokError: a target is no picture.
    """
    return {name: blend([answer[name] for answer in answers], tiling, show) for name, show in shows.items()}
