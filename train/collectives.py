"""What a compiled program sends between devices, read from its text."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)")
_TRIPS = re.compile(r'known_trip_count[":{\s]+n[":\s]+(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
      kind: One of `KINDS`.
      bytes: Of its largest array on one device, be it what it takes or what it gives.
      times: How often it runs in a step.
      shapes: The arrays it gives, for people.
    """

    kind: str
    bytes: int
    times: int
    shapes: str


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of an optimised HLO module, those in loops with the number of their turns."""
    bodies, entry = _computations(text)
    times = {name: 0 for name in bodies}
    _count(entry, 1, bodies, times)
    found = []
    for name, lines in bodies.items():
        if times[name]:
            found += [item for line in lines for item in _collective(line, bodies, times[name])]
    return found


def summary(found: list[Collective]) -> dict[str, tuple[int, int]]:
    """Returns per kind (times, bytes) in a step."""
    rows = {}
    for kind in KINDS:
        own = [item for item in found if item.kind == kind]
        if own:
            rows[kind] = (sum(item.times for item in own), sum(item.times * item.bytes for item in own))
    return rows


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            lines = bodies.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif _INSTRUCTION.match(line):
            lines.append(line)
    return bodies, entry


def _count(name: str, times: int, bodies: Mapping[str, list[str]], counts: dict[str, int]) -> None:
    """Adds how often a computation runs, and all those it calls."""
    counts[name] += times
    for line in bodies[name]:
        if " reduce(" in line or "-reduce(" in line or "reduce-scatter(" in line:
            continue  # what they call adds two numbers
        turns = _TRIPS.search(line)
        for called in _called(line):
            if called in bodies:
                _count(called, times * (int(turns[1]) if turns and " while(" in line else 1), bodies, counts)


def _called(line: str) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        for name in match[1].split(","):
            yield name.strip().lstrip("%")


def _collective(line: str, bodies: Mapping[str, list[str]], times: int) -> Iterator[Collective]:
    match = _INSTRUCTION.match(line)
    assert match is not None
    head, _, rest = match[2].partition("(") if not match[2].startswith("(") else _tuple(match[2])
    kind = next((kind for kind in KINDS if re.search(rf"\b{kind}(-start)?$", head)), None)
    if kind is None:
        return
    shapes = re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", head)
    sizes = [_size(*shape) for shape in shapes]
    # what goes in is not in the text of every backend; a scattered sum takes as many times more as there are devices
    groups = re.search(r"replica_groups=\[\d+,(\d+)\]|replica_groups=\{\{([\d,]+)\}", rest)
    members = int(groups[1]) if groups and groups[1] else len(groups[2].split(",")) if groups else 1
    largest = max(sizes, default=0) * (members if kind == "reduce-scatter" else 1)
    started = "-start" in head
    yield Collective(
        kind=kind,
        bytes=largest if started or kind in ("all-gather",) and len(sizes) == 1 else _several(sizes, kind, members),
        times=times,
        shapes=" ".join(f"{dtype}[{dims}]" for dtype, dims in shapes),
    )


def _several(sizes: list[int], kind: str, members: int) -> int:
    return sum(sizes) * (members if kind == "reduce-scatter" else 1)


def _tuple(text: str) -> tuple[str, str, str]:
    end = text.index(") ") + 1
    name, _, rest = text[end:].partition("(")
    return text[:end] + name, "(", rest


def _size(dtype: str, dims: str) -> int:
    count = 1
    for dim in filter(None, dims.split(",")):
        count *= int(dim)
    return count * _BYTES.get(dtype, 4)
