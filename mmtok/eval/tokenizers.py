"""How much a tokenizer keeps, and how much of its vocabulary it uses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmtok.batch import TokenColumn
from mmtok.codec import Codec
from mmtok.errors import MmtokError
from mmtok.eval.constants import best_constant
from mmtok.eval.metrics import metrics_of

BATCH = 64


def evaluate_tokenizer(codec: Codec, values: Sequence[Any]) -> dict[str, float | int]:
    """Measures the reconstruction of held-out values.

    Args:
      codec: The tokenizer.
      values: Raw values; None is left out.

    Returns:
      `samples`; each metric of the modality by name, and as `constant NAME` what the best constant picture (text, list)
      fitted to these very values gets; `codes used` (fraction of the vocabulary) and `perplexity` of the codes.

    Raises:
      MmtokError: there is no value.
    """
    values = [value for value in values if value is not None]
    if not values:
        raise MmtokError(f"tokenizer '{codec.modality.name}': no values to evaluate it on")
    columns, decoded = roundtrip(codec, values)
    report: dict[str, float | int] = {"samples": len(values)}
    show = codec.modality.show
    truths = [match(truth, seen, smooth=show == "grey") for truth, seen in zip(values, decoded)]
    for metric in metrics_of(show):
        score = metric(decoded, truths)
        if np.isfinite(score):
            report[metric.name] = score
            report[f"constant {metric.name}"] = metric([best_constant(metric, truths)] * len(truths), truths)
    if codec.modality.vocabulary is not None:
        report |= codebook_use(columns, size=codec.modality.vocab_size)
    return report


def roundtrip(codec: Codec, values: Sequence[Any]) -> tuple[list[TokenColumn], list[Any]]:
    """Encodes and decodes in batches: (token columns, decoded values)."""
    columns = [codec.encode(values[start : start + BATCH]) for start in range(0, len(values), BATCH)]
    return columns, [value for column in columns for value in codec.decode(column)]


def codebook_use(columns: Sequence[TokenColumn], *, size: int) -> dict[str, float]:
    """`codes used`: fraction of ids that occur; `perplexity`: exp of the entropy of the ids; means over K codes."""
    codes = columns[0].values.shape[-1]
    counts = np.zeros((codes, size), np.int64)
    for column in columns:
        used = np.arange(column.values.shape[1]) < column.length[:, None]
        for code in range(codes):
            counts[code] += np.bincount(column.values[..., code][used].astype(np.int64), minlength=size)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
    return {"codes used": float((counts > 0).mean()), "perplexity": float(np.exp(entropy).mean())}


def match(truth: Any, prediction: Any, *, smooth: bool = False) -> Any:
    """The truth at the prediction's resolution, for raw pictures may be larger than what a tokenizer makes.

    Cut to the prediction's proportions around the centre, as tokenizers do, then sampled: colours, and grey levels
    (`smooth`), bilinearly, all else at the nearest pixel.
    """
    if not isinstance(truth, np.ndarray) or not isinstance(prediction, np.ndarray) or truth.ndim < 2:
        return truth
    if truth.shape == prediction.shape or truth.shape[2:] != prediction.shape[2:]:
        return truth
    old, new = truth.shape[:2], prediction.shape[:2]
    scale = min(old[0] / new[0], old[1] / new[1])
    height, width = round(new[0] * scale), round(new[1] * scale)
    top, left = (old[0] - height) // 2, (old[1] - width) // 2
    cut = truth[top : top + height, left : left + width]
    if cut.dtype == np.uint8 and (smooth or cut.shape[2:] == (3,)):
        return np.asarray(Image.fromarray(cut).resize((new[1], new[0]), Image.Resampling.BILINEAR))
    rows, columns = ((2 * np.arange(many) + 1) * side // (2 * many) for many, side in zip(new, (height, width)))
    return cut[rows][:, columns]
