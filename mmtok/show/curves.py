"""Training curves."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmtok.files import new_file


def curves(
    path: str | os.PathLike,
    series: Mapping[str, tuple[Sequence[int | float], Sequence[int | float]]],
    *,
    references: Mapping[str, int | float] | None = None,
    xlabel: str = "step",
    ylabel: str = "loss (nats per token)",
) -> Path:
    """Draws one small plot per series as PNG, such as the loss of each modality.

    Args:
      path: PNG to write.
      series: Name -> (x values, y values).
      references: Name -> a level drawn dashed, such as the marginal entropy that a loss must get below.
      xlabel: Of every plot.
      ylabel: Of the plots at the left.

    Returns:
      `path`.
    """
    columns = min(4, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, (x, y)) in enumerate(series.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.plot(x, y, linewidth=1.4, color="#3a7ebd")
        if references and name in references:
            axes.axhline(references[name], linewidth=1, linestyle="--", color="#d64e42")
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        if index % columns == 0:
            axes.set_ylabel(ylabel, fontsize=8)
        if index + columns >= len(series):
            axes.set_xlabel(xlabel, fontsize=8)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)
