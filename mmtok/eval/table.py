"""The table an evaluation ends in."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

HEAD = ("direction", "metric", "model", "+-", "tokenizer", "constant", "shuffled", "samples", "learned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one direction.

    Attributes:
      direction: Such as "rgb -> depth".
      metric: Its name.
      better: Which way is good.
      model: The model.
      standard_error: Of the model's number, over samples (bootstrap).
      tokenizer: Decoding of the true tokens; no model that speaks these tokens does better.
      constant: The best answer that ignores the input.
      shuffled: The same model, given another sample's input.
      samples: Number of samples.
      learned: Whether the model beats `constant` and `shuffled` by more than two standard errors of the difference.
    """

    direction: str
    metric: str
    better: Literal["higher", "lower"]
    model: float
    standard_error: float
    tokenizer: float
    constant: float
    shuffled: float
    samples: int
    learned: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of an evaluation.

    Attributes:
      rows: In the order they were measured.
    """

    rows: tuple[Row, ...]

    @property
    def learned(self) -> bool:
        """Whether the main metric (the first row) of every direction was learned."""
        main = {row.direction: row for row in reversed(self.rows)}
        return all(row.learned for row in main.values())

    def to_json(self) -> list[dict[str, Any]]:
        """One mapping per row."""
        return [dataclasses.asdict(row) for row in self.rows]

    def text(self) -> str:
        """Aligned plain text."""
        table = [HEAD, *self._cells()]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
        lines = [_aligned(line, widths) for line in table]
        return "\n".join((lines[0], "-" * len(lines[0]), *lines[1:])) + "\n"

    def markdown(self) -> str:
        """A Markdown table."""
        rule = ["---" if column < 2 else "---:" for column in range(len(HEAD))]
        return "".join(f"| {' | '.join(line)} |\n" for line in (HEAD, rule, *self._cells()))

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.direction,
                f"{row.metric} {'↑' if row.better == 'higher' else '↓'}",
                _number(row.model),
                _number(row.standard_error),
                _number(row.tokenizer),
                _number(row.constant),
                _number(row.shuffled),
                str(row.samples),
                "yes" if row.learned else "no",
            )
            for row in self.rows
        ]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(zip(line, widths))
    )
    return "  ".join(cells).rstrip()


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"
