"""The sharding table, on meshes that are larger than the machine."""

import re

import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from mmtok.errors import MmtokError
from mmtok.train.config import MeshConfig
from mmtok.train.layout import Parameter
from mmtok.train.sharding import AXES, RULES, make_mesh, place, table

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
