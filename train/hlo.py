"""The text of a compiled program (HLO), taken apart."""

import re

_OPENING = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation of a module by its name, and the name of the one that is run."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        match = _OPENING.match(line)
        if match:
            lines = bodies.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return bodies, entry
