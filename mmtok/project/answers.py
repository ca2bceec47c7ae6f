"""What a model answers: raw values to compute with, and one picture to look at."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from PIL import Image

from mmtok.batch import TokenColumn
from mmtok.generate import Generated
from mmtok.modality import Modality
from mmtok.project.pictures import draw
from mmtok.project.regions import Part, Region, whole, whole_cells
from mmtok.show import sheet
from mmtok.source import Sample
from mmtok.tokenizers.preprocess import centre_square

TILE = 160  # pixels of one picture
MOST_ROWS = 32  # of a picture


@dataclasses.dataclass(frozen=True)
class Answers(Sequence[Mapping[str, Any]]):
    """Answers to samples: a sequence of mappings from target to raw value, all of the first sample first.

    A notebook shows them as a picture.

    Attributes:
      given: What was given for each answer.
      made: Each answer: target -> raw value.
      fields: How each given field is shown.
      targets: How each target is shown.
      tokens: Target -> its tokens and their log-probabilities in nats, one row per answer.
      columns: All that is wholly known in the end as tokens, given and made; one row per answer.
    """

    given: tuple[Sample, ...]
    made: tuple[Mapping[str, Any], ...]
    fields: Mapping[str, Modality]
    targets: Mapping[str, Modality]
    tokens: Mapping[str, Generated] = dataclasses.field(repr=False)
    columns: Mapping[str, TokenColumn] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.made)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Mapping[str, Any], ...]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | tuple[Mapping[str, Any], ...]:
        return self.made[index]

    def picture(self) -> Image.Image:
        """Draws one row per answer, 32 at most: what was given (paled where it was not known), then what was made."""
        return Image.fromarray(contact_sheet(self.given[:MOST_ROWS], self.made[:MOST_ROWS], self.fields, self.targets))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        buffer = io.BytesIO()
        self.picture().save(buffer, format="PNG")
        return buffer.getvalue()


def contact_sheet(
    given: Sequence[Sample],
    made: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Modality],
    targets: Mapping[str, Modality],
    *,
    labels: Sequence[str] = (),
    note: str = "",
) -> np.ndarray:
    """Draws samples in rows.

    Args:
      given: Raw values by field, one mapping per row; a field that is missing is drawn as absent, and what is not known
        of a picture is paled.
      made: Raw values by target, one mapping per row.
      fields: How fields are shown; those that no row has are left out.
      targets: How targets are shown, in this order.
      labels: Of the rows.
      note: A line above.

    Returns:
      Pixels, (H, W, 3) uint8.
    """
    columns = [field for field in fields if any(field in sample for sample in given)]
    rows = [
        [
            *((_square(sample.get(field)), fields[field]) for field in columns),
            *((answer.get(name), modality) for name, modality in targets.items()),
        ]
        for sample, answer in zip(given, made, strict=True)
    ]
    tiles = draw(rows, size=TILE)
    for row, sample in zip(tiles, given, strict=True):
        for place, field in enumerate(columns):
            value = sample.get(field)
            if isinstance(value, Part):
                row[place] = _paled(row[place], value.region)
    groups = [("given", len(columns))] * bool(columns) + [("generated", len(targets))]
    return sheet(tiles, titles=[*columns, *targets], groups=groups, labels=labels, note=note)


def _square(value: Any) -> Any:
    """What is taken of a picture that is known in part."""
    return centre_square(whole(value)) if isinstance(value, Part) else value


def _paled(tile: np.ndarray, region: Region) -> np.ndarray:
    """The picture with everything that is not known close to white."""
    known = whole_cells(region, (TILE, TILE))
    return np.where(known[..., None], tile, 255 - (255 - tile) // 6)
