"""The training step on eight devices against plain JAX on one.

Run as a script (by the test, in a process of its own with eight fake CPU devices) this file makes all the checks.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmtok import axes
from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.metrics import Mean
from mmtok.modality import Modality, Vocabulary
from mmtok.model import sized
from mmtok.train.anytoany import AnyToAnyTask
from mmtok.train.checkpoints import digest
from mmtok.train.collectives import collectives
from mmtok.train.config import FitConfig, MeshConfig, OptimizerConfig
from mmtok.train.loop import fit
from mmtok.train.step import Program

sys.path.append(str(Path(__file__).resolve().parents[1]))  # run as a script, pytest has not added it
from reference.model import MODALITIES, random_batch
from reference.model import config as model_config

MESHES = (
    MeshConfig(slices=1, rules="dp"),
    MeshConfig(slices=1, data=2, fsdp=4, rules="fsdp"),
    MeshConfig(slices=2, fsdp=4, rules="fsdp"),
    MeshConfig(slices=1, data=2, fsdp=2, tensor=2, rules="fsdp_tp"),
)


class Toy(nnx.Module):
    def __init__(self, rngs):
        normal = jax.nn.initializers.normal(0.3)
        self.up = axes.param(normal(rngs.params(), (6, 16)), (None, "mlp"))
        self.mix = axes.param(normal(rngs.params(), (16, 8)), ("mlp", "embed"))
        self.scale = axes.param(jnp.ones(8), ("embed",))
        self.table = axes.param(normal(rngs.params(), (10, 8)), (None, "table"))
        self.free = nnx.Param(jnp.zeros(3))


class ToyTask:
    name, config, flops_per_step, tokens_per_step, batch_size = "toy", {}, 0.0, 16, 16

    def init(self, key):
        return Toy(nnx.Rngs(key))

    def loss(self, module, batch, key):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        hidden = jnp.tanh(x @ module.up[...]) @ module.mix[...] * module.scale[...]
        logits = (hidden @ module.table[...].T).at[:, :3].add(module.free[...])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], axis=1)
        return losses.mean(), {"loss/toy": Mean(losses.sum(), jnp.float32(len(losses)))}

    def batch(self, step, rows):
        random = np.random.default_rng(step)
        x, y = random.normal(size=(16, 6)).astype(np.float32), random.integers(0, 10, 16).astype(np.int32)
        return {"x": x[rows], "y": y[rows]}


def any_to_any() -> AnyToAnyTask:
    """With tables that are larger than anything else that is sent."""
    modalities = tuple(Modality(name=n, kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=512)) for n in "ab")
    return AnyToAnyTask(
        sized("nano", dim=32, heads=2, head_dim=16, mlp_hidden=64, encoder_depth=1, decoder_depth=1),
        modalities,
        batches=GridBatches(),
        entropies={"a": 3.0, "b": 3.0},
    )


def every_modality() -> AnyToAnyTask:
    """All kinds of modalities with padding, in scanned and recomputed layers, separate tables and registers."""
    return AnyToAnyTask(
        model_config(dim=32, heads=4, head_dim=8, mlp_hidden=48, remat="full", registers=2),
        MODALITIES,
        batches=EveryModality(),
    )


class EveryModality:
    batch_size = 16

    def __call__(self, step, rows):
        return jax.tree.map(lambda part: part[rows], random_batch(step, samples=16, encoder=16, decoder=16))


class GridBatches:
    """Half the tokens of two 4 x 4 grids in, the other half out, in fixed numbers of each."""

    batch_size = 16

    def __call__(self, step, rows):
        return jax.tree.map(lambda part: part[rows], grid_batch(step))


def grid_batch(step):
    random = np.random.default_rng(step)
    order = np.argsort(random.random((16, 2, 16)), axis=-1).astype(np.int32)
    ids = random.integers(0, 512, (16, 2, 16)).astype(np.int32)
    seen, hidden = np.sort(order[..., :8]), np.sort(order[..., 8:])
    modality = np.repeat(np.broadcast_to(np.arange(2, dtype=np.int32), (16, 2)), 8, axis=1)
    valid = np.ones((16, 16), bool)
    limit = np.broadcast_to(np.repeat(np.array([8, 16], np.int32), 8), (16, 16))
    pick = lambda place: np.take_along_axis(ids, place, axis=2).reshape(16, 16, 1)  # noqa: E731
    return MaskedBatch(
        encoder=EncoderSlots(pick(seen), modality, seen.reshape(16, 16), valid, {}),
        decoder=DecoderSlots(np.zeros((16, 16, 1), np.int32), modality, hidden.reshape(16, 16), valid, limit),
        targets=pick(hidden),
    )


def config(mesh: MeshConfig, *, accumulate: int = 1) -> FitConfig:
    """Without clipping and with a known decay, the first moment of Adam tells the gradient of the first step."""
    optimizer = OptimizerConfig(b1=0.9, clip_norm=0.0, schedule="constant")
    return FitConfig(
        steps=6,
        checkpoint_every=3,
        log_every=1,
        ema=0.5,
        trackers=(),
        mesh=mesh,
        optimizer=optimizer,
        accumulate=accumulate,
    )


def check_against_one_device(task, configs, *, large_tables=False):
    """The first step of every configuration has the loss and the gradients that plain JAX has on one device."""
    expected, digests = None, set()
    for one in configs:
        program = Program(task, one)
        state = program.init()
        digests.add(int(digest(state)))
        expected = expected or on_one_device(task, program.layout, jax.tree.map(np.asarray, state))
        loss, grads = expected
        state, window = program.step(state, program.put(task.batch(0, program.rows)))
        np.testing.assert_allclose(window[0, 0], loss, rtol=1e-5)
        for name, grad in grads.items():
            got = np.asarray(moments(state).mu[name]) / 0.1
            np.testing.assert_allclose(got, grad, rtol=1e-5, atol=1e-5, err_msg=f"{one.mesh} {name}")
            assert np.linalg.norm(got - grad) <= 1e-5 * np.linalg.norm(grad), f"{one.mesh} {name}"  # small ones too
        check_placement(program, state)
        if large_tables and one.mesh.rules != "dp":
            check_what_is_sent(program)
    assert len(digests) == 1, "the first parameters depend on the mesh"


def on_one_device(task, layout, arrays):
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(arrays.key)), 0)
    batch = jax.tree.map(jnp.asarray, task.batch(0, np.arange(16)))
    loss = lambda params: task.loss(layout.merge(params, arrays.rest), batch, key)[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))({name: jnp.asarray(value) for name, value in arrays.params.items()})


def moments(state):
    parts = jax.tree.leaves(state.optimizer, is_leaf=lambda part: hasattr(part, "mu"))
    return next(part for part in parts if hasattr(part, "mu"))


def check_placement(program, state):
    """Parameters, both moments and the average are split as the table says, and stay so after a step."""
    for arrays in (state.params, moments(state).mu, moments(state).nu, state.ema):
        for name, wanted in program.abstract.params.items():
            assert arrays[name].sharding.is_equivalent_to(wanted.sharding, arrays[name].ndim), name
    if program.config.mesh.rules == "fsdp_tp" and "mix" in state.params:
        assert {shard.data.shape for shard in state.params["mix"].addressable_shards} == {(8, 4)}
        assert {shard.data.shape for shard in state.params["table"].addressable_shards} == {(10, 2)}
        assert {shard.data.shape for shard in state.params["free"].addressable_shards} == {(3,)}


def check_resume_on_another_mesh(folder):
    """Three steps on one mesh and three on another are six steps on one."""
    whole = fit(ToyTask(), config(MESHES[3]), folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    resumed = fit(ToyTask(), config(MESHES[0]), folder)
    for name in ("up", "mix", "scale", "table", "free"):
        got, expected = getattr(resumed.module, name)[...], getattr(whole.module, name)[...]
        assert got.sharding.is_fully_replicated
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def check_what_is_sent(program):
    """Split over eight devices, no table is gathered, nor its gradient summed, as a whole."""
    sent = collectives(program.compile().as_text() or "")
    tables = [item for name, item in program.layout.params.items() if ".tokens." in name]
    least = 4 * min(item.size for item in tables)
    assert {item.kind for item in sent} >= {"all-gather", "reduce-scatter", "all-to-all"}
    for item in sent:
        assert item.bytes < least, item


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags, "TF_CPP_MIN_LOG_LEVEL": "1"}  # warnings of the partitioner are to be seen
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "devices", "checked"]
    assert "Involuntary full rematerialization" not in done.stderr  # an array that all devices would hold whole


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        check_against_one_device(ToyTask(), [config(mesh) for mesh in MESHES])
        check_resume_on_another_mesh(Path(temporary) / "run")
        check_against_one_device(
            any_to_any(), [config(mesh, accumulate=mesh.slices) for mesh in MESHES], large_tables=True
        )
        check_against_one_device(every_modality(), [config(mesh) for mesh in MESHES[2:]])  # those that split most
    print(jax.device_count(), "devices checked")
