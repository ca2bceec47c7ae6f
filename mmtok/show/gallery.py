"""One PNG that lays out many pictures: rows of tiles under titles, in named groups."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmtok.files import new_file
from mmtok.show.canvas import FAINT, INK, RULE, Picture, as_array, canvas, clean, font, shorten, wrap

GAP = 8
GROUP_GAP = 28
MARGIN = 20

Rows = Sequence[Sequence[Picture | None]]
"""Square pictures of one size, one per column; None leaves a gap."""


def gallery(
    path: str | os.PathLike,
    rows: Rows,
    *,
    titles: Sequence[str],
    labels: Sequence[str] = (),
    groups: Sequence[tuple[str, int]] = (),
    title: str = "",
    note: str = "",
) -> Path:
    """Writes a gallery as PNG.

    Args:
      path: File to write.
      rows: At least one, each with one tile per column.
      titles: Of the columns.
      labels: Of the rows, written at the left; may be left out.
      groups: (title, number of columns) from left to right, such as ("given", 1), ("generated", 5); a rule parts them.
      title: Headline.
      note: A smaller line under the headline.

    Returns:
      `path`.
    """
    pixels = sheet(rows, titles=titles, labels=labels, groups=groups, title=title, note=note)
    with new_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", optimize=True)
    return Path(path)


def sheet(
    rows: Rows,
    *,
    titles: Sequence[str],
    labels: Sequence[str] = (),
    groups: Sequence[tuple[str, int]] = (),
    title: str = "",
    note: str = "",
) -> Picture:
    """The pixels of a gallery; see `gallery`.

    Raises:
      ValueError: the tiles do not fit the columns, or differ in size.
    """
    tile = _check(rows, titles, labels, groups)
    small, large = font(max(11, tile // 11)), font(max(15, tile // 8), bold=True)
    group_face, line = font(max(12, tile // 10), bold=True), int(small.size * 1.35)
    wrapped = [wrap(label, width=tile, face=small) for label in labels]
    label_width = max((int(small.getlength(text)) + GAP for lines in wrapped for text in lines), default=0)
    left = _columns_left(len(titles), groups, first=MARGIN + label_width, tile=tile)

    head = [(clean(title), large, INK)] * bool(title) + [(clean(note), small, FAINT)] * bool(note)
    width = max([left[-1] + tile, *(MARGIN + int(face.getlength(text)) for text, face, _ in head)]) + MARGIN
    top = MARGIN + sum(int(face.size * 1.6) for _, face, _ in head)
    top += GAP if head else 0
    groups_top, titles_top = top, top + (int(group_face.size * 1.7) if groups else 0)
    first = titles_top + int(small.size * 1.6)
    image, draw = canvas(width, first + len(rows) * (tile + GAP) - GAP + MARGIN)

    y = MARGIN
    for text, face, colour in head:
        draw.text((MARGIN, y), text, font=face, fill=colour)
        y += int(face.size * 1.6)
    start = 0
    for name, count in groups:
        draw.text((left[start], groups_top), name, font=group_face, fill=INK)
        if start:
            x = left[start] - GROUP_GAP // 2
            draw.line((x, groups_top, x, image.height - MARGIN), fill=RULE, width=2)
        start += count
    for name, x in zip(titles, left):
        draw.text((x, titles_top), shorten(name, width=tile, face=small), font=small, fill=FAINT)
    for index, row in enumerate(rows):
        y = first + index * (tile + GAP)
        for x, pixels in zip(left, row):
            if pixels is not None:
                draw.rectangle((x - 1, y - 1, x + tile, y + tile), outline=RULE)
                image.paste(Image.fromarray(pixels), (x, y))
    for index, lines in enumerate(wrapped):
        y = first + index * (tile + GAP) + (tile - line * len(lines)) // 2
        for number, text in enumerate(lines):
            draw.text((MARGIN, y + number * line), text, font=small, fill=INK)
    return as_array(image)


def _check(rows: Rows, titles: Sequence[str], labels: Sequence[str], groups: Sequence[tuple[str, int]]) -> int:
    """Returns the side of the tiles."""
    sizes = {pixels.shape[:2] for row in rows for pixels in row if pixels is not None}
    if len(sizes) != 1 or len(set(*sizes)) != 1:
        raise ValueError(f"a gallery needs square tiles of one size, got {sorted(sizes)}")
    if any(len(row) != len(titles) for row in rows):
        raise ValueError(f"every row needs {len(titles)} tiles, one per title")
    if labels and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows")
    if groups and sum(count for _, count in groups) != len(titles):
        raise ValueError(f"the groups {groups} must cover {len(titles)} columns")
    return next(iter(sizes))[0]


def _columns_left(count: int, groups: Sequence[tuple[str, int]], *, first: int, tile: int) -> list[int]:
    """Left edge of each column in pixels."""
    breaks = set(np.cumsum([size for _, size in groups]).tolist())
    left = [first]
    for index in range(1, count):
        left.append(left[-1] + tile + (GROUP_GAP if index in breaks else GAP))
    return left
