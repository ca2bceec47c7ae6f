"""Reading pictures as what they are meant to show."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8, UInt16
from PIL import Image

from mmtok.errors import MmtokError
from mmtok.images import on_white, read_image


def read_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as RGB, upright (EXIF orientation); transparency is laid on white.

    Raises:
      MmtokError: not a picture, damaged, or more than 64 megapixels.
    """
    return np.array(on_white(_eight_bit(read_image(path))))


def read_grey(path: Path) -> UInt8[np.ndarray, "H W"]:
    """Reads a picture as 8-bit grey, upright; transparency is laid on white."""
    pixels = read_rgb(path)
    return np.array(Image.fromarray(pixels).convert("L"))


def read_ids(path: Path) -> Shaped[np.ndarray, "H W"]:
    """Reads class ids: the palette index or grey level of each pixel, uint8 (uint16 for 16-bit pictures).

    Raises:
      MmtokError: a colour picture, or as `read_rgb`.
    """
    image = read_image(path)
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode.startswith("I"):
        return np.array(image).astype(np.uint16)
    if image.mode not in ("P", "L"):
        raise MmtokError(f"{path}: class ids are the levels of a grey or palette picture, this one is {image.mode}")
    return np.array(image)


def read_millimetres(path: Path) -> UInt16[np.ndarray, "H W"]:
    """Reads a 16-bit grey picture as it is.

    Raises:
      MmtokError: not 16-bit grey, or as `read_rgb`.
    """
    image = read_image(path)
    if not image.mode.startswith("I"):
        raise MmtokError(
            f"{path}: depth is a 16-bit grey PNG in millimetres or .npy in metres, this picture is {image.mode}"
        )
    return np.array(image).astype(np.uint16)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 or 32 bits, or of floats in 0..1, scaled to 8 bits; others unchanged."""
    if image.mode[0] not in "IF":
        return image
    levels = np.nan_to_num(np.array(image).astype(np.float64))
    scale = 255.0 if levels.max() <= 1 else 1.0 if levels.max() <= 255 else 255 / 65535
    return Image.fromarray(np.clip(levels * scale, 0, 255).round().astype(np.uint8))
