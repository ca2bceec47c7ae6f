"""One file to one raw value: pictures, arrays, JSON and text."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmtok.errors import MmtokError
from mmtok.images import on_white, read_image

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
SUFFIXES = (*IMAGES, ".npy", ".json", ".txt")

_GREY = ("L", "P")
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I")


def read_value(path: Path) -> Any:
    """Reads a file by its suffix.

    Returns:
      Picture (.png, .jpg, .jpeg, .webp): uint8 (H, W, 3) where it has colours (a transparent one is laid on white),
      uint8 (H, W) for grey levels and palette indices (black and white gives 0 and 1), uint16 (H, W) for 16-bit grey
      levels. Array (.npy): as stored. JSON: lists and mappings. Text: str without the white space around it.

    Raises:
      MmtokError: the file is missing, damaged, larger than 64 megapixels or of an unknown kind.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MmtokError(f"{path}: a file of type {', '.join(SUFFIXES)} expected")
    try:
        if suffix in IMAGES:
            return _pixels(read_image(path))
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if suffix == ".json" else text.strip()
    except FileNotFoundError:
        raise MmtokError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile) as error:
        raise MmtokError(f"{path}: not a {suffix} file that can be read ({error}); replace or remove it") from None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in _GREY:
        return np.array(image, dtype=np.uint8)
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in _SIXTEEN:
        levels = np.array(image)
        if levels.min() < 0 or levels.max() > np.iinfo(np.uint16).max:
            raise ValueError("more than 16 bits per pixel")
        return levels.astype(np.uint16)
    return np.array(on_white(image))
