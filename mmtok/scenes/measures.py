"""Numbers and tables measured on pictures: boxes, palette, metadata, filter responses."""

import numpy as np
from jaxtyping import Float32, Int, UInt8

from mmtok.scenes.tables import METADATA_RANGES

FEATURES = 16
"""Channels of the feature map."""

CELL = 8
"""Pixels along one side of a feature cell."""

_PALETTE = 5
_LEVELS = 4
_LEAST_SHARE = 0.01
_ANGLES = (0.0, 45.0, 90.0, 135.0)
# Mean and spread of every channel over the scenes, so that the features have about unit scale.
_CENTRE = np.array([4.0, 5.3, 6.0, 5.2, 5.7, 7.6, 8.7, 7.5, 60.0, 0.0, 0.0, 5.0, 3.6, 4.1, 0.0, 0.0], np.float32) / 100
_SPREAD = (
    np.array([4.2, 4.7, 5.4, 4.7, 5.9, 6.4, 7.5, 6.4, 15.0, 11.0, 13.0, 5.0, 6.1, 6.4, 2.4, 1.6], np.float32) / 100
)


def luma(rgb: UInt8[np.ndarray, "B H W 3"]) -> Float32[np.ndarray, "B H W"]:
    """Returns grey pictures, 0..255 (ITU-R BT.601)."""
    red, green, blue = _channels(rgb)
    return np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def _channels(rgb: UInt8[np.ndarray, "... 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rgb[..., 0].astype(np.float32), rgb[..., 1].astype(np.float32), rgb[..., 2].astype(np.float32)


def boxes(instance: UInt8[np.ndarray, "B H W"], count: int) -> Float32[np.ndarray, "B count 4"]:
    """Returns (xmin, ymin, xmax, ymax) in [0, 1] of what is seen of instances 1..count; 0 where nothing is."""
    height, width = instance.shape[1:]
    out = np.zeros((len(instance), count, 4), np.float32)
    for index in range(count):
        shown = instance == index + 1
        columns, rows = shown.any(1), shown.any(2)
        out[:, index, 0] = columns.argmax(1) / width
        out[:, index, 1] = rows.argmax(1) / height
        out[:, index, 2] = (width - columns[:, ::-1].argmax(1)) / width * columns.any(1)
        out[:, index, 3] = (height - rows[:, ::-1].argmax(1)) / height * rows.any(1)
    return out


def palettes(rgb: UInt8[np.ndarray, "B H W 3"]) -> list[UInt8[np.ndarray, "n 3"]]:
    """Returns the dominant colours of every picture, at most 5, the largest area first.

    The colour cube is cut into 4 x 4 x 4 cells; a colour is the mean of the pixels in one cell.
    """
    batch, pixels = len(rgb), rgb.shape[1] * rgb.shape[2]
    flat = rgb.reshape(batch, pixels, 3).astype(np.int64)
    level = flat * _LEVELS // 256
    cells = _LEVELS**3
    cell = (level[..., 0] * _LEVELS + level[..., 1]) * _LEVELS + level[..., 2]
    cell = (cell + np.arange(batch)[:, None] * cells).reshape(-1)
    area = np.bincount(cell, minlength=batch * cells).reshape(batch, cells)
    total = [
        np.bincount(cell, flat[..., channel].reshape(-1), batch * cells).reshape(batch, cells) for channel in range(3)
    ]
    order = np.argsort(-area, axis=1, kind="stable")[:, :_PALETTE]
    top = np.take_along_axis(area, order, 1)
    mean = np.stack([np.take_along_axis(part, order, 1) / np.maximum(top, 1) for part in total], -1)
    kept = np.maximum((top >= _LEAST_SHARE * pixels).sum(1), 1)
    return [row[:many] for row, many in zip((mean + 0.5).astype(np.uint8), kept)]


def metadata(
    rgb: UInt8[np.ndarray, "B H W 3"],
    depth: Float32[np.ndarray, "B H W"],
    instance: UInt8[np.ndarray, "B H W"],
    shapes: Int[np.ndarray, "B 4"],
) -> Float32[np.ndarray, "B keys"]:
    """Measures every key of `METADATA_RANGES`, in its order.

    Args:
      rgb: Pictures.
      depth: Metres.
      instance: 0 where there is no object.
      shapes: Number of spheres, cubes, cylinders and cones.
    """
    batch = len(rgb)
    red, green, blue = _channels(rgb.reshape(batch, -1, 3))
    grey = luma(rgb).reshape(batch, -1)
    high, low = np.fmax(np.fmax(red, green), blue), np.fmin(np.fmin(red, green), blue)
    red_green, yellow_blue = red - green, np.float32(0.5) * (red + green) - blue
    spread = np.hypot(red_green.std(1), yellow_blue.std(1))
    strength = np.hypot(red_green.mean(1), yellow_blue.mean(1))
    level = grey.astype(np.int64) + np.arange(batch)[:, None] * 256
    share = np.bincount(level.reshape(-1), minlength=batch * 256).reshape(batch, 256) / grey.shape[1]
    on = instance.reshape(batch, -1) > 0
    values = {
        "brightness": grey.mean(1),
        "contrast": grey.std(1),
        "saturation": ((high - low) / np.maximum(high, 1)).mean(1),
        "colorfulness": spread + 0.3 * strength,
        "entropy": -(share * np.log2(np.where(share > 0, share, 1))).sum(1),
        "objects": shapes.sum(1),
        "spheres": shapes[:, 0],
        "cubes": shapes[:, 1],
        "cylinders": shapes[:, 2],
        "cones": shapes[:, 3],
        "coverage": on.mean(1),
        "nearest": np.where(on, depth.reshape(batch, -1), np.inf).min(1),
    }
    return np.stack([values[key] for key in METADATA_RANGES], 1).astype(np.float32)


def features(rgb: UInt8[np.ndarray, "B H W 3"]) -> Float32[np.ndarray, "B h w 16"]:
    """Returns a dense feature map from a fixed filter bank, one vector per 8 x 8 pixels, of about unit scale.

    Channels: edge strength of the luma in 4 directions at 2 scales (8), means of luma, red-green and blue-yellow (3),
    their spreads (3), and the slope of the luma down and across the cell (2).
    """
    red, green, blue = (channel * np.float32(1 / 255) for channel in _channels(rgb))
    grey = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    opponents = (grey, red - green, blue - np.float32(0.5) * (red + green))
    channels = []
    for reach in (1, 2):
        across, down = _difference(grey, 2, reach), _difference(grey, 1, reach)
        for angle in np.radians(_ANGLES):
            along = np.float32(np.cos(angle)) * across + np.float32(np.sin(angle)) * down
            channels.append(np.sqrt(_pool(along * along)))
    means = [_pool(part) for part in opponents]
    channels += means
    for part, mean in zip(opponents, means):
        channels.append(np.sqrt(np.fmax(_pool(part * part) - mean * mean, np.float32(0))))
    ramp = (np.arange(CELL, dtype=np.float32) - np.float32((CELL - 1) / 2)) / np.float32(CELL / 2)
    for axis in (1, 2):
        repeated = np.tile(ramp, grey.shape[axis] // CELL)
        channels.append(_pool(grey * (repeated[None, :, None] if axis == 1 else repeated[None, None, :])))
    return (np.stack(channels, -1) - _CENTRE) / _SPREAD


def _difference(grey: Float32[np.ndarray, "B H W"], axis: int, reach: int) -> Float32[np.ndarray, "B H W"]:
    """Central difference over `reach` pixels to both sides, the border repeated."""
    size = grey.shape[axis]
    index = np.arange(size)
    return np.take(grey, np.minimum(index + reach, size - 1), axis) - np.take(grey, np.maximum(index - reach, 0), axis)


def _pool(values: Float32[np.ndarray, "B H W"]) -> Float32[np.ndarray, "B h w"]:
    """Means over cells, summed in a fixed order."""
    batch, height, width = values.shape
    cells = values.reshape(batch, height // CELL, CELL, width // CELL, CELL)
    rows = np.zeros((batch, height // CELL, width // CELL, CELL), np.float32)
    total = np.zeros(rows.shape[:3], np.float32)
    for index in range(CELL):
        rows += cells[:, :, index]
    for index in range(CELL):
        total += rows[..., index]
    return total * np.float32(1 / CELL**2)
