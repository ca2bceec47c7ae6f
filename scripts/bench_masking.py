"""Masking speed on one core: python scripts/bench_masking.py [--batch 256] [--seconds 3].

Prints samples per second of CPU time for the 8-modality set of 4M (128 + 128 tokens) and the 19 input modalities of
4M-21 (256 + 256 tokens), beside the speed of the 4M reference masker (Python, per sample). The reference leaves
pixels where they are; ours also gathers the visible patches, as the bytes that they are (the device makes them
float32), so both cases are shown: with one number per patch (`tokens`) and with whole patches (`+ pixels`).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time

import numpy as np

from mmtok.batch import TokenBatch, TokenColumn
from mmtok.masking import Component, Masker, MaskingConfig, Role, fill_rates
from mmtok.modality import Modality, Vocabulary

TEXT = Vocabulary(size=30000, sentinel_count=200)
CHUNKS = Vocabulary(size=30000, sentinel_count=200, unit_first=1204, unit_count=1000)
WORDS = 30


def sequence(name: str, size: int, vocabulary: Vocabulary = TEXT) -> Modality:
    return Modality(name=name, kind="sequence", shape=(size,), vocabulary=vocabulary)


def grid(name: str, side: int = 14) -> Modality:
    return Modality(name=name, kind="grid", shape=(side, side), vocabulary=Vocabulary(size=8192))


def pixels(channels: int) -> Modality:
    return Modality(name="rgb", kind="continuous", shape=(14, 14), channels=channels)


def eight(channels: int) -> tuple[Modality, ...]:
    tokens = (grid(name) for name in ("tok_clip", "tok_depth", "tok_normal", "tok_rgb", "tok_semseg"))
    return sequence("caption", 256), sequence("det", 256), pixels(channels), *tokens


def nineteen(channels: int) -> tuple[Modality, ...]:
    texts = {"color_palette": 23, "human_poses": 275, "sam_instance": 290, "text_features": 77}
    return (
        *eight(channels),
        *(sequence(name, size) for name, size in texts.items()),
        sequence("metadata", 40, CHUNKS),
        grid("tok_canny_edge"),
        grid("tok_sam_edge"),
        grid("tok_dinov2", 16),
        grid("tok_imagebind", 16),
        grid("tok_dinov2_global", 4),
        grid("tok_imagebind_global", 4),
    )


def mixture(alphas: tuple[float, ...]) -> tuple[Component, ...]:
    """All to all with each of these concentrations, and pixels to all."""
    rgb_to_all = Component(
        default=Role(input_alpha=0.0, target_alpha=0.5), roles={"rgb": Role(input_alpha=1000.0, target_alpha=0.0)}
    )
    return (
        *(
            Component(
                default=Role(input_alpha=alpha, target_alpha=alpha),
                roles={"rgb": Role(input_alpha=alpha, target_alpha=0.0)},
            )
            for alpha in alphas
        ),
        rgb_to_all,
    )


def samples(modalities: tuple[Modality, ...], batch: int) -> TokenBatch:
    rng = np.random.default_rng(0)
    columns = {}
    for modality in modalities:
        shape = (batch, modality.size, modality.channels or modality.codes)
        length = modality.size
        high, dtype = (256, np.uint8) if modality.kind == "continuous" else (8192, np.uint16)
        values = rng.integers(0, high, shape, dtype=dtype)
        if modality.kind == "sequence":
            length = min(WORDS + 1, modality.size)
            values += 5000
            if modality.name == "metadata":
                values[:, ::2] = 1204 + values[:, ::2] % 1000
            values[:, length - 1] = TEXT.end
            values[:, length:] = TEXT.pad
        columns[modality.name] = TokenColumn(values, np.full(batch, length, np.int32))
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256, help="samples per call")
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each line")
    options = parser.parse_args()
    print(f"{'set':<24}{'budget':>10}{'samples/s':>12}{'reference':>12}{'ratio':>8}{'fill in':>9}{'fill out':>9}")
    for name, modalities, alphas, budget, reference in (
        ("8 modalities, tokens", eight(1), (0.5,), 128, 1008),
        ("8 modalities, + pixels", eight(768), (0.5,), 128, 1008),
        ("19 modalities, tokens", nineteen(1), (0.01, 0.1, 1.0, 10.0), 256, 460),
        ("19 modalities, + pixels", nineteen(768), (0.01, 0.1, 1.0, 10.0), 256, 460),
    ):
        config = MaskingConfig(input_tokens=budget, target_tokens=budget, components=mixture(alphas))
        masker, data, indices = Masker(config, modalities), samples(modalities, options.batch), np.arange(options.batch)
        fill = fill_rates(masker(data, seed=0, step=0, samples=indices))
        steps, start = 0, time.process_time()
        while time.process_time() - start < options.seconds:
            steps += 1
            masker(data, seed=0, step=steps, samples=indices)
        speed = steps * options.batch / (time.process_time() - start)
        print(
            f"{name:<24}{f'{budget}+{budget}':>10}{speed:>12.0f}{reference:>12}{speed / reference:>8.1f}"
            f"{fill['input']:>9.1%}{fill['target']:>9.1%}"
        )


if __name__ == "__main__":
    main()
