"""`mmtok sample --from`: many samples at once, stopped and resumed, made again, and everything that can be wrong."""

import functools
import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mmtok.inference import load_anytoany
from mmtok.inference.batchwork import write_value

BAD = "broken"
ASKED = ("--to", "depth,camera", "--set", "depth.steps=2", "--temperature", "1", "--batch-size", "2")


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Opens the tiny model once for all tests."""
    monkeypatch.setattr("mmtok.cli.sample.load_anytoany", _load)
    monkeypatch.setattr("mmtok.inference.manifest.load_anytoany", _load)


_load = functools.cache(load_anytoany)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four photos of different sizes; the third file is none."""
    folder = tmp_path_factory.mktemp("inputs") / "photos"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'abde'[number]}.png")
    (folder / "c.png").write_text(BAD)
    (folder / ".hidden").write_text("not looked at")
    return folder


@pytest.fixture(scope="module")
def whole(tiny, mmtok, photos, tmp_path_factory):
    """What an uninterrupted run leaves behind."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmtok.cli.sample.load_anytoany", _load)
        ran = mmtok("sample", "--model", tiny.model, "--from", photos, *ASKED, "--out", out)
    assert ran.error == f"1 of 5 samples failed; {out}/samples.jsonl says why"
    assert "sample: 5/5 samples" in ran.err
    return out


def records(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def same(ours, theirs):
    """All files but the manifest, which holds the command."""
    assert ours.keys() == theirs.keys()
    return {name for name in ours if ours[name] != theirs[name]} <= {"manifest.json"}


def test_files_records_and_manifest(whole, photos):
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    made = {f"{target}/{name}{ending}" for name in "abde" for target, ending in TARGET_FILES}
    assert names == {*made, "samples.jsonl", "manifest.json", "gallery.png"}
    assert np.load(whole / "depth" / "a.npy").shape == (32, 32)
    found = records(whole)
    assert [(record["number"], record["name"]) for record in found] == list(enumerate("abcde"))
    for record in found:
        file = photos / f"{record['name']}.png"
        assert record["inputs"]["rgb"]["file"] == str(file)
        assert record["inputs"]["rgb"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "c.png: not a picture in a known format" in found[2]["error"]
    assert found[1]["files"] == [{"depth": "depth/b.npy", "camera": "camera/b.json"}]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert [(item["modality"], item["steps"], item["temperature"]) for item in manifest["plan"]] == [
        ("depth", 2, 1.0),
        ("camera", 4, 1.0),
    ]
    assert (manifest["seed"], manifest["draws"], manifest["batch_size"], manifest["samples"]) == (0, 1, 2, 5)
    assert manifest["models"][0]["tokenizers"].keys() == {"pixels", "rgb", "depth", "caption", "box", "camera"}
    assert {"mmtok", "jax", "numpy", "command", "names", "origin"} <= manifest.keys()
    assert Image.open(whole / "gallery.png").width > 3 * 160


TARGET_FILES = (("depth", ".npy"), ("depth", ".png"), ("camera", ".json"))


@pytest.mark.parametrize("stopped_after", [1, 5])
def test_stopped_run_goes_on_and_ends_the_same(
    tiny, mmtok, contents, photos, whole, tmp_path, monkeypatch, stopped_after
):
    words = ("sample", "--model", tiny.model, "--from", photos, *ASKED, "--out", tmp_path / "out")
    written = []

    def stopping(stem, value, show):
        written.append(stem)
        if len(written) > stopped_after:
            raise KeyboardInterrupt
        return write_value(stem, value, show)

    def counting(*words):
        written.append(words)
        return write_value(*words)

    with monkeypatch.context() as patch:
        patch.setattr("mmtok.inference.batchwork.write_value", stopping)
        assert mmtok(*words).code == 130
    (tmp_path / "out" / "depth" / ".left.npy.tmp").write_text("by a run that was killed")
    with (tmp_path / "out" / "samples.jsonl").open("ab") as file:
        file.write(b'{"number": 1, "na')
    written.clear()
    monkeypatch.setattr("mmtok.inference.batchwork.write_value", counting)
    assert "1 of 5 samples failed" in mmtok(*words).error
    assert len(written) == (8 if stopped_after == 1 else 4)
    assert same(contents(tmp_path / "out"), contents(whole))
    written.clear()
    assert "1 of 5 samples failed" in mmtok(*words).error
    assert not written


def test_only_what_is_gone_or_mended_is_made(tiny, mmtok, contents, photos, whole, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    words = ("sample", "--model", tiny.model, "--from", tmp_path / "photos", *ASKED, "--out", tmp_path / "out")
    assert mmtok(*words).code == 1
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "camera" / "a.json").unlink()
    assert mmtok(*words).code == 1
    assert contents(tmp_path / "out") == before
    shutil.copy(photos / "e.png", tmp_path / "photos" / "c.png")
    ran = mmtok(*words)
    assert ran.code == 0, ran.err
    assert "sample: 5/5 samples" in ran.err
    after = contents(tmp_path / "out")
    assert after.keys() - before.keys() == {f"{target}/c{ending}" for target, ending in TARGET_FILES}
    assert after["camera/a.json"] == before["camera/a.json"]
    assert [record["name"] for record in records(tmp_path / "out")] == list("abcde")


def test_outputs_are_made_again_to_the_byte(mmtok, contents, photos, whole, tmp_path):
    ran = mmtok("sample", "--again", whole, "--only", "d", "a", "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    before, again = contents(whole), contents(tmp_path / "again")
    assert again.keys() == {f"{target}/{name}{ending}" for name in "ad" for target, ending in TARGET_FILES}
    assert all(again[name] == before[name] for name in again)
    assert "no sample 'f' was made there" in mmtok("sample", "--again", whole, "--only", "f", "--out", tmp_path).error
    content = (photos / "e.png").read_bytes()
    try:
        (photos / "e.png").write_bytes((photos / "a.png").read_bytes())
        error = mmtok("sample", "--again", whole, "--out", tmp_path / "other").error
    finally:
        (photos / "e.png").write_bytes(content)
    assert "the inputs of sample 'e' have changed since" in error


def test_choices_hang_on_seed_and_number_alone(tiny, mmtok, contents, photos, whole, tmp_path):
    words = ("sample", "--model", tiny.model, "--from", photos, *ASKED[:-1])
    assert mmtok(*words, "5", "--out", tmp_path / "b").code == 1
    assert mmtok(*words, "5", "--seed", "1", "--out", tmp_path / "c").code == 1
    a, b, c = (contents(folder) for folder in (whole, tmp_path / "b", tmp_path / "c"))
    cameras = [name for name in a if name.startswith("camera/")]
    assert all(a[name] == b[name] for name in cameras)
    assert any(a[name] != c[name] for name in cameras)
    for name in "abde":
        file = f"depth/{name}.npy"
        np.testing.assert_allclose(np.load(whole / file), np.load(tmp_path / "b" / file), rtol=1e-4)


def test_tables_and_several_answers(tiny, mmtok, photos, tmp_path):
    (tmp_path / "words.txt").write_text("a blue cube")
    rows = [
        "name,caption,rgb",
        "one,two red spheres,",
        f"two,words.txt,{photos / 'a.png'}",
        f"three,,{photos / 'c.png'}",
        "four,,",
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    words = ("sample", "--model", tiny.model, "--to", "camera", "--samples", "2", "--temperature", "1")
    error = mmtok(*words, "--from", tmp_path / "t.csv", "--out", tmp_path / "csv").error
    assert error.startswith("2 of 4 samples failed")
    one, two, three, four = records(tmp_path / "csv")
    assert one["inputs"]["caption"]["text"] == "two red spheres"
    assert one["files"] == [{"camera": "camera/one/000.json"}, {"camera": "camera/one/001.json"}]
    assert two["inputs"]["caption"]["file"] == str(tmp_path / "words.txt")
    assert "not a picture" in three["error"]
    assert four["error"] == "nothing is given, every field is empty"
    first, second = ((tmp_path / "csv" / file["camera"]).read_text() for file in one["files"])
    assert first != second

    lines = [{"caption": "two red spheres"}, {"caption": ""}, {"camera": [0.5] * 3, "caption": None}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    error = mmtok(*words[:3], "--to", "box", "--from", tmp_path / "t.jsonl", "--out", tmp_path / "jsonl").error
    assert error.startswith("2 of 3 samples failed")
    one, two, three = records(tmp_path / "jsonl")
    assert one["files"] == [{"box": "box/000000.json"}]
    assert two["error"] == "nothing is given, every field is empty"
    assert three["error"].startswith("modality 'camera': ")


def test_sub_folders_of_fields_and_token_stores(tiny, mmtok, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "in" / "rgb")
    (tmp_path / "in" / "caption").mkdir()
    (tmp_path / "in" / "caption" / "a.txt").write_text("a cone")
    (tmp_path / "in" / "caption" / "b.txt").write_text(" \n")
    words = ("sample", "--model", tiny.model, "--to", "camera")
    assert "2 of 5 samples failed" in mmtok(*words, "--from", tmp_path / "in", "--out", tmp_path / "out").error
    found = records(tmp_path / "out")
    assert list(found[0]["inputs"]) == ["caption", "rgb"]
    assert found[1]["error"] == "field 'caption': the text is empty"
    assert list(found[3]["inputs"]) == ["rgb"]

    store = ("--from", tiny.root / "tokens", "--split", "test", "--fields", "caption,depth")
    ran = mmtok(*words, *store, "--out", tmp_path / "store")
    assert ran.code == 0, ran.err
    found = records(tmp_path / "store")
    assert len(found) == 8
    assert set().union(*(record["inputs"] for record in found)) == {"caption", "depth"}
    ran = mmtok(*words, *store, "--out", tmp_path / "store")
    assert "holds 8 samples already" in ran.err
    ran = mmtok("sample", "--again", tmp_path / "store", "--only", found[3]["name"], "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    file = found[3]["files"][0]["camera"]
    assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "store" / file).read_bytes()


def test_dry_run_counts_and_prints_the_plan(tiny, mmtok, photos, tmp_path):
    words = ("sample", "--model", tiny.model, "--from", photos, "--out", tmp_path / "out", "--dry-run")
    settings = ("--set", "rgb.steps=3", "rgb.guidance=2", "caption.length=9")
    asked = ("--samples", "2", "--batch-size", "4", "--to", "rgb,caption", *settings)
    ran = mmtok(*words, *asked)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == ("samples: 5 (rgb 5), 2 answers each; batches, each of these forward passes: 3")
    assert "2. caption from pixels, rgb: autoregressive, at most 9 tokens" in ran.out
    printed = mmtok(*words, *asked, "--json").out
    (tmp_path / "plan.json").write_text(printed)
    assert [target["steps"] for target in json.loads(printed)] == [3, None]
    assert mmtok(*words, "--plan", tmp_path / "plan.json", "--json").out == printed
    assert not (tmp_path / "out").exists()


def test_a_second_model_goes_on(tiny, mmtok, photos, tmp_path):
    words = ("sample", "--model", tiny.model, "--then", tiny.model, "--from", photos, "--out", tmp_path / "out")
    asked = ("--to", "depth", "--set", "box.length=4", "depth.steps=1", "caption.length=3")
    ran = mmtok(*words, *asked, "--dry-run")
    first, second = ran.out.split("then, by the second model\n")
    assert "1. depth from pixels, rgb: halton, 16 tokens in 1 linear steps" in first
    assert second.startswith("given: pixels (16 positions), rgb (16 positions), depth (16 positions)")
    assert "box from pixels, rgb, depth" in second
    printed = mmtok(*words, *asked, "--dry-run", "--json").out
    assert {target["modality"] for target in json.loads(printed)["then"]} == {"caption", "box", "camera"}
    plan = json.loads(printed)
    plan["then"] = [target for target in plan["then"] if target["modality"] == "camera"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ran = mmtok(*words, "--plan", tmp_path / "plan.json")
    assert "1 of 5 samples failed" in ran.error
    assert records(tmp_path / "out")[0]["files"][0].keys() == {"depth", "camera"}
    error = mmtok(*words[:3], "--plan", tmp_path / "plan.json", *words[5:]).error
    assert "plan.json: holds a plan for a second model; name it by --then" in error


DIFFERENT = {
    "--seed 1": "was made with seed = 0, now it is 1",
    "--set depth.steps=1": "was made with plan.depth.steps = 2, now it is 1",
    "--samples 2": "was made with draws = 1, now it is 2",
    "--keep rgb=0,0,1,0.5": "was made with keep.rgb = None, now it is [0.0, 0.0, 1.0, 0.5]",
}


@pytest.mark.parametrize(("words", "sentence"), DIFFERENT.items())
def test_folder_of_another_run(tiny, mmtok, contents, photos, whole, words, sentence):
    before = contents(whole)
    asked = ("sample", "--model", tiny.model, "--from", photos, *ASKED, *words.split(), "--out", whole)
    assert f"{whole}: what is there {sentence}; give the same value or use another folder" in mmtok(*asked).error
    assert contents(whole) == before


@pytest.fixture(scope="module")
def wrong(tmp_path_factory, photos):
    """Things that people give."""
    folder = tmp_path_factory.mktemp("wrong")
    texts = {
        "column.csv": "name,captoin\na,red\n",
        "twice.csv": "name,caption\na,red\na,blue\n",
        "columns.csv": "caption,caption\na,red\n",
        "cells.csv": "caption\na,red\n",
        "quote.csv": 'caption\n"red\n',
        "empty.csv": "caption\n",
        "path.csv": "name,caption\n../../a,red\n",
        "list.jsonl": '{"caption": "red"}\n["red"]\n',
        "half.jsonl": '{"caption": "re\n',
        "table.tsv": "caption\nred\n",
        "flat.json": '{"modality": "depth"}',
        "key.json": '[{"modality": "depth", "stpes": 4}]',
        "type.json": '[{"modality": "depth", "steps": "four"}]',
        "name.json": '[{"modality": "dept"}]',
        "none.json": "[]",
        "broken.json": "[",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "latin.csv").write_bytes("caption\ncaf\xe9\n".encode("latin-1"))
    for name in ("empty", "other/dept", "same/rgb", "mixed"):
        (folder / name).mkdir(parents=True)
    (folder / "other" / "dept" / "a.png").write_text("")
    for name in ("same/rgb/a.png", "same/rgb/a.jpg", "mixed/a.png", "mixed/b.txt"):
        (folder / name).write_text("")
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("kept")
    shutil.copytree(photos, folder / "photos")
    return folder


TO, FROM = "--to depth", "--from photos"
WRONG = {
    # what is given
    f"{TO} --from nowhere": "nowhere: no such file or folder",
    f"{TO} --from empty": "empty: holds no samples",
    f"{TO} --from other": "other: sub-folder 'dept' is no raw field (did you mean 'depth'?)",
    f"{TO} --from same": "same/rgb/a.jpg and {folder}/same/rgb/a.png: two samples of the same name",
    f"{TO} --from mixed": "mixed: say by --fields of which raw field these files are",
    f"{TO} --from table.tsv": "table.tsv: a folder, a table (.csv, .jsonl) or a token store was expected",
    f"{TO} --from column.csv": "unknown column of {folder}/column.csv 'captoin' (did you mean 'caption'?)",
    f"{TO} --from twice.csv": "twice.csv, line 3: two samples of the same name 'a'",
    f"{TO} --from columns.csv": "columns.csv: column 'caption' occurs twice",
    f"{TO} --from cells.csv": "cells.csv, line 2: more cells than the 1 columns",
    f"{TO} --from quote.csv": "quote.csv: not a CSV table in UTF-8 (unexpected end of data)",
    f"{TO} --from latin.csv": "latin.csv: not a CSV table in UTF-8",
    f"{TO} --from empty.csv": "empty.csv: holds no samples",
    f"{TO} --from path.csv": "path.csv: the sample '../../a' cannot name files",
    f"{TO} --from list.jsonl": "list.jsonl, line 2: one JSON object per line was expected",
    f"{TO} --from half.jsonl": "half.jsonl, line 1: one JSON object per line was expected",
    f"{TO} {FROM} --fields dept": "unknown input field 'dept' (did you mean 'depth'?)",
    f"{TO} {FROM} --fields rgb,caption": "photos: holds no sub-folders rgb, caption",
    f"{TO} {FROM} --split test": "photos: no token store, only that has splits ('test')",
    f"{TO} {FROM} --given caption=red": "--given and --from: one sample or many",
    # what is asked
    f"{FROM} --to dept": "unknown target modality 'dept' (did you mean 'depth'?)",
    f"{FROM} --to pixels": "target 'pixels': the model reads this continuous modality but cannot produce it",
    f"{FROM} --to depth,depth": "target 'depth' occurs twice in the plan",
    f"{FROM} {TO} --set dept.steps=4": "unknown target of --set 'dept' (did you mean 'depth'?)",
    f"{FROM} {TO} --set depth.stpes=4": "unknown setting of a target 'stpes' (did you mean 'steps'?)",
    f"{FROM} {TO} --set depth=4": "depth=4: TARGET.SETTING=VALUE was expected",
    f"{FROM} {TO} --set depth.steps=2 depth.steps=3": "depth.steps: set twice",
    f"{FROM} {TO} --set depth.steps=many": "depth.steps=many: ",
    f"{FROM} {TO} --set depth.steps=2.5": "depth.steps=2.5: this would be read as 2",
    f"{FROM} {TO} --set depth.steps=0": "target 'depth': steps must be at least 1",
    f"{FROM} {TO} --set depth.steps=99": "target 'depth': 99 steps are more than its 16 tokens",
    f"{FROM} {TO} --set depth.top_p=0": "target 'depth': top_p must be above 0 and at most 1",
    f"{FROM} {TO} --set depth.length=3": "target 'depth': length belongs to sequences",
    f'{FROM} {TO} --set depth.weights={{"caption":2}}': (
        "target 'depth': its condition 'caption' is neither given nor generated before it"
    ),
    f"{FROM} --to caption --steps 3": "steps = 3 fits none of the targets caption",
    f"{FROM} --plan flat.json": "flat.json: unknown key 'modality'",
    f"{FROM} --plan key.json": "key.json: unknown key 'stpes' (did you mean 'steps'?)",
    f"{FROM} --plan type.json": "type.json: ",
    f"{FROM} --plan name.json": "unknown target modality 'dept' (did you mean 'depth'?)",
    f"{FROM} --plan none.json": "none.json: the plan holds no target",
    f"{FROM} --plan broken.json": "broken.json: not a JSON file",
    f"{FROM} {TO} --plan none.json": "--plan says what to make; leave out --to and --recipe",
    f"{FROM}": "--to: no target modality given",
    f"{FROM} {TO} --batch-size 0": "--batch-size 0: at least 1 is needed",
    f"{FROM} {TO} --json": "--json: only goes with --dry-run",
    f"--given caption=red {TO} --split test": "--split: only goes with --from",
    f"{FROM} {TO} --only a": "--only: only goes with --again",
    # where
    f"{FROM} {TO} --out mine": "mine: is not empty and holds no manifest.json of such a run; use another folder",
    f"--again mine {TO}": "--again makes what was made before; leave out what is given and asked for",
    "--again mine": "mine/manifest.json: no such file",
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.items())
def test_wrong_words(tiny, mmtok, contents, wrong, monkeypatch, words, sentence):
    monkeypatch.chdir(wrong)
    before = contents(wrong)
    out = () if "--out" in words else ("--out", "out")
    error = mmtok("sample", "--model", tiny.model, *words.split(), *out).error
    assert sentence.replace("{folder}", str(wrong)) in error
    assert contents(wrong) == before


def test_token_store_of_other_tokenizers(tiny, mmtok, copy, tmp_path):
    metadata = json.loads((copy / "tokens" / "mmtok.json").read_text())
    next(item for item in metadata["modalities"] if item["name"] == "rgb")["fingerprint"] = "0" * 16
    (copy / "tokens" / "mmtok.json").write_text(json.dumps(metadata))
    words = ("sample", "--model", tiny.model, "--from", copy / "tokens", "--to", "depth", "--out", tmp_path / "out")
    assert "a token store of several splits; say which one (train, validation" in mmtok(*words).error
    error = mmtok(*words, "--split", "test").error
    assert f"modality 'rgb': token store {copy}/tokens was made with tokenizer {'0' * 16}" in error
    assert mmtok(*words, "--split", "test", "--fields", "caption", "--dry-run").code == 0
    error = mmtok(*words, "--split", "tset").error
    assert "unknown split of token store" in error
    assert "(did you mean 'test'?)" in error
