"""What a model answers: raw values to compute with, and one picture to look at."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from PIL import Image

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Generated
from mmtok.inference.pictures import draw
from mmtok.inference.probabilities import entropies
from mmtok.inference.reductions import Likelihood, Reduction, reduce
from mmtok.inference.regions import Part, Region, whole, whole_cells
from mmtok.modality import Modality
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
      likelihood: Of each answer under the model.
      draws: How many answers to each sample.
    """

    given: tuple[Sample, ...]
    made: tuple[Mapping[str, Any], ...]
    fields: Mapping[str, Modality]
    targets: Mapping[str, Modality]
    tokens: Mapping[str, Generated] = dataclasses.field(repr=False)
    columns: Mapping[str, TokenColumn] = dataclasses.field(repr=False)
    likelihood: Likelihood = dataclasses.field(repr=False)
    draws: int = 1

    def __len__(self) -> int:
        return len(self.made)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Mapping[str, Any], ...]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | tuple[Mapping[str, Any], ...]:
        return self.made[index]

    def take(self, rows: Sequence[int], *, draws: int) -> "Answers":
        """Returns some of the answers.

        Args:
          rows: Their places.
          draws: How many of them are answers to the same sample.
        """
        index = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            given=tuple(self.given[row] for row in rows),
            made=tuple(self.made[row] for row in rows),
            tokens={name: _taken(item, index) for name, item in self.tokens.items()},
            columns={name: column[index] for name, column in self.columns.items()},
            likelihood=self.likelihood[index],
            draws=draws,
        )

    def best(self, count: int = 1, *, score: Callable[[Mapping[str, Any]], float] | None = None) -> "Answers":
        """Returns the best of the answers to each sample, the best first.

        Args:
          count: How many of each.
          score: How good an answer is, of its decoded values by target; the highest is the best. None takes the mean
            log-probability of its tokens, under the model as it drew them (guided, at temperature 1, unfiltered).

        Raises:
          MmtokError: there are not so many.
        """
        if not 1 <= count <= self.draws:
            raise MmtokError(f"best: {count} of {self.draws} answers to each sample were asked for")
        scores = (
            self.likelihood.mean if score is None else np.array([score(answer) for answer in self.made], np.float64)
        )
        order = np.argsort(-scores.reshape(-1, self.draws), axis=1, kind="stable")[:, :count]  # of equals, the first
        rows = order + self.draws * np.arange(len(order))[:, None]
        return self.take(rows.ravel().tolist(), draws=count)

    def reduced(self, how: Reduction = "mean") -> "Answers":
        """Returns one answer to each sample, which has what its answers have in common, and how far they lie apart.

        The latter is a further value, TARGET_uncertainty. See `mmtok.inference.reductions.reduce`. The result is no
        longer tokens.

        Raises:
          MmtokError: a target whose answers cannot be brought together, such as a text.
        """
        made, groups = [], np.arange(len(self)).reshape(-1, self.draws)
        for rows in groups.tolist():
            found = {
                name: reduce([self.made[row][name] for row in rows], how, modality)
                for name, modality in self.targets.items()
            }
            values = {name: item.value for name, item in found.items()}
            made.append(values | {f"{name}_uncertainty": item.uncertainty for name, item in found.items()})
        return dataclasses.replace(
            self.take(groups[:, 0].tolist(), draws=1),
            made=tuple(made),
            targets=with_uncertainties(self.targets),
            tokens={},
            columns={},
            likelihood=self.likelihood.summed(list(groups)),
        )

    def with_entropies(self) -> "Answers":
        """Returns the same with a further value TARGET_entropy for each grid: how unsure of each token it was."""
        grids = {name: item for name, item in self.targets.items() if item.kind == "grid"}
        further = [
            {f"{name}_entropy": entropies(self.tokens[name], item, row=row).mean(-1) for name, item in grids.items()}
            for row in range(len(self))
        ]
        return dataclasses.replace(
            self,
            made=tuple({**answer, **more} for answer, more in zip(self.made, further, strict=True)),
            targets=with_entropies(self.targets),
        )

    def picture(self) -> Image.Image:
        """Draws one row per answer, 32 at most: what was given (paled where it was not known), then what was made."""
        return Image.fromarray(contact_sheet(self.given[:MOST_ROWS], self.made[:MOST_ROWS], self.fields, self.targets))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        buffer = io.BytesIO()
        self.picture().save(buffer, format="PNG")
        return buffer.getvalue()


def with_uncertainties(targets: Mapping[str, Modality]) -> dict[str, Modality]:
    """Returns how reduced answers are shown."""
    return {**targets, **{f"{name}_uncertainty": _amount(item) for name, item in targets.items()}}


def with_entropies(targets: Mapping[str, Modality]) -> dict[str, Modality]:
    """Returns how answers with entropies are shown."""
    return {**targets, **{f"{name}_entropy": _amount(item) for name, item in targets.items() if item.kind == "grid"}}


def _amount(modality: Modality) -> Modality:
    return dataclasses.replace(modality, show="amount")


def _taken(item: Generated, rows: np.ndarray) -> Generated:
    return Generated(item.column[rows], item.log_probs[rows], item.entropies[rows])


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
