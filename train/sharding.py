"""Where arrays lie on a device mesh: one table, apart from the maths.

Layers say what their axes mean (`mmtok.axes`); a row of `RULES` says which mesh axis splits each meaning.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mmtok.errors import MmtokError, unknown
from mmtok.train.config import MeshConfig
from mmtok.train.layout import Parameter

AXES = ("data", "fsdp", "tensor")

RULES: Mapping[str, Mapping[str, str | None]] = {
    # Data parallelism: every device holds all parameters.
    "dp": {"layers": None, "embed": None, "heads": None, "mlp": None, "vocab": None},
    # Fully sharded data parallelism (ZeRO stage 3, Rajbhandari et al. 2020): each device holds a slice of the width.
    "fsdp": {"layers": None, "embed": "fsdp", "heads": None, "mlp": None, "vocab": None},
    # The same with tensor parallelism (Megatron-LM, Shoeybi et al. 2019, section 3).
    "fsdp_tp": {"layers": None, "embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor"},
}

BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh (data, fsdp, tensor); one device gives 1 x 1 x 1.

    Args:
      config: Size of each axis.
      devices: All devices unless given.

    Raises:
      MmtokError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, name) for name in AXES]
    given = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and given > 0 and len(devices) % given == 0:
        sizes[sizes.index(-1)] = len(devices) // given
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        said = ", ".join(f"{name}={getattr(config, name)}" for name in AXES)
        raise MmtokError(f"mesh {said} does not fit {len(devices)} devices; set one axis to -1 to take what remains")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


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
    if rules not in RULES:
        raise unknown("sharding rules", rules, RULES)
    if parameter.axes is None:
        return NamedSharding(mesh, PartitionSpec())
    table = RULES[rules]
    if len(parameter.axes) != len(parameter.shape):
        raise MmtokError(f"parameter '{path}': {len(parameter.axes)} axis names for shape {parameter.shape}")
    spec: list[str | None] = []
    for size, axis in zip(parameter.shape, parameter.axes):
        if axis is not None and axis not in table:
            raise unknown(f"axis of parameter '{path}'", axis, table)
        target = table[axis] if axis is not None else None
        if target is not None and target in spec:
            raise MmtokError(f"parameter '{path}': axes {parameter.axes} put two axes on '{target}' (rules '{rules}')")
        if target is not None and size % mesh.shape[target]:
            raise MmtokError(
                f"parameter '{path}': {size} along '{axis}' does not divide by {mesh.shape[target]} devices of mesh"
                f" axis '{target}'; change the size or the mesh"
            )
        spec.append(target)
    return NamedSharding(mesh, PartitionSpec(*spec))


def shardings(
    parameters: Mapping[str, Parameter], *, mesh: Mesh | AbstractMesh, rules: str
) -> dict[str, NamedSharding]:
    """Decides where every parameter lies; see `place`."""
    return {path: place(path, parameter, mesh=mesh, rules=rules) for path, parameter in parameters.items()}


def table(parameters: Mapping[str, Parameter], *, mesh: Mesh | AbstractMesh, rules: str) -> str:
    """Describes every parameter in a line: path, shape, dtype, where each axis lies, bytes per device; then the sum."""
    placed = shardings(parameters, mesh=mesh, rules=rules)
    rows, total = [], 0
    for path, parameter in parameters.items():
        held = math.prod(placed[path].shard_shape(parameter.shape)) * np.dtype(parameter.dtype).itemsize
        total += held
        spec = tuple(placed[path].spec) + (None,) * (len(parameter.shape) - len(placed[path].spec))
        shape = "x".join(map(str, parameter.shape)) or "()"
        rows.append((path, shape, str(np.dtype(parameter.dtype)), ",".join(axis or "-" for axis in spec), str(held)))
    rows.append((f"{len(parameters)} arrays", "", "", "", str(total)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
