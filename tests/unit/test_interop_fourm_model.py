"""4M's any-to-any models: the original implementation's outputs reproduced, and its files written back bit for bit."""

import jax
import numpy as np
import pytest
from flax import nnx

from mmtok.interop.fourm.checkpoint import open_checkpoint
from mmtok.interop.fourm.model import export_model, read_model
from mmtok.model import AnyToAny, load_model
from mmtok.tensors import TensorFile
from reference import fourm

pytestmark = pytest.mark.usefixtures("optimised")

CASES = ["fm7_swiglu", "fm21_qknorm"]


def relative(got, want) -> float:
    """The relative error in the sense of the specification, and no single value far off either."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.fixture(scope="module", params=CASES)
def case(request, shared, tmp_path_factory):
    """Description, arrays, checkpoint, and the folder of the imported model."""
    folder = tmp_path_factory.mktemp(request.param)
    description, arrays, file = fourm.load_case(shared, request.param, folder)
    found = read_model(open_checkpoint(file))
    found.write(folder / "model", found.modalities, extra={})
    return description, arrays, file, folder / "model"


def test_outputs_and_losses_of_the_original(case):
    description, arrays, _, folder = case
    model, _ = load_model(folder)
    modalities = model.modalities
    assert [item.name for item in modalities] == description["config"]["domains_in"]
    batch = fourm.batch_of(arrays, description, modalities)
    graph, params = nnx.split(model)

    @jax.jit
    def forward(params, batch):
        model: AnyToAny = nnx.merge(graph, params)
        queries = model.decode(batch.decoder, model.encode(batch.encoder))
        return model.encoder_hidden(batch.encoder), queries, model.losses(batch)

    hidden, queries, losses = forward(params, batch)
    hidden, queries = np.asarray(hidden), np.asarray(queries)
    ids = {item.name: description["modality_ids"][item.name] for item in modalities}

    np.testing.assert_array_equal(~batch.encoder.valid, arrays["out/encoder/pad"])
    expected_ids = np.array([ids[item.name] for item in modalities])[batch.encoder.modality]
    np.testing.assert_array_equal(np.where(batch.encoder.valid, expected_ids, -1), arrays["out/encoder/modality_id"])
    used = batch.encoder.valid
    assert relative(hidden[used], arrays["out/encoder/output"][used]) < 1e-4

    means, sizes = [], []
    for index, item in enumerate(modalities):
        if not item.is_target:
            continue
        ours = batch.decoder.valid & (batch.decoder.modality == index)
        theirs = ~arrays["out/decoder/pad"] & (arrays["out/decoder/modality_id"] == ids[item.name])
        np.testing.assert_array_equal(batch.targets[ours, 0], arrays["out/decoder/target_ids"][theirs])
        assert relative(queries[ours], arrays["out/decoder/output"][theirs]) < 1e-4
        logits = np.asarray(model.logits(jax.numpy.asarray(queries[ours]), modality=index))[:, 0].astype(np.float64)
        assert relative(logits[:, ::61], arrays[f"out/logits/{item.name}/every_61st"]) < 1e-4
        top = logits.max(1)
        normaliser = np.log(np.exp(logits - top[:, None]).sum(1)) + top
        assert relative(normaliser, arrays[f"out/logits/{item.name}/logsumexp"]) < 1e-4
        target = np.take_along_axis(logits, np.asarray(batch.targets[ours]), 1)[:, 0]
        assert relative(target, arrays[f"out/logits/{item.name}/target"]) < 1e-4
        means.append(float(losses[item.name].value))
        assert means[-1] == pytest.approx(float(arrays[f"out/loss/mod/{item.name}"]), rel=1e-5)
        assert float(losses[item.name].count) == ours.sum()
        sizes.append(ours.sum() * item.vocab_size)
    assert np.mean(means) == pytest.approx(float(arrays["out/loss/mod"]), rel=1e-5)
    # The original's `token` loss weights modalities by tokens times vocabulary; ours, a mean over tokens, does not.
    assert np.average(means, weights=sizes) == pytest.approx(float(arrays["out/loss/token"]), rel=1e-5)


def test_export_gives_the_file_back_bit_for_bit(case, tmp_path):
    *_, file, folder = case
    export_model(folder, tmp_path / "again.safetensors")
    before, after = TensorFile(file), TensorFile(tmp_path / "again.safetensors")
    assert before.metadata == after.metadata
    assert before.specs == after.specs
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name
