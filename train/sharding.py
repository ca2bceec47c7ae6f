"""Where arrays lie on a device mesh: one table, apart from the maths.

Layers say what their axes mean (`mmtok.axes`); a row of `RULES` says which mesh axis splits each meaning.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mmtok.axes import Placement
from mmtok.errors import MmtokError, unknown
from mmtok.train.config import MeshConfig
from mmtok.train.layout import Parameter

AXES = ("slice", "data", "fsdp", "tensor")
_SAMPLES = ("slice", "data", "fsdp")
_NOWHERE: Mapping[str, tuple[str, ...]] = dict.fromkeys(("layers", "embed", "heads", "mlp", "table"), ())

RULES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Data parallelism: every device holds all parameters.
    "dp": {**_NOWHERE, "batch": _SAMPLES, "token": _SAMPLES},
    # Fully sharded data parallelism (ZeRO stage 3, Rajbhandari et al. 2020): each device holds a slice of the width.
    # On several slices it is hybrid: `slice` splits no parameter, so the slow network carries gradients only.
    "fsdp": {**_NOWHERE, "batch": _SAMPLES, "token": _SAMPLES, "embed": ("fsdp",), "table": ("fsdp",)},
    # The same with tensor parallelism (Megatron-LM, Shoeybi et al. 2019, section 3).
    "fsdp_tp": {
        **_NOWHERE,
        "batch": _SAMPLES,
        "token": (*_SAMPLES, "tensor"),
        "embed": ("fsdp",),
        "heads": ("tensor",),
        "mlp": ("tensor",),
        "table": ("fsdp", "tensor"),
    },
}

COLUMNS = ("parameter", "shape", "dtype", "axes", "split over", "bytes per device")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh (slice, data, fsdp, tensor); one device gives 1 x 1 x 1 x 1.

    Args:
      config: Size of each axis.
      devices: All devices unless given.

    Raises:
      MmtokError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    found = len({getattr(device, "slice_index", 0) for device in devices})
    slices, *inner = _sizes(config, len(devices), slices=found)
    if found > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *inner), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh((slices, *inner), devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(config: MeshConfig, *, devices: int, slices: int = 1) -> AbstractMesh:
    """Makes the mesh of so many devices, without any; see `make_mesh`."""
    return AbstractMesh(_sizes(config, devices, slices=slices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: MeshConfig, count: int, *, slices: int) -> tuple[int, ...]:
    sizes = [slices if config.slices == -1 else config.slices, config.data, config.fsdp, config.tensor]
    said = ", ".join(f"{name}={size}" for name, size in zip(("slices", *AXES[1:]), sizes))
    if slices > 1 and sizes[0] != slices:
        raise MmtokError(f"mesh {said} does not fit {slices} slices; leave `slices` at -1 to take what is there")
    given = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and given > 0 and count % given == 0:
        sizes[sizes.index(-1)] = count // given
    if min(sizes) < 1 or math.prod(sizes) != count:
        raise MmtokError(f"mesh {said} does not fit {count} devices; set one axis to -1 to take what remains")
    return tuple(sizes)


def placement(mesh: Mesh | AbstractMesh, *, rules: str) -> Placement:
    """Returns where axis names lie.

    Raises:
      MmtokError: there are no such rules.
    """
    if rules not in RULES:
        raise unknown("sharding rules", rules, RULES)
    return Placement(mesh, RULES[rules])


def place(path: str, parameter: Parameter, *, mesh: Mesh | AbstractMesh, rules: str) -> NamedSharding:
    """Decides where one parameter lies; one whose axes are not named is held by every device.

    Args:
      path: Its dotted name, for the error.
      parameter: Shape and axis names.
      mesh: From `make_mesh`, or one without devices.
      rules: Row of `RULES`.

    Raises:
      MmtokError: an axis name is unknown, two axes land on one mesh axis, or a size does not divide.
    """
    where = placement(mesh, rules=rules)
    if parameter.axes is None:
        return NamedSharding(mesh, PartitionSpec())
    if len(parameter.axes) != len(parameter.shape):
        raise MmtokError(f"parameter '{path}': {len(parameter.axes)} axis names for shape {parameter.shape}")
    used: set[str] = set()
    for size, axis in zip(parameter.shape, parameter.axes):
        if axis is None:
            continue
        if axis not in where.rules:
            raise unknown(f"axis of parameter '{path}'", axis, where.rules)
        targets = where.rules[axis]
        twice = sorted(used & set(targets))
        if twice:
            raise MmtokError(
                f"parameter '{path}': axes {parameter.axes} put two axes on '{twice[0]}' (rules '{rules}')"
            )
        used.update(targets)
        parts = math.prod(mesh.shape[target] for target in targets)
        if size % parts:
            raise MmtokError(
                f"parameter '{path}': {size} along '{axis}' does not divide by {parts} devices of mesh axis"
                f" '{' x '.join(targets)}'; change the size or the mesh"
            )
    return where.sharding(parameter.axes)


def shardings(
    parameters: Mapping[str, Parameter], *, mesh: Mesh | AbstractMesh, rules: str
) -> dict[str, NamedSharding]:
    """Decides where every parameter lies; see `place`."""
    return {path: place(path, parameter, mesh=mesh, rules=rules) for path, parameter in parameters.items()}


def table(parameters: Mapping[str, Parameter], *, mesh: Mesh | AbstractMesh, rules: str) -> str:
    """Lists every parameter under a heading, then the sum of the bytes.

    Columns: path, shape, dtype, names of the axes, the mesh axes that split each of them, bytes per device.
    """
    placed = shardings(parameters, mesh=mesh, rules=rules)
    rows: list[tuple[str, ...]] = [COLUMNS]
    total = 0
    for path, parameter in parameters.items():
        held = math.prod(placed[path].shard_shape(parameter.shape)) * np.dtype(parameter.dtype).itemsize
        total += held
        rank, spec = len(parameter.shape), tuple(placed[path].spec)
        names = _listed(parameter.axes or (None,) * rank)
        where = _listed(spec + (None,) * (rank - len(spec)))
        shape = "x".join(map(str, parameter.shape)) or "()"
        rows.append((path, shape, str(np.dtype(parameter.dtype)), names, where, str(held)))
    rows.append((f"{len(parameters)} arrays", "", "", "", "", str(total)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _listed(axes: Sequence[str | tuple[str, ...] | None]) -> str:
    return ",".join("-" if axis is None else axis if isinstance(axis, str) else "+".join(axis) for axis in axes) or "-"
