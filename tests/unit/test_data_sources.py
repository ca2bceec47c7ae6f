"""Raw samples: folders of files, tensorflow-datasets directories, derived fields."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtok.config import from_json, to_json
from mmtok.data import Derived, FoldersConfig, TfdsConfig, read_value
from mmtok.errors import MmtokError
from mmtok.source import DataConfig, Source

NOWHERE = Path("unused")
EMOJI = ("render", "flat", "line", "mask", "text")


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (4, 3)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def root(tmp_path) -> Path:
    """Two fields share a folder; one sample lacks its depth; one lies deeper; other files lie about."""
    for stem in ("red-ball", "blue-ball", "old-box", "deep"):
        where = tmp_path / "rgb" / ("a/b" if stem == "deep" else "")
        picture(where / f"{stem}.png")
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{stem}.json").write_text(json.dumps({"name": stem.replace("-", " "), "tags": [stem]}))
        (tmp_path / "note").mkdir(exist_ok=True)
        (tmp_path / "note" / f"{stem}.txt").write_text(f" {stem}, größer\n", encoding="utf-8")
        if stem != "old-box":
            (tmp_path / "depth").mkdir(exist_ok=True)
            np.save(tmp_path / "depth" / f"{stem}.npy", np.full((2, 2), len(stem), np.float32))
    (tmp_path / "rgb" / ".DS_Store").write_bytes(b"")
    (tmp_path / "rgb" / "README").write_text("no sample")
    return tmp_path


def samples(config: FoldersConfig, split: str = "train") -> dict:
    source = config.open(split, NOWHERE)
    read = source.read(range(len(source)), source.fields)
    return {source.key(index): sample for index, sample in enumerate(read)}


def test_folders_match_files_by_stem(root):
    config = FoldersConfig(
        root=root,
        fields={"rgb": "rgb", "depth": "depth", "name": "text", "tags": "text", "all": "text", "note": "note"},
        pick={"name": "name", "tags": "tags"},
        validation=0.0,
    )
    assert isinstance(config, DataConfig)
    assert config.splits == ("train",)
    source = config.open("train", NOWHERE)
    assert isinstance(source, Source)
    assert source.fields == ("rgb", "depth", "name", "tags", "all", "note")
    found = samples(config)
    assert sorted(found) == ["blue-ball", "deep", "old-box", "red-ball"]
    ball = found["red-ball"]
    np.testing.assert_array_equal(ball["rgb"], picture(root / "rgb" / "red-ball.png"))
    np.testing.assert_array_equal(ball["depth"], np.full((2, 2), 8, np.float32))
    assert ball["depth"].dtype == np.float32
    assert ball["name"] == "red ball"
    assert ball["tags"] == ["red-ball"]
    assert ball["all"] == {"name": "red ball", "tags": ["red-ball"]}
    assert ball["note"] == "red-ball, größer"
    assert "depth" not in found["old-box"]


def test_every_folder_is_a_field_by_default(root):
    source = FoldersConfig(root=root, validation=0.0).open("train", NOWHERE)
    assert source.fields == ("depth", "note", "rgb", "text")
    assert set(source.read([0], ["note"])[0]) == {"note"}, "only the fields asked for"


def test_match_by_path_keeps_files_of_one_name_apart(tmp_path):
    for scene in ("one", "two"):
        picture(tmp_path / "rgb" / scene / "000.png")
        picture(tmp_path / "line" / scene / "000.png", "L")
    assert sorted(samples(FoldersConfig(root=tmp_path, match="path", validation=0.0))) == ["one/000", "two/000"]
    with pytest.raises(MmtokError, match=r"'line': .*000.png and .*000.png have the same name '000'; .*match='path'"):
        FoldersConfig(root=tmp_path).open("train", NOWHERE)


def test_splits_keep_groups_together_and_never_move(tmp_path):
    def make(count):
        for index in range(count):
            picture(tmp_path / "rgb" / f"{index % 40:03d}-view-{index}.png", "L", (1, 1))

    config = FoldersConfig(root=tmp_path, validation=0.2, test=0.2, group=r"^\d+")
    make(120)
    assert config.splits == ("train", "validation", "test")
    before = {split: set(samples(config, split)) for split in config.splits}
    assert sum(map(len, before.values())) == 120
    assert all(before.values())
    groups = [{key[:3] for key in keys} for keys in before.values()]
    assert sum(map(len, groups)) == 40, "no group in two splits"
    make(200)
    for split, keys in before.items():
        assert keys <= set(samples(config, split))
    other = FoldersConfig(root=tmp_path, validation=0.2, test=0.2, group=r"^\d+", seed=1)
    assert set(samples(other, "test")) != set(samples(config, "test"))


def test_pictures_of_every_mode(tmp_path):
    def saved(image, name="x.png"):
        image.save(tmp_path / name)
        return read_value(tmp_path / name)

    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(saved(Image.fromarray(grey)), grey)
    labels = Image.fromarray(grey).convert("P")
    labels.putdata(grey.ravel().tolist())
    labels.putpalette([255, 0, 0] * 256)
    np.testing.assert_array_equal(saved(labels), grey)
    deep = grey.astype(np.uint16) * 5000
    value = saved(Image.fromarray(deep))
    assert value.dtype == np.uint16
    np.testing.assert_array_equal(value, deep)
    np.testing.assert_array_equal(saved(Image.fromarray(grey > 5)), (grey > 5).astype(np.uint8))
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((0, 0), (10, 20, 30, 255))
    np.testing.assert_array_equal(saved(half), [[[10, 20, 30], [255, 255, 255]]])
    colour = Image.new("RGB", (8, 6), (200, 100, 50))
    for name in ("x.jpg", "x.jpeg", "x.webp", "x.PNG"):
        value = saved(colour, name)
        assert value.shape == (6, 8, 3)
        assert value.dtype == np.uint8
        assert np.abs(value.astype(int) - [200, 100, 50]).max() < 10


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.png", b"not a picture", "not a picture in a known format"),
        ("x.png", b"", "not a picture"),
        ("x.npy", b"\x93NUMPY garbage", "not a .npy file"),
        ("x.npy", b"", "not a .npy file"),
        ("x.json", b"{", "not a .json file"),
        ("x.txt", b"\xff\xfe\xfa", "not a .txt file"),
        ("x.tiff", b"", "a file of type .png"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MmtokError, match=rf"{name}: {said}"):
        read_value(tmp_path / name)
    with pytest.raises(MmtokError, match=r"gone.png: no such file"):
        read_value(tmp_path / "gone.png")


def test_photographs_are_turned_upright(tmp_path):
    turned = Image.new("RGB", (8, 6))
    orientation = turned.getexif()
    orientation[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "x.jpg", exif=orientation)
    assert read_value(tmp_path / "x.jpg").shape == (8, 6, 3)


def test_truncated_picture_is_named(tmp_path):
    picture(tmp_path / "x.png", size=(64, 64))
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MmtokError, match=r"x.png: the picture cannot be read, it is damaged"):
        read_value(tmp_path / "x.png")


@pytest.mark.parametrize("side", [8100, 9800, 14_000])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "x.png")
    with pytest.raises(MmtokError, match=r"x.png: the picture has more than 64 megapixels"):
        read_value(tmp_path / "x.png")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(MmtokError, match=r"x.npy: not a .npy file"):
        read_value(tmp_path / "x.npy")


def test_folder_errors_are_one_clear_sentence(root, tmp_path):
    def error(**changes) -> str:
        with pytest.raises(MmtokError) as caught:
            samples(FoldersConfig(**{"root": root, "validation": 0.0, **changes}))
        return str(caught.value)

    assert "no such folder" in error(root=root / "gone")
    assert "'rgbb': no such folder (did you mean 'rgb'?)" in error(fields={"rgb": "rgbb"}).replace(
        f"{root}/rgbb of field 'rgb'", "'rgbb'"
    )
    (root / "empty").mkdir()
    assert "of field 'empty': holds no files of type .png" in error()
    assert "holds no folders" in error(root=root / "empty")
    (root / "empty" / "elsewhere.png").write_bytes((root / "rgb" / "red-ball.png").read_bytes())
    assert "no file name occurs in two of the fields rgb, empty" in error(fields={"rgb": "rgb", "empty": "empty"})
    assert "wants the key 'nam', which is not there (did you mean 'name'?)" in error(
        fields={"rgb": "rgb", "name": "text"}, pick={"name": "nam"}
    )
    assert "unknown field to pick from 'nme' (did you mean 'name'?)" in error(
        fields={"rgb": "rgb", "name": "text"}, pick={"nme": "name"}
    )
    (root / "rgb" / "red-ball.jpg").write_bytes(b"")
    assert "'red-ball'; rename one" in error(fields={"rgb": "rgb"})
    with pytest.raises(MmtokError, match="unknown split 'valid'"):
        FoldersConfig(root=root).open("valid", NOWHERE)
    with pytest.raises(MmtokError, match="shares that leave some of 1"):
        FoldersConfig(root=root, validation=0.6, test=0.5)
    with pytest.raises(MmtokError, match="not a regular expression"):
        FoldersConfig(root=root, group="(")
    with pytest.raises(MmtokError, match="no sample falls into split 'test'"):
        FoldersConfig(root=root, fields={"note": "note"}, test=1e-9).open("test", NOWHERE)
    with pytest.raises(MmtokError, match="unknown field 'depht'"):
        FoldersConfig(root=root, fields={"depth": "depth"}).open("train", NOWHERE).read([0], ["depht"])


def test_emoji_open_with_groups_kept_together(shared):
    fields = {**{name: name for name in EMOJI}, "name": "text"}
    config = FoldersConfig(
        root=shared / "data" / "emoji", fields=fields, pick={"name": "name"}, validation=0.1, group=r"[a-z0-9]+$"
    )
    train, validation = (config.open(split, NOWHERE) for split in ("train", "validation"))
    assert len(train) + len(validation) == 1224
    assert 0.05 < len(validation) / 1224 < 0.15
    groups = [{source.key(i).split("-")[-1] for i in range(len(source))} for source in (train, validation)]
    assert not groups[0] & groups[1]
    for sample in validation.read(range(8), (*EMOJI, "name")):
        assert sample["render"].shape == sample["flat"].shape == (64, 64, 3)
        assert sample["line"].shape == sample["mask"].shape == (64, 64)
        assert sample["render"].dtype == sample["mask"].dtype == np.uint8
        assert isinstance(sample["name"], str)
        assert set(sample["text"]) == {"name", "group", "tags"}


def test_derived_fields(root):
    base = FoldersConfig(root=root, validation=0.0)
    config = Derived(
        base=base,
        needs=("depth",),
        fields={
            "thermal": lambda sample: np.exp(-sample["depth"]),
            "rare": lambda sample: "far" if sample["depth"][0, 0] > 8 else None,
        },
    )
    assert isinstance(config, DataConfig)
    assert config.splits == ("train",)
    config.prepare(NOWHERE)
    source = config.open("train", NOWHERE)
    assert source.fields == ("depth", "note", "rgb", "text", "thermal", "rare")
    keys = [source.key(index) for index in range(len(source))]
    blue, old, red = (keys.index(key) for key in ("blue-ball", "old-box", "red-ball"))
    first, second, third = source.read([blue, old, red], ["thermal", "rare", "note"])
    assert set(first) == {"thermal", "rare", "note"}, "what is needed but not asked for is left out"
    np.testing.assert_allclose(first["thermal"], np.exp(-np.full((2, 2), 9.0)), rtol=1e-6)
    assert first["rare"] == "far"
    assert set(second) == {"note"}, "no depth, nothing derived from it"
    assert set(third) == {"thermal", "note"}, "None is absent"
    assert set(source.read([red], ["depth"])[0]) == {"depth"}
    constant = Derived(base=base, needs=(), fields={"one": lambda sample: 1}).open("train", NOWHERE)
    assert constant.read([0, 1], ["one"]) == [{"one": 1}, {"one": 1}]


def test_configs_survive_json(root):
    config = FoldersConfig(root=root, fields={"name": "text"}, pick={"name": "name"}, group="[a-z]+")
    assert from_json(FoldersConfig, json.loads(json.dumps(to_json(config))), where="test") == config
    config = TfdsConfig(path=root, split_names={"train": "train[:5]"})
    assert from_json(TfdsConfig, json.loads(json.dumps(to_json(config))), where="test") == config


def test_derived_errors_name_field_and_sample(root):
    base = FoldersConfig(root=root, validation=0.0)
    broken = Derived(base=base, needs=("depth",), fields={"bad": lambda sample: sample["dpeth"]})
    source = broken.open("train", NOWHERE)
    with pytest.raises(MmtokError, match=r"derived field 'bad' of sample 'blue-ball' failed: KeyError: 'dpeth'"):
        source.read([0], ["bad"])
    with pytest.raises(MmtokError, match=r"needed by a derived field 'dpeth' .did you mean 'depth'"):
        Derived(base=base, needs=("dpeth",), fields={}).open("train", NOWHERE)


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory) -> Path:
    import io

    import tensorflow_datasets as tfds

    def png(values) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        return buffer.getvalue()

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                    "caption": tfds.features.Text(),
                    "depth": tfds.features.Tensor(shape=(2, 2), dtype=np.float32),
                }
            )
            return self.dataset_info_from_configs(features=features, homepage="", description="")

        def _split_generators(self, manager):
            return {"train": self._generate_examples(12), "validation": self._generate_examples(3)}

        def _generate_examples(self, count):
            for index in range(count):
                yield (
                    index,
                    {
                        "image": png(np.full((2, 3, 3), index, np.uint8)),
                        "mask": png(np.full((2, 3), index, np.uint8)),
                        "caption": f"number {index}",
                        "depth": np.full((2, 2), index, np.float32),
                    },
                )

    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_tfds_directory(tfds_folder):
    config = TfdsConfig(path=tfds_folder)
    assert isinstance(config, DataConfig)
    assert set(config.splits) == {"train", "validation"}
    source = config.open("train", NOWHERE)
    assert isinstance(source, Source)
    assert len(source) == 12
    assert set(source.fields) == {"image", "mask", "caption", "depth"}
    assert len({source.key(index) for index in range(12)}) == 12
    read = source.read(range(12), ["image", "mask", "caption", "depth"])
    assert sorted(sample["caption"] for sample in read) == sorted(f"number {index}" for index in range(12))
    for sample in read:
        index = int(sample["caption"].split()[1])
        np.testing.assert_array_equal(sample["image"], np.full((2, 3, 3), index))
        np.testing.assert_array_equal(sample["mask"], np.full((2, 3), index))
        np.testing.assert_array_equal(sample["depth"], np.full((2, 2), index))
    assert set(source.read([5], ["depth"])[0]) == {"depth"}
    assert source.read([5], ["caption"])[0]["caption"] == read[5]["caption"]


def test_tfds_splits_by_expression(tfds_folder):
    config = TfdsConfig(path=tfds_folder, split_names={"train": "train[:75%]", "test": "train[75%:]"})
    assert config.splits == ("train", "test")
    train, test = (config.open(split, NOWHERE) for split in config.splits)
    assert (len(train), len(test)) == (9, 3)
    captions = [s["caption"] for source in (train, test) for s in source.read(range(len(source)), ["caption"])]
    assert len(set(captions)) == 12


def test_tfds_errors(tfds_folder, tmp_path):
    with pytest.raises(MmtokError, match="no data set of tensorflow-datasets"):
        TfdsConfig(path=tmp_path).open("train", NOWHERE)
    with pytest.raises(MmtokError, match="unknown split 'trian'"):
        TfdsConfig(path=tfds_folder).open("trian", NOWHERE)
    with pytest.raises(MmtokError, match="split 'train' cannot be opened"):
        TfdsConfig(path=tfds_folder, split_names={"train": "nothing[:5]"}).open("train", NOWHERE)
    with pytest.raises(MmtokError, match=r"unknown field 'imag' \(did you mean 'image'"):
        TfdsConfig(path=tfds_folder).open("train", NOWHERE).read([0], ["imag"])
