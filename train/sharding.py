"""Where arrays lie on a device mesh: one table, apart from the maths.

Layers say what their axes mean (`mmtok.axes`); a row of `RULES` says which mesh axis splits each meaning.
"""

import math
from collections import Counter
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
_FSDP = {**_NOWHERE, "batch": _SAMPLES, "token": _SAMPLES, "embed": ("fsdp",), "table": ("fsdp",)}

RULES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Data parallelism: every device holds all parameters.
    "dp": {**_NOWHERE, "batch": _SAMPLES, "token": _SAMPLES},
    # Fully sharded data parallelism (ZeRO stage 3, Rajbhandari et al. 2020): each device holds a slice of the width.
    "fsdp": _FSDP,
    # The same on several slices, by name: `slice` splits no parameter, so the slow network carries gradients only.
    "hybrid": _FSDP,
    # The same with tensor parallelism (Megatron-LM, Shoeybi et al. 2019, section 3).
    "fsdp_tp": {
        **_FSDP,
        "token": (*_SAMPLES, "tensor"),
        "heads": ("tensor",),
        "mlp": ("tensor",),
        "table": ("fsdp", "tensor"),
    },
}

COLUMNS = ("parameter", "shape", "dtype", "axes", "split over", "bytes per device")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh (slice, data, fsdp, tensor); one device gives 1 x 1 x 1 x 1.

    Slices are what the devices say: slices of TPUs, hosts of GPUs. On GPUs that is a default only: other `slices` group
    them anew, host after host, for NCCL joins any.

    Args:
      config: Size of each axis.
      devices: All devices unless given.

    Raises:
      MmtokError: the sizes do not multiply to the number of devices, the rules leave an axis without work, or hosts
        that are to be slices have different numbers of GPUs.
    """
    devices = jax.devices() if devices is None else devices
    gpus = devices[0].platform in ("gpu", "cuda")
    members = Counter(map(_slice, devices))
    found = len(members)
    if gpus and config.slices == -1 and len(set(members.values())) > 1:
        numbers = ", ".join(str(members[host]) for host in sorted(members))
        raise MmtokError(
            f"the hosts have different numbers of GPUs ({numbers}) and are no slices; start the same number on"
            " each, or set fit.mesh.slices to 1"
        )
    sizes = _sizes(config, len(devices), slices=found, regroup=gpus)
    if gpus:
        grid = np.asarray(sorted(devices, key=lambda device: (_slice(device), device.id))).reshape(sizes)
    elif found > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *sizes[1:]), (found, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(config: MeshConfig, *, devices: int, slices: int = 1, regroup: bool = False) -> AbstractMesh:
    """Makes the mesh of so many devices, without any; see `make_mesh`.

    Args:
      config: Size of each axis.
      devices: How many there would be.
      slices: Groups that they would say they are in.
      regroup: Whether these are a default only, as on GPUs.
    """
    sizes = _sizes(config, devices, slices=slices, regroup=regroup)
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0)


def _sizes(config: MeshConfig, count: int, *, slices: int, regroup: bool) -> tuple[int, ...]:
    sizes = [slices if config.slices == -1 else config.slices, config.data, config.fsdp, config.tensor]
    said = ", ".join(f"{name}={size}" for name, size in zip(("slices", *AXES[1:]), sizes))
    if slices > 1 and sizes[0] != slices and not regroup:
        raise MmtokError(f"mesh {said} does not fit {slices} slices; leave `slices` at -1 to take what is there")
    given = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and given > 0 and count % given == 0:
        sizes[sizes.index(-1)] = count // given
    if min(sizes) < 1 or math.prod(sizes) != count:
        across = ", or `slices` to 1 for axes that reach across hosts" if regroup and slices > 1 else ""
        raise MmtokError(f"mesh {said} does not fit {count} devices; set one axis to -1 to take what remains{across}")
    _check_rules(config.rules, dict(zip(AXES, sizes)))
    return tuple(sizes)


def _check_rules(rules: str, sizes: Mapping[str, int]) -> None:
    """Refuses a mesh that the rules do not use: on it devices would silently hold, or do, the same."""
    row, count, tensor = _row(rules), math.prod(sizes.values()), sizes["tensor"]
    if rules == "hybrid" and sizes["slice"] == 1:
        raise MmtokError("rules 'hybrid' repeat the parameters on several slices, there is 1; take rules 'fsdp'")
    splitting = {axis for name in _NOWHERE for axis in row[name]}
    if tensor > 1 and "tensor" not in splitting:
        raise MmtokError(
            f"mesh tensor={tensor}: rules '{rules}' split nothing over it, so that {tensor} devices each would do the"
            " same work; set fit.mesh.tensor to 1 or fit.mesh.rules to fsdp_tp"
        )
    if count > 1 and splitting and all(sizes[axis] == 1 for axis in splitting):
        raise MmtokError(
            f"mesh fsdp=1: rules '{rules}' would leave every parameter whole on each of {count} devices; set"
            " fit.mesh.fsdp to the number of devices that share one copy, or fit.mesh.rules to dp"
        )


def _row(rules: str) -> Mapping[str, tuple[str, ...]]:
    if rules not in RULES:
        raise unknown("sharding rules", rules, RULES)
    return RULES[rules]


def placement(mesh: Mesh | AbstractMesh, *, rules: str) -> Placement:
    """Returns where axis names lie.

    Raises:
      MmtokError: there are no such rules.
    """
    return Placement(mesh, _row(rules))


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
