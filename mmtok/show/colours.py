"""Numbers to colours: classes, distances, directions, feature maps."""

import colorsys
import dataclasses
import functools
import zlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mmtok.show.canvas import UNDEFINED, Picture

# The first classes by hand: far apart in hue and lightness, quiet ones first because class 0 is mostly background.
_FIRST = (
    (190, 214, 235), (222, 213, 196), (214, 78, 66), (58, 126, 189), (240, 176, 52), (96, 166, 92),
    (142, 100, 178), (82, 190, 190), (232, 130, 168), (134, 94, 70), (44, 62, 94), (172, 190, 62),
)  # fmt: skip


@functools.cache
def class_colours() -> UInt8[np.ndarray, "256 3"]:
    """A fixed colour for each of 256 classes."""
    rest = [_hue_step(index) for index in range(len(_FIRST), 256)]
    table = np.array((*_FIRST, *rest), dtype=np.uint8)
    table.flags.writeable = False
    return table


def name_colour(name: str) -> tuple[int, int, int]:
    """A fixed saturated colour for a class name, the same in every picture."""
    hue = zlib.crc32(name.encode()) % 4096 / 4096
    return _bytes(colorsys.hsv_to_rgb(hue, 0.85, 0.88))


def heat(values: Float[np.ndarray, "H W"], *, scheme: str = "magma") -> Picture:
    """A perceptually uniform colour map over [0, 1]."""
    return (matplotlib.colormaps[scheme](np.clip(values, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def depth_colours(depth: np.ndarray, *, nearest: int | float, farthest: int | float) -> Picture:
    """Metres to colours, near bright and far dark, linear in log distance over a fixed range; undefined is grey."""
    metres = depth.astype(np.float64)
    defined = np.isfinite(metres) & (metres > 0)
    log = np.log(np.where(defined, metres, farthest))
    near = (np.log(farthest) - log) / (np.log(farthest) - np.log(nearest))
    return _blank(heat(near), defined)


def relative_depth_colours(depth: np.ndarray) -> Picture:
    """Depth on an unknown scale to colours, near bright and far dark; not finite is grey.

    The range spans the 2nd to the 98th percentile of this picture, so that outliers do not wash it out.
    """
    distances = depth.astype(np.float64)
    defined = np.isfinite(distances)
    low, high = np.percentile(distances[defined], (2, 98)) if defined.any() else (0.0, 1.0)
    far = (np.where(defined, distances, low) - low) / max(high - low, 1e-12)
    return _blank(heat(1 - far), defined)


def amount_colours(amounts: np.ndarray, *, most: float) -> Picture:
    """Amounts from 0 to `most` as colours, dark to bright; NaN is grey."""
    defined = np.isfinite(amounts)
    return _blank(heat(np.where(defined, amounts, 0.0).astype(np.float64) / (most or 1.0)), defined)


def normal_colours(normal: np.ndarray) -> Picture:
    """Unit vectors to colours, -1..1 as 0..255 per axis; undefined (zero) is grey."""
    defined = np.linalg.norm(normal.astype(np.float64), axis=-1) > 1e-3
    return _blank(((np.clip(normal, -1, 1) + 1) * 127.5).round().astype(np.uint8), defined)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureBasis:
    """Three directions in feature space that become red, green and blue; share one to compare feature maps.

    Attributes:
      mean: Centre of the features.
      axes: Principal axes with fixed signs, as columns.
      low: Projections that become 0, per colour.
      high: Projections that become 255.
    """

    mean: Float[np.ndarray, " C"]
    axes: Float[np.ndarray, "C 3"]
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]


def feature_basis(features: Sequence[np.ndarray]) -> FeatureBasis:
    """The first three principal components of feature maps (..., C), each axis signed so that its skew is positive.

    The colour range spans the 2nd to the 98th percentile, so that outliers do not wash out the picture.
    """
    points = np.concatenate([_finite(feature).reshape(-1, feature.shape[-1]) for feature in features])
    mean = points.mean(0)
    axes = np.linalg.svd((points - mean).T @ (points - mean))[0]
    axes = np.pad(axes, ((0, 0), (0, max(0, 3 - axes.shape[1]))))[:, :3]
    skew = (((points - mean) @ axes) ** 3).sum(0)
    axes = axes * np.where(skew < 0, -1.0, 1.0)
    projected = (points - mean) @ axes
    low, high = np.percentile(projected, (2, 98), axis=0)
    return FeatureBasis(mean=mean, axes=axes, low=low, high=np.maximum(high, low + 1e-9))


def feature_colours(feature: Float[np.ndarray, "H W C"], basis: FeatureBasis) -> Picture:
    """Features projected on a basis, as colours."""
    projected = (_finite(feature) - basis.mean) @ basis.axes
    unit = (projected - basis.low) / (basis.high - basis.low)
    return (np.clip(np.nan_to_num(unit), 0, 1) * 255).round().astype(np.uint8)


def _finite(feature: np.ndarray) -> np.ndarray:
    return np.nan_to_num(feature.astype(np.float64), posinf=0.0, neginf=0.0)


def _blank(colours: Picture, defined: Bool[np.ndarray, "H W"]) -> Picture:
    return np.where(defined[..., None], colours, np.array(UNDEFINED, np.uint8)).astype(np.uint8)


def _hue_step(index: int) -> tuple[int, int, int]:
    # Steps of the golden ratio never come close to an earlier hue soon.
    return _bytes(
        colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.45, 0.7, 0.9)[index % 3], (0.95, 0.75, 0.55)[index // 3 % 3])
    )


def _bytes(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue
