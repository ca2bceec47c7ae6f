"""Whatever a user gets wrong ends in one sentence and exit code 1, with nothing written."""

import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtok.cli import main
from mmtok.errors import MmtokError
from mmtok.inference import load_anytoany
from mmtok.tokenizers.artifact import load
from mmtok.tokenizers.text import TextTokenizer

FULL = os.strerror(errno.ENOSPC)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of things that people give."""
    folder = tmp_path_factory.mktemp("inputs")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    (folder / "half.png").write_bytes((folder / "photo.png").read_bytes()[:2000])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.txt").write_text("\n")
    np.save(folder / "features.npy", np.zeros((4, 4, 7), np.float32))
    np.save(folder / "words.npy", np.array(["no", "numbers"]))
    return folder


@pytest.fixture
def loaded_once(monkeypatch):
    """Opens the tiny model once for all wrong inputs."""
    monkeypatch.setattr("mmtok.cli.sample.load_anytoany", _load)


_load = functools.cache(load_anytoany)

PHOTO = "--given rgb=photo.png"
WRONG = {
    # what is asked
    f"{PHOTO} --to dept": "unknown target modality 'dept' (did you mean 'depth'?)",
    f"{PHOTO} --to pixels": "target 'pixels': the model reads this continuous modality but cannot produce it",
    f"{PHOTO} --to depth,depth": "target 'depth' occurs twice",
    f"{PHOTO} --to all --recipe from-picture": "unknown recipe 'from-picture'",
    f"{PHOTO} --to depth --then nowhere": "nowhere: no finished model there",
    f"{PHOTO} --to ,": "--to: no target modality given",
    f"{PHOTO}": "--to: no target modality given",
    # what is given
    "--given rgg=photo.png --to depth": "unknown input field 'rgg' (did you mean 'rgb'?)",
    "--given rgb --to depth": "--given rgb: FIELD=VALUE with a value that is not empty was expected",
    f"{PHOTO} rgb=half.png --to depth": "--given rgb: given twice",
    "--given rgb=nowhere.png --to depth": "nowhere.png: no such file",
    "--given rgb=text.png --to depth": "text.png: not a picture in a known format",
    "--given rgb=half.png --to depth": "half.png: the picture cannot be read, it is damaged",
    "--given depth=photo.png --to rgb": "photo.png: depth is a 16-bit grey PNG in millimetres or .npy in metres",
    "--given depth=features.npy --to rgb": "features.npy: an array of any x any was expected, it is 4 x 4 x 7",
    "--given depth=words.npy --to rgb": "words.npy: one array of at most 64 million numbers was expected",
    "--given camera=[1,2] --to rgb": "modality 'camera', sample 0 of the batch",
    "--given camera=bright --to rgb": "bright: neither a file nor JSON",
    '--given box=[{"label":"cube"}] --to rgb': "boxes are a list of",
    "--given caption= --to rgb": "--given caption=: FIELD=VALUE with a value that is not empty was expected",
    "--given caption=empty.txt --to rgb": "--given caption=empty.txt: the text is empty",
    f"{PHOTO} --keep rgb=1,2 --to rgb": "--keep rgb=1,2: four numbers left,top,right,bottom in 0..1 were expected",
    f"{PHOTO} --keep rgb=0,0,2,1 --to rgb": "keep: (0.0, 0.0, 2.0, 1.0) must be left,top,right,bottom",
    f"{PHOTO} --keep depth=0,0,1,1 --to rgb": "keep: the field 'depth' is not among the given ones",
    "--given caption=red --keep caption=0,0,1,1 --to rgb": "keep: 'caption' is not a picture",
    # how
    f"{PHOTO} --to depth --top-p 0": "target 'depth': top_p must be above 0 and at most 1",
    f"{PHOTO} --to depth --top-k -3": "target 'depth': top_k must be at least 0",
    f"{PHOTO} --to depth --steps 0": "target 'depth': steps must be at least 1",
    f"{PHOTO} --to depth --steps 99": "target 'depth': 99 steps are more than its 16 tokens",
    f"{PHOTO} --to depth --temperature -1": "target 'depth': temperature must be 0 (greedy) or a positive number",
    f"{PHOTO} --to depth --guidance nan": "target 'depth': guidance must be a finite number",
    f"{PHOTO} --to depth --samples 0": "--samples 0: at least 1 is needed",
    f"{PHOTO} --to depth --seed abc": "error parsing --seed: invalid literal for int() with base 10: 'abc'",
    f"{PHOTO} --to depth --scheme row": "invalid choice 'row' for argument '--scheme'",
    f"{PHOTO} --to depth --tempreature 1": "unknown option '--tempreature' (did you mean '--temperature'?)",
    f"{PHOTO} --to depth extra": "unknown option 'extra'",
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.items())
def test_sampling(tiny, mmtok, contents, inputs, monkeypatch, loaded_once, words, sentence):
    monkeypatch.chdir(inputs)
    before = contents(inputs)
    error = mmtok("sample", "--model", tiny.model, *words.split(), "--out", "out").error
    assert sentence in error
    assert contents(inputs) == before
    assert not (inputs / "out").exists()


def test_text_beyond_the_limit_is_truncated_with_a_warning(tiny, mmtok, tmp_path, loaded_once):
    text = "caption=" + "one large red metal sphere " * 60
    ran = mmtok("sample", "--model", tiny.model, "--given", text, "--to", "camera", "--out", tmp_path / "out")
    assert ran.code == 0
    assert "mmtok: warning: modality 'caption': a text of more than 39 tokens is truncated" in ran.err
    assert (tmp_path / "out" / "camera.json").exists()


def test_wrong_values_on_a_colour_terminal(monkeypatch):
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    error = io.StringIO()
    with contextlib.redirect_stdout(Terminal()), contextlib.redirect_stderr(error), pytest.raises(SystemExit):
        main(["sample", "--to", "depth", "--out", "out", "--seed", "abc"])
    said = "mmtok: error parsing --seed: invalid literal for int() with base 10: 'abc' (see `mmtok sample --help`)\n"
    assert error.getvalue() == said


def test_place_that_cannot_be_written(tiny, mmtok, tmp_path, photo, loaded_once):
    words = ("sample", "--model", tiny.model, "--given", f"rgb={photo}", "--to", "camera")
    assert "photo.png: may not be written" in mmtok(*words, "--out", photo).error
    assert "may not be written" in mmtok(*words, "--out", photo / "below").error


@pytest.mark.parametrize("wrong", ["", "tokenizer", "tokenizer trian", "sampel"])
def test_commands(mmtok, wrong):
    ran = mmtok(*wrong.split(), *(["--help"] if not wrong else []))
    if wrong:
        assert f"unknown command '{wrong}'" in ran.error
    else:
        assert "mmtok COMMAND" in ran.out


def test_debug_shows_the_traceback(tiny, start):
    with pytest.raises(MmtokError, match="no finished model there"):
        main(["sample", "--model", "nowhere", "--to", "depth", "--out", "out", "--debug"])
    process = start("sampel", "--debug")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" in err
    assert "did you mean 'sample'?" in err


# --- configuration files ---------------------------------------------------------------------------------------------

FILES = {
    "": "has no function config()",
    "def config(:": "line 1 is not Python (invalid syntax)",
    "import mmtokk\n\n\ndef config(): ...": "line 1: ModuleNotFoundError: No module named 'mmtokk'",
    "def config():\n    return {}": "config() returned dict, a mmtok.project.Project was expected",
    "def config():\n    x = 1\n    return x.y": "line 3: AttributeError: 'int' object has no attribute 'y'",
    "from mmtok.scenes import ScenesConfig\ndef config():\n    return ScenesConfig(siez=32)": (
        "line 3: ScenesConfig has no field 'siez' (did you mean 'size'?)"
    ),
    "from mmtok.scenes import ScenesConfig\ndef config():\n    return ScenesConfig(size=30)": (
        "scenes: size 30 must be a multiple of 8"
    ),
    "from dataclasses import replace\nfrom mmtok.configs.quickstart import config as base\n"
    "def config():\n    return replace(base(), batchsize=3)": (
        "line 4: Project has no field 'batchsize' (did you mean 'batch_size'?)"
    ),
}


@pytest.mark.parametrize(("text", "sentence"), FILES.items())
def test_configuration_files(mmtok, tmp_path, text, sentence):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    assert f"{path}: {sentence}" in mmtok("data", path).error


def test_configurations_that_are_not_there(mmtok, tmp_path):
    assert "no such configuration file (shipped: " in mmtok("data", tmp_path / "nowhere.py").error
    assert "no such configuration file" in mmtok("data", tmp_path).error
    assert "usage: mmtok data CONFIG" in mmtok("data").error
    (tmp_path / "config.json").write_text("{}")
    assert "a configuration is a Python file (.py)" in mmtok("data", tmp_path / "config.json").error


OPTIONS = {
    "train --fit.stepz 3": "unknown option '--fit.stepz' (did you mean '--fit.steps'?)",
    "train --modalities.rgb.tokenizer.pach 4": "did you mean '--modalities.rgb.tokenizer.patch'?",
    "train --fit.steps many": "error parsing --fit.steps: invalid literal for int() with base 10: 'many'",
    "train --fit.steps 0": "training config: steps is 0, it must be at least 1",
    "train --batch-size 64": "split 'train' has 48 samples, fewer than a batch of 64",
    "train --batch-size 9 --fit.accumulate 2": "a batch of 9 samples does not split over 1 devices and 2 microbatches",
    "train --fit.mesh.fsdp 3": "mesh slices=1, data=-1, fsdp=3, tensor=1 does not fit 1 devices",
    "train --loss tokens": "invalid choice 'tokens' for argument '--loss', expected one of ('modality', 'token')",
    "train --root": "missing value for argument '--root'",
    "train --masking.redistribute maybe": "invalid choice 'maybe' for argument '--masking.redistribute'",
    "tokenizer train --only dept": "unknown modality 'dept' (did you mean 'depth'?)",
    "tokenizer eval --only rgb dept": "unknown modality 'dept' (did you mean 'depth'?)",
    "eval --split tests": "unknown split 'tests' (did you mean 'test'?)",
    "data --data.size 40": "holds scenes with size=32, asked for size=40",
    "train --model.dim 64": "the checkpoint was made with task.config.model.dim = 32, the config says 64",
    "train --batch-size 4": "the checkpoint was made with task.batch_size = 8, the config says 4",
    "train --seed 3 --masking.target-tokens 12": "made with task.config.data.masking.target_tokens = 16, the config"
    " says 12; task.config.data.seed = 0, the config says 3; give the same values or train in another folder",
    "tokenize --modalities.depth.tokenizer.far 30": "this tokenizer was made with far = 22.0, the project says 30.0",
    "train --modalities.rgb.tokenizer.net.width 64": "tokenizers/rgb: this tokenizer was made with net = ",
    "train --modalities.pixels.source depth": "tokenizers/pixels: this tokenizer was made with source = rgb",
}


@pytest.mark.parametrize(("words", "sentence"), OPTIONS.items())
def test_options_of_a_project(tiny, mmtok, copy, contents, words, sentence):
    before = contents(copy)
    command, dashes, rest = words.partition(" --")
    assert sentence in mmtok(*command.split(), tiny.config, "--root", copy, *(dashes + rest).split()).error
    assert contents(copy) == before


# --- artifacts -------------------------------------------------------------------------------------------------------


def _edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _swap(folder, one, other):
    shutil.rmtree(folder / other)
    shutil.copytree(folder / one, folder / other)


def _retrain(folder):
    tokenizer = load(folder)
    arrays = {name: array * 1.01 for name, array in tokenizer.arrays.items()}
    shutil.rmtree(folder)
    dataclasses.replace(tokenizer, arrays=arrays).save(folder)


SPOILED = {
    "model key": (
        lambda root: _edit(root / "model/config.json", lambda value: value["config"].update(dimm=32)),
        "unknown key 'dimm' (did you mean 'dim'?)",
    ),
    "model modality key": (
        lambda root: _edit(root / "model/config.json", lambda value: value["modalities"][0].update(sizes=3)),
        "model/config.json: unknown key 'sizes'",
    ),
    "sampling key": (
        lambda root: _edit(root / "model/config.json", lambda value: value["sampling"]["rgb"].update(temprature=3)),
        "model/config.json: sampling: unknown key 'temprature' (did you mean 'temperature'?)",
    ),
    "model config cut": (lambda root: _truncate(root / "model/config.json"), "model/config.json: not a JSON file"),
    "model config gone": (lambda root: (root / "model/config.json").unlink(), "no finished model there"),
    "weights cut": (lambda root: _truncate(root / "model/model.safetensors"), "not a readable safetensors file"),
    "weights gone": (lambda root: (root / "model/model.safetensors").unlink(), "model.safetensors: no such file"),
    "other weights": (
        lambda root: _edit(root / "model/config.json", lambda value: value["weights"].update(fingerprint="0" * 16)),
        "these weights have the fingerprint",
    ),
    "other size": (
        lambda root: _edit(root / "model/config.json", lambda value: value["config"].update(mlp_hidden=48)),
        "does not hold the parameters of this model",
    ),
    "tokenizer gone": (lambda root: shutil.rmtree(root / "model/tokenizers/depth"), "depth: no tokenizer there"),
    "tokenizer key": (
        lambda root: _edit(root / "model/tokenizers/rgb/config.json", lambda value: value["config"].update(pach=4)),
        "rgb/config.json: unknown key 'pach' (did you mean 'patch'?)",
    ),
    "tokenizer edited": (
        lambda root: _edit(root / "model/tokenizers/depth/config.json", lambda value: value["config"].update(far=9)),
        "the folder was edited or mixed up",
    ),
    "tokenizer weights cut": (
        lambda root: _truncate(root / "model/tokenizers/rgb/model.safetensors"),
        "rgb/model.safetensors: damaged or not a safetensors file",
    ),
    "tokenizers swapped": (
        lambda root: _swap(root / "model/tokenizers", "rgb", "depth"),
        "modality 'depth': the model in",
    ),
    "tokenizer retrained": (
        lambda root: _retrain(root / "model/tokenizers/rgb"),
        "was trained with tokenizer",
    ),
}


@pytest.mark.parametrize(("spoil", "sentence"), SPOILED.values(), ids=SPOILED)
def test_spoiled_models(mmtok, copy, photo, tmp_path, spoil, sentence):
    spoil(copy)
    words = ("--given", f"rgb={photo}", "--to", "depth", "--out", tmp_path / "out")
    assert sentence in mmtok("sample", "--model", copy / "model", *words).error
    assert not (tmp_path / "out").exists()


STAGES = {
    "no data": ("tokenizer eval", lambda root: shutil.rmtree(root / "data"), "holds no scenes; prepare the data first"),
    "data cut": (
        "tokenizer eval --only rgb",
        lambda root: _truncate(next((root / "data").glob("*validation*"))),
        "is missing or damaged",
    ),
    "no tokenizer": (
        "tokenize",
        lambda root: shutil.rmtree(root / "tokenizers/rgb"),
        "no tokenizer for 'rgb' yet; run `mmtok tokenizer train` first",
    ),
    "too few samples for a tokenizer": (
        "tokenizer train --only rgb --modalities.rgb.batch-size 64",
        lambda root: shutil.rmtree(root / "tokenizers/rgb"),
        "tokenizer 'rgb': 48 training samples have the field 'rgb', fewer than a batch of 64",
    ),
    "tokenizers swapped": (
        "train",
        lambda root: _swap(root / "tokenizers", "rgb", "depth"),
        "tokenizers/depth: this tokenizer was made with name = rgb, the project says depth",
    ),
    "no store": ("train", lambda root: shutil.rmtree(root / "tokens"), "holds no token store"),
    "store of other tokenizers": (
        "train",
        lambda root: _retrain(root / "tokenizers/rgb"),
        "modality 'rgb': the token store was made with tokenizer",
    ),
    "tokens of other tokenizers": (
        "tokenize",
        lambda root: _retrain(root / "tokenizers/rgb"),
        "was made by the tokenizer",
    ),
    "store cut": (
        "train",
        lambda root: (_truncate(next((root / "tokens").glob("tokens-train*"))), shutil.rmtree(root / "model")),
        "missing or damaged",
    ),
    "store key": (
        "train",
        lambda root: _edit(root / "tokens/mmtok.json", lambda value: value.update(vresion=1)),
        "mmtok.json: unknown key 'vresion' (did you mean 'version'?)",
    ),
    "no model": ("eval", lambda root: shutil.rmtree(root / "model"), "no finished model there"),
}


@pytest.mark.parametrize(("command", "spoil", "sentence"), STAGES.values(), ids=STAGES)
def test_spoiled_projects(tiny, mmtok, copy, contents, command, spoil, sentence):
    spoil(copy)
    before = contents(copy)
    first, dashes, rest = command.partition(" --")
    assert sentence in mmtok(*first.split(), tiny.config, "--root", copy, *(dashes + rest).split()).error
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert all("model/" in name for name in after.keys() - before.keys())  # a run's log and config may have begun


# --- interruptions and full disks ------------------------------------------------------------------------------------


def test_interrupted_store_is_refused_and_continued(tiny, mmtok, copy, contents, monkeypatch):
    shutil.rmtree(copy / "tokens")
    shutil.rmtree(copy / "model")
    encode, calls = TextTokenizer.encode, []

    def interrupted(self, values):
        calls.append(len(values))
        if sum(calls) > 48:
            raise KeyboardInterrupt
        return encode(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(TextTokenizer, "encode", interrupted)
        ran = mmtok("tokenize", tiny.config, "--root", copy)
    assert (ran.code, ran.err.splitlines()[-1]) == (130, "mmtok: interrupted")
    error = mmtok("train", tiny.config, "--root", copy).error
    assert "is unfinished (split 'validation' was interrupted); run the same tokenize command again" in error
    ran = mmtok("tokenize", tiny.config, "--root", copy)
    assert ran.code == 0
    assert "already holds the 48 samples" in ran.err
    ours, theirs = contents(copy / "tokens"), contents(tiny.root / "tokens")
    assert ours == theirs


def test_full_disk_while_sampling(tiny, mmtok, contents, photo, tmp_path, monkeypatch, loaded_once):
    save = Image.Image.save

    def full(self, path, *args, **keywords):
        if "gallery" in str(path):
            raise OSError(errno.ENOSPC, FULL)
        return save(self, path, *args, **keywords)

    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    before = contents(tmp_path)
    monkeypatch.setattr(Image.Image, "save", full)
    words = ("--given", f"rgb={photo}", "--to", "camera", "--out", out)
    error = mmtok("sample", "--model", tiny.model, *words).error
    assert error == f"{out}/gallery.png: the disk is full; free some space and run the command again"
    assert contents(tmp_path) == before


def test_full_disk_while_a_model_is_saved(tiny, mmtok, copy, contents, monkeypatch):
    opened = Path.open

    def full(self, *args, **keywords):
        if "model.safetensors" in self.name:
            raise OSError(errno.ENOSPC, FULL)
        return opened(self, *args, **keywords)

    (copy / "model" / "config.json").unlink()
    before = contents(copy)
    monkeypatch.setattr(Path, "open", full)
    assert "model.safetensors: the disk is full" in mmtok("train", tiny.config, "--root", copy).error
    monkeypatch.undo()
    after = contents(copy)
    assert {name for name in before.keys() ^ after.keys() if "tensorboard" not in name} == set()
    assert mmtok("train", tiny.config, "--root", copy).code == 0
    assert contents(copy / "model")["model.safetensors"] == contents(tiny.model)["model.safetensors"]


def test_full_disk_while_checkpoints_are_written(tiny, mmtok, tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tiny", disk], capture_output=True).returncode
    ):
        pytest.skip("only who may mount can fill a disk")
    try:
        for name in ("data", "tokenizers", "tokens"):
            (disk / name).symlink_to(tiny.root / name)
        words = ("--fit.checkpoint-every", "2", "--fit.trackers")
        assert "model/checkpoints: the disk is full" in mmtok("train", tiny.config, "--root", disk, *words).error
        assert not (disk / "model" / "model.safetensors").exists()
        assert not caplog.records
    finally:
        subprocess.run(["umount", disk], check=True)


def test_full_disk_while_scenes_are_made(tiny, mmtok, tmp_path, contents, monkeypatch):
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    class Full:
        def __init__(self, *_):
            pass

        def write(self, record):
            raise RuntimeError(f"RESOURCE_EXHAUSTED: {FULL}")

        def close(self):
            raise RuntimeError(f"RESOURCE_EXHAUSTED: {FULL}")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    assert "the disk is full" in mmtok("data", tiny.config, "--root", tmp_path).error
    assert not (tmp_path / "data").exists()


def test_full_disk_where_nobody_expects_it(tiny, mmtok, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, FULL)

    monkeypatch.setattr("mmtok.cli.tokenize.tokenize_project", full)
    assert mmtok("tokenize", tiny.config, "--root", tmp_path).error.startswith("the disk is full")
