"""Edges by the method of Canny, many pictures at once."""

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

_SIGMA = 1.0
_LOW, _HIGH = 0.08, 0.2
"""Thresholds on the length of the Sobel gradient of a grey picture in [0, 1]."""


def canny(grey: Float32[np.ndarray, "B H W"]) -> UInt8[np.ndarray, "B H W"]:
    """Marks edges with 1 (Canny 1986, "A computational approach to edge detection").

    Args:
      grey: Luma in [0, 1].
    """
    smooth = ndimage.gaussian_filter(grey, _SIGMA, mode="nearest", axes=(1, 2))
    down, across = _sobel(smooth, 1, 2), _sobel(smooth, 2, 1)
    length = np.sqrt(down * down + across * across)
    ridge = _thin(down, across, length)
    ridge &= length >= _LOW
    # Weak edges stay where they touch a strong one; the structure connects no two pictures.
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = True
    regions = np.zeros(ridge.shape, np.int32)
    ndimage.label(ridge, structure=structure, output=regions)
    strong = np.zeros(int(regions.max()) + 1, np.uint8)
    strong[regions[ridge & (length >= _HIGH)]] = 1
    strong[0] = 0
    return strong[regions]


def _sobel(grey: Float32[np.ndarray, "B H W"], along: int, other: int) -> Float32[np.ndarray, "B H W"]:
    smooth = ndimage.correlate1d(grey, (1, 2, 1), axis=other, mode="nearest")
    return ndimage.correlate1d(smooth, (-1, 0, 1), axis=along, mode="nearest")


def _thin(
    down: Float32[np.ndarray, "B H W"], across: Float32[np.ndarray, "B H W"], length: Float32[np.ndarray, "B H W"]
) -> np.ndarray:
    """Returns where the gradient is longest along its own direction, neighbours interpolated between two pixels."""
    ridge = np.zeros(length.shape, bool)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    steep = np.abs(down) >= np.abs(across)
    same = down * across >= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(steep, np.abs(across) / np.abs(down), np.abs(down) / np.abs(across))[inner]

    def shifted(rows: int, columns: int) -> np.ndarray:
        height, width = length.shape[1:]
        return length[:, 1 + rows : height - 1 + rows, 1 + columns : width - 1 + columns]

    middle = length[inner]
    for is_steep, sign in ((True, 1), (True, -1), (False, 1), (False, -1)):
        straight = (1, 0) if is_steep else (0, sign)
        here = (steep[inner] == is_steep) & (same[inner] == (sign > 0))
        first = shifted(*straight) * (1 - weight) + shifted(1, sign) * weight
        second = shifted(-straight[0], -straight[1]) * (1 - weight) + shifted(-1, -sign) * weight
        ridge[inner] |= here & (middle >= first) & (middle >= second)
    return ridge & (length > 0)
