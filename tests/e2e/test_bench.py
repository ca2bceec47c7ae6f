"""`mmtok bench`, and `mmtok train --profile`."""

import os
import re

import pytest


def test_the_step_is_timed_without_data(tiny, mmtok, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "")
    ran = mmtok("bench", "train", tiny.config, "--root", tmp_path, "--timed", "2", "--fit.peak-flops", "1e11")
    assert ran.code == 0, ran.err
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in ran.out.splitlines())
    steps, samples = float(rows["steps/s"].split()[0]), float(rows["samples/s"].replace(",", ""))
    assert samples == pytest.approx(8 * steps, rel=0.05)
    parts = [float(rows[name].split()[0]) for name in ("encoder", "decoder", "attention", "heads")]
    total = float(rows["model FLOPs a step"])
    assert sum(parts) == pytest.approx(total, rel=1e-3)
    assert float(rows["utilisation"].rstrip("%")) / 100 == pytest.approx(total * steps / 1e11, abs=1e-3)
    assert "6 per parameter and token" in rows["counted"]
    assert "of its maker's" not in ran.out, "nobody states the peak of a CPU"
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.92", "read when a GPU is opened"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stored", [True, False])
def test_the_input_is_timed_with_and_without_a_store(tiny, mmtok, tmp_path, stored):
    ran = mmtok("bench", "data", tiny.config, "--root", tiny.root if stored else tmp_path, "--seconds", "0.2")
    assert ran.code == 0, ran.err
    assert ("random" in ran.out) is not stored
    assert re.search(
        r"read and masked +[\d,]+ samples/s by one thread \([\d.]+ x 4M's input at 8 modalities, 128 \+ 128 tokens\)",
        ran.out,
    )


def test_a_run_is_profiled(tiny, mmtok, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "")
    for name in ("data", "tokenizers", "tokens"):
        (tmp_path / name).symlink_to(tiny.root / name)
    ran = mmtok("train", tiny.config, "--root", tmp_path, "--profile", "3", "--fit.steps", "12")
    assert ran.code == 0, ran.err
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.92", "read when a GPU is opened"
    folder = tmp_path / "model" / "profile"
    text = (folder / "summary.txt").read_text()
    assert text in ran.err
    assert text.startswith("3 steps in ")
    shares = dict(line.rsplit(maxsplit=1) for line in text.splitlines()[3:10])
    parts = {name: float(share.rstrip("%")) for name, share in shares.items()}
    assert sum(parts[name] for name in parts if name != "matrix products") == pytest.approx(100, abs=0.5)
    assert min(parts[name] for name in ("attention", "mlp", "heads", "optimizer")) > 0
    assert list(folder.rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bench train", "--timed", "0"), "at least one step"),
        (("bench data", "--seconds", "0"), "must be above 0"),
        (("train", "--profile", "-1"), "must be the number of steps to trace"),
    ],
)
def test_nothing_to_time_is_refused(tiny, mmtok, words, message):
    assert message in mmtok(*words[0].split(), tiny.config, *words[1:]).error
