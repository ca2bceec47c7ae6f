"""What is said of a compiled step, with this machine's CPU in the place of the target's devices."""

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok import axes
from mmtok.errors import MmtokError
from mmtok.train import ahead
from mmtok.train.ahead import compile_for
from mmtok.train.collectives import Collective
from mmtok.train.config import FitConfig, MeshConfig, OptimizerConfig
from mmtok.train.layout import Parameter
from mmtok.train.sharding import shardings
from mmtok.train.step import Program
from mmtok.train.targets import CHIPS, GiB, mesh_of, parse_target

SLOW = OptimizerConfig(b2=0.999)
"""Does not take bfloat16 moments."""


class Module(nnx.Module):
    def __init__(self):
        self.weight = axes.param(jnp.ones((6, 4)), (None, "embed"))


class Task:
    name, config, flops_per_step, tokens_per_step, batch_size = "toy", {}, 1e15, 16, 16

    def init(self, key):
        return Module()

    def loss(self, module, batch, key):
        return (batch @ module.weight[...]).sum(), {}

    def batch(self, step, rows):
        return np.ones((16, 6), np.float32)[rows]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(ahead, "target_devices", lambda target: jax.devices()[:1])


def compiled(name="v5e-1", *, remat: Any = "none", **config):
    return compile_for(Task(), FitConfig(steps=2, **config), parse_target(name), remat=remat)


def test_a_report():
    report = compiled()
    assert report.parameters == 24
    assert report.arguments > 3 * 24 * 4 + 16 * 6 * 4
    assert report.memory == 16 * GiB
    assert report.ideal_seconds == pytest.approx(1e15 / 197e12)
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in str(report).splitlines())
    assert rows["target"] == "v5e-1: 1 x v5e (1x1)"
    assert rows["mesh"] == "one device"
    assert rows["peak"].endswith("of 16.00 (0%)")
    sent = Collective(kind="all-gather", bytes=2_000_000, times=3, shapes="f32[1] f32[2] f32[3] f32[4]")
    text = str(dataclasses.replace(report, collectives=(sent,), mesh={"data": 2, "fsdp": 4, "tensor": 1}))
    assert "data 2 x fsdp 4" in text
    assert "all-gather   0.006 GB in 3" in text
    assert text.endswith("3 x 2.0 MB all-gather of f32[1] f32[2] f32[3] and 1 more")


def test_gpus_are_judged_by_the_share_that_a_run_takes():
    report = compiled("H100")
    assert report.memory == round(0.92 * 80e9)
    assert "of 68.55 (0%); a run takes 92% of the card's memory" in str(report)


@pytest.mark.parametrize(("platform", "peak"), [("tpu", 7), ("cuda", 100 + (60 - 50) + 30)])
def test_temporaries_of_gpus_lie_beside_all_else(platform, peak):
    memory = SimpleNamespace(
        peak_memory_in_bytes=7,
        argument_size_in_bytes=100,
        output_size_in_bytes=60,
        alias_size_in_bytes=50,
        temp_size_in_bytes=30,
    )
    assert ahead._peak(memory, platform) == peak
    memory.peak_memory_in_bytes = 1000
    assert ahead._peak(memory, platform) == 1000


def test_much_free_memory_is_said_where_the_model_recomputes():
    report = compiled(remat="full")
    assert "100% of the memory is free: --model.remat dots keeps matrix products" in str(report)
    assert "is free" not in str(dataclasses.replace(report, peak=report.memory // 2))
    assert "is free" not in str(dataclasses.replace(report, remat="dots"))


def test_what_does_not_fit_a_gpu(monkeypatch):
    monkeypatch.setitem(CHIPS, "H100", dataclasses.replace(CHIPS["H100"], memory=500))
    said = r"does not fit H100: .* too many; a run takes 92% .*; what helps: .*accumulate 2"
    with pytest.raises(MmtokError, match=said):
        compiled("H100")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Ran out of memory in memory space hbm. Used 17.2G of 15.75G hbm. Exceeded hbm capacity by 1.45G.",
            "17.20 GiB are needed of 15.75, 1.45 GiB too many",
        ),
        ("The size of temporaries (1.5T) exceeds available hbm (15.5G)", "1536.00 GiB are needed of 15.50"),
        ("Something else.\nMore of it.", "does not fit v5e-1: RESOURCE_EXHAUSTED: Something else.;"),
    ],
)
def test_what_libtpu_says_of_too_little_memory(monkeypatch, message, said):
    def fail():
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")

    monkeypatch.setattr(Program, "lower", lambda program: SimpleNamespace(compile=fail))
    with pytest.raises(MmtokError, match=re.escape(said)):
        compiled()


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch):
    def fail():
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(Program, "lower", lambda program: SimpleNamespace(compile=fail))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiled()


def test_hosts_of_gpus_are_slices_when_compiled_too():
    target = parse_target("16xH100")
    assert ahead._in_slices(FitConfig(steps=1), target).mesh.slices == 2
    assert ahead._in_slices(FitConfig(steps=1, mesh=MeshConfig(slices=1)), target).mesh.slices == 1


class Planned(Program):
    """A program of one parameter of `gib` GiB, as far as advice asks for it."""

    def __init__(self, target, config, *, gib, batch_size=256):
        self.config, self.task, self.mesh = config, SimpleNamespace(batch_size=batch_size), mesh_of(target, config.mesh)
        width = round(gib * GiB / 4 / 1024)
        parameters = {"large": Parameter((1024, width), jnp.float32, (None, "embed"))}
        self.layout = SimpleNamespace(params=parameters)
        placed = shardings(parameters, mesh=self.mesh, rules=config.mesh.rules)["large"]
        array = jax.ShapeDtypeStruct((1024, width), jnp.float32, sharding=placed)
        moments = jax.ShapeDtypeStruct((1024, width), jnp.dtype(config.optimizer.moments), sharding=placed)
        self.abstract = State({"large": array}, (moments, moments))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: dict
    moments: tuple


def advice(name, mesh, gib, *, remat: Any = "full", accumulate=1, optimizer=SLOW, batch_size=256):
    target = parse_target(name)
    config = FitConfig(steps=1, mesh=mesh, accumulate=accumulate, optimizer=optimizer)
    text = ahead._advice(Planned(target, config, gib=gib, batch_size=batch_size), target, remat=remat)
    said, _, ways = text.partition("; what helps: ")
    return said, ways.split(" or ")


@pytest.mark.parametrize(("moments", "bytes_each"), [("float32", 16), ("bfloat16", 12)])
def test_advice_counts_the_state_as_it_is_kept(moments, bytes_each):
    said, _ = advice("v5e-8", MeshConfig(fsdp=4, rules="fsdp"), 4, optimizer=OptimizerConfig(moments=moments))
    assert f"optimizer state take {bytes_each / 4:.2f} GiB of each device" in said


@pytest.mark.parametrize(
    ("name", "mesh", "gib", "first"),
    [
        ("v5e-4", MeshConfig(), 4, "--fit.mesh.rules fsdp --fit.mesh.fsdp 4"),
        ("v5e-64", MeshConfig(), 16, "--fit.mesh.rules fsdp --fit.mesh.fsdp 16"),
        ("v5e-4", MeshConfig(data=2, fsdp=2), 4, "--fit.mesh.rules fsdp --fit.mesh.data 1 --fit.mesh.fsdp 4"),
        ("2xv5e-4", MeshConfig(fsdp=2, rules="hybrid"), 8, "--fit.mesh.fsdp 4"),
        ("16xH100", MeshConfig(fsdp=8, rules="fsdp"), 128, "--fit.mesh.slices 1 --fit.mesh.fsdp 16"),
        ("v5e-64", MeshConfig(fsdp=2, rules="fsdp"), 1, "--fit.accumulate 2"),
    ],
)
def test_advice_begins_with_what_takes_most(name, mesh, gib, first):
    assert advice(name, mesh, gib)[1][0] == first


@pytest.mark.parametrize(
    ("name", "settings", "ways"),
    [
        ("v5e-4", {"mesh": MeshConfig(fsdp=4, rules="fsdp"), "batch_size": 4}, []),
        ("v5e-4", {"mesh": MeshConfig(), "gib": 1 + 2**-18, "batch_size": 4}, []),  # an odd width
        ("v5e-1", {"mesh": MeshConfig(), "batch_size": 9, "accumulate": 2}, ["--fit.accumulate 3"]),
        ("v5e-1", {"mesh": MeshConfig(), "batch_size": 1, "remat": "dots"}, ["--model.remat full"]),
        (
            "v5e-1",
            {"mesh": MeshConfig(), "batch_size": 1, "optimizer": OptimizerConfig()},
            ["--fit.optimizer.moments bfloat16"],
        ),
    ],
)
def test_advice_offers_what_can_be_only(name, settings, ways):
    assert advice(name, **{"gib": 16, **settings})[1] == [*ways, "more devices"]
