"""Training speed of B, L and XL with the modalities of 4M-21, 256 + 256 tokens, bfloat16, on one accelerator.

    python scripts/bench_training.py                        # all rows; a few minutes of an H100 or H200
    python scripts/bench_training.py --sizes B --timed 20

Prints one markdown row per size and setting, each measured in a process of its own: the plain setting first, then what
each optimisation changes. A row that does not fit says so.
"""

import dataclasses
import multiprocessing
from collections.abc import Mapping
from typing import Any

import tyro

from mmtok.project import Project, load_project
from mmtok.project.speed import measure_step
from mmtok.train.config import MeshConfig

BATCH = {"B": 256, "L": 128, "XL": 64}
PLAIN: Mapping[str, Any] = {"attention": "plain", "remat": "full"}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain attention, all recomputed": {},
    "fused attention": {"attention": "auto"},
    "+ products kept": {"attention": "auto", "remat": "dots"},
    "+ nothing recomputed": {"attention": "auto", "remat": "none"},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      sizes: Of the model.
      batch: Samples per step; 0 takes what an H200 is good for.
      timed: Steps that are timed.
    """

    sizes: tuple[str, ...] = ("B", "L", "XL")
    batch: int = 0
    timed: int = 10


def project(size: str, variant: str, batch: int) -> Project:
    """The pod configuration of a size on one device."""
    base = load_project(f"pods_{size.lower()}")
    return dataclasses.replace(
        base,
        batch_size=batch,
        model=dataclasses.replace(base.model, **{**PLAIN, **VARIANTS[variant]}),
        fit=dataclasses.replace(base.fit, mesh=MeshConfig(), accumulate=1),
    )


def measured(size: str, variant: str, batch: int, timed: int) -> str:
    """One row of the table."""
    try:
        speed = measure_step(project(size, variant, batch), steps=timed)
    except Exception as error:  # whatever a backend raises when memory is short
        return f"| {size} | {variant} | {batch} | {str(error).splitlines()[0][:80]} | | | |"
    memory = "" if speed.memory is None else f"{speed.memory / 2**30:.1f}"
    return (
        f"| {size} | {variant} | {batch} | {1e3 * speed.seconds:.0f} | {speed.samples / speed.seconds:,.0f}"
        f" | {speed.utilisation:.1%} | {memory} |"
    )


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options, description=__doc__)
    print("| size | setting | batch | ms a step | samples/s | utilisation | peak GiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # memory is free again after each
        for size in options.sizes:
            for variant in VARIANTS:
                row = (size, variant, options.batch or BATCH[size], options.timed)
                print(pool.apply(measured, row), flush=True)


if __name__ == "__main__":
    main()
