"""The best answer that ignores its input: what a model must beat to have learned anything.

For each metric the constant is chosen on training truths for that metric: the mean picture for PSNR, the median for
absolute errors, a map of frequent classes for labels, the training sample that scores best against the others for lists
and texts.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from mmtok.eval import metrics
from mmtok.eval.metrics import CLASSES, Metric

Values = Sequence[Any]
CANDIDATES = 48  # training samples tried as the constant answer
JUDGES = 96  # training samples each of them is scored against
FAR = 1e6


def best_constant(metric: Metric, truths: Values) -> Any:
    """The constant prediction that does best under `metric` on training truths (not empty, arrays of one shape)."""
    choose = _CHOICE.get(metric.name)
    return choose(truths) if choose else medoid(metric, truths)


def medoid(metric: Metric, truths: Values) -> Any:
    """The training sample that scores best as the answer for all the others (evenly picked samples of many)."""
    candidates, judges = _evenly(truths, CANDIDATES), _evenly(truths, JUDGES)
    scores = [metric([candidate] * len(judges), judges) for candidate in candidates]
    scores = np.nan_to_num(np.array(scores), nan=-np.inf if metric.better == "higher" else np.inf)
    return candidates[int(scores.argmax() if metric.better == "higher" else scores.argmin())]


def mean_picture(truths: Values) -> np.ndarray:
    """Minimises the squared error."""
    mean = np.mean(np.stack(truths).astype(np.float64), axis=0)
    return _like(mean, truths)


def median_picture(truths: Values) -> np.ndarray:
    """Minimises the absolute error."""
    return _like(np.median(np.stack(truths), axis=0), truths)


def relative_median_depth(truths: Values) -> np.ndarray:
    """Minimises the mean of |c - d| / d per pixel: the median weighted by 1 / d over the samples where d is defined.

    Pixels that are never defined get the largest of these medians.
    """
    depth = np.sort(np.where(_defined(truths), np.stack(truths), FAR).astype(np.float64), axis=0)
    weights = np.where(depth < FAR, 1 / depth, 0.0)
    share = np.cumsum(weights, axis=0)
    rank = (share < share[-1:] / 2).sum(0, keepdims=True)
    median = np.take_along_axis(depth, np.minimum(rank, len(depth) - 1), axis=0)[0]
    known = share[-1] > 0
    farthest = median[known].max() if known.any() else 1.0
    return np.where(known, median, farthest).astype(truths[0].dtype)


def common_depth(truths: Values) -> np.ndarray:
    """Per pixel, of 64 distances in equal ratios, the one within a factor of 1.25 of the most samples (as `delta1`)."""
    depth, defined = np.stack(truths).astype(np.float64), _defined(truths)
    if not defined.any():
        return np.ones_like(truths[0])
    distances = np.geomspace(depth[defined].min(), depth[defined].max(), 64)
    log = np.log(np.where(defined, depth, FAR))
    near = np.stack([(np.abs(log - np.log(distance)) < np.log(1.25)).sum(0) for distance in distances])
    return distances[near.argmax(0)].astype(truths[0].dtype)


def mean_direction(truths: Values) -> np.ndarray:
    """The normalised sum of unit vectors per pixel."""
    total = np.sum(np.stack(truths).astype(np.float64), axis=0)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return _like(total / np.maximum(length, 1e-12), truths)


def mode_picture(truths: Values) -> np.ndarray:
    """Most frequent class of each pixel."""
    return _class_counts(truths).argmax(0).astype(truths[0].dtype)


def best_class_map(truths: Values) -> np.ndarray:
    """Of three constants the one with the highest mean IoU.

    They are the most frequent class of each pixel (which leaves out rare classes), the class that is most over its
    average there (which favours them), and the training sample that scores best against the others.
    """
    counts = _class_counts(truths)
    share = counts / np.maximum(counts.sum(axis=tuple(range(1, counts.ndim)), keepdims=True), 1)
    rivals = [mode_picture(truths), share.argmax(0).astype(truths[0].dtype), medoid(metrics.MEAN_IOU, truths)]
    return max(rivals, key=lambda rival: metrics.MEAN_IOU([rival] * len(truths), truths))


def best_mask(truths: Values) -> np.ndarray:
    """How often each pixel is set, cut at the frequency that gives the highest F1 on the training truths."""
    frequency = np.mean(np.stack(truths) > 0, axis=0)
    cuts = np.unique(np.quantile(frequency, np.linspace(0, 1, 33)))
    masks = [(frequency >= cut).astype(truths[0].dtype) for cut in cuts]
    scores = [metrics.EDGE_F1([mask] * len(truths), truths) for mask in masks]
    return masks[int(np.nanargmax(scores))]


def mean_feature_direction(truths: Values) -> np.ndarray:
    """Normalised sum of the normalised feature vectors: maximises the mean cosine."""
    stack = np.stack(truths).astype(np.float64)
    total = (stack / np.maximum(np.linalg.norm(stack, axis=-1, keepdims=True), 1e-12)).sum(0)
    return (total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def median_values(truths: Values) -> Any:
    """Median of each number; of each entry for vectors."""
    if not isinstance(truths[0], Mapping):
        return np.median(np.stack(truths), axis=0)
    columns: dict[str, list[Any]] = {}
    for truth in truths:
        for key, number in truth.items():
            columns.setdefault(key, []).append(number)
    return {
        key: float(np.median(column)) if isinstance(column[0], int | float | np.number) else column[0]
        for key, column in columns.items()
    }


def most_frequent_text(truths: Values) -> str:
    """The text that occurs most often."""
    return Counter(truths).most_common(1)[0][0]


_CHOICE: Mapping[str, Callable[[Values], Any]] = {
    metrics.PSNR.name: mean_picture,
    metrics.MAE.name: median_picture,
    metrics.ABS_REL.name: relative_median_depth,
    metrics.DELTA1.name: common_depth,
    metrics.NORMAL_ANGLE.name: mean_direction,
    metrics.MEAN_IOU.name: best_class_map,
    metrics.ACCURACY.name: mode_picture,
    metrics.EDGE_F1.name: best_mask,
    metrics.EXACT.name: most_frequent_text,
    metrics.VALUES.name: median_values,
    metrics.COSINE.name: mean_feature_direction,
    metrics.RELATIVE.name: mean_picture,
}


def _evenly(values: Values, count: int) -> list[Any]:
    if len(values) <= count:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, count).round().astype(int)]


def _like(value: Shaped[np.ndarray, "..."], truths: Values) -> np.ndarray:
    dtype = truths[0].dtype
    return value.round().astype(dtype) if np.issubdtype(dtype, np.integer) else value.astype(dtype)


def _defined(truths: Values) -> np.ndarray:
    stack = np.stack(truths)
    return np.isfinite(stack) & (stack > 0)


def _class_counts(truths: Values) -> Int[np.ndarray, "classes *shape"]:
    """How often each class occurs at each pixel."""
    stack = np.stack(truths)
    classes = min(int(stack.max()) + 1, CLASSES)
    return np.stack([(stack == index).sum(0) for index in range(classes)])
