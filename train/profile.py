"""Where the time of a step goes: a trace for xprof and TensorBoard, and one page of text."""

import dataclasses
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax

from mmtok.files import new_file
from mmtok.progress import say
from mmtok.train.hlo import computations
from mmtok.train.processes import is_first
from mmtok.train.record import Record
from mmtok.train.step import Program

PARTS = ("attention", "mlp", "embeddings", "heads", "optimizer")
"""Named scopes of the model and of the training step, by which operations are grouped."""

LONGEST = 15  # operations that are listed
WRAPPERS = ("while", "conditional", "call")  # operations whose time is that of others inside
MATMULS = ("dot", "convolution", "gemm", "matmul", "cudnn", "flash")


class Profiler:
    """Traces some steps in the first process of a run, writes `summary.txt` beside the traces and prints it.

    Args:
      folder: Gets both.
      program: What is run.
      record: Of the run; steps in flight are waited for at both ends.
      first: Step before which tracing starts.
      steps: How many; 0 traces none.
    """

    def __init__(self, folder: Path, program: Program, record: Record, *, first: int, steps: int):
        self._folder, self._program, self._record = folder, program, record
        self._first, self._last = (first, first + steps) if steps and is_first() else (-1, -1)
        self._began: tuple[int, float, float] | None = None  # step, time and input wait when tracing started
        self._step = 0

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._began is not None and kind is None:  # fewer steps were left than asked for
            self._stop(self._step + 1)
        elif self._began is not None:
            jax.profiler.stop_trace()
        elif self._step < self._first and kind is None:
            say(f"no profile: tracing starts after step {self._first}, which the run does not reach")

    def before(self, step: int) -> None:
        """Is told before step number `step` (from 0) starts."""
        self._step = step
        if step == self._first:
            self._record.flush()
            jax.profiler.start_trace(str(self._folder))
            self._began = step, time.perf_counter(), self._record.waited
        elif step == self._last and self._began is not None:
            self._stop(step)

    def _stop(self, step: int) -> None:
        assert self._began is not None
        self._record.flush()
        (first, since, waited), self._began = self._began, None
        seconds, waited = time.perf_counter() - since, self._record.waited - waited
        jax.profiler.stop_trace()
        program = instructions(self._program.compile().as_text() or "")
        text = summary(durations(self._folder), program, steps=step - first, seconds=seconds, input_wait=waited)
        with new_file(self._folder / "summary.txt") as file:
            file.write_text(text)
        say(f"{text}profile -> {self._folder}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """What the compiled program says of one operation.

    Attributes:
      opcode: Its kind, such as `fusion`.
      scope: Path of named scopes it comes from; of a fusion that of its root.
      matmul: Whether it is, or holds, a matrix product.
    """

    opcode: str
    scope: str
    matmul: bool

    @property
    def part(self) -> str:
        """The innermost of `PARTS` that it belongs to."""
        words = re.split(r"[/().]", self.scope)
        return next((word for word in reversed(words) if word in PARTS), "other")


def instructions(program: str) -> dict[str, Instruction]:
    """Reads all operations from the text of a compiled program."""
    found: dict[str, Instruction] = {}
    inside: dict[str, list[Instruction]] = defaultdict(list)
    calls: dict[str, str] = {}
    for computation, lines in computations(program)[0].items():
        for line in lines:
            if not (match := _OPERATION.match(line)):
                continue
            scope = re.search(r'op_name="([^"]*)"', line)
            called = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
            own = match[2] in MATMULS or (match[2] == "custom-call" and any(word in line.lower() for word in MATMULS))
            found[match[1]] = item = Instruction(match[2], scope[1] if scope else "", own)
            inside[computation].append(item)
            if called:
                calls[match[1]] = called[1]
    for name, called in calls.items():
        item = found[name]
        matmul = item.matmul or any(other.matmul for other in inside[called])
        scope = item.scope or next((other.scope for other in reversed(inside[called]) if other.scope), "")
        found[name] = Instruction(item.opcode, scope, matmul)
    return found


# The opcode follows the type, which may be a tuple, and may hold words before brackets itself: {1,0:T(8,128)(2,1)}.
_OPERATION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")


def durations(trace: Path) -> dict[str, float]:
    """Returns the seconds that each operation of the compiled programs took, over all devices and threads.

    Args:
      trace: Folder that `jax.profiler.start_trace` was given; the newest trace in it counts.
    """
    total: dict[str, float] = defaultdict(float)
    file = max(trace.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = _operation(plane.name, line.name, event.name, dict(event.stats).get("hlo_op"))
                if operation:
                    total[operation] += event.duration_ns / 1e9
    return dict(total)


def _operation(plane: str, line: str, event: str, said: str | None) -> str | None:
    """Returns the operation whose time an event is: one that a device says, or that a host's thread is named after.

    Events of GPUs are named after kernels; those of TPUs hold the text of the operation, on one line of several.
    """
    if not plane.startswith("/device:"):
        return said if said == event else None
    if said is None and line == "XLA Ops":
        return event.partition(" = ")[0].removeprefix("%")
    return said


def summary(
    spent: Mapping[str, float], program: Mapping[str, Instruction], *, steps: int, seconds: float, input_wait: float
) -> str:
    """Describes on one page where the time of some steps went.

    Args:
      spent: From `durations`.
      program: From `instructions`.
      steps: Steps in the trace.
      seconds: That they took.
      input_wait: Seconds of these that the host waited for data.
    """
    known = {
        name: time
        for name, time in spent.items()
        if name in program and program[name].opcode not in WRAPPERS and time > 0
    }
    total = sum(known.values())
    lines = [
        f"{steps} steps in {seconds:.3f} s, {1e3 * seconds / steps:.1f} ms each;"
        f" input wait {_share(input_wait, seconds)}",
        f"time in operations, all devices and threads: {1e3 * total / steps:.1f} ms a step",
        "",
        f"{'matrix products':<24}{_share(sum(time for name, time in known.items() if program[name].matmul), total)}",
    ]
    parts = _sums((program[name].part, time) for name, time in known.items())
    lines += [f"{name:<24}{_share(parts.get(name, 0.0), total)}" for name in (*PARTS, "other")]
    lines += ["", f"{'ms a step':>10}  {'share':>6}  operation"]
    for name, took in sorted(known.items(), key=lambda item: -item[1])[:LONGEST]:
        lines.append(f"{1e3 * took / steps:>10.3f}  {_share(took, total)}  {name}  {program[name].scope}")
    return "\n".join(lines) + "\n"


def _sums(items: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, value in items:
        sums[name] += value
    return sums


def _share(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0.0:>6.1%}"
