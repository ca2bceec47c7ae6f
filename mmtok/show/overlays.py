"""What lies on an image: boxes with their classes, persons as stick figures, instances as translucent masks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from mmtok.show.canvas import PANEL, PAPER, Picture, as_array, canvas, clean, fit, font, readable_on
from mmtok.show.colours import class_colours, name_colour
from mmtok.show.skeleton import BONES, HEAD, is_posed, joints_of

Colour = tuple[int, int, int]
Items = Sequence[Mapping[str, Any]]

_PALE = 0.55  # share of the image that is left under what lies on it
_VEIL = 0.6  # share of a mask's colour


@dataclasses.dataclass(frozen=True)
class Ground:
    """A square picture to draw on, and where the image lies in it.

    Attributes:
      image: Its pixels.
      left: Left edge of the image in pixels.
      top: Upper edge.
      width: Width of the image in pixels.
      height: Height.
    """

    image: Image.Image
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def of(cls, context: Picture | None, *, size: int) -> "Ground":
        """Returns a paled image, or a blank ground without one."""
        image, _ = canvas(size, size, PANEL)
        if context is None:
            return cls(image, 0, 0, size, size)
        paled = fit(context, size=size) * _PALE + 255 * (1 - _PALE)
        image.paste(Image.fromarray(paled.round().astype(np.uint8)))
        longest = max(context.shape[:2])
        height, width = (max(1, round(side * size / longest)) for side in context.shape[:2])
        return cls(image, (size - width) // 2, (size - height) // 2, width, height)

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """What draws on it."""
        return ImageDraw.Draw(self.image)

    def pixels(self, box: Any) -> tuple[float, float, float, float]:
        """Returns left, top, right, bottom of a box given in fractions of the image, its corners in any order."""
        x = sorted(self.left + float(box[i]) * (self.width - 1) for i in (0, 2))
        y = sorted(self.top + float(box[i]) * (self.height - 1) for i in (1, 3))
        return x[0], y[0], x[1], y[1]


def boxes(value: Items, *, size: int, context: Picture | None) -> Picture:
    """Draws boxes, each with its class."""
    ground = Ground.of(context, size=size)
    for item in reversed(value):  # the first is nearest, so it is drawn last
        _frame(ground, item["box"], name_colour(str(item["label"])), tag=clean(str(item["label"])))
    return as_array(ground.image)


def poses(value: Items, *, size: int, context: Picture | None) -> Picture:
    """Draws persons as stick figures that fill their boxes; those whose pose is not known as boxes.

    The box says where a person is on the image. The camera does not: it belongs to an enlarged crop around the person,
    of a size that 4M does not keep.
    """
    ground = Ground.of(context, size=size)
    for number, person in reversed(list(enumerate(value))):
        colour, place = _colour(number), ground.pixels(person["box"])
        if not is_posed(person):
            _frame(ground, person["box"], colour, tag="human")
            continue
        points = _filling(joints_of(person)[:, :2], place)
        width = max(2, size // 64)
        for parent, joint in BONES:
            ground.draw.line([*points[parent], *points[joint]], fill=colour, width=width)
        radius = max(1.5, 0.055 * max(place[2] - place[0], place[3] - place[1]))
        for x, y, r in [*((x, y, 0.75 * width) for x, y in points), (*points[HEAD], radius)]:
            ground.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return as_array(ground.image)


def segments(value: Items, *, size: int, context: Picture | None) -> Picture:
    """Draws instances: the boxes of all, masks where they are known, and the points that asked for them."""
    ground = Ground.of(context, size=size)
    found = [item for point in value for item in point["instances"]]
    places = [ground.pixels(item["box"]) for item in found]
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in places]
    for number in sorted(range(len(found)), key=lambda number: -areas[number]):  # small ones upon large ones
        mask = np.asarray(found[number]["mask"])
        if mask.ndim == 2:
            _paint(ground.image, mask, places[number], _colour(number))
        ground.draw.rectangle(places[number], outline=_colour(number), width=max(1, size // 128))
    radius = max(1.5, size / 80)
    for point in value:
        x, y, _, _ = ground.pixels([*point["point"], *point["point"]])
        ground.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(32, 36, 42), outline=PAPER)
    return as_array(ground.image)


def _frame(ground: Ground, box: Any, colour: Colour, *, tag: str) -> None:
    size = ground.image.width
    face, place, draw = font(max(8, size // 13)), ground.pixels(box), ground.draw
    draw.rectangle(place, outline=colour, width=max(2, size // 64))
    _, _, width, height = draw.textbbox((0, 0), tag, font=face)
    x, y = max(0, min(place[0], size - width - 4)), max(0, place[1] - height - 1)
    draw.rectangle((x, y, x + width + 3, y + height + 1), fill=colour)
    draw.text((x + 2, y), tag, font=face, fill=readable_on(colour))


def _filling(points: Float[np.ndarray, "N 2"], place: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    """Points scaled, alike in both directions, to be as large as fits into a place, and centred there."""
    low, high = points.min(0), points.max(0)
    room = np.array([place[2] - place[0], place[3] - place[1]])
    scale = float(np.min(room / np.maximum(high - low, 1e-9)))
    middle = np.array([place[0] + place[2], place[1] + place[3]]) / 2
    return [(float(x), float(y)) for x, y in (points - (low + high) / 2) * scale + middle]


def _paint(image: Image.Image, mask: np.ndarray, place: tuple[float, float, float, float], colour: Colour) -> None:
    """Lays a mask, stretched over its place, on the image."""
    left, top, right, bottom = (round(edge) for edge in place)
    size = max(1, right - left + 1), max(1, bottom - top + 1)
    levels = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    inside: Bool[np.ndarray, "H W"] = np.asarray(levels) > 0.5
    veil = Image.fromarray((inside * np.uint8(round(255 * _VEIL))).astype(np.uint8))
    image.paste(colour, (left, top), veil)


def _colour(number: int) -> Colour:
    """A fixed colour for the n-th of several; the table's first two are too pale for it."""
    red, green, blue = class_colours()[2 + number % 250].tolist()
    return red, green, blue
