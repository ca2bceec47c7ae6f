"""Persons and instances as JSON values, and back: strict, because what comes back is written by hand or by others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmtok.errors import MmtokError
from mmtok.show.skeleton import TURNED

PERSON: Mapping[str, int] = {"global": 9, "camera": 3, "shape": 10}
"""Groups of numbers of a person, besides box and pose; any may be missing."""


def persons_to_json(value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns persons as JSON values; numbers of many digits are rounded."""
    return [{key: _plain(group) for key, group in person.items()} for person in value]


def persons_from_json(value: Any, *, where: str) -> list[dict[str, Any]]:
    """Returns persons: "box" (fractions), "pose" (float32 (23, 3, 3) or token ids), "global", "camera", "shape".

    Raises:
      MmtokError: a person lacks its box, or has something that is no such group.
    """
    return [_person(item, f"{where}: person {number}") for number, item in enumerate(_list(value, where, "persons"))]


def _person(item: Any, where: str) -> dict[str, Any]:
    known = ("box", "pose", *PERSON)
    _check_keys(item, where, required=("box",), known=known)
    person: dict[str, Any] = {"box": _box(item["box"], where)}
    if "pose" in item:
        ids = _is_ids(item["pose"])
        person["pose"] = item["pose"] if ids else _numbers(item["pose"], TURNED * 9, where, "pose").reshape(-1, 3, 3)
    for key, count in PERSON.items():
        if key in item:
            person[key] = _numbers(item[key], count, where, key).tolist()
    return person


def segments_to_json(value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns points and their instances as JSON values; masks become rows of 0 and 1 as text."""
    return [
        {
            "point": _plain(point["point"]),
            "instances": [{"box": _plain(one["box"]), "mask": _rows(one["mask"])} for one in point["instances"]],
        }
        for point in value
    ]


def segments_from_json(value: Any, *, where: str) -> list[dict[str, Any]]:
    """Returns points (x, y as fractions) and their instances: "box" (fractions), "mask" (uint8 (H, W) or token ids).

    Raises:
      MmtokError: a key is missing or unknown, or its value not as expected.
    """
    points = []
    for number, item in enumerate(_list(value, where, "points")):
        place = f"{where}: point {number}"
        _check_keys(item, place, required=("point", "instances"), known=("point", "instances"))
        instances = []
        for index, one in enumerate(_list(item["instances"], place, "instances")):
            inner = f"{place}, instance {index}"
            _check_keys(one, inner, required=("box", "mask"), known=("box", "mask"))
            instances.append({"box": _box(one["box"], inner), "mask": _mask(one["mask"], inner)})
        point = _numbers(item["point"], 2, place, "point")
        if point.min() < 0 or point.max() > 1:
            raise MmtokError(f"{place}: 'point' must be x, y as fractions in 0..1, it is {item['point']}")
        points.append({"point": point.tolist(), "instances": instances})
    return points


def _rows(mask: Any) -> Any:
    array = np.asarray(mask)
    return ["".join(map(str, row)) for row in array.astype(int).tolist()] if array.ndim == 2 else _plain(array)


def _mask(value: Any, where: str) -> Any:
    if _is_ids(value):
        return value
    rows = [row for row in value if isinstance(row, str) and set(row) <= {"0", "1"}] if isinstance(value, list) else []
    if not rows or len(rows) < len(value) or len({len(row) for row in rows}) > 1 or not rows[0]:
        raise MmtokError(f"{where}: 'mask' must be token ids or rows of equal length like \"0011\"")
    return np.array([list(row) for row in rows]).astype(np.uint8)


def _box(value: Any, where: str) -> list[float]:
    edges = _numbers(value, 4, where, "box")
    if edges.min() < 0 or edges.max() > 1:
        raise MmtokError(f"{where}: 'box' must be xmin, ymin, xmax, ymax as fractions in 0..1, it is {value}")
    return edges.tolist()


def _numbers(value: Any, count: int, where: str, key: str) -> np.ndarray:
    """Numbers, nested in any way."""
    try:
        array = np.asarray(value, np.float32)
    except (ValueError, TypeError):
        array = np.zeros(0)
    if array.size != count or not np.isfinite(array).all():
        raise MmtokError(f"{where}: '{key}' must be {count} numbers")
    return array.ravel()


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) is int and id >= 0 for id in value)


def _list(value: Any, where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise MmtokError(f"{where}: a list of {what} was expected, it is a {type(value).__name__}")
    return value


def _check_keys(item: Any, where: str, *, required: Sequence[str], known: Sequence[str]) -> None:
    found = set(item) if isinstance(item, dict) else set()
    if not found.issuperset(required) or not found.issubset(known):
        raise MmtokError(f"{where}: a mapping of {', '.join(known)} was expected, found {', '.join(found) or item}")


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return array.tolist() if array.dtype.kind in "iu" else np.round(array.astype(np.float64), 5).tolist()
