"""A picture for every modality: one rule per way of showing, in one table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from mmtok.errors import unknown
from mmtok.show import overlays
from mmtok.show.canvas import (
    FAINT,
    INK,
    PANEL,
    PAPER,
    Picture,
    as_array,
    canvas,
    clean,
    fit,
    font,
    readable_on,
    shorten,
    write_block,
)
from mmtok.show.colours import (
    FeatureBasis,
    amount_colours,
    class_colours,
    depth_colours,
    feature_basis,
    feature_colours,
    heat,
    normal_colours,
    relative_depth_colours,
)

DEPTH_RANGE = (3.0, 24.0)
NAMED = 4  # classes that a legend has room for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What a picture may need besides its value.

    Attributes:
      size: Side of the square picture in pixels.
      context: Image that overlays (boxes, persons, instances) are drawn on.
      names: Class names by class id (a legend of the commonest classes is drawn) or names of a vector's entries.
      basis: Colours of feature maps; None makes one for each map, which cannot be compared with another.
      depth_range: Metres that get the brightest and the darkest colour.
    """

    size: int
    context: Picture | None = None
    names: Sequence[str] = ()
    basis: FeatureBasis | None = None
    depth_range: tuple[int | float, int | float] = DEPTH_RANGE


def picture(
    value: Any,
    show: str,
    *,
    size: int = 128,
    context: Picture | None = None,
    names: Sequence[str] = (),
    basis: FeatureBasis | None = None,
    depth_range: tuple[int | float, int | float] = DEPTH_RANGE,
) -> UInt8[np.ndarray, "size size 3"]:
    """Draws one raw value.

    Args:
      value: Raw value of a modality; None gives a tile that says "absent".
      show: How: a key of `SHOWS` (`Modality.show`).
      size: Side of the square picture in pixels.
      context: Image (H, W, 3) that boxes, persons and instances are drawn on; blank without.
      names: Class names by id, or names of the entries of a vector.
      basis: Shared colours of feature maps, from `feature_basis`.
      depth_range: Metres shown brightest and darkest.

    Raises:
      MmtokError: no such way to show.
    """
    if show not in SHOWS:
        raise unknown("way to show a modality", show, SHOWS)
    if value is None:
        return absent(size)
    look = Look(size=size, context=context, names=names, basis=basis, depth_range=depth_range)
    return SHOWS[show](value, look)


def absent(size: int) -> UInt8[np.ndarray, "size size 3"]:
    """An empty tile."""
    image, draw = canvas(size, size, PANEL)
    draw.text((size / 2, size / 2), "absent", font=font(_text_size(size)), fill=FAINT, anchor="mm")
    return as_array(image)


def _rgb(value: np.ndarray, look: Look) -> Picture:
    return fit(_bytes(_three(value)), size=look.size)


def _depth(value: np.ndarray, look: Look) -> Picture:
    nearest, farthest = look.depth_range
    return fit(depth_colours(_plane(value), nearest=nearest, farthest=farthest), size=look.size)


def _relative_depth(value: np.ndarray, look: Look) -> Picture:
    return fit(relative_depth_colours(_plane(value)), size=look.size)


def _normal(value: np.ndarray, look: Look) -> Picture:
    return fit(normal_colours(value), size=look.size)


def _label(value: np.ndarray, look: Look) -> Picture:
    classes = _plane(value).astype(np.int64)
    tile = fit(class_colours()[classes % 256], size=look.size, smooth=False)
    return _legend(tile, _commonest(classes, look.names)) if look.names else tile


def _instance(value: np.ndarray, look: Look) -> Picture:
    ids = _plane(value).astype(np.int64)
    colours = np.where(ids[..., None] == 0, np.uint8(236), class_colours()[(ids + 1) % 256]).astype(np.uint8)
    return fit(colours, size=look.size, smooth=False)


def _edge(value: np.ndarray, look: Look) -> Picture:
    strength = _plane(value).astype(np.float64)
    strength = strength / 255 if strength.max(initial=0) > 1 else strength
    ink = np.clip(strength, 0, 1)[..., None]
    return fit((np.array(PAPER) * (1 - ink) + np.array(INK) * ink).round().astype(np.uint8), size=look.size)


def _text(value: str, look: Look) -> Picture:
    image, draw = canvas(look.size, look.size)
    pad = max(4, look.size // 20)
    write_block(draw, str(value), box=(pad, pad, look.size - pad, look.size - pad), largest=_text_size(look.size))
    return as_array(image)


def _box(value: Sequence[Mapping[str, Any]], look: Look) -> Picture:
    return overlays.boxes(value, size=look.size, context=look.context)


def _pose(value: Sequence[Mapping[str, Any]], look: Look) -> Picture:
    return overlays.poses(value, size=look.size, context=look.context)


def _segment(value: Sequence[Mapping[str, Any]], look: Look) -> Picture:
    return overlays.segments(value, size=look.size, context=look.context)


def _palette(value: Any, look: Look) -> Picture:
    colours = np.asarray(value, dtype=np.uint8).reshape(-1, 3)
    image, draw = canvas(look.size, look.size)
    edges = np.linspace(0, look.size, len(colours) + 1).round().astype(int)
    face = font(max(8, look.size // 11))
    for (red, green, blue), top, bottom in zip(colours.tolist(), edges[:-1].tolist(), edges[1:].tolist()):
        colour = (red, green, blue)
        draw.rectangle((0, top, look.size, bottom - 1), fill=colour)
        name = "#{:02x}{:02x}{:02x}".format(*colour)
        draw.text((look.size / 2, (top + bottom) / 2), name, font=face, fill=readable_on(colour), anchor="mm")
    return as_array(image)


def _values(value: Any, look: Look) -> Picture:
    rows = _named_numbers(value, look.names)
    size, pad = look.size, max(4, look.size // 24)
    image, draw = canvas(size, size)
    room = max(1, int((size - 2 * pad) // 10))
    if len(rows) > room:
        rows = [*rows[: room - 1], (f"and {len(rows) - room + 1} more", "")]
    step = min((size - 2 * pad) / max(len(rows), 1), size / 6)
    largest = int(min(step * 0.85, size / 11))
    face = next(
        (font(n) for n in range(largest, 8, -1) if _widest(rows, font(n)) <= size - 3 * pad), font(max(largest, 8))
    )
    for index, (name, number) in enumerate(rows):
        middle = pad + (index + 0.5) * step
        if index % 2:
            draw.rectangle((1, middle - step / 2, size - 2, middle + step / 2), fill=PANEL)
        left = size - 2 * pad - face.getlength(number)
        draw.text((pad, middle), shorten(name, width=left - pad, face=face), font=face, fill=FAINT, anchor="lm")
        draw.text((size - pad, middle), number, font=face, fill=INK, anchor="rm")
    return as_array(image)


def _feature(value: np.ndarray, look: Look) -> Picture:
    return fit(feature_colours(value, look.basis or feature_basis([value])), size=look.size)


def _amount(value: np.ndarray, look: Look) -> Picture:
    """Dark is none, bright the most there is, which is written on it; not a number is grey."""
    if value.ndim != 2:
        return _array(value, look)
    finite = value[np.isfinite(value)]
    most = float(finite.max(initial=0))
    image = Image.fromarray(fit(amount_colours(value, most=most), size=look.size))
    draw, face, text = ImageDraw.Draw(image), font(max(8, look.size // 14)), f"0 to {most:.3g}"
    top = look.size - face.size * 1.5
    draw.rectangle((2, top, face.getlength(text) + 8, look.size - 3), fill=PAPER)
    draw.text((5, (top + look.size - 3) / 2), text, font=face, fill=INK, anchor="lm")
    return as_array(image)


def _array(value: Any, look: Look) -> Picture:
    if isinstance(value, str):
        return _text(value, look)
    if isinstance(value, Mapping):
        return _values(value, look)
    if not isinstance(value, np.ndarray):
        return _text(repr(value), look)
    if value.ndim == 1:
        return _values(value, look) if len(value) <= 12 else _bars(value, look)
    if value.ndim == 2 or value.shape[2:] == (1,):
        return fit(heat(_unit(_plane(value)), scheme="gray"), size=look.size)
    if value.ndim == 3 and value.shape[-1] == 3:
        return _rgb(value if value.dtype == np.uint8 else _unit(value), look)
    if value.ndim == 3:
        return _feature(value, look)
    return _text(f"{value.dtype} array of shape {value.shape}", look)


def _bars(value: np.ndarray, look: Look) -> Picture:
    size = look.size
    image, draw = canvas(size, size)
    numbers = np.nan_to_num(value.astype(np.float64))
    low, high = min(0.0, numbers.min()), max(0.0, numbers.max())
    y = size - 4 - (numbers - low) / max(high - low, 1e-12) * (size - 8)
    zero = size - 4 - (0 - low) / max(high - low, 1e-12) * (size - 8)
    x = np.linspace(2, size - 2, len(numbers) + 1)
    for left, right, top in zip(x[:-1], x[1:], y):
        draw.rectangle((left, min(top, zero), max(left, right - 1), max(top, zero)), fill=(58, 126, 189))
    draw.line((0, zero, size, zero), fill=FAINT)
    return as_array(image)


SHOWS: Mapping[str, Callable[[Any, Look], Picture]] = {
    "rgb": _rgb,
    "grey": _rgb,
    "depth": _depth,
    "relative_depth": _relative_depth,
    "normal": _normal,
    "label": _label,
    "instance": _instance,
    "edge": _edge,
    "mask": _edge,
    "sketch": _edge,
    "text": _text,
    "box": _box,
    "pose": _pose,
    "segment": _segment,
    "palette": _palette,
    "values": _values,
    "feature": _feature,
    "amount": _amount,
    "array": _array,
}
"""Way to show -> how to draw a raw value."""


def _commonest(classes: np.ndarray, names: Sequence[str]) -> list[tuple[str, int]]:
    """Names and ids of the classes with the most pixels, the commonest first; ids without a name get a plain one."""
    ids, counts = np.unique(classes, return_counts=True)
    most: list[int] = ids[np.argsort(-counts, kind="stable")][:NAMED].tolist()
    return [(clean(names[id]) if 0 <= id < len(names) else f"class {id}", id) for id in most]


def _legend(tile: Picture, named: Sequence[tuple[str, int]]) -> Picture:
    """Writes classes along the bottom, each on its colour."""
    image = Image.fromarray(tile)
    draw = ImageDraw.Draw(image)
    size = tile.shape[0]
    face = font(max(8, size // 14))
    x, y = 2.0, size - face.size * 1.5
    for name, index in reversed(named):
        red, green, blue = class_colours()[index % 256].tolist()
        colour = (red, green, blue)
        width = face.getlength(name) + 6
        if x + width > size - 2:
            x, y = 2.0, y - face.size * 1.5
        draw.rectangle((x, y, x + width, y + face.size * 1.35), fill=colour, outline=PAPER)
        draw.text((x + 3, y + face.size * 0.68), name, font=face, fill=readable_on(colour), anchor="lm")
        x += width + 2
    return as_array(image)


def _named_numbers(value: Any, names: Sequence[str]) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [(_one_line(str(name)), _number(number)) for name, number in value.items()]
    numbers = np.asarray(value).reshape(-1)
    known = [_one_line(name) for name in names]
    return [(known[i] if i < len(known) else str(i), _number(number)) for i, number in enumerate(numbers)]


def _widest(rows: Sequence[tuple[str, str]], face: ImageFont.FreeTypeFont) -> float:
    return max((face.getlength(name) + face.getlength(number) for name, number in rows), default=0.0)


def _number(value: Any) -> str:
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return _one_line(str(value))


def _one_line(text: str) -> str:
    return " ".join(clean(text).replace("_", " ").split())


def _plane(value: np.ndarray) -> np.ndarray:
    return value[..., 0] if value.ndim == 3 else value


def _three(value: np.ndarray) -> np.ndarray:
    value = value if value.ndim == 3 else value[..., None]
    return np.repeat(value, 3, axis=-1) if value.shape[-1] == 1 else value[..., :3]


def _bytes(value: np.ndarray) -> np.ndarray:
    return value if value.dtype == np.uint8 else (np.clip(np.nan_to_num(value), 0, 1) * 255).round().astype(np.uint8)


def _unit(value: np.ndarray) -> np.ndarray:
    numbers = value.astype(np.float64)
    finite = np.isfinite(numbers)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0.0, 1.0)
    return np.where(finite, (numbers - low) / max(high - low, 1e-12), 0.0)


def _text_size(size: int) -> int:
    return max(9, size // 9)
