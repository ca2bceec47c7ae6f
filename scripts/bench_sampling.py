"""Sampling speed of a model of 4M-7's modalities with random weights, compile time and steady time apart.

    python scripts/bench_sampling.py                      # size B, batches of 1 and 8, float32
    python scripts/bench_sampling.py --size L --dtype bfloat16 --batches 32 256

Three tasks: pixels -> caption of 255 tokens, greedily; pixels -> depth in one step; caption -> picture in 25 steps with
guidance. Beside them stands what the time cannot go below: of captions the decoder's weights read once a token, of
grids the model's operations at the speed of a large matrix product, both measured here.
"""

import dataclasses
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from mmtok.generate import Known, Sampler, Target
from mmtok.interop.fourm.modalities import MODALITIES
from mmtok.modality import Modality
from mmtok.model import AnyToAny, named_parameters, sized
from mmtok.train.speed import measure_peak

NAMES = ("caption", "det", "rgb@224", *(f"tok_{name}@224" for name in ("clip", "depth", "normal", "rgb", "semseg")))
CAPTION, WORDS = 255, 30


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      size: Of the model.
      dtype: Of matrix products.
      batches: Samples made at once.
      repeats: Of each measurement; the fastest counts.
    """

    size: str = "B"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 2


def known(modality: Modality, batch: int, tokens: int) -> Known:
    """Random contents of the first `tokens` positions."""
    rng, shape = np.random.default_rng(0), (batch, modality.size)
    visible = np.broadcast_to(np.arange(modality.size) < tokens, shape)
    if modality.kind == "continuous":
        return Known(rng.uniform(0, 255, (*shape, modality.channels)).astype(np.float32), visible)
    ids = rng.integers(5000, modality.vocab_size, (*shape, 1))
    ids[:, tokens - 1] = 3
    return Known(np.where(visible[..., None], ids, 0), visible)


def read_rate() -> float:
    """Bytes per second that a sum reads from memory."""
    array, total = jnp.ones(2**27, jnp.float32), jax.jit(jnp.sum)
    total(array).block_until_ready()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        total(array).block_until_ready()
        times.append(time.perf_counter() - began)
    return array.nbytes / min(times)


def floors(model: AnyToAny, batch: int, *, peak: float, reading: float) -> dict[str, float]:
    """Seconds that no sampler can go below, by task."""
    sizes = {name: value.size for name, value in named_parameters(model).items() if name.endswith("kernel")}
    encoder, decoder = (sum(size for name, size in sizes.items() if name.startswith(side)) for side in ("enc", "dec"))
    width, words, codes = model.config.dim, 30_000, 8192
    caption = CAPTION * 4 * (decoder + words * width) / reading
    depth = 2 * batch * 196 * (encoder + decoder + codes * width) / peak
    steps = [round(196 * step / 25) + WORDS for step in range(25)]
    picture = 2 * 2 * batch * sum(tokens * encoder + 8 * (decoder + 16_384 * width) for tokens in steps) / peak
    return {"pixels -> caption": caption, "pixels -> depth": depth, "caption -> picture": picture}


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options, description=__doc__)
    modalities = tuple(MODALITIES[name] for name in NAMES)
    table = dict(zip(NAMES, modalities))
    model = AnyToAny(sized(options.size, dtype=options.dtype), modalities, rngs=nnx.Rngs(0))
    sampler = Sampler(model)
    peak, reading = measure_peak(jax.local_devices()[0]), read_rate()
    print(f"matrix products {peak / 1e9:.0f} GFLOP/s, memory {reading / 1e9:.1f} GB/s\n")
    print("| task | batch | compile s | s | s per sample | floor s | times the floor |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for batch in options.batches:
        pixels = {"rgb@224": known(table["rgb@224"], batch, 196)}
        sentence = {"caption": known(table["caption"], batch, WORDS)}
        guided = Target(modality="tok_rgb@224", scheme="roar", steps=25, temperature=3.0, guidance=2.0)
        tasks = {
            "pixels -> caption": (pixels, Target(modality="caption", temperature=0.0)),
            "pixels -> depth": (pixels, Target(modality="tok_depth@224", steps=1, temperature=0.0)),
            "caption -> picture": (sentence, guided),
        }
        floor = floors(model, batch, peak=peak, reading=reading)
        for name, (given, target) in tasks.items():
            times = []
            for _ in range(1 + options.repeats):
                began = time.perf_counter()
                sampler.sample(given, (target,), batch_size=batch)
                times.append(time.perf_counter() - began)
            steady = min(times[1:])
            print(
                f"| {name} | {batch} | {times[0] - steady:.1f} | {steady:.2f} | {steady / batch:.2f}"
                f" | {floor[name]:.2f} | {steady / floor[name]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
