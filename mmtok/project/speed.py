"""How fast a project's training is: its step, and the input that must keep up with it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from mmtok.data import Store, TokenBatches
from mmtok.data.shuffle import Order
from mmtok.masking import Masker
from mmtok.model import FLOP_RULE
from mmtok.project.config import Project
from mmtok.project.planning import plan_training, planned_modalities, random_batches
from mmtok.train import bench

REFERENCE = {8: (1008.0, 128), 19: (460.0, 256)}
"""Modalities -> samples per second and core of 4M's own input, masked in Python one by one, and its tokens on either
side (measured on a machine of two cores)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpeed:
    """Samples per second of one thread.

    Attributes:
      source: Where the tokens come from.
      modalities: How many a sample has.
      read: From the token store, without masking; None without a store.
      masked: Read and masked into training batches.
    """

    source: str
    modalities: int
    read: float | None
    masked: float

    def __str__(self) -> str:
        rows = [("tokens", f"{self.source}, {self.modalities} modalities")]
        rows += [("read", f"{self.read:,.0f} samples/s")] if self.read is not None else []
        nearest = min(REFERENCE, key=lambda count: abs(count - self.modalities))
        rate, tokens = REFERENCE[nearest]
        compared = f"{self.masked / rate:.1f} x 4M's input at {nearest} modalities, {tokens} + {tokens} tokens"
        rows += [("read and masked", f"{self.masked:,.0f} samples/s by one thread ({compared})")]
        return "\n".join(f"{name:<16}{text}" for name, text in rows)


def measure_step(project: Project, *, steps: int) -> bench.Speed:
    """Times the training step of a project on random tokens."""
    task = plan_training(project)
    return bench.measure(task, project.fit, steps=steps, flops=task.flops_by_part, rule=FLOP_RULE)


def measure_input(project: Project, *, seconds: float) -> InputSpeed:
    """Times the making of training batches, from the project's token store or, without one, from random tokens."""
    stored = (project.token_folder / "mmtok.json").exists()
    modalities = planned_modalities(project)
    size, seed = project.batch_size, project.seed
    if not stored:
        masked = _rate(random_batches(project), size, seconds)
        return InputSpeed(source="random", modalities=len(modalities), read=None, masked=masked)
    store = Store(project.token_folder)
    order = Order(size=store.splits["train"], batch_size=size, seed=seed)
    read = _rate(lambda step: store.read("train", order.indices(order.ordinals(step))), size, seconds)
    masker = Masker(project.masking, modalities)
    masked = _rate(TokenBatches(store, "train", batch_size=size, seed=seed, masker=masker), size, seconds)
    return InputSpeed(source=str(project.token_folder), modalities=len(modalities), read=read, masked=masked)


def _rate(batches: Callable[[int], Any], samples: int, seconds: float) -> float:
    """Samples per second after a first batch."""
    batches(0)
    steps, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        steps += 1
        batches(steps)
    return steps * samples / spent
