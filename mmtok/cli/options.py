"""Options from dataclasses: `--name value`, checked, with the nearest name suggested for an unknown one."""

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from mmtok.errors import MmtokError, suggest
from mmtok.project import Project, load_project

T = TypeVar("T")


def parse(cls: type[T], arguments: Sequence[str], *, prog: str, default: T | None = None) -> T:
    """Parses `arguments` into the dataclass `cls`; fields of nested dataclasses are `--outer.inner`.

    Raises:
      MmtokError: an unknown option, naming the nearest one; a missing option, or a value that does not fit its option.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, rest = tyro.cli(
                cls,
                prog=prog,
                args=list(arguments),
                default=default if default is not None else tyro.MISSING_NONPROP,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as exit:
        if not exit.code:  # --help
            raise
        raise MmtokError(f"{_message(complaint.getvalue())} (see `{prog} --help`)") from None
    if rest:
        name = rest[0].split("=")[0]
        options = {f"--{option}" for option in _names(default if default is not None else cls)}
        raise MmtokError(f"unknown option '{name}'{suggest(name, options) if name.startswith('-') else ''}")
    return parsed


def parse_project(cls: type[T], arguments: Sequence[str], *, prog: str) -> T:
    """Parses `CONFIG [--option ...]` into `cls`, a dataclass with a field `project` and the command's own options.

    Options may come before CONFIG, too: `--shardings CONFIG`.

    Raises:
      MmtokError: there is no CONFIG, or `parse` refuses the rest.
    """
    words = list(arguments)
    place = _place_of_config(cls, words)
    if words[:1] and words[0] in ("-h", "--help"):
        print(f"usage: {prog} CONFIG [--option value ...]\n\n`{prog} CONFIG --help` lists the options of that CONFIG.")
        raise SystemExit(0)
    if place >= len(words):
        raise MmtokError(f"usage: {prog} CONFIG [--option value ...]; CONFIG is a file or the name of a shipped one")
    config = words.pop(place)
    return parse(cls, words, prog=f"{prog} {config}", default=cls(project=load_project(config)))  # type: ignore[call-arg]


def _place_of_config(cls: type, words: Sequence[str]) -> int:
    """Index of the first word that is no option and no option's value; flags have none, other options one."""
    flags = {f"--{name.replace('_', '-')}" for name, kind in get_type_hints(cls).items() if kind is bool}
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 1 if words[place] in flags or "=" in words[place] else 2
    return place


ProjectOption = Annotated[Project, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
"""Type of the field `project`: its values are options without a prefix."""


def _message(box: str) -> str:
    """What tyro says in a box, as one sentence: the rows before the first rule, without frame and colours."""
    rows = (line.strip("│| ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:])
    rows = itertools.dropwhile(lambda row: not row.strip("─-"), rows)  # a frame without line characters
    words = " ".join(itertools.takewhile(lambda row: row.strip("─-"), rows)).split()
    message = " ".join(words).rstrip(".").replace(". Expected", ", expected").removesuffix(" (required)")
    return message[:1].lower() + message[1:]


def _names(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all options below a dataclass (instance or class) or mapping."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = None if isinstance(value, type) else getattr(value, field.name)
            if isinstance(inner, Project):
                yield from _names(inner, prefix)
            elif dataclasses.is_dataclass(inner) or isinstance(inner, Mapping):
                yield from _names(inner, f"{prefix}{field.name.replace('_', '-')}.")
            else:
                yield f"{prefix}{field.name.rstrip('_').replace('_', '-')}"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if dataclasses.is_dataclass(inner) or isinstance(inner, Mapping):
                yield from _names(inner, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"
