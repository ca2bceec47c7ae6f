"""Where the parameters of the shipped pod configuration lie, as a listing to review."""

import os
from pathlib import Path

import jax
import pytest
from flax import nnx

from mmtok.project import load_project, plan_training
from mmtok.train.config import MeshConfig
from mmtok.train.layout import Layout
from mmtok.train.sharding import abstract_mesh, shardings, table

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
REGENERATE = "MMTOK_REGENERATE_GOLDEN"


@pytest.fixture(scope="module")
def parameters():
    task = plan_training(load_project("pods_xl"))
    return Layout(nnx.eval_shape(lambda: task.init(jax.random.key(0)))).params


def test_the_listing_is_the_golden_one(parameters):
    mesh = abstract_mesh(MeshConfig(fsdp=16), devices=128)
    text = table(parameters, mesh=mesh, rules="fsdp") + "\n"
    path = GOLDEN / "shardings_XL_fsdp.txt"
    if os.environ.get(REGENERATE):
        path.write_text(text)
    assert text == path.read_text(), f"placement changed; set {REGENERATE}=1 to accept and review the difference"


@pytest.mark.parametrize("rules", ["fsdp", "fsdp_tp"])
def test_no_parameter_is_replicated(parameters, rules):
    mesh = abstract_mesh(MeshConfig(slices=2, data=2, fsdp=8), devices=32)
    placed = shardings(parameters, mesh=mesh, rules=rules)
    assert [name for name, place in placed.items() if place.is_fully_replicated] == []


def test_several_slices_hold_the_same_parameters(parameters):
    one = table(parameters, mesh=abstract_mesh(MeshConfig(fsdp=16), devices=64), rules="fsdp")
    two = table(parameters, mesh=abstract_mesh(MeshConfig(fsdp=16), devices=128, slices=2), rules="fsdp")
    assert one == two
