"""`mmtok bench train CONFIG`, `mmtok bench data CONFIG` and `mmtok bench sample`."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from mmtok.cli.options import ProjectOption, parse, parse_project
from mmtok.errors import MmtokError
from mmtok.project.sampling_speed import HEADER, measure_sampling, random_model
from mmtok.project.speed import measure_input, measure_step
from mmtok.train.targets import claim_gpu_memory


@dataclasses.dataclass(frozen=True)
class Train:
    """Times the training step of a project on this machine's devices, with random tokens.

    Attributes:
      timed: Steps that are timed.
    """

    project: ProjectOption
    timed: int = 20


@dataclasses.dataclass(frozen=True)
class Data:
    """Times the making of training batches, from the project's token store if there is one.

    Attributes:
      seconds: Spent on each measurement.
    """

    project: ProjectOption
    seconds: float = 5.0


@dataclasses.dataclass(frozen=True)
class Sample:
    """Times sampling with a model of 4M-7's modalities and random weights, compile time and steady time apart.

    Attributes:
      size: Of the model.
      dtype: Of matrix products.
      batches: Samples made at once.
      repeats: Timed calls of each task; the fastest counts.
    """

    size: str = "B"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 2


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    if command == "bench train":
        options = parse_project(Train, arguments, prog=f"mmtok {command}")
        if options.timed < 1:
            raise MmtokError(f"--timed is {options.timed}, at least one step must be timed")
        claim_gpu_memory()
        print(measure_step(options.project, steps=options.timed))
    elif command == "bench sample":
        sample = parse(Sample, arguments, prog=f"mmtok {command}")
        print(HEADER, flush=True)
        for speed in measure_sampling(
            random_model(sample.size, sample.dtype), batches=sample.batches, repeats=sample.repeats
        ):
            print(speed, flush=True)
    else:
        data = parse_project(Data, arguments, prog=f"mmtok {command}")
        if data.seconds <= 0:
            raise MmtokError(f"--seconds is {data.seconds}, it must be above 0")
        print(measure_input(data.project, seconds=data.seconds))
