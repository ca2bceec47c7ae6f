"""The original 4M implementation's outputs, reproduced."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from mmtok.model import AnyToAny, set_parameters


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fourm = load(Path(__file__).with_name("fourm_mapping.py"))


def relative(got, want) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("case", ["fm7_swiglu", "fm21_qknorm"])
def test_4m_outputs_are_reproduced(shared, case):
    description, state, arrays = load(shared / "oracle" / "checkpoint.py").load(case)
    modalities = fourm.modalities_of(description)
    config = fourm.config_of(description["config"], input_bias="t5_caption" in description["modalities"])
    batch = fourm.batch_of(arrays, description, modalities)
    model = nnx.eval_shape(lambda: AnyToAny(config, modalities, rngs=nnx.Rngs(0)))
    set_parameters(model, fourm.parameters_of(state, config, modalities), where=case)
    graph, params = nnx.split(model)

    @jax.jit
    def forward(params, batch):
        model = nnx.merge(graph, params)
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

    means = []
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
        target = np.take_along_axis(logits, batch.targets[ours], 1)[:, 0]
        np.testing.assert_allclose(target, arrays[f"out/logits/{item.name}/target"], rtol=1e-4, atol=1e-4)
        means.append(float(losses[item.name].value))
        assert means[-1] == pytest.approx(float(arrays[f"out/loss/mod/{item.name}"]), rel=1e-5)
        assert float(losses[item.name].count) == ours.sum()
    assert np.mean(means) == pytest.approx(float(arrays["out/loss/mod"]), rel=1e-5)
