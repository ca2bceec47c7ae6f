"""A module without its arrays, and the arrays as flat dictionaries.

Arrays are kept by dotted name (`encoder.blocks.attention.qkv`), the same name in checkpoints, artifacts, tables and
error messages. Plain dictionaries also pass through `jax.jit` faster than `nnx.State`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One array of a module.

    Attributes:
      shape: Its shape.
      dtype: Its dtype.
      axes: Name of each axis (see `mmtok.axes`), or None where the module does not say.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...] | None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class Layout:
    """Structure of a module: takes its arrays out and puts them back.

    Args:
      module: The module; abstract (from `nnx.eval_shape`) or real.

    Attributes:
      params: Trained arrays by dotted name.
      rest: All other arrays by dotted name.
    """

    def __init__(self, module: nnx.Module):
        self._graph, params, rest = nnx.split(module, nnx.Param, ...)
        self._params, self._rest = _flat(params), _flat(rest)
        self.params = {name: _parameter(variable) for name, (_, variable) in self._params.items()}
        self.rest = {name: _parameter(variable) for name, (_, variable) in self._rest.items()}

    def split(self, module: nnx.Module) -> tuple[Arrays, Arrays]:
        """Returns the trained and the other arrays of a module of this structure."""
        _, params, rest = nnx.split(module, nnx.Param, ...)
        params, rest = _flat(params), _flat(rest)
        assert (params.keys(), rest.keys()) == (self._params.keys(), self._rest.keys()), "the module changed structure"
        return _arrays(params), _arrays(rest)

    def merge(self, params: Mapping[str, Any], rest: Mapping[str, Any]) -> Any:
        """Returns a module with the given arrays."""
        return nnx.merge(self._graph, _state(self._params, params), _state(self._rest, rest))


def _flat(state: nnx.State) -> dict[str, tuple[tuple, nnx.Variable]]:
    return {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}


def _arrays(flat: dict[str, tuple[tuple, nnx.Variable]]) -> Arrays:
    return {name: variable.get_value() for name, (_, variable) in flat.items()}


def _state(flat: dict[str, tuple[tuple, nnx.Variable]], values: Mapping[str, Any]) -> nnx.State:
    return nnx.from_flat_state({path: variable.replace(values[name]) for name, (path, variable) in flat.items()})


def _parameter(variable: nnx.Variable) -> Parameter:
    value = variable.get_value()
    return Parameter(tuple(value.shape), value.dtype, variable.get_metadata().get("out_sharding"))
