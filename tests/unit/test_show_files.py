"""Natural file formats: round trips, pictures of every kind, and bad input in one sentence."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmtok.errors import MmtokError
from mmtok.show import read_value, write_value

RNG = np.random.default_rng(0)
VALUES = {
    "rgb": RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8),
    "grey": RNG.integers(0, 256, (5, 7), dtype=np.uint8),
    "depth": np.array([[1.5, np.inf], [0.25, 30]], np.float32),
    "label": RNG.integers(0, 256, (5, 7), dtype=np.uint8),
    "instance": RNG.integers(0, 4, (5, 7), dtype=np.uint8),
    "edge": RNG.integers(0, 2, (5, 7), dtype=np.uint8),
    "mask": RNG.integers(0, 2, (5, 7), dtype=np.uint8),
    "text": "two red spheres, naïve",
    "box": [{"label": "cube", "box": [0.1, 0.2, 0.5, 0.75]}],
    "relative_depth": RNG.normal(size=(3, 4)).astype(np.float32),
    "sketch": RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8),
    "palette": RNG.integers(0, 256, (3, 3), dtype=np.uint8),
    "values": {"brightness": 0.25, "spheres": 2.0},
    "feature": RNG.normal(size=(2, 3, 4)).astype(np.float32),
    "amount": RNG.random((3, 4)).astype(np.float32),
    "array": RNG.normal(size=(2, 3, 4, 5)).astype(np.float32),
}


@pytest.mark.parametrize("show", sorted(VALUES))
def test_round_trip(tmp_path, show):
    path = write_value(tmp_path / "a.b" / "scene.1", VALUES[show], show)
    assert path.stem == "scene.1"
    back = read_value(str(path), show)
    if isinstance(VALUES[show], np.ndarray):
        assert back.dtype == VALUES[show].dtype
        assert np.array_equal(back, VALUES[show])
    else:
        assert back == VALUES[show]
    assert not [item for item in path.parent.iterdir() if item.name.endswith(".tmp")]


def test_vector_round_trip(tmp_path):
    camera = np.array([1.5, -2.25, 0.125], np.float32)
    back = read_value(str(write_value(tmp_path / "camera", camera, "values")), "values")
    assert back.dtype == np.float32
    assert np.array_equal(back, camera)


PEOPLE = [
    {
        "box": [0.0, 0.25, 0.5, 1.0],
        "pose": RNG.normal(size=(23, 3, 3)).astype(np.float32).round(4),
        "global": [1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0],
        "camera": [0.5, -0.25, 2.0],
        "shape": [0.5] * 10,
    },
    {"box": [0.0, 0.25, 0.5, 1.0], "pose": [1, 2, 3, 4, 5, 6, 7, 1023]},
]


def test_persons_survive(tmp_path):
    back = read_value(str(write_value(tmp_path / "people", PEOPLE, "pose")), "pose")
    assert back[1] == PEOPLE[1]
    assert {key: back[0][key] for key in back[0] if key != "pose"} == {
        k: v for k, v in PEOPLE[0].items() if k != "pose"
    }
    assert back[0]["pose"].dtype == np.float32
    np.testing.assert_allclose(back[0]["pose"], PEOPLE[0]["pose"], atol=1e-5)


def test_instances_survive(tmp_path):
    mask = RNG.integers(0, 2, (6, 5), dtype=np.uint8)
    found = [{"box": [0.0, 0.5, 0.25, 1.0], "mask": mask}, {"box": [0.0, 0.5, 0.25, 1.0], "mask": [7] * 16}]
    value = [{"point": [0.5, 0.25], "instances": found}, {"point": [0.0, 1.0], "instances": []}]
    back = read_value(str(write_value(tmp_path / "found", value, "segment")), "segment")
    assert back[1] == value[1]
    assert back[0]["instances"][1] == found[1]
    assert back[0]["instances"][0]["mask"].dtype == np.uint8
    np.testing.assert_array_equal(back[0]["instances"][0]["mask"], mask)


@pytest.mark.parametrize(
    ("value", "show", "sentence"),
    [
        ({}, "pose", "p.json: a list of persons was expected, it is a dict"),
        ([{"pose": [1]}], "pose", "p.json: person 0: a mapping of box, pose, global, camera, shape was expected"),
        ([{"box": [0, 0, 1, 1]}, {"box": [0, 0, 1]}], "pose", "p.json: person 1: 'box' must be 4 numbers"),
        ([{"box": [0, 0, 1, 2]}], "pose", "p.json: person 0: 'box' must be xmin, ymin, xmax, ymax as fractions"),
        ([{"box": [0, 0, 1, 1], "hat": 1}], "pose", "p.json: person 0: a mapping of .* expected, found .*hat"),
        ([{"box": [0, 0, 1, 1], "pose": [0.5] * 8}], "pose", "p.json: person 0: 'pose' must be 207 numbers"),
        ([{"box": [0, 0, 1, 1], "camera": [[1], [2, 3]]}], "pose", "p.json: person 0: 'camera' must be 3 numbers"),
        ([{"box": [0, 0, 1, 1], "shape": "tall"}], "pose", "p.json: person 0: 'shape' must be 10 numbers"),
        (3, "segment", "p.json: a list of points was expected, it is a int"),
        ([{"point": [0, 0]}], "segment", "p.json: point 0: a mapping of point, instances was expected, found point"),
        ([{"point": [0, 9], "instances": []}], "segment", "p.json: point 0: 'point' must be x, y as fractions"),
        (
            [{"point": [0, 0], "instances": [{"box": [0, 0, 1, 1], "mask": ["01", "0"]}]}],
            "segment",
            "p.json: point 0, instance 0: 'mask' must be token ids or rows of equal length",
        ),
        (
            [{"point": [0, 0], "instances": [{"box": [0, 0, 1, 1], "mask": []}]}],
            "segment",
            "p.json: point 0, instance 0: 'mask' must be",
        ),
    ],
)
def test_bad_persons_and_instances_in_one_sentence(tmp_path, monkeypatch, value, show, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(value))
    with pytest.raises(MmtokError, match=sentence) as caught:
        read_value("p.json", show)
    assert "\n" not in str(caught.value)


def test_normals_survive_eight_bits(tmp_path):
    normal = RNG.normal(size=(9, 9, 3))
    normal = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)
    normal[0] = 0
    back = read_value(str(write_value(tmp_path / "n", normal, "normal")), "normal")
    assert (back[0] == 0).all()
    assert np.degrees(np.arccos(np.clip((back[1:] * normal[1:]).sum(-1), -1, 1))).max() < 0.6


def test_depth_also_in_millimetres(tmp_path):
    write_value(tmp_path / "depth", VALUES["depth"], "depth")
    with Image.open(tmp_path / "depth.png") as image:
        assert np.array(image).tolist() == [[1500, 0], [250, 30000]]
    back = read_value(str(tmp_path / "depth.png"), "depth")
    assert np.allclose(back[back < 99], [1.5, 0.25, 30])
    assert np.isinf(back[0, 1])


def test_label_files_are_palette_pictures(tmp_path):
    with Image.open(write_value(tmp_path / "label", VALUES["label"], "label")) as image:
        assert image.mode == "P"


def test_nothing_to_write(tmp_path):
    with pytest.raises(MmtokError, match="absent"):
        write_value(tmp_path / "a", None, "rgb")
    with pytest.raises(MmtokError, match="unknown way"):
        write_value(tmp_path / "a", 1, "rgbb")


# --- pictures people bring --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    source = Image.new("L", (4, 3), 255)
    if mode == "I;16":
        image, ending = Image.fromarray(np.full((3, 4), 65535, np.uint16)), "png"
    elif mode == "F":
        image, ending = Image.fromarray(np.ones((3, 4), np.float32)), "tif"
    else:
        image = source.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "RGBA", "P") else source.convert(mode)
        ending = "jpg" if mode in ("CMYK", "YCbCr") else "tif" if mode == "I" else "png"
    path = tmp_path / f"picture.{ending}"
    image.save(path)
    pixels = read_value(str(path), "rgb")
    assert pixels.shape == (3, 4, 3)
    assert pixels.dtype == np.uint8
    assert (pixels >= 253).all()


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_value(str(tmp_path / "clear.png"), "rgb") == 255).all()


def test_photographs_are_turned_upright(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned; the top of the scene is at the right
    image.save(tmp_path / "photo.png", exif=exif)
    pixels = read_value(str(tmp_path / "photo.png"), "rgb")
    assert np.array_equal(pixels[..., 0], np.rot90(np.arange(6).reshape(2, 3) * 40, -1))


def _bomb(width: int, height: int) -> bytes:
    """A small PNG file that claims to be huge."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a picture"),
        (b"just some words", "not a picture"),
        (_png()[: len(_png()) // 2], "damaged"),
        (_png()[:60] + bytes(40) + _png()[100:], "damaged"),
        (_bomb(9000, 9000), "64 megapixels"),
        (_bomb(60000, 60000), "64 megapixels"),
    ],
    ids=["empty", "text", "truncated", "corrupted", "large", "bomb"],
)
@pytest.mark.parametrize("show", ["rgb", "label", "edge", "normal", "depth"])
def test_bad_pictures_in_one_sentence(tmp_path, content, says, show):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(MmtokError, match=says) as caught:
        read_value(str(tmp_path / "bad.png"), show)
    assert "bad.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_of_the_wrong_kind(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "colour.png")
    with pytest.raises(MmtokError, match="class ids"):
        read_value(str(tmp_path / "colour.png"), "label")
    with pytest.raises(MmtokError, match="16-bit"):
        read_value(str(tmp_path / "colour.png"), "depth")
    for show in ("rgb", "depth", "label"):
        with pytest.raises(MmtokError, match="no such file"):
            read_value(str(tmp_path / "none.png"), show)


# --- arrays, text, JSON -----------------------------------------------------------------------------------------


def test_arrays_are_never_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.ones(3))
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "cut.npy", np.ones((40, 40)))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:500])
    for name in ("objects.npy", "many.npz", "text.npy", "cut.npy"):
        with pytest.raises(MmtokError, match=name) as caught:
            read_value(str(tmp_path / name), "array")
        assert "\n" not in str(caught.value)


def test_a_header_that_lies_costs_nothing(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "lie.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(MmtokError, match=r"lie\.npy"):
        read_value(str(tmp_path / "lie.npy"), "array")


def test_wrong_rank(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2, 2)))
    with pytest.raises(MmtokError, match="any x any was expected, it is 2 x 2 x 2"):
        read_value(str(tmp_path / "a.npy"), "depth")


def test_values_on_the_command_line(tmp_path):
    assert read_value("two red spheres left of a small blue cube", "text").startswith("two red")
    assert read_value("v" * 5000, "text") == "v" * 5000
    assert read_value('[{"label": "cube", "box": [0, 0, 1, 0.5]}]', "box") == [{"label": "cube", "box": [0, 0, 1, 0.5]}]
    assert read_value('["#ff8000", [1, 2, 3]]', "palette").tolist() == [[255, 128, 0], [1, 2, 3]]
    assert read_value('{"brightness": 3}', "values") == {"brightness": 3}
    assert read_value("[1, 2.5]", "values").tolist() == [1.0, 2.5]
    (tmp_path / "c.txt").write_text("  from a file\n")
    assert read_value(str(tmp_path / "c.txt"), "text") == "from a file"


@pytest.mark.parametrize(
    ("text", "show"),
    [
        ("captoin.txt", "text"),
        ("boxes.json", "box"),
        ("[1, 2", "box"),
        ('{"a": 1}', "box"),
        ('[{"label": "cube", "box": [0, 0, 2, 1]}]', "box"),
        ('[{"label": 3, "box": [0, 0, 1, 1]}]', "box"),
        ("3", "palette"),
        ("[[1, 2]]", "palette"),
        ('["#zz0000"]', "palette"),
        ("[[1, 2, 300]]", "palette"),
        ("true", "values"),
        ('["a"]', "values"),
        ("x", "hologram"),
    ],
)
def test_bad_values_in_one_sentence(text, show):
    with pytest.raises(MmtokError) as caught:
        read_value(text, show)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_text(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(MmtokError, match="UTF-8"):
        read_value(str(tmp_path / "c.txt"), "text")


def test_written_json_is_json(tmp_path):
    path = write_value(tmp_path / "m", {"a": np.float32(0.1), "n": np.int64(3)}, "values")
    assert json.loads(path.read_text()) == {"a": 0.1, "n": 3}
