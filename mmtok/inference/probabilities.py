"""How sure the model was of each token it made, as files and as maps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmtok.files import new_file
from mmtok.generate import Generated
from mmtok.modality import Modality


def write_probabilities(
    path: Path, generated: Mapping[str, Generated], modalities: Mapping[str, Modality], *, row: int
) -> None:
    """Writes tokens, log-probabilities and entropies of one sample as `.npz`.

    For each target it holds `NAME.tokens` (int32), `NAME.log_probs` and `NAME.entropies` (float32, nats; 0 at tokens
    that were known): of a grid as (*shape, codes), of a sequence as (length, 1), its end included.

    Args:
      path: File to write.
      generated: By target, as the sampler returns it.
      modalities: By name.
      row: Which sample.
    """
    arrays = {}
    for name, item in generated.items():
        parts = {"tokens": item.column.values, "log_probs": item.log_probs, "entropies": item.entropies}
        for kind, values in parts.items():
            arrays[f"{name}.{kind}"] = _shaped(values[row], int(item.column.length[row]), modalities[name])
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def entropies(generated: Generated, modality: Modality, *, row: int) -> Float[np.ndarray, "..."]:
    """Returns the entropies of the tokens of one sample in nats: of a grid as (*shape, codes)."""
    return _shaped(generated.entropies[row], int(generated.column.length[row]), modality)


def _shaped(values: np.ndarray, length: int, modality: Modality) -> np.ndarray:
    return values.reshape(*modality.shape, -1) if modality.kind == "grid" else values[:length]
