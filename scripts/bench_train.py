"""Training step of Ti, S and B with the eight arrays of 4M-7, 128 + 128 tokens, float32, beside the machine's floor.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python scripts/bench_train.py

The floor is the model's floating-point operations at the speed of a large matrix product, measured in the same run. The
whole step is timed: forward, backward and optimizer.
"""

import dataclasses

import tyro

from mmtok.masking import MaskingConfig
from mmtok.model import sized
from mmtok.project import Project, load_project
from mmtok.project.speed import measure_step
from mmtok.train.config import MeshConfig

NAMES = ("rgb", "caption", "det", *(f"tok_{name}" for name in ("rgb", "depth", "normal", "semseg", "clip")))
BATCH = {"Ti": 16, "S": 8, "B": 8}


def project(size: str) -> Project:
    """4M-7 at a small budget, on one device."""
    base = load_project("pods_b")
    return dataclasses.replace(
        base,
        modalities={name: base.modalities[name] for name in NAMES},
        sampling={},
        masking=MaskingConfig(input_tokens=128, target_tokens=128),
        batch_size=BATCH[size],
        model=sized(size),
        fit=dataclasses.replace(base.fit, mesh=MeshConfig(), accumulate=1),
    )


def main(*, sizes: tuple[str, ...] = ("Ti", "S", "B"), timed: int = 5) -> None:
    """Prints one row per size."""
    print("| size | batch | s a step | floor s | times the floor | GFLOP/s of a matrix product |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        speed = measure_step(project(size), steps=timed)
        floor = sum(speed.flops.values()) / speed.peak
        print(
            f"| {size} | {speed.samples} | {speed.seconds:.2f} | {floor:.2f} | {speed.seconds / floor:.2f}"
            f" | {speed.peak / 1e9:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    tyro.cli(main)
