"""Each modality in its natural file format, written and read."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmtok.errors import MmtokError, unknown
from mmtok.files import new_file, write_json
from mmtok.images import LARGEST
from mmtok.show.colours import class_colours
from mmtok.show.images import read_grey, read_ids, read_millimetres, read_rgb
from mmtok.show.pictures import picture
from mmtok.show.structured import persons_from_json, persons_to_json, segments_from_json, segments_to_json

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
_LEAST_SIDE = 256  # pixels of a picture that is only looked at
_LONGEST_NAME = 255  # characters; longer text cannot be the name of a file


def write_value(stem: str | os.PathLike, value: Any, show: str) -> Path:
    """Writes a raw value in its natural format.

    rgb, grey, normal, sketch: PNG; label, instance: palette PNG whose indices are the ids; edge, mask: grey PNG (0 and
    255); depth: `.npy` in metres and beside it a 16-bit PNG in millimetres (0 where undefined); text: `.txt`; box,
    pose, segment, palette, values: `.json`; relative_depth, feature, array: `.npy`; amount: `.npy` and beside it a PNG
    to look at.

    Args:
      stem: Path without its ending.
      value: Raw value.
      show: `Modality.show`.

    Returns:
      The file written.

    Raises:
      MmtokError: no such way to show, no value, or the file cannot be written.
    """
    stem = Path(stem)
    rule = _format(show)
    if value is None:
        raise MmtokError(f"{stem}: nothing to write, the value is absent")
    path = stem.with_name(stem.name + rule.ending)
    rule.write(path, value)
    return path


def read_value(text: str, show: str) -> Any:
    """Reads what a user gives for a modality.

    Args:
      text: A file, or for text and JSON-like values the value itself.
      show: `Modality.show`.

    Returns:
      The raw value; pictures keep their size.

    Raises:
      MmtokError: no such way to show, a file that is missing, damaged or of another kind, or a value not as expected.
    """
    rule = _format(show)
    try:
        return rule.read(text)
    except UnicodeDecodeError:
        raise MmtokError(f"{text}: not a text file in UTF-8") from None


def takes_text(show: str) -> bool:
    """Whether `read_value` takes the value itself in place of a file."""
    return _format(show).ending in (".txt", ".json")


# --- pictures ---------------------------------------------------------------------------------------------------


def _write_png(path: Path, image: Image.Image) -> None:
    with new_file(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def _write_rgb(path: Path, value: np.ndarray) -> None:
    _write_png(path, Image.fromarray(value))


def _write_normal(path: Path, value: np.ndarray) -> None:
    defined = np.linalg.norm(value, axis=-1, keepdims=True) > 1e-3
    levels = np.where(defined, (np.clip(value, -1, 1) + 1) * 127.5, 0)
    _write_png(path, Image.fromarray(levels.round().astype(np.uint8)))


def _read_normal(text: str) -> np.ndarray:
    path = Path(text)
    if path.suffix == ".npy":
        return _checked(_read_npy(path).astype(np.float32), path, (None, None, 3))
    levels = read_rgb(path).astype(np.float32)
    vectors = levels / 127.5 - 1
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(levels.any(-1, keepdims=True), vectors / np.maximum(length, 1e-6), 0).astype(np.float32)


def _write_ids(path: Path, value: np.ndarray) -> None:
    if value.max(initial=0) > 255:
        return _write_png(path, Image.fromarray(value.astype(np.uint16)))
    image = Image.fromarray(value.astype(np.uint8))
    image.putpalette(class_colours().tobytes())
    return _write_png(path, image)


def _read_ids(text: str) -> np.ndarray:
    path = Path(text)
    return _checked(_read_npy(path), path, (None, None)) if path.suffix == ".npy" else read_ids(path)


def _write_mask(path: Path, value: np.ndarray) -> None:
    _write_png(path, Image.fromarray(_on(value) * np.uint8(255)))


def _read_mask(text: str) -> np.ndarray:
    path = Path(text)
    return _on(_checked(_read_npy(path), path, (None, None)) if path.suffix == ".npy" else read_grey(path))


def _on(value: np.ndarray) -> np.ndarray:
    """0 or 1; pictures of 0..255 are cut in the middle."""
    value = value.astype(np.float64)
    return (value > (127 if value.max(initial=0) > 1 else 0.5)).astype(np.uint8)


def _write_depth(path: Path, value: np.ndarray) -> None:
    _write_npy(path, value)
    defined = np.isfinite(value) & (value > 0)
    millimetres = (
        np.where(defined, np.clip(np.where(defined, value, 0) * 1000.0, 1, 65535), 0).round().astype(np.uint16)
    )
    _write_png(path.with_suffix(".png"), Image.fromarray(millimetres))


def _read_depth(text: str) -> np.ndarray:
    path = Path(text)
    if path.suffix == ".npy":
        return _checked(_read_npy(path).astype(np.float32), path, (None, None))
    millimetres = read_millimetres(path)
    return np.where(millimetres > 0, millimetres / np.float32(1000), np.float32(np.inf)).astype(np.float32)


# --- arrays -----------------------------------------------------------------------------------------------------


def _write_npy(path: Path, value: Any) -> None:
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(value), allow_pickle=False)


def _write_amount(path: Path, value: np.ndarray) -> None:
    _write_npy(path, value)
    size = max(_LEAST_SIDE, *value.shape)
    _write_png(path.with_suffix(".png"), Image.fromarray(picture(value, "amount", size=size)))


def _read_npy(path: Path) -> np.ndarray:
    """Reads numbers; mapped first, so that a header that claims more than the file holds costs nothing."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise MmtokError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise MmtokError(f"{path}: not a .npy file of numbers, or damaged ({error})") from None
    if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "biuf" or mapped.size > LARGEST:
        raise MmtokError(f"{path}: one array of at most {LARGEST // 10**6} million numbers was expected")
    return np.array(mapped)


def _read_feature(text: str) -> np.ndarray:
    return _checked(_read_npy(Path(text)).astype(np.float32), Path(text), (None, None, None))


def _read_array(text: str) -> np.ndarray:
    path = Path(text)
    return read_rgb(path) if path.suffix.lower() in _PICTURES else _read_npy(path)


def _checked(value: np.ndarray, path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    if value.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, value.shape)):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise MmtokError(f"{path}: an array of {wanted} was expected, it is {' x '.join(map(str, value.shape))}")
    return value


# --- text and JSON ----------------------------------------------------------------------------------------------


def _write_text(path: Path, value: str) -> None:
    with new_file(path) as temporary:
        temporary.write_text(value + "\n", encoding="utf-8")


def _read_text(text: str) -> str:
    path = _as_file(text)
    return path.read_text(encoding="utf-8").strip() if path else text


def _write_box(path: Path, value: Any) -> None:
    write_json(path, [{"label": item["label"], "box": [round(float(x), 5) for x in item["box"]]} for item in value])


def _read_box(text: str) -> list[dict[str, Any]]:
    value = _read_json(text)
    if not isinstance(value, list) or not all(_is_box(item) for item in value):
        raise MmtokError(
            f'{text}: boxes are a list of {{"label": "cube", "box": [xmin, ymin, xmax, ymax]}}, numbers in 0..1'
        )
    return [{"label": item["label"], "box": [float(x) for x in item["box"]]} for item in value]


def _is_box(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("label"), str)
        and isinstance(item.get("box"), list)
        and len(item["box"]) == 4
        and all(isinstance(x, int | float) and 0 <= x <= 1 for x in item["box"])
    )


def _write_pose(path: Path, value: Any) -> None:
    write_json(path, persons_to_json(value))


def _read_pose(text: str) -> list[dict[str, Any]]:
    return persons_from_json(_read_json(text), where=_named(text))


def _write_segment(path: Path, value: Any) -> None:
    write_json(path, segments_to_json(value))


def _read_segment(text: str) -> list[dict[str, Any]]:
    return segments_from_json(_read_json(text), where=_named(text))


def _named(text: str) -> str:
    """A file, or the beginning of a value that may be long, for an error message."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:40]}…"


def _write_palette(path: Path, value: Any) -> None:
    write_json(path, np.asarray(value, np.uint8).reshape(-1, 3).tolist())


def _read_palette(text: str) -> np.ndarray:
    value = _read_json(text)
    try:
        colours = [_colour(item) for item in value]
    except (TypeError, ValueError):
        raise MmtokError(
            f'{text}: a palette is a list of colours, each [red, green, blue] in 0..255 or "#rrggbb"'
        ) from None
    return np.array(colours, np.uint8).reshape(-1, 3)


def _colour(item: Any) -> list[int]:
    levels = list(bytes.fromhex(item.removeprefix("#"))) if isinstance(item, str) else [int(level) for level in item]
    if len(levels) != 3 or not all(0 <= level <= 255 for level in levels):
        raise ValueError
    return levels


def _write_values(path: Path, value: Any) -> None:
    if isinstance(value, Mapping):
        write_json(path, {str(key): _plain(number) for key, number in value.items()})
    else:
        write_json(path, [_plain(number) for number in np.asarray(value).ravel()])


def _plain(number: Any) -> Any:
    number = number.item() if isinstance(number, np.generic) else number
    return float(f"{number:.7g}") if isinstance(number, float) else number


def _read_values(text: str) -> Any:
    path = _as_file(text)
    if path and path.suffix == ".npy":
        return _checked(_read_npy(path).astype(np.float32), path, (None,))
    value = _read_json(text)
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(number, int | float) for number in value):
        return np.array(value, np.float32)
    raise MmtokError(f'{text}: values are a mapping such as {{"brightness": 0.4}} or a list of numbers')


def _read_json(text: str) -> Any:
    path = _as_file(text)
    try:
        return json.loads(path.read_text(encoding="utf-8") if path else text)
    except json.JSONDecodeError as error:
        what = f"{path}: not a JSON file" if path else f"{text}: neither a file nor JSON"
        raise MmtokError(f"{what} ({error})") from None


def _as_file(text: str) -> Path | None:
    """The file that `text` names; None where it is the value itself.

    Raises:
      MmtokError: it looks like a file that does not exist.
    """
    path = Path(text)
    if len(text) <= _LONGEST_NAME and "\0" not in text and path.is_file():
        return path
    if path.suffix in (".txt", ".json", ".npy") and " " not in text:
        raise MmtokError(f"{text}: no such file")
    return None


@dataclasses.dataclass(frozen=True)
class _Format:
    ending: str
    write: Callable[[Path, Any], None]
    read: Callable[[str], Any]


_FORMATS: Mapping[str, _Format] = {
    "rgb": _Format(".png", _write_rgb, lambda text: read_rgb(Path(text))),
    "grey": _Format(".png", _write_rgb, lambda text: read_grey(Path(text))),
    "depth": _Format(".npy", _write_depth, _read_depth),
    "relative_depth": _Format(".npy", _write_npy, _read_depth),
    "normal": _Format(".png", _write_normal, _read_normal),
    "label": _Format(".png", _write_ids, _read_ids),
    "instance": _Format(".png", _write_ids, _read_ids),
    "edge": _Format(".png", _write_mask, _read_mask),
    "mask": _Format(".png", _write_mask, _read_mask),
    "sketch": _Format(".png", _write_rgb, lambda text: read_rgb(Path(text))),
    "text": _Format(".txt", _write_text, _read_text),
    "box": _Format(".json", _write_box, _read_box),
    "pose": _Format(".json", _write_pose, _read_pose),
    "segment": _Format(".json", _write_segment, _read_segment),
    "palette": _Format(".json", _write_palette, _read_palette),
    "values": _Format(".json", _write_values, _read_values),
    "feature": _Format(".npy", _write_npy, _read_feature),
    "amount": _Format(".npy", _write_amount, _read_array),
    "array": _Format(".npy", _write_npy, _read_array),
}


def _format(show: str) -> _Format:
    if show not in _FORMATS:
        raise unknown("way to show a modality (no file format for it)", show, _FORMATS)
    return _FORMATS[show]
