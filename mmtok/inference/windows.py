"""Samples whose pictures are larger than the tokenizers take: cut into samples that are not, and joined again."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmtok.errors import MmtokError
from mmtok.inference.answers import Answers
from mmtok.inference.kinds import kind_of
from mmtok.inference.tiles import Tiling, blend, check_overlap
from mmtok.modality import Modality
from mmtok.source import Sample

Run = Callable[[Sequence[Sample], Sequence[int], Sequence[int]], Answers]
"""Answers samples, given the number of each and its number among those of the same number."""


def check_tiles(overlap: int | float, sizes: Mapping[str, int], targets: Mapping[str, Modality]) -> None:
    """Checks, before anything is made, that it can be made in windows.

    Args:
      overlap: Least share of a side that a window has in common with the next.
      sizes: Side of a window for each given field that is a picture.
      targets: What is to be made.

    Raises:
      MmtokError: it cannot.
    """
    check_overlap(overlap)
    if not sizes:
        raise MmtokError("tiles: no picture is given that could be cut into windows; leave tiles out")
    for name, item in targets.items():
        if item.kind != "grid" or len(item.shape) != 2 or kind_of(np.zeros((1, 1)), item.show) is None:
            raise MmtokError(
                f"tiles: '{name}' (shown as {item.show}) belongs to a whole picture, windows of it cannot be blended;"
                " leave it or tiles out"
            )


def tiled(
    run: Run, samples: Sequence[Sample], numbers: Sequence[int], *, sizes: Mapping[str, int], overlap: int | float
) -> Answers:
    """Answers samples window by window.

    Args:
      run: Answers samples that are not too large.
      samples: Raw values.
      numbers: Of the samples.
      sizes: Side of a window for each field that is a picture.
      overlap: Least share of a side that a window has in common with the next, at most 0.9.

    Returns:
      Answers to the whole samples, without tokens: those belong to windows.

    Raises:
      MmtokError: see `cut` and `mmtok.inference.tiles.blend`.
    """
    pieces = [cut(sample, sizes, overlap=overlap) for sample in samples]
    counts = [len(windows) for _, windows in pieces]
    answers = run(
        [window for _, windows in pieces for window in windows],
        np.repeat(np.asarray(numbers), counts).tolist(),
        [place for count in counts for place in range(count)],
    )
    draws, made, rows = answers.draws, [], []
    for start, (tiling, windows) in zip(np.cumsum([0, *counts[:-1]]), pieces, strict=True):
        for draw in range(draws):
            row = (start + np.arange(len(windows))) * draws + draw
            rows.append(row)
            made.append(
                {
                    name: blend([answers[place][name] for place in row.tolist()], tiling, item.show)
                    for name, item in answers.targets.items()
                }
            )
    return dataclasses.replace(
        answers,
        given=tuple(sample for sample in samples for _ in range(draws)),
        made=tuple(made),
        tokens={},
        columns={},
        likelihood=answers.likelihood.summed(rows),
    )


def cut(sample: Sample, sizes: Mapping[str, int], *, overlap: int | float) -> tuple[Tiling, Sequence[Sample]]:
    """Cuts all pictures of a sample into windows; all else is given to each window as it is.

    Args:
      sample: Raw values.
      sizes: Side of a window for each field that is a picture or a feature map.
      overlap: Least share of a side that a window has in common with the next, at most 0.9.

    Returns:
      The windows of the first picture, and one sample for each.

    Raises:
      MmtokError: there is no picture, one is known in part or smaller than a window, or several differ in size.
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
