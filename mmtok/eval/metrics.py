"""How right a prediction is, per way of showing a modality: pure functions of decoded values.

A metric turns each (prediction, truth) pair into a row of statistics; rows add, and the number comes last from
their sum. So the score of any subset, and its standard error, cost one matrix product.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from mmtok.errors import MmtokError, unknown
from mmtok.scenes.facts import parse, score
from mmtok.show.skeleton import joints_of

Values = Sequence[Any]
Statistics = Float[np.ndarray, "samples columns"]
PEAK = 255.0
CLASSES = 256
WORST_ANGLE = 90.0  # degrees an undefined normal counts as
IOU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how well predictions agree with the truth.

    Attributes:
      name: As printed, with its unit.
      better: Which way is good.
      statistics: (predictions, truths) -> one row per sample.
      value: Sums of rows, one per set of samples -> one number per set; NaN where nothing could be counted.
    """

    name: str
    better: Literal["higher", "lower"]
    statistics: Callable[[Values, Values], Statistics]
    value: Callable[[Float[np.ndarray, "sets columns"]], Float[np.ndarray, " sets"]]

    def __call__(self, predictions: Values, truths: Values) -> float:
        """The metric over a set of samples.

        Raises:
          MmtokError: a prediction and its truth differ in shape.
        """
        if len(predictions) != len(truths):
            raise ValueError(f"{len(predictions)} predictions for {len(truths)} truths")
        return float(self.value(self.statistics(predictions, truths).sum(0, keepdims=True))[0])

    def gain(self, first: Any, second: Any) -> Any:
        """How much better `first` is than `second`; positive is better whatever the direction."""
        return first - second if self.better == "higher" else second - first


def metrics_of(show: str) -> tuple[Metric, ...]:
    """The metrics of a way of showing, the main one first.

    Raises:
      MmtokError: no such way to show.
    """
    if show not in METRICS:
        raise unknown("way to show a modality (no metric for it)", show, METRICS)
    return METRICS[show]


def ratio(total: Float[np.ndarray, "sets columns"]) -> Float[np.ndarray, " sets"]:
    """First column over the second: a mean from (sum, count); NaN where the count is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total[:, 1] > 0, total[:, 0] / total[:, 1], np.nan)


# --- pictures ---------------------------------------------------------------------------------------------------


def psnr(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Peak signal-to-noise ratio of a picture, 10 log10(255^2 / MSE) dB; at most 100, so that means stay finite."""
    error = np.mean((prediction.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(PEAK**2 / max(error, PEAK**2 * 1e-10))), 1.0


def mae(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference of one array."""
    return float(np.mean(np.abs(prediction.astype(np.float64) - truth))), 1.0


def abs_rel(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Sum over pixels of |prediction - truth| / truth where the truth is defined, and their number (Eigen 2014).

    A pixel predicted undefined counts as 1, as a distance of 0 would.
    """
    defined = _defined(truth)
    seen, true = prediction[defined].astype(np.float64), truth[defined].astype(np.float64)
    error = np.where(np.isfinite(seen), np.abs(np.where(np.isfinite(seen), seen, 0) - true) / true, 1.0)
    return float(error.sum()), float(error.size)


def delta1(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pixels with max(prediction / truth, truth / prediction) < 1.25 where the truth is defined, and their number."""
    defined = _defined(truth)
    seen, true = prediction[defined].astype(np.float64), truth[defined].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        good = (seen > 0) & np.isfinite(seen) & (np.maximum(seen / true, true / seen) < 1.25)
    return float(good.sum()), float(good.size)


def normal_angle(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Sum of angles in degrees between normals where the truth is defined, and their number.

    Predictions need not have unit length; an undefined one (zero) counts as 90 degrees.
    """
    seen, true = prediction.astype(np.float64), truth.astype(np.float64)
    length = np.linalg.norm(seen, axis=-1)
    defined = np.linalg.norm(true, axis=-1) > 0.5
    cosine = (seen * true).sum(-1) / np.maximum(length * np.linalg.norm(true, axis=-1), 1e-12)
    angle = np.where(length > 1e-6, np.degrees(np.arccos(np.clip(cosine, -1, 1))), WORST_ANGLE)
    return float(angle[defined].sum()), float(defined.sum())


def pixel_accuracy(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pixels with the right class, and their number."""
    return float((prediction == truth).sum()), float(truth.size)


def overlaps(prediction: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, " columns"]:
    """Pixels in the intersection, then in the union, of prediction and truth for each of 256 classes."""
    seen, true = prediction.astype(np.int64).ravel(), truth.astype(np.int64).ravel()
    if min(seen.min(), true.min()) < 0 or max(seen.max(), true.max()) >= CLASSES:
        raise MmtokError(f"class ids up to {max(seen.max(), true.max())}: mean IoU takes ids 0 to {CLASSES - 1}")
    both = np.bincount(true[seen == true], minlength=CLASSES)
    union = np.bincount(seen, minlength=CLASSES) + np.bincount(true, minlength=CLASSES) - both
    return np.concatenate([both, union]).astype(np.float64)


def mean_iou(total: Float[np.ndarray, "sets columns"]) -> Float[np.ndarray, " sets"]:
    """Intersection over union per class over the whole set, averaged over the classes that occur in either."""
    both, union = total[:, :CLASSES], total[:, CLASSES:]
    iou = np.where(union > 0, both / np.maximum(union, 1), 0)
    with np.errstate(invalid="ignore"):
        return iou.sum(-1) / (union > 0).sum(-1)


def matched_iou(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Sum of IoUs of the best one-to-one matching of instances (0 is no instance), and the larger number of instances.

    Ids may be permuted; instances too many and too few both cost.
    """
    seen, true = (np.unique(ids, return_inverse=True) for ids in (prediction, truth))
    counts = np.zeros((len(seen[0]), len(true[0])))
    np.add.at(counts, (seen[1].ravel(), true[1].ravel()), 1)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    iou = (counts / union)[np.ix_(seen[0] != 0, true[0] != 0)]
    rows, columns = linear_sum_assignment(-iou)
    return float(iou[rows, columns].sum()), float(max(iou.shape))


def edge_counts(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(2 TP, 2 TP + FP + FN) of the set pixels, whose ratio over a set of pictures is F1 (Dice)."""
    seen, true = _is_set(prediction), _is_set(truth)
    return 2.0 * float((seen & true).sum()), float(seen.sum() + true.sum())


# --- lists, texts, numbers --------------------------------------------------------------------------------------


def box_f1(prediction: Values | None, truth: Values) -> tuple[float, float]:
    """F1 of the boxes of one picture: a match has the right class and IoU >= 0.5, one to one, as many as possible.

    1 where prediction and truth are both empty.
    """
    prediction = prediction or []
    if not prediction and not truth:
        return 1.0, 1.0
    if not prediction or not truth:
        return 0.0, 1.0
    iou = box_iou([item["box"] for item in prediction], [item["box"] for item in truth])
    same = np.array([[seen["label"] == true["label"] for true in truth] for seen in prediction])
    match = (same & (iou >= IOU)).astype(np.float64)
    rows, columns = linear_sum_assignment(-match)
    return float(2 * match[rows, columns].sum() / (len(prediction) + len(truth))), 1.0


def segment_f1(prediction: Values | None, truth: Values) -> tuple[float, float]:
    """F1 of the boxes of all instances of one picture, as `box_f1`; instances have no class."""
    seen, true = (
        [{"label": "", "box": one["box"]} for point in points or [] for one in point["instances"]]
        for points in (prediction, truth)
    )
    return box_f1(seen, true)


def joint_error(prediction: Values | None, truth: Values) -> tuple[float, float]:
    """Mean distance of joints from their true places in mm, both bodies on their pelvises (MPJPE, Ionescu et al. 2014).

    The bodies are the generic one of `mmtok.show.skeleton`. Persons are matched one to one by how much their boxes
    overlap; a person too many or too few costs a metre.
    """
    prediction = prediction or []
    if not prediction and not truth:
        return 0.0, 1.0
    places = [np.array([joints_of(one) for one in people]).reshape(-1, 24, 3) for people in (prediction, truth)]
    errors = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1).mean(-1)
    overlap = box_iou([one["box"] for one in prediction], [one["box"] for one in truth])
    rows, columns = linear_sum_assignment(1e-3 * errors - overlap)  # of equal boxes the more alike bodies
    extra = abs(len(prediction) - len(truth))
    return 1000.0 * float(errors[rows, columns].sum() + extra) / max(len(prediction), len(truth)), 1.0


def correlation(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pearson's correlation of one picture where the truth is defined: whatever the scale, offset left aside."""
    defined = np.isfinite(truth)
    seen, true = (array[defined].astype(np.float64) for array in (prediction, truth))
    if not seen.size or not np.isfinite(seen).all():
        return 0.0, float(bool(seen.size))
    seen, true = seen - seen.mean(), true - true.mean()
    spread = np.linalg.norm(seen) * np.linalg.norm(true)
    return float((seen * true).sum() / spread) if spread > 0 else float(np.allclose(seen, true)), 1.0


def class_f1(prediction: Values | None, truth: Values) -> tuple[float, float]:
    """F1 of the classes of the boxes of one picture, wherever the boxes are; 1 where both are empty.

    For inputs that say what is there but not where, such as a caption.
    """
    seen, true = (Counter(item["label"] for item in boxes or []) for boxes in (prediction, truth))
    total = seen.total() + true.total()
    return (2.0 * (seen & true).total() / total if total else 1.0), 1.0


def box_iou(first: Values, second: Values) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every pair of boxes (xmin, ymin, xmax, ymax); corners may come in any order."""
    one, two = (np.sort(np.asarray(boxes, np.float64).reshape(-1, 2, 2), axis=1) for boxes in (first, second))
    low, high = np.maximum(one[:, None, 0], two[None, :, 0]), np.minimum(one[:, None, 1], two[None, :, 1])
    both = np.clip(high - low, 0, None).prod(-1)
    area = (one[:, 1] - one[:, 0]).prod(-1)[:, None] + (two[:, 1] - two[:, 0]).prod(-1)[None]
    return both / np.maximum(area - both, 1e-12)


def caption_facts(prediction: str | None, truth: str) -> tuple[float, float]:
    """Facts of the true caption (count, colours, shapes) that the prediction gets right, and their number.

    (0, 0) where the truth states no facts, as in text that does not describe scenes.
    """
    if not _states_facts(truth):
        return 0.0, 0.0
    right, total = score(prediction or "", truth)
    return float(right), float(total)


def exact_match(prediction: str | None, truth: str) -> tuple[float, float]:
    """Whether two texts are the same but for case and blanks; (0, 0) for a caption with facts, as in `word_f1`."""
    if _states_facts(truth):
        return 0.0, 0.0
    return float(_words(prediction) == _words(truth)), 1.0


def word_f1(prediction: str | None, truth: str) -> tuple[float, float]:
    """F1 of the words of two texts as bags, punctuation and case left aside (Rajpurkar et al. 2016).

    (0, 0) for a caption with facts: those can be said in many words, and `caption_facts` scores what they say.
    """
    if _states_facts(truth):
        return 0.0, 0.0
    seen, true = Counter(_words(prediction)), Counter(_words(truth))
    if not seen and not true:
        return 1.0, 1.0
    return 2.0 * sum((seen & true).values()) / (seen.total() + true.total()), 1.0


def palette_error(prediction: Any, truth: Any) -> tuple[float, float]:
    """Mean distance between colours (RGB levels, Euclidean) in the best one-to-one matching.

    A colour too many or too few costs the distance from black to white.
    """
    seen, true = (
        np.asarray(value if value is not None else [], np.float64).reshape(-1, 3) for value in (prediction, truth)
    )
    if not len(seen) and not len(true):
        return 0.0, 1.0
    distance = np.linalg.norm(seen[:, None] - true[None], axis=-1)
    rows, columns = linear_sum_assignment(distance)
    extra = abs(len(seen) - len(true)) * PEAK * np.sqrt(3)
    return float((distance[rows, columns].sum() + extra) / max(len(seen), len(true))), 1.0


def relative_errors(predictions: Values, truths: Values) -> Statistics:
    """Per sample: sum over its numbers of |prediction - truth| / (range of that number among truths), and how many.

    A missing number counts as 1, so does a wrong one where the range is 0.
    """
    true = [_numbers(truth) for truth in truths]
    columns: dict[str, list[float]] = {}
    for numbers in true:
        for key, number in numbers.items():
            columns.setdefault(key, []).append(number)
    spans = {key: max(column) - min(column) for key, column in columns.items()}
    rows = []
    for prediction, numbers in zip(predictions, true):
        seen = _numbers(prediction)
        errors = [_relative(seen.get(key), number, spans[key]) for key, number in numbers.items()]
        rows.append((sum(errors), len(errors)))
    return np.array(rows, np.float64).reshape(-1, 2)


def feature_cosine(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean over positions of the cosine between feature vectors."""
    seen, true = prediction.astype(np.float64), truth.astype(np.float64)
    lengths = np.linalg.norm(seen, axis=-1) * np.linalg.norm(true, axis=-1)
    return float(np.mean((seen * true).sum(-1) / np.maximum(lengths, 1e-12))), 1.0


def squared_error(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(sum of squared differences, sum of squared truth)."""
    seen, true = prediction.astype(np.float64), truth.astype(np.float64)
    return float(((seen - true) ** 2).sum()), float((true**2).sum())


def relative_error(total: Float[np.ndarray, "sets columns"]) -> Float[np.ndarray, " sets"]:
    """|prediction - truth| / |truth|, Euclidean norms over the whole set."""
    return np.sqrt(ratio(total))


# --- the table --------------------------------------------------------------------------------------------------


def _each(pair: Callable[[Any, Any], Any], *, arrays: bool = True) -> Callable[[Values, Values], Statistics]:
    """Statistics of many samples from a function of one pair; arrays must agree in shape."""

    def statistics(predictions: Values, truths: Values) -> Statistics:
        if arrays:
            for index, (prediction, truth) in enumerate(zip(predictions, truths)):
                _check(prediction, truth, index)
        return np.array([pair(prediction, truth) for prediction, truth in zip(predictions, truths)], np.float64)

    return statistics


PSNR = Metric(name="PSNR dB", better="higher", statistics=_each(psnr), value=ratio)
MAE = Metric(name="MAE", better="lower", statistics=_each(mae), value=ratio)
ABS_REL = Metric(name="AbsRel", better="lower", statistics=_each(abs_rel), value=ratio)
DELTA1 = Metric(name="delta1", better="higher", statistics=_each(delta1), value=ratio)
NORMAL_ANGLE = Metric(name="angle deg", better="lower", statistics=_each(normal_angle), value=ratio)
MEAN_IOU = Metric(name="mIoU", better="higher", statistics=_each(overlaps), value=mean_iou)
ACCURACY = Metric(name="accuracy", better="higher", statistics=_each(pixel_accuracy), value=ratio)
MATCHED_IOU = Metric(name="matched IoU", better="higher", statistics=_each(matched_iou), value=ratio)
EDGE_F1 = Metric(name="pixel F1", better="higher", statistics=_each(edge_counts), value=ratio)
BOX_F1 = Metric(name="box F1", better="higher", statistics=_each(box_f1, arrays=False), value=ratio)
SEGMENT_F1 = Metric(name="instance F1", better="higher", statistics=_each(segment_f1, arrays=False), value=ratio)
JOINTS = Metric(name="joint error mm", better="lower", statistics=_each(joint_error, arrays=False), value=ratio)
CORRELATION = Metric(name="correlation", better="higher", statistics=_each(correlation), value=ratio)
CLASS_F1 = Metric(name="class F1", better="higher", statistics=_each(class_f1, arrays=False), value=ratio)
FACTS = Metric(name="facts right", better="higher", statistics=_each(caption_facts, arrays=False), value=ratio)
WORD_F1 = Metric(name="word F1", better="higher", statistics=_each(word_f1, arrays=False), value=ratio)
EXACT = Metric(name="exact match", better="higher", statistics=_each(exact_match, arrays=False), value=ratio)
PALETTE = Metric(name="colour error", better="lower", statistics=_each(palette_error, arrays=False), value=ratio)
VALUES = Metric(name="error / range", better="lower", statistics=relative_errors, value=ratio)
COSINE = Metric(name="cosine", better="higher", statistics=_each(feature_cosine), value=ratio)
RELATIVE = Metric(name="relative error", better="lower", statistics=_each(squared_error), value=relative_error)

METRICS: Mapping[str, tuple[Metric, ...]] = {
    "rgb": (PSNR, MAE),
    "grey": (PSNR, MAE),
    "depth": (ABS_REL, DELTA1),
    "relative_depth": (CORRELATION,),
    "normal": (NORMAL_ANGLE,),
    "label": (MEAN_IOU, ACCURACY),
    "instance": (MATCHED_IOU,),
    "edge": (EDGE_F1,),
    "mask": (EDGE_F1,),
    "sketch": (PSNR, MAE),
    "text": (FACTS, WORD_F1, EXACT),
    "box": (BOX_F1, CLASS_F1),
    "pose": (JOINTS,),
    "segment": (SEGMENT_F1,),
    "palette": (PALETTE,),
    "values": (VALUES,),
    "feature": (COSINE, RELATIVE),
    "amount": (RELATIVE,),
    "array": (RELATIVE,),
}
"""Way to show -> its metrics, the main one first."""


def _check(prediction: Any, truth: Any, index: int) -> None:
    found = getattr(prediction, "shape", None)
    if found != truth.shape:
        raise MmtokError(
            f"sample {index}: the prediction has shape {found}, its truth {truth.shape}; they cannot be compared"
        )


def _states_facts(text: str) -> bool:
    return bool(parse(text).objects)


def _defined(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _is_set(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.float64) > 0.5


def _words(text: str | None) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in (text or "").lower()).split()


def _numbers(value: Any) -> dict[str, float]:
    """The numbers of a mapping or vector by name; other entries are left out."""
    if value is None:
        return {}
    items = value.items() if isinstance(value, Mapping) else enumerate(np.asarray(value).ravel().tolist())
    return {str(key): float(number) for key, number in items if isinstance(number, int | float | np.number)}


def _relative(seen: float | None, true: float, span: float) -> float:
    if seen is None or not np.isfinite(seen):
        return 1.0
    return abs(seen - true) / span if span > 0 else float(seen != true)
