"""The training step compiled ahead of time, for hardware one does not have: does it fit, and what does it send?"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh

from mmtok.errors import MmtokError
from mmtok.model.config import Remat
from mmtok.train.collectives import Collective, by_kind, collectives
from mmtok.train.config import SLOWEST_BFLOAT16, FitConfig, OptimizerConfig
from mmtok.train.sharding import shardings
from mmtok.train.step import Program
from mmtok.train.targets import CHIPS, GiB, Target, target_devices
from mmtok.train.task import Task

LARGEST = 8  # collectives that a report spells out
MUCH = 0.5  # share of the memory that is worth using if it is free


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a compiled step needs; all bytes are those of one device.

    Attributes:
      target: What it was compiled for.
      mesh: Devices along each mesh axis.
      parameters: Numbers that are trained.
      arguments: Bytes of the state and the batch.
      temporaries: Bytes that the step needs beside them.
      peak: Most bytes in use at a time.
      memory: Bytes that a program may use on the device.
      flops: Floating-point operations of the model in a step, on all devices (see `AnyToAny.flops`).
      ideal_seconds: Those at the peak of the hardware: no step can be faster.
      compile_seconds: Time the compilation took.
      collectives: What is sent.
      remat: What the model recomputes in the backward pass.
    """

    target: Target
    mesh: Mapping[str, int]
    parameters: int
    arguments: int
    temporaries: int
    peak: int
    memory: int
    flops: float
    ideal_seconds: float
    compile_seconds: float
    collectives: tuple[Collective, ...]
    remat: Remat

    def __str__(self) -> str:
        share = self.peak / self.memory
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.items() if size > 1) or "one device"
        rows = [
            ("target", f"{self.target.name}: {self.target.devices} x {self.target.chip} ({self.target.shape})"),
            ("mesh", mesh),
            ("parameters", f"{self.parameters:,}"),
            ("arguments", f"{self.arguments / GiB:.2f} GiB per device"),
            ("temporaries", f"{self.temporaries / GiB:.2f} GiB"),
            ("peak", f"{self.peak / GiB:.2f} GiB of {self.memory / GiB:.2f} ({share:.0%}){_share(self.target)}"),
            ("model FLOPs", f"{self.flops:.3g} per step, {self.ideal_seconds:.3g} s at the peak of the hardware"),
            ("compiled in", f"{self.compile_seconds:.0f} s"),
        ]
        rows += [(kind, f"{size / 1e9:.3f} GB in {count}") for kind, (count, size) in by_kind(self.collectives).items()]
        largest = sorted(self.collectives, key=lambda item: -item.bytes * item.times)[:LARGEST]
        rows += [("", f"{item.times} x {item.bytes / 1e6:.1f} MB {item.kind} of {_short(item)}") for item in largest]
        if self.remat == "full" and 1 - share > MUCH:
            dots = "--model.remat dots keeps matrix products and saves computing them again"
            rows.append(("hint", f"{1 - share:.0%} of the memory is free: {dots}"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def compile_for(task: Task, config: FitConfig, target: Target, *, remat: Remat) -> Report:
    """Compiles the training step of a task for a target.

    Args:
      task: What is trained.
      config: How.
      target: Where.
      remat: What the task's model recomputes, for advice.

    Raises:
      MmtokError: it does not fit into the memory, saying by how much and what would help; mesh or batch do not divide,
        or the compiler of the platform is not installed.
    """
    chip = CHIPS[target.chip]
    program = Program(task, _in_slices(config, target), devices=target_devices(target))
    lowered = program.lower()
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MmtokError(f"{_overflow(str(error), target)}; {_advice(program, target, remat=remat)}") from None
    seconds = time.monotonic() - began
    memory = compiled.memory_analysis()
    assert memory is not None
    report = Report(
        target=target,
        mesh=dict(program.mesh.shape),
        parameters=sum(parameter.size for parameter in program.layout.params.values()),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=_peak(memory, chip.platform),
        memory=chip.usable,
        flops=task.flops_per_step,
        ideal_seconds=task.flops_per_step / (target.devices * chip.flops),
        compile_seconds=seconds,
        collectives=tuple(collectives(compiled.as_text() or "")),
        remat=remat,
    )
    if report.peak > report.memory:  # XLA for GPUs does not complain itself
        needed = _too_many(report.peak / GiB, report.memory / GiB, target)
        raise MmtokError(f"{needed}; {_advice(program, target, remat=remat)}")
    return report


def _in_slices(config: FitConfig, target: Target) -> FitConfig:
    """The devices of a topology of GPUs do not say which host they are on: the config says it for them."""
    if config.mesh.slices != -1:
        return config
    return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, slices=target.slices))


def _peak(memory: Any, platform: str) -> int:
    """Most bytes in use. On GPUs temporaries are one slab beside arguments and results, whatever XLA calls the peak."""
    peak = memory.peak_memory_in_bytes
    if platform != "cuda":
        return peak
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return max(peak, memory.argument_size_in_bytes + results + memory.temp_size_in_bytes)


def _share(target: Target) -> str:
    """Says that not all of a GPU's memory counts."""
    chip = CHIPS[target.chip]
    return "" if chip.usable == chip.memory else f"; a run takes {chip.usable / chip.memory:.0%} of the card's memory"


def _overflow(message: str, target: Target) -> str:
    """What libtpu says in one of two ways, before or after it has laid out the memory."""
    found = re.search(rf"temporaries \({_SIZE}\) exceeds available \w+ \({_SIZE}\)", message)
    found = found or re.search(rf"Used {_SIZE} of {_SIZE}", message)
    if found is None:
        return f"the step does not fit {target.name}: {message.splitlines()[0][:300]}"
    return _too_many(float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]], target)


_SIZE, _UNITS = r"([\d.]+)([MGT])", {"M": 1 / 1024, "G": 1, "T": 1024}


def _too_many(needed: float, there: float, target: Target) -> str:
    said = f"{needed:.2f} GiB are needed of {there:.2f}, {needed - there:.2f} GiB too many"
    return f"the step does not fit {target.name}: {said}{_share(target)}"


def _advice(program: Program, target: Target, *, remat: Remat) -> str:
    """Names settings that take less memory, first those of what takes most; none that is on or does not divide."""
    most = CHIPS[target.chip].usable // 2
    state = sum(map(_held, jax.tree.leaves((program.abstract, program.abstract.params))))  # the latter: its gradients
    of_state = [*_wider(program, target, state=state, most=most), *_moments(program.config.optimizer)]
    of_activations = [*_recompute(remat), *_microbatches(program)]
    ways = of_state + of_activations if state > most else of_activations + of_state
    said = f"parameters, gradients and optimizer state take {state / GiB:.2f} GiB of each device"
    return f"{said}; what helps: {' or '.join([*ways, 'more devices'])}"


def _held(leaf: Any) -> int:
    """Bytes of an array on each device."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _wider(program: Program, target: Target, *, state: int, most: int) -> Iterator[str]:
    """Yields the smallest larger `fsdp` that brings the state below `most`, or the largest that everything divides by.

    Within a slice if there is one; GPUs may split parameters across hosts, too.
    """
    config, shape = program.config.mesh, program.mesh.shape
    now, rules = (1, "fsdp") if config.rules == "dp" else (shape["fsdp"], config.rules)
    for slices in (shape["slice"], 1) if CHIPS[target.chip].platform == "cuda" else (shape["slice"],):
        inside = program.mesh.size // (slices * shape["tensor"])
        wider = [size for size in range(now + 1, inside + 1) if inside % size == 0 and _divides(program, size, rules)]
        if wider:
            size = next((size for size in wider if state * now / size < most), wider[-1])
            changed = {"rules": rules} if rules != config.rules else {}
            changed |= {"slices": slices} if slices != shape["slice"] else {}
            changed |= {"data": inside // size} if config.data != -1 else {}
            yield " ".join(f"--fit.mesh.{name} {value}" for name, value in (changed | {"fsdp": size}).items())
            return


def _divides(program: Program, fsdp: int, rules: str) -> bool:
    """Whether all parameters can be split over `fsdp` devices."""
    shape = {**program.mesh.shape, "fsdp": fsdp}
    try:
        shardings(program.layout.params, mesh=AbstractMesh(tuple(shape.values()), tuple(shape)), rules=rules)
    except MmtokError:
        return False
    return True


def _moments(optimizer: OptimizerConfig) -> Iterator[str]:
    if optimizer.moments == "float32" and max(optimizer.b1, optimizer.b2) <= SLOWEST_BFLOAT16:
        yield "--fit.optimizer.moments bfloat16"


def _recompute(remat: Remat) -> Iterator[str]:
    if remat != "full":
        yield "--model.remat full"


def _microbatches(program: Program) -> Iterator[str]:
    """Yields the next larger number of microbatches that the samples of a device divide into."""
    shape = program.mesh.shape
    samples = program.task.batch_size // (shape["slice"] * shape["data"] * shape["fsdp"])
    counts = range(program.config.accumulate + 1, samples + 1)
    yield from (f"--fit.accumulate {count}" for count in [n for n in counts if samples % n == 0][:1])


def _short(item: Collective) -> str:
    shapes = item.shapes.split()
    return " ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
