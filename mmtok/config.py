"""Frozen dataclasses to JSON and back, strictly."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
import numpy as np
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError
from cattrs.v import transform_error

from mmtok.errors import MmtokError, suggest

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


def to_json(value: Any) -> Any:
    """Turns dataclasses, mappings, tuples, paths, numpy scalars and functions into plain JSON values.

    A function becomes its qualified name: enough for a record of what ran, not meant to be read back.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value


def from_json(cls: type[T], data: Any, *, where: str) -> T:
    """Builds the dataclass `cls` from plain JSON values.

    Args:
      cls: A dataclass; nested dataclasses, tuples, mappings, unions with None and literals are followed.
      data: What `to_json` gave.
      where: Named in the error, usually the file.

    Raises:
      MmtokError: an unknown key (the nearest name is suggested), a missing key or a value of the wrong type.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        return converter.structure(data, cls)
    except BaseValidationError as error:
        refused, extra = _first(error, MmtokError), _first(error, ForbiddenExtraKeysError)
        if refused is not None:
            raise MmtokError(f"{where}: {refused}") from None
        if extra is not None:
            known = [field.name for field in dataclasses.fields(extra.cl)] if dataclasses.is_dataclass(extra.cl) else []
            name = sorted(extra.extra_fields)[0]
            raise MmtokError(f"{where}: unknown key '{name}'{suggest(name, known)}") from None
        raise MmtokError(f"{where}: {'; '.join(transform_error(error, path=cls.__name__))}") from None


def _first(error: BaseException, kind: type[E]) -> E | None:
    """Returns the first exception of a kind in a tree of them."""
    if isinstance(error, kind):
        return error
    for inner in getattr(error, "exceptions", ()):
        found = _first(inner, kind)
        if found is not None:
            return found
    return None
