"""Folders and tables become samples: names, fields, and what is wrong with them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmtok.errors import MmtokError
from mmtok.generate import Sampler
from mmtok.inference import Loaded, Origin
from mmtok.modality import Modality, Vocabulary

WORDS = Vocabulary(size=32, sentinel_first=4, sentinel_count=8)


def model_of(**shows: str) -> Loaded:
    """A model without a network: only what it knows of modalities."""
    sampler = object.__new__(Sampler)
    sampler.modalities = tuple(
        Modality(name=name, kind="grid", shape=(2,), vocabulary=Vocabulary(size=4), source=name, show=show)
        for name, show in shows.items()
    )
    return Loaded(sampler, {}, {})


MODEL = model_of(rgb="rgb", depth="depth", caption="text", box="box")


def picture(path, value=7):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(path)


def test_files_of_one_folder_are_of_the_field_they_look_like(tmp_path):
    picture(tmp_path / "photos" / "b.jpg")
    picture(tmp_path / "photos" / "a.png")
    inputs = Origin(path=str(tmp_path / "photos")).open(MODEL)
    assert (list(inputs.names), dict(inputs.counts)) == (["a", "b"], {"rgb": 2})
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("red\n")
    inputs = Origin(path=str(tmp_path / "words")).open(MODEL)
    assert inputs.read([0])[0].values == {"caption": "red"}
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "a.json").write_text('[{"label": "cube", "box": [0, 0, 1, 1]}]')
    with pytest.raises(MmtokError, match=r"say by --fields .* \(known: "):
        Origin(path=str(tmp_path / "boxes")).open(MODEL)
    (found,) = Origin(path=str(tmp_path / "boxes"), fields=("box",)).open(MODEL).read([0])
    assert found.values["box"][0]["label"] == "cube"
    with pytest.raises(MmtokError, match="say by --fields"):
        Origin(path=str(tmp_path / "photos")).open(model_of(rgb="rgb", left="rgb"))


def test_sub_folders_are_fields_and_may_have_gaps(tmp_path):
    for name in "ab":
        picture(tmp_path / "rgb" / f"{name}.png")
    (tmp_path / "caption").mkdir()
    (tmp_path / "caption" / "b.txt").write_text("red")
    (tmp_path / "caption" / "c.txt").write_text("blue")
    (tmp_path / "readme.md").write_text("files beside the sub-folders do not count")
    inputs = Origin(path=str(tmp_path)).open(MODEL)
    assert [sorted(item.values) for item in inputs.read([0, 1, 2])] == [["rgb"], ["caption", "rgb"], ["caption"]]
    assert dict(inputs.counts) == {"rgb": 2, "caption": 2}
    only = Origin(path=str(tmp_path), fields=("caption",)).open(MODEL)
    assert list(only.names) == ["b", "c"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(MmtokError, match="sub-folder 'notes' is no raw field"):
        Origin(path=str(tmp_path)).open(MODEL)
    assert list(Origin(path=str(tmp_path), fields=("rgb",)).open(MODEL).names) == ["a", "b"]
    with pytest.raises(MmtokError, match="holds no sub-folder 'depth'"):
        Origin(path=str(tmp_path), fields=("rgb", "depth")).open(MODEL)


def test_depth_as_it_is_written_can_be_read(tmp_path):
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "a.npy", np.full((2, 2), 3.5, np.float32))
    Image.fromarray(np.full((2, 2), 3500, np.uint16)).save(tmp_path / "depth" / "a.png")
    (found,) = Origin(path=str(tmp_path)).open(MODEL).read([0])
    assert found.inputs["depth"]["file"].endswith("a.npy")
    assert found.values["depth"][0, 0] == 3.5


def test_what_is_wrong_with_a_sample_stands_beside_it(tmp_path):
    picture(tmp_path / "rgb" / "a.png")
    (tmp_path / "rgb" / "b.png").write_bytes(b"\x89PNG")
    (tmp_path / "rgb" / "c.png").mkdir()
    (tmp_path / "caption").mkdir()
    (tmp_path / "caption" / "d.txt").write_text("\n")
    (tmp_path / "caption" / "e.txt").write_bytes(b"\xff")
    inputs = Origin(path=str(tmp_path)).open(MODEL)
    assert list(inputs.names) == ["a", "b", "d", "e"]
    a, b, d, e = inputs.read(range(4))
    assert not a.error
    assert "b.png: " in b.error
    assert b.inputs["rgb"].keys() == {"file", "sha256"}
    assert d.error == "field 'caption': the text is empty"
    assert "e.txt: not a text file in UTF-8" in e.error


def test_cells_are_values_or_files_beside_the_table(tmp_path):
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "long.txt").write_text("a long text")
    rows = [
        {"rgb": "a.png", "caption": "red", "name": 7},
        {"caption": "long.txt"},
        {"box": [{"label": "cube", "box": [0, 0, 1, 1]}]},
        {"rgb": "b.png"},
        {"caption": "x" * 5000},
        {"caption": None, "rgb": ""},
    ]
    (tmp_path / "in" / "t.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    inputs = Origin(path=str(tmp_path / "in" / "t.jsonl")).open(MODEL)
    assert list(inputs.names) == ["7", *(f"{number:06d}" for number in range(1, 6))]
    a, b, c, d, e, f = inputs.read(range(6))
    assert (a.values["rgb"][0, 0, 0], a.values["caption"], b.values["caption"]) == (7, "red", "a long text")
    assert c.values["box"][0]["label"] == "cube"
    assert d.error == f"{tmp_path}/in/b.png: no such file"
    assert d.inputs == {"rgb": {"file": f"{tmp_path}/in/b.png"}}
    assert e.values["caption"] == "x" * 5000
    assert f.error == "nothing is given, every field is empty"


def test_a_field_called_name_is_a_field(tmp_path):
    (tmp_path / "t.csv").write_text("name\nred heart\n")
    inputs = Origin(path=str(tmp_path / "t.csv")).open(model_of(name="text"))
    assert (list(inputs.names), inputs.read([0])[0].values) == (["000000"], {"name": "red heart"})


@given(text=st.text(min_size=1, max_size=40))
def test_any_name_is_refused_or_can_name_files(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    (folder / "names.jsonl").write_text(json.dumps({"name": text, "caption": "red"}), encoding="utf-8")
    try:
        (name,) = Origin(path=str(folder / "names.jsonl")).open(MODEL).names
    except MmtokError as error:
        assert "cannot name files" in str(error)  # noqa: PT017
    else:
        (folder / f"{name}.json").write_text("")
        assert (folder / f"{name}.json").resolve().parent == folder.resolve()
        (folder / f"{name}.json").unlink()
