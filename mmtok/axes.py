"""Arrays whose axes have names, and code that moves them between devices by these names.

The model names axes and knows no mesh; the table that places the names on one is `mmtok.train.sharding`. Without a
placement (`placed`) everything here leaves arrays as they are, so the same code runs on one device and on thousands.

Names of parameters' axes: `layers` (stacked blocks), `embed` (model width), `heads` (all attention heads side by
side), `mlp` (hidden width), `table` (width of a token table), None (never split). Names of activations' axes: `batch`
(samples), `token` (samples and slots in one axis), `heads`, `mlp`.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from mmtok.errors import MmtokError

M = TypeVar("M")
Names = tuple[str | None, ...]


def param(value: Array, axes: Names) -> nnx.Param:
    """Returns a parameter whose axes carry the given names.

    Raises:
      ValueError: the number of names differs from the rank.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for a parameter of shape {value.shape}")
    return nnx.Param(value, out_sharding=axes, eager_sharding=False)


def stack(make: Callable[[nnx.Rngs], M], *, count: int, rngs: nnx.Rngs) -> M:
    """Returns `count` modules made by `make` as one module whose parameters have a leading `layers` axis.

    `jax.vmap` over `nnx.transform_metadata` instead of `nnx.vmap`, which drops the name of the new axis outside
    graph mode.
    """
    return jax.vmap(nnx.transform_metadata(make, partition="layers"))(rngs.split(count))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where each name lies.

    Attributes:
      mesh: The devices.
      rules: Axis name -> the mesh axes that split it, the slowest first; none for an axis that is not split.
    """

    mesh: Mesh | AbstractMesh
    rules: Mapping[str, tuple[str, ...]]

    def axes(self, name: str | None) -> tuple[str, ...]:
        """Returns the mesh axes of more than one device that split `name`."""
        return tuple(axis for axis in (self.rules[name] if name else ()) if self.mesh.shape[axis] > 1)

    def spec(self, names: Names) -> PartitionSpec:
        """Returns where an array with axes of these names lies."""
        return PartitionSpec(*(self.axes(name) or None for name in names))

    def sharding(self, names: Names) -> NamedSharding:
        """The same, with the mesh."""
        return NamedSharding(self.mesh, self.spec(names))


_PLACEMENT: ContextVar[Placement | None] = ContextVar("placement", default=None)


@contextlib.contextmanager
def placed(placement: Placement) -> Iterator[None]:
    """Says where names lie while a function is traced."""
    token = _PLACEMENT.set(placement)
    try:
        yield
    finally:
        _PLACEMENT.reset(token)


def _over_devices() -> Placement | None:
    """The placement, where there is more than one device to place things on."""
    placement = _PLACEMENT.get()
    return None if placement is None or placement.mesh.size == 1 else placement


def constrain(x: Array, *names: str | None) -> Array:
    """Returns `x`, which is to lie where its axis names say; so does its gradient."""
    placement = _over_devices()
    return x if placement is None else jax.lax.with_sharding_constraint(x, placement.sharding(names))


def whole_width(x: Array, names: Names) -> Array:
    """Returns a parameter with all of its `embed` axis, as a product with activations needs it.

    Its gradient is split again as the parameter is: the sum over devices and the split are one reduce-scatter. Without
    saying so, the compiler may sum whole gradients on every device.
    """
    return x if _over_devices() is None else _whole_width(names, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _whole_width(names: Names, x: Array) -> Array:
    return constrain(constrain(x, *names), *(None if name == "embed" else name for name in names))


def _whole_width_forward(names: Names, x: Array) -> tuple[Array, None]:
    return _whole_width(names, x), None


def _whole_width_backward(names: Names, _: None, cotangent: Array) -> tuple[Array]:
    return (constrain(cotangent, *names),)


_whole_width.defvjp(_whole_width_forward, _whole_width_backward)


def per_device(
    function: Callable[..., Any], *, inputs: tuple[Names, ...], outputs: tuple[Names, ...]
) -> Callable[..., Any]:
    """Returns `function` as what each device does with its parts of the arrays.

    Args:
      function: Takes and gives tuples of parts, which `gather`, `scatter_sum`, `total` and `exchange` join.
      inputs: Axis names of each argument.
      outputs: Axis names of each result.

    Raises:
      MmtokError: an axis of an array does not divide by the devices that its name is split over.
    """
    placement = _over_devices()
    if placement is None:
        return function
    ins, outs = (tuple(map(placement.spec, names)) for names in (inputs, outputs))
    mapped = jax.shard_map(function, mesh=placement.mesh, in_specs=ins, out_specs=outs, check_vma=False)

    def checked(*arrays: Array) -> Any:
        for array, names in zip(arrays, inputs):
            for size, name in zip(array.shape, names):
                if name is not None and size % parts(name):
                    raise MmtokError(
                        f"{size} along axis '{name}' do not divide by the {parts(name)} devices that split it; change"
                        " the batch, the token budgets or the mesh"
                    )
        return mapped(*arrays)

    return checked


def platform() -> str:
    """Returns what is compiled for: `cpu`, `gpu` or `tpu`."""
    placement = _PLACEMENT.get()
    if placement is None or isinstance(placement.mesh, AbstractMesh):
        return jax.default_backend()
    found = placement.mesh.devices.flat[0].platform
    return "gpu" if found == "cuda" else found


def parts(name: str) -> int:
    """Returns how many devices `name` is split over."""
    placement = _PLACEMENT.get()
    return 1 if placement is None else math.prod(placement.mesh.shape[axis] for axis in placement.axes(name))


def gather(x: Array, name: str, *, axis: int) -> Array:
    """Returns the parts of all devices that `name` is split over, joined along `axis`; inside `per_device`."""
    axes = _mesh_axes(name)
    return jax.lax.all_gather(x, axes, axis=axis, tiled=True) if axes else x


def scatter_sum(x: Array, name: str, *, axis: int) -> Array:
    """Returns this device's part along `axis` of the sum over those that `name` is split over; inside `per_device`.

    The parts have an axis of their own while they are sent: libtpu would sum the whole array on every device, twice the
    traffic, where it had to cut an axis elsewhere than at multiples of 128.
    """
    axes = _mesh_axes(name)
    if not axes:
        return x
    x = x.reshape(*x.shape[:axis], parts(name), -1, *x.shape[axis + 1 :])
    return jax.lax.psum_scatter(x, axes, scatter_dimension=axis)


def total(x: Array, name: str, *, beside: str | None = None) -> Array:
    """Returns the sum over the devices that `name` is split over, without those of `beside`; inside `per_device`."""
    axes = tuple(axis for axis in _mesh_axes(name) if axis not in _mesh_axes(beside))
    return jax.lax.psum(x, axes) if axes else x


def exchange(x: Array, name: str, *, split: int, join: int) -> Array:
    """Returns the parts along `split` that are this device's, joined along `join`, of those that `name` is split over;
    inside `per_device`.
    """
    axes = _mesh_axes(name)
    return jax.lax.all_to_all(x, axes, split_axis=split, concat_axis=join, tiled=True) if axes else x


def _mesh_axes(name: str | None) -> tuple[str, ...]:
    placement = _PLACEMENT.get()
    return () if placement is None else placement.axes(name)
