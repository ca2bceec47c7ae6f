"""What a tokenizer keeps and what it loses, as one picture."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmtok.show.canvas import Picture, fit
from mmtok.show.colours import feature_basis, heat
from mmtok.show.gallery import gallery
from mmtok.show.pictures import picture

TILE = 144


def reconstruction(
    path: str | os.PathLike,
    originals: Sequence[Any],
    reconstructions: Sequence[Any],
    *,
    show: str,
    title: str = "",
) -> Path:
    """Writes originals above their reconstructions, and below, where it makes sense, the error (black is none).

    Args:
      path: PNG to write.
      originals: Raw values, one per column.
      reconstructions: What the tokenizer made of them.
      show: `Modality.show`.
      title: Headline.

    Returns:
      `path`.
    """
    basis = feature_basis([value for value in originals if value is not None]) if show == "feature" else None
    rows: list[list[Picture | None]] = [
        [picture(value, show, size=TILE, basis=basis) for value in values] for values in (originals, reconstructions)
    ]
    labels = ["original", "reconstruction"]
    if show in _ERRORS:
        rows.append([_error(truth, seen, show) for truth, seen in zip(originals, reconstructions)])
        labels.append(f"error ({_ERRORS[show][1]})")
    titles = [str(index) for index in range(len(originals))]
    return gallery(path, rows, titles=titles, labels=labels, title=title)


def _error(truth: Any, seen: Any, show: str) -> Picture | None:
    if truth is None or seen is None or truth.shape != seen.shape:
        return None
    error = _ERRORS[show][0](truth.astype(np.float64), seen.astype(np.float64))
    return fit(heat(np.nan_to_num(error)), size=TILE)


def _colour(truth: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, "H W"]:
    return np.abs(truth - seen).mean(-1) / 64


def _level(truth: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, "H W"]:
    return np.abs(truth - seen) / 64


def _relative(truth: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, "H W"]:
    both = np.isfinite(truth) & np.isfinite(seen)
    difference = np.abs(np.where(both, truth, 0) - np.where(both, seen, 0)) / np.where(both & (truth > 0), truth, 1)
    return np.where(np.isfinite(truth) != np.isfinite(seen), 1.0, difference / 0.2)


def _angle(truth: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, "H W"]:
    lengths = np.linalg.norm(truth, axis=-1) * np.linalg.norm(seen, axis=-1)
    angle = np.degrees(np.arccos(np.clip((truth * seen).sum(-1) / np.maximum(lengths, 1e-9), -1, 1)))
    return np.where(np.linalg.norm(truth, axis=-1) > 0.5, angle / 45, 0.0)


def _different(truth: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, "H W"]:
    return (truth != seen).astype(np.float64)


def _distance(truth: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, "H W"]:
    return np.linalg.norm(truth - seen, axis=-1) / np.maximum(np.linalg.norm(truth, axis=-1).mean(), 1e-9)


_ERRORS: Mapping[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], str]] = {
    "rgb": (_colour, "white is 64 levels"),
    "grey": (_level, "white is 64 levels"),
    "depth": (_relative, "white is 20 %"),
    "normal": (_angle, "white is 45 degrees"),
    "label": (_different, "white is wrong"),
    "instance": (_different, "white is wrong"),
    "edge": (_different, "white is wrong"),
    "mask": (_different, "white is wrong"),
    "feature": (_distance, "white is the mean length"),
}
