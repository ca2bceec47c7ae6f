"""Sampling speed of a model of 4M-7's modalities with random weights, beside a plain implementation.

    python scripts/bench_sampling.py                      # size B, batches of 1 and 8, float32
    python scripts/bench_sampling.py --size L --dtype bfloat16 --batches 32 256

The table is that of `mmtok bench sample`. The plain implementation (`tests/reference/sampling.py`) runs everything at
full length and remembers nothing; of its captions only the first words are timed, each of which costs the same.
"""

import sys
import time
from pathlib import Path

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mmtok.cli.bench import Sample
from mmtok.generate import Known, context
from mmtok.generate.schedules import linear
from mmtok.interop.fourm.modalities import MODALITIES
from mmtok.project import sampling_speed as speed
from reference import sampling as plain

WORDS = 8  # that the plain implementation is timed on


def slots(known: dict, model, *, rows: int):
    """What the encoder reads, with a slot for every position of what is known and of the target."""
    shown = {name: context.show(item, MODALITIES[name], asked=np.ones(rows, bool)) for name, item in known.items()}
    return context.encoder_slots(shown, model.modalities, rows=rows, size=sum(MODALITIES[n].size for n in shown))


def plain_seconds(model, run, task: str, batch: int) -> float:
    """Seconds of the plain implementation for all tokens of a task."""
    target = MODALITIES[speed.TASKS[task].modality]
    index = model.modalities.index(target)
    known = speed.given(task, batch)
    nothing = Known.nothing(target, samples=batch)
    if target.kind == "sequence":
        pending = slots(known | {target.name: nothing}, model, rows=batch)
        began = time.perf_counter()
        plain.greedy_sequence(run, pending, target, index, length=target.size, codes=1, most=WORDS)
        return (time.perf_counter() - began) * speed.CAPTION / WORDS

    def encoder(ids, visible, conditional):
        here = Known(ids[..., None], visible)
        given = known if conditional else {name: item.hidden() for name, item in known.items()}
        return slots(given | {target.name: here}, model, rows=batch)

    steps, guidance = speed.TASKS[task].steps or 1, speed.TASKS[task].guidance
    order = np.argsort(np.random.default_rng(0).random((batch, target.size)), axis=1)
    counts = linear(steps, target.size).tolist()
    began = time.perf_counter()
    plain.greedy_grid(run, encoder, target, index, order=order, counts=counts, guidance=guidance, codes=1)
    return time.perf_counter() - began


def main() -> None:
    """Prints both tables."""
    options = tyro.cli(Sample, description=__doc__)
    model = speed.random_model(options.size, options.dtype)
    print(speed.HEADER)
    found = []
    for item in speed.measure_sampling(model, batches=options.batches, repeats=options.repeats):
        print(item, flush=True)
        found.append(item)
    run = plain.compiled(model)
    print("\n| task | batch | plain s | times as fast |\n| --- | ---: | ---: | ---: |")
    for item in found:
        plain_seconds(model, run, item.task, item.batch)  # compiles
        seconds = plain_seconds(model, run, item.task, item.batch)
        print(f"| {item.task} | {item.batch} | {seconds:.1f} | {seconds / item.steady:.1f} |", flush=True)


if __name__ == "__main__":
    main()
