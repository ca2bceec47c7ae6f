"""Opening pictures that people bring: any size, mode and orientation, nothing trusted."""

import struct
import warnings
import zlib
from pathlib import Path

from PIL import Image, ImageOps

from mmtok.errors import MmtokError

LARGEST = 64_000_000  # pixels
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, zlib.error, struct.error)


def read_image(path: Path) -> Image.Image:
    """Decodes the first frame, upright (EXIF orientation); the size is checked before anything is decoded.

    Raises:
      MmtokError: not a picture, damaged, or more than 64 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    raise Image.DecompressionBombError
                image.load()
                return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise MmtokError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise MmtokError(
            f"{path}: the picture has more than {LARGEST // 10**6} megapixels; scale it down first"
        ) from None
    except Image.UnidentifiedImageError:
        raise MmtokError(f"{path}: not a picture in a known format (PNG, JPEG, WebP, TIFF, BMP, GIF ...)") from None
    except _DAMAGE as error:
        raise MmtokError(f"{path}: the picture cannot be read, it is damaged ({error})") from None


def on_white(image: Image.Image) -> Image.Image:
    """Returns a picture of 8 bits as RGB, with what is transparent laid on white."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
