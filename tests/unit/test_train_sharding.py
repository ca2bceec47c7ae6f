"""The sharding table, on meshes that are larger than the machine."""

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


def test_table_counts_bytes_per_device():
    text = table({"up": UP, "scale": Parameter((8,), jnp.bfloat16, (None,))}, mesh=MESH, rules="fsdp_tp")
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["up", "3x8x6", "float32", "-,fsdp,tensor", str(3 * 2 * 3 * 4)]
    assert rows[1] == ["scale", "8", "bfloat16", "-", "16"]
    assert rows[2] == ["2", "arrays", str(3 * 2 * 3 * 4 + 16)]
