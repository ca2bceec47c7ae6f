"""The errors a user can cause, each said in one clear sentence."""

import difflib
from collections.abc import Iterable


class MmtokError(Exception):
    """Bad input, configuration or file.

    The message is one sentence that names the file, field or sample, what was expected, what was found
    and how to mend it. The command line prints it without a traceback and exits with code 1.
    """


class MismatchError(MmtokError):
    """Two artifacts that must belong together (tokenizer, token store, model) do not."""


def suggest(name: str, options: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the option nearest to `name`, or lists all options when none is near."""
    options = sorted(options)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(options)})" if options else ""


def unknown(what: str, name: str, options: Iterable[str]) -> MmtokError:
    """Returns the error for a name that is not among the options, with the nearest one suggested."""
    return MmtokError(f"unknown {what} '{name}'{suggest(name, options)}")
