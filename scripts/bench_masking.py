"""Masking speed on one core: python scripts/bench_masking.py [--batch 256] [--seconds 3].

Prints samples per second of CPU time for the eight arrays of 4M-7 (128 + 128 tokens) and the nineteen of 4M-21 (256 +
256), beside the speed of the 4M reference masker (Python, per sample). The reference leaves pixels and T5 features
where they are; ours also gathers the visible ones into the batch, so each set is shown twice: with one number a vector
(`ids`), and with whole vectors. Samples are as those the reference was measured on: sequences of 30 words and an end,
12 pairs of metadata, 30 T5 vectors. The last line, with sequences of any length up to the longest, has no reference.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import time

import numpy as np

from mmtok.batch import TokenBatch, TokenColumn
from mmtok.data.random import random_tokens
from mmtok.interop.fourm.modalities import CHUNKS, MODALITIES
from mmtok.masking import Component, Masker, MaskingConfig, Role, fill_rates
from mmtok.modality import Modality

NINETEEN = tuple(modality for name, modality in MODALITIES.items() if not name.endswith("@448"))
FOUR_M_7 = (
    "rgb@224",
    "tok_rgb@224",
    "tok_depth@224",
    "tok_normal@224",
    "tok_semseg@224",
    "tok_clip@224",
    "caption",
    "det",
)
EIGHT = tuple(modality for modality in NINETEEN if modality.name in FOUR_M_7)
DTYPES = {"rgb@224": np.dtype(np.uint8), "t5_caption": np.dtype(np.float32)}
LENGTHS = {"metadata": 25, "t5_caption": 30}
WORDS = 31


def mixture(alphas: tuple[float, ...]) -> tuple[Component, ...]:
    """All to all with each of these concentrations, and pixels to all."""
    rgb_to_all = Component(
        default=Role(input_alpha=0.0, target_alpha=0.5), roles={"rgb@224": Role(input_alpha=1000.0, target_alpha=0.0)}
    )
    return (
        *(
            Component(
                default=Role(input_alpha=alpha, target_alpha=alpha),
                roles={"rgb@224": Role(input_alpha=alpha, target_alpha=0.0)},
            )
            for alpha in alphas
        ),
        rgb_to_all,
    )


def ids_only(modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
    """Vectors of one number each."""
    return tuple(
        dataclasses.replace(modality, channels=1, mean=(0.0,), std=(1.0,)) if modality.channels else modality
        for modality in modalities
    )


def as_measured(modality: Modality, column: TokenColumn) -> TokenColumn:
    """Cuts the sequences of a column to the lengths that the reference was measured with."""
    if not modality.in_spans:
        return column
    length = min(LENGTHS.get(modality.name, WORDS), modality.size)
    values = column.values.copy()
    if modality.name == "metadata":
        values[:, ::2] = CHUNKS.unit_first + values[:, ::2] % CHUNKS.unit_count
    if modality.vocabulary is not None:
        values[:, length - 1] = modality.vocabulary.end
    values[:, length:] = 0
    return TokenColumn(values, np.full_like(column.length, length))


def speed(masker: Masker, data: TokenBatch, *, batch: int, seconds: float) -> tuple[float, dict[str, float]]:
    """Returns samples per second and the shares of the budgets in use."""
    samples = np.arange(batch)
    fill = fill_rates(masker(data, seed=0, step=0, samples=samples))
    steps, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        steps += 1
        masker(data, seed=0, step=steps, samples=samples)
    return steps * batch / (time.process_time() - start), fill


def matmul_rate() -> float:
    """GFLOP/s of a float32 product of 1024 x 1024 on one core, for comparison with another machine or time."""
    size, rounds = 1024, 20
    values = np.ones((size, size), np.float32)
    start = time.process_time()
    for _ in range(rounds):
        np.matmul(values, values)
    return 2e-9 * rounds * size**3 / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256, help="samples per call")
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each line")
    options = parser.parse_args()
    print(f"float32 matrix product: {matmul_rate():.0f} GFLOP/s of CPU time")
    print(f"{'arrays':<38}{'budget':>8}{'samples/s':>12}{'reference':>12}{'ratio':>8}{'fill in':>9}{'fill out':>9}")
    small, large = (0.5,), (0.01, 0.1, 1.0, 10.0)
    for name, modalities, alphas, budget, reference in (
        ("8, ids", ids_only(EIGHT), small, 128, 1008),
        ("8, with pixels", EIGHT, small, 128, 1008),
        ("19, ids", ids_only(NINETEEN), large, 256, 460),
        ("19, with pixels and T5 features", NINETEEN, large, 256, 460),
        ("19, the same, sequences of any length", NINETEEN, large, 256, None),
    ):
        config = MaskingConfig(input_tokens=budget, target_tokens=budget, components=mixture(alphas))
        data = random_tokens(modalities, samples=options.batch, seed=0, dtypes=DTYPES)
        if reference is not None:
            data = {modality.name: as_measured(modality, data[modality.name]) for modality in modalities}
        rate, fill = speed(Masker(config, modalities), data, batch=options.batch, seconds=options.seconds)
        compared = f"{reference:>12}{rate / reference:>8.1f}" if reference is not None else f"{'':>20}"
        print(f"{name:<38}{f'{budget}+{budget}':>8}{rate:>12.0f}{compared}{fill['input']:>9.1%}{fill['target']:>9.1%}")


if __name__ == "__main__":
    main()
