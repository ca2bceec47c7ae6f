"""A tiny project goes once through every command, and what the commands leave behind is what they promise."""

import json
import math
import shlex

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

MODALITIES = ["pixels", "rgb", "depth", "caption", "box", "camera"]
TARGETS = "depth,box,caption,camera"


@pytest.fixture(scope="module")
def sampled(tiny, mmtok, tmp_path_factory):
    """Depth, boxes, caption and camera from a photo, once."""
    folder = tmp_path_factory.mktemp("sampled")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "grey.jpg")  # neither the size nor the mode of the training pictures
    given = f"rgb={folder / 'grey.jpg'}"
    words = ("sample", "--model", tiny.model, "--given", given, "--to", TARGETS, "--out", folder / "out", "--seed", "3")
    ran = mmtok(*words)
    assert ran.code == 0, ran.err
    return folder


def test_every_stage_ends_well(tiny):
    for stage, ran in tiny.said.items():
        assert ran.code == 0, f"{stage}: {ran.err}"
    assert "train: 48 samples with rgb, depth" in tiny.said["data"].err
    assert "PSNR dB" in tiny.said["tokenizer eval"].out
    assert "48 train, 8 validation, 8 test, 2 compositional samples" in tiny.said["tokenize"].err


def test_every_stage_run_again_skips_what_is_done(tiny, mmtok, contents):
    before = contents(tiny.root)
    said = {stage: mmtok(*stage.split(), tiny.config, "--root", tiny.root) for stage in tiny.said}
    assert all(ran.code == 0 for ran in said.values())
    assert "making" not in said["data"].err
    assert "tokenizer rgb: is there already" in said["tokenizer train"].err
    assert "already holds the 48 samples" in said["tokenize"].err
    assert "model: going on from step 60" in said["train"].err
    after = contents(tiny.root)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in changed if "/tensorboard/" not in name} == set()


def test_tokenizers_are_described_by_their_folders(tiny, mmtok):
    ran = mmtok("tokenizer", "inspect", tiny.root / "tokenizers" / "depth")
    record = json.loads(ran.out)
    assert ran.code == 0
    assert record["family"] == "image"
    assert record["config"]["values"] == "depth"
    assert record["summary"]["training"]["steps"] == 5
    assert {"AbsRel", "constant AbsRel", "codes used", "perplexity"} <= record["summary"].keys()
    card = (tiny.root / "tokenizers" / "depth" / "README.md").read_text()
    assert record["fingerprint"] in card
    reports = json.loads((tiny.root / "eval" / "tokenizers.json").read_text())
    assert reports.keys() == set(MODALITIES)
    for name in reports:
        assert Image.open(tiny.root / "eval" / f"tokenizer_{name}.png").width > 144


def test_token_store_is_a_tensorflow_data_set(tiny):
    builder = tfds.builder_from_directory(tiny.root / "tokens")
    assert builder.info.splits["train"].num_examples == 48
    source = builder.as_data_source("train")  # pyright: ignore[reportCallIssue]
    assert len(source) == 48
    fingerprints = {
        item["name"]: item["fingerprint"]
        for item in json.loads((tiny.root / "tokens" / "mmtok.json").read_text())["modalities"]
    }
    tokenizer = json.loads((tiny.root / "tokenizers" / "depth" / "config.json").read_text())
    assert fingerprints["depth"] == tokenizer["fingerprint"]
    depth = np.stack([sample["depth"] for sample in source])
    assert depth.size == 48 * 16
    assert depth.min() >= 0
    assert depth.max() < 64


def test_log_has_losses_beside_entropies_and_fill_rates(tiny):
    entries = [json.loads(line) for line in (tiny.model / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [20, 40, 60]
    for entry in entries:
        for name in ("rgb", "depth", "caption", "box", "camera"):
            assert 0 < entry[f"loss/{name}"] < 20
            assert 0 < entry[f"entropy/{name}"] < math.log(4096)
        assert entry["fill/input"] > 0.9
        assert entry["fill/target"] > 0.9
        assert entry["tokens_per_second"] > 0
    assert entries[-1]["loss"] < entries[0]["loss"]
    assert "loss/pixels" not in entries[0]
    assert list((tiny.model / "tensorboard").glob("events*"))


def test_model_folder_is_complete(tiny):
    description = json.loads((tiny.model / "config.json").read_text())
    assert [item["name"] for item in description["modalities"]] == [
        "pixels",
        "rgb",
        "depth",
        "caption",
        "box",
        "camera",
    ]
    assert description["project"]["data"]["train"] == 48
    assert description["sampling"]["depth"]["steps"] == 4
    assert (tiny.model / "model.safetensors").stat().st_size > 10_000
    assert description["weights"]["fingerprint"] in (tiny.model / "README.md").read_text()
    copies = sorted(path.name for path in (tiny.model / "tokenizers").iterdir())
    assert copies == sorted(MODALITIES)


def test_samples_are_natural_files(sampled):
    out = sampled / "out"
    depth = np.load(out / "depth.npy")
    assert depth.shape == (32, 32)
    assert depth.dtype == np.float32
    millimetres = np.asarray(Image.open(out / "depth.png"))
    assert np.allclose(millimetres / 1000, np.where(np.isfinite(depth), depth, 0), atol=1e-3)
    assert isinstance(json.loads((out / "box.json").read_text()), list)
    assert len(json.loads((out / "camera.json").read_text())) > 1
    assert (out / "caption.txt").read_text().endswith("\n")
    gallery = Image.open(out / "gallery.png")
    assert gallery.width > 5 * 160
    names = {"box.json", "camera.json", "caption.txt", "depth.npy", "depth.png", "gallery.png", "manifest.json"}
    assert {path.name for path in out.iterdir()} == names
    assert not [path for path in sampled.iterdir() if path.name.startswith(".")]


def test_manifest_reproduces_the_samples(sampled, mmtok, contents):
    manifest = json.loads((sampled / "out" / "manifest.json").read_text())
    assert manifest["files"] == [
        {"depth": "depth.npy", "box": "box.json", "caption": "caption.txt", "camera": "camera.json"}
    ]
    assert [target["modality"] for target in manifest["plan"]] == TARGETS.split(",")
    program, *words = shlex.split(manifest["command"])
    assert program == "mmtok"
    ran = mmtok(*words, "--out", sampled / "again")
    assert ran.code == 0
    first, again = contents(sampled / "out"), contents(sampled / "again")
    assert first.keys() == again.keys()
    assert {name for name in first if first[name] != again[name]} == {"manifest.json"}


def test_samples_follow_the_seed(tiny, mmtok, tmp_path, contents):
    words = (
        "sample",
        "--model",
        tiny.model,
        "--given",
        "caption=two red spheres",
        "--to",
        "rgb,depth",
        "--samples",
        "2",
    )
    words += ("--temperature", "1", "--scheme", "maskgit", "--steps", "2", "--top-k", "20", "--guidance", "2")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert mmtok(*words, "--out", tmp_path / name, "--seed", seed).code == 0
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert set(a) == {
        *("gallery.png", "manifest.json"),
        *("000/rgb.png", "000/depth.npy", "000/depth.png", "001/rgb.png", "001/depth.npy", "001/depth.png"),
    }
    pictures = [name for name in a if name.endswith("rgb.png")]
    assert all(a[name] == b[name] for name in pictures)
    assert all(a[name] != c[name] for name in pictures)
    assert a["000/rgb.png"] != a["001/rgb.png"]


def test_part_of_a_picture_is_kept(tiny, mmtok, photo, tmp_path):
    words = ("sample", "--model", tiny.model, "--given", f"rgb={photo}", "--to", "rgb", "--temperature", "1")
    left = ("--keep", "rgb=0,0,0.5,1")
    for name, more in (("a", (*left, "--seed", "1")), ("b", (*left, "--seed", "2")), ("all", ())):
        assert mmtok(*words, *more, "--out", tmp_path / name).code == 0
    a, b, all = (np.asarray(Image.open(tmp_path / name / "rgb.png")).astype(int) for name in ("a", "b", "all"))
    assert a.shape == (32, 32, 3)
    assert (a != b).any()
    left, right = np.abs(a - all)[:, :8].mean(), np.abs(a - all)[:, 24:].mean()
    assert left < right  # the tokens of the left half are those of the photo


def test_dry_run_says_the_plan_and_writes_nothing(tiny, mmtok, photo, tmp_path):
    words = ("sample", "--model", tiny.model, "--given", f"rgb={photo}", "--to", "depth,caption", "--steps", "3")
    ran = mmtok(*words, "--keep", "rgb=0,0,0.5,1", "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "given: pixels (8 of 16 positions), rgb (8 of 16 positions)"
    assert lines[1].startswith("1. depth from pixels, rgb: halton, 16 tokens in 3 linear steps, temperature 0.3")
    assert lines[2].startswith("2. caption from pixels, rgb, depth: autoregressive")
    assert not (tmp_path / "out").exists()


def test_evaluation_prints_and_writes_its_table(tiny, mmtok, copy):
    ran = mmtok("eval", tiny.config, "--root", copy, "--eval-samples", "2")
    assert ran.code == 0, ran.err
    rows = json.loads((copy / "eval" / "test.json").read_text())
    directions = {row["direction"] for row in rows}
    assert directions == {"rgb -> depth", "rgb -> box", "caption -> rgb -> depth"}
    for row in rows:
        assert row["samples"] == 2
        assert all(math.isfinite(row[key]) for key in ("model", "tokenizer", "constant", "shuffled"))
    lines = ran.out.splitlines()
    assert lines[0].split() == [
        "direction",
        "metric",
        "model",
        "+-",
        "tokenizer",
        "constant",
        "shuffled",
        "samples",
        "learned",
    ]
    assert len(lines) == 2 + len(rows) + 1
    assert (copy / "eval" / "test.md").read_text().count("\n") == 2 + len(rows)
    for name in ("test_rgb.png", "test_caption_rgb.png"):
        assert Image.open(copy / "eval" / name).height > 2 * 128


def test_values_of_the_configuration_are_options(tiny, mmtok, copy):
    (copy / "model").rename(copy / "old")
    words = ("--fit.steps", "3", "--fit.optimizer.warmup-steps", "1", "--batch-size", "4", "--fit.trackers")
    ran = mmtok("train", tiny.config, "--root", copy, *words)
    assert ran.code == 0, ran.err
    resolved = json.loads((copy / "model" / "train.json").read_text())
    assert resolved["fit"]["steps"] == 3
    assert resolved["fit"]["optimizer"]["warmup_steps"] == 1
    assert resolved["fit"]["trackers"] == []
    assert json.loads((copy / "model" / "config.json").read_text())["project"]["batch_size"] == 4
    assert not (copy / "model" / "tensorboard").exists()
