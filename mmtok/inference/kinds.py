"""What the numbers of a decoded value are, and so how several values of one place can be brought together."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

Kind = Literal["numbers", "directions", "classes"]
"""Numbers can be averaged, directions are averaged and normalised again, classes are voted on."""

_KINDS: Mapping[str, Kind] = {
    "rgb": "numbers",
    "grey": "numbers",
    "sketch": "numbers",
    "depth": "numbers",
    "relative_depth": "numbers",
    "feature": "numbers",
    "normal": "directions",
    "label": "classes",
    "edge": "classes",
    "mask": "classes",
}  # the ids of instances are given anew in each answer, so two of them cannot be compared


def kind_of(value: Any, show: str) -> Kind | None:
    """Returns the kind of a decoded value; None for texts, boxes and all else that cannot be brought together.

    Args:
      value: Decoded value.
      show: `Modality.show`.
    """
    if not isinstance(value, np.ndarray):
        return None
    if show in ("array", "values"):
        return "numbers" if value.dtype.kind == "f" else "classes"
    return _KINDS.get(show)


def channels_last(values: np.ndarray) -> np.ndarray:
    """Returns values with an axis of channels: that of a picture with three axes, a new one for all others."""
    return values if values.ndim == 3 else values[..., None]


def is_defined(values: np.ndarray, kind: Kind) -> Bool[np.ndarray, "..."]:
    """Returns where (..., channels) have a value: finite numbers, and directions that are not zero."""
    if kind == "classes":
        return np.ones(values.shape[:-1], bool)
    finite = np.all(np.isfinite(values), axis=-1)
    return finite & np.any(values != 0, axis=-1) if kind == "directions" else finite


def undefined(kind: Kind) -> float:
    """Returns what stands in all channels of a place without a value."""
    return 0.0 if kind == "directions" else np.inf


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns (..., channels) vectors of length 1; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def like(values: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Returns (..., channels) numbers in the dtype and with the axes of `example`; integers are rounded."""
    values = values if example.ndim == 3 else values[..., 0]
    if example.dtype.kind in "iu":
        limits = np.iinfo(example.dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(example.dtype)
    return values.astype(example.dtype)
