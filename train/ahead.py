"""The training step compiled ahead of time, for hardware one does not have: does it fit, and what does it send?"""

import dataclasses
import re
import time
from collections.abc import Mapping

import jax

from mmtok.errors import MmtokError
from mmtok.train.collectives import Collective, by_kind, collectives
from mmtok.train.config import FitConfig
from mmtok.train.step import Program
from mmtok.train.targets import CHIPS, GiB, Target, target_devices
from mmtok.train.task import Task

LARGEST = 8  # collectives that a report spells out


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
      memory: Bytes the device has.
      flops: Floating-point operations of the model in a step, on all devices (see `AnyToAny.flops`).
      ideal_seconds: Those at the peak of the hardware: no step can be faster.
      compile_seconds: Time the compilation took.
      collectives: What is sent.
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

    def __str__(self) -> str:
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.items() if size > 1) or "one device"
        rows = [
            ("target", f"{self.target.name}: {self.target.devices} x {self.target.chip} ({self.target.shape})"),
            ("mesh", mesh),
            ("parameters", f"{self.parameters:,}"),
            ("arguments", f"{self.arguments / GiB:.2f} GiB per device"),
            ("temporaries", f"{self.temporaries / GiB:.2f} GiB"),
            ("peak", f"{self.peak / GiB:.2f} GiB of {self.memory / GiB:.2f} ({self.peak / self.memory:.0%})"),
            ("model FLOPs", f"{self.flops:.3g} per step, {self.ideal_seconds:.3g} s at the peak of the hardware"),
            ("compiled in", f"{self.compile_seconds:.0f} s"),
        ]
        rows += [(kind, f"{size / 1e9:.3f} GB in {count}") for kind, (count, size) in by_kind(self.collectives).items()]
        largest = sorted(self.collectives, key=lambda item: -item.bytes * item.times)[:LARGEST]
        rows += [("", f"{item.times} x {item.bytes / 1e6:.1f} MB {item.kind} of {_short(item)}") for item in largest]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def compile_for(task: Task, config: FitConfig, target: Target) -> Report:
    """Compiles the training step of a task for a target.

    Raises:
      MmtokError: it does not fit into the memory, saying by how much and what would help; mesh or batch do not divide,
        or the compiler of the platform is not installed.
    """
    chip = CHIPS[target.chip]
    if config.mesh.slices == -1:  # devices of a topology of GPUs do not say which host they are on
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, slices=target.slices))
    program = Program(task, config, devices=target_devices(target))
    lowered = program.lower()
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MmtokError(f"{_overflow(str(error), target)}; {_advice(program)}") from None
    seconds = time.monotonic() - began
    memory = compiled.memory_analysis()
    assert memory is not None
    report = Report(
        target=target,
        mesh=dict(program.mesh.shape),
        parameters=sum(parameter.size for parameter in program.layout.params.values()),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        memory=chip.memory,
        flops=task.flops_per_step,
        ideal_seconds=task.flops_per_step / (target.devices * chip.flops),
        compile_seconds=seconds,
        collectives=tuple(collectives(compiled.as_text() or "")),
    )
    if report.peak > report.memory:  # XLA for GPUs does not complain itself
        needed, there = report.peak / GiB, report.memory / GiB
        raise MmtokError(f"{_too_many(needed, there, target)}; {_advice(program)}")
    return report


def _overflow(message: str, target: Target) -> str:
    """What libtpu says in one of two ways, before or after it has laid out the memory."""
    found = re.search(r"temporaries \(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)", message)
    found = found or re.search(r"Used ([\d.]+)G of ([\d.]+)G", message)
    if found is None:
        return f"the step does not fit {target.name}: {message.splitlines()[0][:300]}"
    return _too_many(float(found[1]), float(found[2]), target)


def _too_many(needed: float, there: float, target: Target) -> str:
    over = needed - there
    return f"the step does not fit {target.name}: {needed:.2f} GiB are needed of {there:.2f}, {over:.2f} GiB too many"


def _advice(program: Program) -> str:
    """Which setting helps most: of the state, or of the activations."""
    config, mesh = program.config, program.config.mesh
    state = sum(parameter.size * 16 for parameter in program.layout.params.values())  # parameter, gradient, two moments
    sharded = program.mesh.shape["fsdp"] * program.mesh.shape["tensor"] if mesh.rules != "dp" else 1
    held = state / sharded
    if mesh.rules == "dp" and state > GiB:
        return f"split the parameters, {state / GiB:.1f} GiB with their state: --fit.mesh.rules fsdp --fit.mesh.fsdp 8"
    if held > GiB and program.mesh.shape["data"] > 1:
        return (
            f"parameters and their state take {held / GiB:.1f} GiB: split them more with --fit.mesh.fsdp"
            f" {2 * program.mesh.shape['fsdp']}, or halve the microbatch (--fit.accumulate {2 * config.accumulate})"
        )
    return (
        "the activations are too large: recompute them where the model does not yet (--model.remat full), or halve the"
        f" microbatch with --fit.accumulate {2 * config.accumulate}, or take more devices"
    )


def _short(item: Collective) -> str:
    shapes = item.shapes.split()
    return " ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
