"""How fast a training step is, on whatever devices there are, with data that wait for it."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmtok.progress import say
from mmtok.train.config import FitConfig
from mmtok.train.speed import measure_peak
from mmtok.train.step import Program
from mmtok.train.targets import GiB, chip_of
from mmtok.train.task import Task

WARM = 3  # steps before the clock starts
BATCHES = 4  # different ones, which lie on the devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured speed of a training step.

    Attributes:
      device: Kind of the devices.
      devices: How many.
      compile_seconds: From nothing to a compiled step.
      seconds: Of one step.
      samples: Of one step.
      tokens: Of one step, encoder and decoder slots.
      flops: Of one step, by part of the model; see `rule`.
      rule: How they are counted.
      peak: FLOP/s that all devices reach on a large matrix product, or what the config says.
      stated: FLOP/s of all devices as their maker states it; None for devices that are not listed.
      memory: Most bytes in use on one device; None where the platform does not tell.
    """

    device: str
    devices: int
    compile_seconds: float
    seconds: float
    samples: int
    tokens: int
    flops: Mapping[str, float]
    rule: str
    peak: float
    stated: float | None
    memory: int | None

    @property
    def utilisation(self) -> float:
        """Share of the peak that the model's own operations reach."""
        return sum(self.flops.values()) / self.seconds / self.peak

    def __str__(self) -> str:
        total = sum(self.flops.values())
        memory = "not told by the platform" if self.memory is None else f"{self.memory / GiB:.2f} GiB on one device"
        rows = [
            ("devices", f"{self.devices} x {self.device}"),
            ("compiled in", f"{self.compile_seconds:.1f} s"),
            ("steps/s", f"{1 / self.seconds:.4g} ({1e3 * self.seconds:.1f} ms)"),
            ("samples/s", f"{self.samples / self.seconds:,.1f}"),
            ("tokens/s", f"{self.tokens / self.seconds:,.0f}"),
            ("model FLOPs a step", f"{total:.4g}"),
            *((f"  {name}", f"{part:.4g} ({part / total:.1%})") for name, part in self.flops.items()),
            ("counted", self.rule),
            ("model FLOP/s", f"{total / self.seconds:.4g}"),
            ("peak FLOP/s", f"{self.peak:.4g}"),
            ("utilisation", f"{self.utilisation:.1%}{self._of_stated()}"),
            ("peak memory", memory),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _of_stated(self) -> str:
        if self.stated is None:
            return ""
        return f", {self.utilisation * self.peak / self.stated:.1%} of its maker's {self.stated:.4g} FLOP/s"


def measure(task: Task, config: FitConfig, *, steps: int, flops: Mapping[str, float], rule: str) -> Speed:
    """Compiles the step of a task and times it.

    Args:
      task: Gives the batches, a few of which are made beforehand.
      config: Mesh and optimizer.
      steps: Timed steps.
      flops: Of one step, by part.
      rule: How they are counted.
    """
    say(f"{task.name}: compiling")
    began = time.perf_counter()
    program = Program(task, config)
    program.compile()
    compiled = time.perf_counter() - began
    batches: list[Any] = [program.put(task.batch(step, program.rows)) for step in range(BATCHES)]
    seconds = _seconds(program, batches, steps=steps)
    device, count = jax.local_devices()[0], program.mesh.devices.size
    chip = chip_of(device.device_kind)
    used = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return Speed(
        device=device.device_kind,
        devices=count,
        compile_seconds=compiled,
        seconds=seconds,
        samples=task.batch_size,
        tokens=task.tokens_per_step,
        flops=flops,
        rule=rule,
        peak=count * (config.peak_flops or measure_peak(device)),
        stated=count * chip.flops if chip else None,
        memory=used,
    )


def _seconds(program: Program, batches: Sequence[Any], *, steps: int) -> float:
    """Returns the time of one step; the state it trains is gone afterwards."""
    state, window = program.init(), None
    for step in range(WARM):
        state, window = program.step(state, batches[step % len(batches)])
    jax.block_until_ready(window)
    began = time.perf_counter()
    for step in range(steps):
        state, window = program.step(state, batches[step % len(batches)])
    jax.block_until_ready(window)
    return (time.perf_counter() - began) / steps
