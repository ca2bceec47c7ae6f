"""What a compiled step sends between devices, read from its optimised HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from mmtok.train.hlo import computations

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}

_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?([%\w.-]+(?:, %[\w.-]+)*)")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
      kind: One of `KINDS`.
      bytes: Of the whole arrays: what an all-gather gives, what a reduce-scatter takes.
      times: How often it runs in a step.
      shapes: The arrays it gives, for people.
    """

    kind: str
    bytes: int
    times: int
    shapes: str


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a module; those in a loop have the number of its turns."""
    bodies, entry = computations(text)
    times = dict.fromkeys(bodies, 0)
    _count(entry, 1, bodies, times)
    found, chains = [], set()
    for name, lines in bodies.items():
        for line in lines if times[name] else ():
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            chain = _CHAIN.search(line)
            if chain and chain[1] in chains:
                continue  # libtpu repeats one that runs beside others in each of those
            chains |= {chain[1]} if chain else set()
            # libtpu writes a reduce-scatter as a fusion of this name: an all-reduce of which each device keeps its part
            scatters = "all-reduce-scatter" in name
            found.append(_collective(line, match, times=times[name], scatters=scatters))
    return found


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """Returns per kind how many run in a step and their bytes."""
    rows: dict[str, tuple[int, int]] = {}
    for kind in KINDS:
        own = [item for item in found if item.kind == kind]
        if own:
            rows[kind] = (sum(item.times for item in own), sum(item.times * item.bytes for item in own))
    return rows


def _count(name: str, times: int, bodies: Mapping[str, list[str]], counts: dict[str, int]) -> None:
    """Adds how often a computation runs, and all that it calls."""
    counts[name] += times
    for line in bodies[name]:
        turns = _turns(line, bodies) if " while(" in line else 1
        for called in _called(line):
            if called in bodies:
                _count(called, times * turns, bodies, counts)


def _called(line: str) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        yield from (name.strip().lstrip("%") for name in match[1].split(","))


def _turns(line: str, bodies: Mapping[str, list[str]]) -> int:
    """Turns of a loop: as stated, or the constant that its condition compares with; 1 where they depend on the data."""
    stated, condition = _TRIPS.search(line), _CONDITION.search(line)
    if stated:
        return int(stated[1])
    limits = [
        int(found[1]) for row in bodies.get(condition[1] if condition else "", ()) for found in _LIMIT.finditer(row)
    ]
    return limits[0] if len(limits) == 1 else 1


def _collective(line: str, match: re.Match[str], *, times: int, scatters: bool) -> Collective:
    shapes = _SHAPE.findall(match[1])
    total = sum(
        math.prod(int(side) for side in dims.split(",") if side) * _BYTES.get(dtype, 4) for dtype, dims in shapes
    )
    kind, starts = match[2], match[3]
    members = _members(line)
    if kind in ("all-gather", "reduce-scatter") and starts:  # its result names what it takes, too
        total = total * members // (members + 1)
    elif kind == "reduce-scatter":
        total *= members
    elif kind == "collective-permute" and starts:
        total //= 2
    return Collective(
        kind="reduce-scatter" if scatters else kind,
        bytes=total,
        times=times,
        shapes=" ".join(f"{dtype}[{dims}]" for dtype, dims in shapes),
    )


def _members(line: str) -> int:
    """Devices that take part together: of `{{0,1},{2,3}}`, `[2,2]<=[4]` or `mesh['a'=2,'b'=2] ... {'b'}`."""
    groups = line.partition("replica_groups=")[2]
    if groups.startswith("mesh"):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", groups)}
        named = re.search(r"\{('\w+'(?:,\s*'\w+')*)\}", groups)
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", named[1])) if named else 1
    match = re.match(r"\{\{([\d,]*)\}|\[\d+,(\d+)\]", groups)
    if match is None:
        return 1
    return int(match[2]) if match[2] else len(match[1].split(","))
