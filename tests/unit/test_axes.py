"""Moving arrays by the names of their axes; tests/multidevice has more devices."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from mmtok import axes
from mmtok.errors import MmtokError

MESH = AbstractMesh((2, 4, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
PLACEMENT = axes.Placement(MESH, {"batch": ("data", "fsdp"), "table": ("fsdp", "tensor"), "mlp": ("tensor",)})


def test_names_become_mesh_axes():
    assert PLACEMENT.spec(("batch", None, "table")) == PartitionSpec(("data", "fsdp"), None, "fsdp")
    assert PLACEMENT.spec(("mlp",)) == PartitionSpec(None), "an axis of one device splits nothing"


def test_without_a_placement_nothing_moves():
    x = jnp.arange(6.0).reshape(2, 3)
    moved = (
        axes.constrain(x, "batch", None),
        axes.whole_width(x, (None, "embed")),
        axes.gather(x, "table", axis=1),
        axes.scatter_sum(x, "table", axis=1),
        axes.total(x, "batch", beside="table"),
        axes.exchange(x, "table", split=0, join=1),
    )
    for y in moved:
        np.testing.assert_array_equal(y, x)
    assert axes.parts("table") == 1
    assert axes.per_device(len, inputs=(), outputs=()) is len


def test_what_does_not_divide_is_named():
    with (
        axes.placed(PLACEMENT),
        pytest.raises(MmtokError, match="12 along axis 'batch' do not divide by the 8 devices"),
    ):
        axes.per_device(lambda x: (x,), inputs=(("batch",),), outputs=(("batch",),))(jnp.zeros(12))
    with axes.placed(PLACEMENT):
        assert axes.parts("batch") == 8
    assert axes.parts("batch") == 1
