"""Training step on CPU, float32, 128 + 128 tokens: of Ti, S and B, and of S with more arrays at the same budgets.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python scripts/bench_train.py

The whole step is timed: forward, backward and optimizer. The first table has the eight arrays of 4M-7 and sets each
size beside the machine's floor, which is the model's floating-point operations at the speed of a large matrix product,
measured in the same run. The second sets the eight arrays beside the nineteen of 4M-21. Every vocabulary there has the
same number of ids, so both take the same operations: few ids leave the tables aside, many show what they add.
"""

import dataclasses
import statistics

import tyro

from mmtok.masking import MaskingConfig
from mmtok.model import sized
from mmtok.project import Field, Project, load_project
from mmtok.project.speed import measure_step
from mmtok.train.config import MeshConfig

EIGHT = ("rgb", "caption", "det", *(f"tok_{name}" for name in ("rgb", "depth", "normal", "semseg", "clip")))
BATCH = {"Ti": 16, "S": 8, "B": 8}


def project(size: str) -> Project:
    """4M-21 at a small budget, on one device."""
    base = load_project("pods_b")
    return dataclasses.replace(
        base,
        sampling={},
        masking=MaskingConfig(input_tokens=128, target_tokens=128),
        batch_size=BATCH[size],
        model=sized(size),
        fit=dataclasses.replace(base.fit, mesh=MeshConfig(), accumulate=1),
    )


def of_eight(project: Project) -> Project:
    """The same with the arrays of 4M-7 alone."""
    return dataclasses.replace(project, modalities={name: project.modalities[name] for name in EIGHT})


def with_ids(project: Project, ids: int) -> Project:
    """The same with `ids` ids in every vocabulary."""

    def cut(field: Field) -> Field:
        vocabulary = getattr(field.tokenizer, "vocabulary", None)  # continuous arrays have none
        if vocabulary is None:
            return field
        tokenizer = dataclasses.replace(field.tokenizer, vocabulary=dataclasses.replace(vocabulary, size=ids))
        return dataclasses.replace(field, tokenizer=tokenizer)

    return dataclasses.replace(project, modalities={name: cut(field) for name, field in project.modalities.items()})


def main(
    *, sizes: tuple[str, ...] = ("Ti", "S", "B"), ids: tuple[int, ...] = (64, 2304), rounds: int = 3, timed: int = 5
) -> None:
    """Prints one row per size, and one per number of ids: medians of as many rounds, 8 and 19 arrays in turn."""
    print("| size | batch | s a step | floor s | times the floor | GFLOP/s of a matrix product |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        speed = measure_step(of_eight(project(size)), steps=timed)
        floor = sum(speed.flops.values()) / speed.peak
        print(
            f"| {size} | {speed.samples} | {speed.seconds:.2f} | {floor:.2f} | {speed.seconds / floor:.2f}"
            f" | {speed.peak / 1e9:.0f} |",
            flush=True,
        )
    print("\n| ids in each vocabulary of S | s a step of 8 arrays | of 19 arrays | ratio |")
    print("| ---: | ---: | ---: | ---: |")
    for count in ids:
        nineteen = with_ids(project("S"), count)
        pair = (of_eight(nineteen), nineteen)
        measured = [[measure_step(item, steps=timed).seconds for item in pair] for _ in range(rounds)]
        few, many = map(statistics.median, zip(*measured, strict=True))
        print(f"| {count} | {few:.2f} | {many:.2f} | {many / few:.2f} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
