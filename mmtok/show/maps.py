"""Maps of amounts such as uncertainties: dark is none, bright the most there is, which is written on it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from mmtok.show.canvas import INK, PAPER, as_array, fit, font
from mmtok.show.colours import amount_colours
from mmtok.show.pictures import picture


def amount_map(amounts: np.ndarray, *, size: int = 128) -> UInt8[np.ndarray, "size size 3"]:
    """Draws amounts from 0 on.

    Args:
      amounts: (H, W), NaN where there is none (grey); arrays of another rank are drawn as numbers or bars.
      size: Side of the square picture in pixels.
    """
    if amounts.ndim != 2:
        return picture(amounts, "array", size=size)
    finite = amounts[np.isfinite(amounts)]
    most = float(finite.max()) if finite.size else 0.0
    image = Image.fromarray(fit(amount_colours(amounts, most=most), size=size))
    draw, face = ImageDraw.Draw(image), font(max(8, size // 14))
    text = f"0 to {most:.3g}"
    draw.rectangle((2, size - face.size * 1.5, face.getlength(text) + 8, size - 3), fill=PAPER)
    draw.text((5, size - face.size * 0.75 - 2), text, font=face, fill=INK, anchor="lm")
    return as_array(image)
