"""How fast a model of 4M-7's modalities samples, beside what the machine allows."""

import dataclasses
import resource
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmtok.errors import MmtokError
from mmtok.generate import Known, Sampler, Target
from mmtok.interop.fourm.modalities import MODALITIES
from mmtok.modality import Modality
from mmtok.model import AnyToAny, named_parameters, sized
from mmtok.train.speed import measure_peak

NAMES = ("caption", "det", "rgb@224", *(f"tok_{name}@224" for name in ("clip", "depth", "normal", "rgb", "semseg")))
CAPTION, GIVEN, PICTURE, STEPS = 255, 30, 196, 25
"""Tokens of a caption that is made and of one that is given, and of a picture; steps for the latter."""

TASKS = {
    "pixels -> caption": Target(modality="caption", temperature=0.0),
    "pixels -> depth": Target(modality="tok_depth@224", steps=1, temperature=0.0),
    "caption -> picture": Target(modality="tok_rgb@224", scheme="roar", steps=STEPS, temperature=3.0, guidance=2.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSpeed:
    """One task at one batch size.

    Attributes:
      task: Its name.
      batch: Samples made at once.
      first: Seconds of the first call, which compiles.
      steady: Seconds of the fastest call after it.
      tokens: Tokens made in a call.
      floor: Seconds that no sampler can go below: of captions the decoder's weights read once a token, of grids the
        model's operations at the speed of a large matrix product.
      memory: Largest memory in bytes so far, of the process or of the device.
    """

    task: str
    batch: int
    first: float
    steady: float
    tokens: int
    floor: float
    memory: float

    def __str__(self) -> str:
        numbers = (
            f"{self.first - self.steady:.1f}",
            f"{self.steady:.2f}",
            f"{self.steady / self.batch:.2f}",
            f"{self.tokens / self.steady:,.0f}",
            f"{self.floor:.2f}",
            f"{self.steady / self.floor:.1f}",
            f"{self.memory / 2**30:.1f}",
        )
        return f"| {self.task} | {self.batch} | " + " | ".join(numbers) + " |"


HEADER = """| task | batch | compile s | s | s per sample | tokens/s | floor s | times the floor | memory GiB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def random_model(size: str, dtype: str) -> AnyToAny:
    """Returns a model of 4M-7's modalities with random weights.

    Raises:
      MmtokError: there is no such size.
    """
    return AnyToAny(sized(size, dtype=dtype), tuple(MODALITIES[name] for name in NAMES), rngs=nnx.Rngs(0))


def given(task: str, batch: int) -> dict[str, Known]:
    """Returns random contents of what a task is given."""
    name, tokens = ("rgb@224", PICTURE) if task.startswith("pixels") else ("caption", GIVEN)
    modality, rng = MODALITIES[name], np.random.default_rng(0)
    visible = np.broadcast_to(np.arange(modality.size) < tokens, (batch, modality.size))
    return {name: Known(_contents(modality, batch, tokens, rng), visible)}


def measure_sampling(model: AnyToAny, *, batches: tuple[int, ...], repeats: int) -> Iterator[SamplingSpeed]:
    """Times every task at every batch size, one after the other.

    Args:
      model: As `random_model` returns it.
      batches: Samples made at once.
      repeats: Calls that are timed after the first; the fastest counts.

    Raises:
      MmtokError: a number is below 1.
    """
    if min(*batches, repeats) < 1:
        raise MmtokError(f"batches {batches} and repeats {repeats} must be at least 1")
    sampler, peak, reading = Sampler(model), measure_peak(jax.local_devices()[0]), measure_reading()
    for batch in batches:
        floors = _floors(model, batch, peak=peak, reading=reading)
        for task, target in TASKS.items():
            known, seconds = given(task, batch), []
            for _ in range(1 + repeats):
                began = time.perf_counter()
                sampler.sample(known, (target,), batch_size=batch)
                seconds.append(time.perf_counter() - began)
            yield SamplingSpeed(
                task=task,
                batch=batch,
                first=seconds[0],
                steady=min(seconds[1:]),
                tokens=batch * (CAPTION if target.modality == "caption" else PICTURE),
                floor=floors[task],
                memory=_memory(),
            )


def measure_reading() -> float:
    """Returns the bytes per second that a sum reads from the device's memory."""
    array, total = jnp.ones(2**27, jnp.float32), jax.jit(jnp.sum)
    total(array).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        total(array).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return array.nbytes / min(seconds)


def _contents(modality: Modality, batch: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
    if modality.kind == "continuous":
        return rng.uniform(0, 255, (batch, modality.size, modality.channels)).astype(np.float32)
    ids = rng.integers(5000, modality.vocab_size, (batch, modality.size, 1))
    ids[:, tokens:] = 0
    if modality.vocabulary:
        ids[:, tokens - 1] = modality.vocabulary.end
    return ids


def _floors(model: AnyToAny, batch: int, *, peak: float, reading: float) -> Mapping[str, float]:
    kernels = {name: value.size for name, value in named_parameters(model).items() if name.endswith("kernel")}
    encoder, decoder = (sum(n for name, n in kernels.items() if name.startswith(side)) for side in ("enc", "dec"))
    width, (words, codes, colours) = model.config.dim, (MODALITIES[t.modality].vocab_size for t in TASKS.values())
    bytes_per_number = 2 if model.config.dtype == "bfloat16" and jax.default_backend() != "cpu" else 4
    seen = sum(GIVEN + 2 * round(PICTURE * step / STEPS) for step in range(STEPS))  # with the caption, and without
    picture = seen * encoder + 2 * PICTURE * (decoder + colours * width)
    return {
        "pixels -> caption": CAPTION * bytes_per_number * (decoder + words * width) / reading,
        "pixels -> depth": 2 * batch * PICTURE * (encoder + decoder + codes * width) / peak,
        "caption -> picture": 2 * batch * picture / peak,
    }


def _memory() -> float:
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (device.memory_stats() or {}).get("peak_bytes_in_use", float("nan"))
