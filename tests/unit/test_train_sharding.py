"""The sharding table, on meshes that are larger than the machine."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from mmtok.errors import MmtokError
from mmtok.train.config import MeshConfig
from mmtok.train.layout import Parameter
from mmtok.train.sharding import AXES, RULES, abstract_mesh, make_mesh, place, placement, table

MESH = AbstractMesh((1, 2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 4)
UP = Parameter((3, 8, 6), jnp.float32, ("layers", "embed", "mlp"))


def test_one_device_is_a_mesh_of_ones():
    mesh = make_mesh(MeshConfig())
    assert dict(mesh.shape) == {"slice": 1, "data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("config", [MeshConfig(data=2), MeshConfig(data=-1, fsdp=-1), MeshConfig(data=0)])
def test_a_mesh_that_does_not_fit_is_refused(config):
    with pytest.raises(MmtokError, match="does not fit 1 devices"):
        make_mesh(config)


@pytest.mark.parametrize(
    ("rules", "spec"),
    [("dp", (None, None, None)), ("fsdp", (None, "fsdp", None)), ("fsdp_tp", (None, "fsdp", "tensor"))],
)
def test_rules_place_axes(rules, spec):
    assert place("up", UP, mesh=MESH, rules=rules).spec == PartitionSpec(*spec)


def test_unnamed_axes_are_held_everywhere():
    parameter = Parameter((7, 5), jnp.float32, None)
    assert place("free", parameter, mesh=MESH, rules="fsdp_tp").spec == PartitionSpec()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (Parameter((6, 8), jnp.float32, ("embed", "mlp")), r"'a\.b': 6 along 'embed' does not divide by 4"),
        (Parameter((8, 8), jnp.float32, ("embed", "embed")), r"'a\.b': .* two axes on 'fsdp'"),
        (Parameter((8, 8), jnp.float32, ("embed",)), r"'a\.b': 1 axis names"),
        (Parameter((8,), jnp.float32, ("embd",)), r"'a\.b' 'embd' \(did you mean 'embed'\?\)"),
    ],
)
def test_conflicts_name_the_parameter(parameter, message):
    with pytest.raises(MmtokError, match=message):
        place("a.b", parameter, mesh=MESH, rules="fsdp_tp")


def test_unknown_rules():
    with pytest.raises(MmtokError, match="did you mean 'fsdp'"):
        place("a", UP, mesh=MESH, rules="fdsp")


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "stand-in"
    process_index: int = 0


GPUS = [Device(id=index, slice_index=index // 4) for index in (5, 0, 7, 2, 4, 1, 3, 6)]
"""Two hosts of four, in no order."""


def grid(config, devices):
    return np.vectorize(lambda device: device.id)(make_mesh(config, devices).devices).tolist()


def test_hosts_of_gpus_are_slices_by_default():
    assert grid(MeshConfig(fsdp=4, rules="fsdp"), GPUS) == [[[[0], [1], [2], [3]]], [[[4], [5], [6], [7]]]]


def test_slices_of_gpus_can_be_grouped_anew():
    assert grid(MeshConfig(slices=1, fsdp=8, rules="fsdp"), GPUS) == [[[[n] for n in range(8)]]]
    assert make_mesh(MeshConfig(slices=4, fsdp=2, rules="hybrid"), GPUS).shape["slice"] == 4
    with pytest.raises(MmtokError, match=r"slices=2, data=-1, fsdp=8, .* 8 devices.*`slices` to 1"):
        make_mesh(MeshConfig(fsdp=8, rules="fsdp"), GPUS)
    with pytest.raises(MmtokError, match=r"slices=3, .* does not fit 8 devices"):
        make_mesh(MeshConfig(slices=3), GPUS)


def test_hosts_with_different_numbers_of_gpus_are_no_slices():
    six = [device for device in GPUS if device.id < 6]
    with pytest.raises(MmtokError, match=r"different numbers of GPUs \(4, 2\).*fit\.mesh\.slices to 1"):
        make_mesh(MeshConfig(fsdp=3, rules="fsdp"), six)
    assert grid(MeshConfig(slices=1, fsdp=6, rules="fsdp"), six) == [[[[n] for n in range(6)]]]


def test_slices_of_tpus_stay_as_they_are():
    tpus = [dataclasses.replace(device, platform="other") for device in GPUS]
    assert make_mesh(MeshConfig(fsdp=4, rules="fsdp"), tpus).shape["slice"] == 2
    for slices in (1, 4):
        with pytest.raises(MmtokError, match=f"slices={slices}, .* does not fit 2 slices"):
            make_mesh(MeshConfig(slices=slices, rules="dp"), tpus)


@pytest.mark.parametrize("slices", [-1, 1, 4])
def test_a_mesh_on_paper_is_that_of_the_devices(slices):
    config = MeshConfig(slices=slices, fsdp=2, rules="fsdp")
    real = make_mesh(config, GPUS)
    assert dict(abstract_mesh(config, devices=8, slices=2, regroup=True).shape) == dict(real.shape)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            MeshConfig(rules="fsdp"),
            r"'fsdp' would leave every parameter whole on each of 8 devices; set fit\.mesh\.fsdp",
        ),
        (MeshConfig(rules="fsdp_tp"), "rules 'fsdp_tp' would leave every parameter whole"),
        (MeshConfig(slices=2, rules="hybrid"), "rules 'hybrid' would leave every parameter whole"),
        (MeshConfig(tensor=2), "tensor=2: rules 'dp' split nothing over it, so that 2 devices each"),
        (MeshConfig(fsdp=4, tensor=2, rules="fsdp"), "tensor=2: rules 'fsdp' split nothing over it"),
        (MeshConfig(fsdp=8, rules="hybrid"), "'hybrid' repeat the parameters on several slices, there is 1"),
    ],
)
def test_devices_that_would_do_the_same_are_refused(config, message):
    with pytest.raises(MmtokError, match=message):
        abstract_mesh(config, devices=8)


@pytest.mark.parametrize(
    "config", [MeshConfig(fsdp=8), MeshConfig(tensor=8, rules="fsdp_tp"), MeshConfig(slices=2, fsdp=4, rules="hybrid")]
)
def test_devices_that_share_the_work_are_not(config):
    assert abstract_mesh(config, devices=8).size == 8


@pytest.mark.parametrize("rules", ["dp", "fsdp", "fsdp_tp"])
def test_one_device_takes_any_rules_of_one_slice(rules):
    assert make_mesh(MeshConfig(rules=rules)).size == 1


def test_hybrid_splits_within_a_slice():
    mesh = abstract_mesh(MeshConfig(slices=2, fsdp=4, rules="hybrid"), devices=8)
    assert place("up", UP, mesh=mesh, rules="hybrid").spec == PartitionSpec(None, "fsdp", None)
    assert placement(mesh, rules="hybrid").spec(("batch",)) == PartitionSpec(("slice", "fsdp"))


def test_all_rules_know_the_same_axes():
    assert len({frozenset(rules) for rules in RULES.values()}) == 1


def test_table_says_names_places_and_bytes():
    parameters = {
        "up": UP,
        "scale": Parameter((8,), jnp.bfloat16, (None,)),
        "free": Parameter((2, 2), jnp.float32, None),
        "tokens": Parameter((16, 8), jnp.float32, (None, "table")),
    }
    rows = [re.split(r"  +", line) for line in table(parameters, mesh=MESH, rules="fsdp_tp").splitlines()]
    assert rows == [
        ["parameter", "shape", "dtype", "axes", "split over", "bytes per device"],
        ["up", "3x8x6", "float32", "layers,embed,mlp", "-,fsdp,tensor", str(3 * 2 * 3 * 4)],
        ["scale", "8", "bfloat16", "-", "-", "16"],
        ["free", "2x2", "float32", "-,-", "-,-", "16"],
        ["tokens", "16x8", "float32", "-,table", "-,fsdp+tensor", "64"],
        ["4 arrays", str(3 * 2 * 3 * 4 + 16 + 16 + 64)],
    ]
