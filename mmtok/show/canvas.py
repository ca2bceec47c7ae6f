"""The few things every picture is made of: colours, fonts, wrapped text, fitting into a square tile."""

import functools
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (32, 36, 42)
FAINT = (138, 145, 155)
PANEL = (243, 245, 247)
RULE = (214, 219, 225)
UNDEFINED = (176, 180, 186)
SMALLEST = 8  # pixels of the smallest letters
LEADING = 1.3

Picture = UInt8[np.ndarray, "_ _ 3"]
"""RGB pixels of any size."""


@functools.lru_cache(maxsize=64)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and covers most scripts' letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def canvas(width: int, height: int, colour: tuple[int, int, int] = PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A blank picture and what draws on it."""
    image = Image.new("RGB", (width, height), colour)
    return image, ImageDraw.Draw(image)


def as_array(image: Image.Image) -> Picture:
    """The pixels of an RGB image."""
    return np.array(image.convert("RGB"), dtype=np.uint8)


def fit(pixels: Picture, *, size: int, smooth: bool = True) -> UInt8[np.ndarray, "size size 3"]:
    """Scales a picture into a square tile, its proportions kept, centred on a pale ground.

    Small pictures grow by nearest neighbour, so that what a model really made stays visible; large ones shrink by
    area averaging, or by nearest neighbour where mixing colours would invent classes (`smooth=False`).
    """
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    method = Image.Resampling.BOX if smooth and scale < 1 else Image.Resampling.NEAREST
    image = Image.fromarray(pixels).resize(new, method)
    tile = Image.new("RGB", (size, size), PANEL)
    tile.paste(image, ((size - new[0]) // 2, (size - new[1]) // 2))
    return as_array(tile)


def clean(text: str) -> str:
    """The text without control characters, which fonts cannot lay out; blanks and line ends stay."""
    return "".join(
        c if c.isprintable() or c == "\n" else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def wrap(text: str, *, width: int | float, face: ImageFont.FreeTypeFont) -> list[str]:
    """Breaks text into lines no wider than `width` pixels, at blanks where possible, inside a word where not."""
    lines: list[str] = []
    for paragraph in clean(text).split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if face.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            while face.getlength(word) > width and len(word) > 1:
                count = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or face.getlength(word[:n]) <= width)
                lines.append(word[:count])
                word = word[count:]
            line = word
        lines.append(line)
    return lines


def write_block(draw: ImageDraw.ImageDraw, text: str, *, box: tuple[int, int, int, int], largest: int) -> None:
    """Writes wrapped text into (left, top, right, bottom), as large as fits; an ellipsis ends what fits at no size."""
    left, top, right, _ = box
    size = next((size for size in range(largest, SMALLEST, -1) if _fits(text, box=box, size=size)), SMALLEST)
    face, room = font(size), _room(box, size)
    lines = wrap(text, width=right - left, face=face)
    if len(lines) > room:
        lines = [*lines[: room - 1], shorten(lines[room - 1] + " …", width=right - left, face=face)]
    for index, line in enumerate(lines):
        draw.text((left, top + index * size * LEADING), line, font=face, fill=INK)


def _fits(text: str, *, box: tuple[int, int, int, int], size: int) -> bool:
    return len(wrap(text, width=box[2] - box[0], face=font(size))) <= _room(box, size)


def _room(box: tuple[int, int, int, int], size: int) -> int:
    return max(1, int((box[3] - box[1]) // (size * LEADING)))


def shorten(text: str, *, width: int | float, face: ImageFont.FreeTypeFont) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Ink or white, whichever is easier to read on the colour (by its luma, ITU-R BT.601)."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER
