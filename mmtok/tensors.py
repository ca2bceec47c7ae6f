"""Named arrays in safetensors files, read and written one at a time: a file may be larger than the free memory."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from mmtok.errors import MmtokError
from mmtok.files import new_file

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
LISTED = 8  # names per kind of disagreement that an error spells out
_LENGTH = 8  # bytes of the little-endian number in front of the header


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape and dtype of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Size in a file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class TensorFile(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file; each look-up reads one from the disk.

    Attributes:
      path: The file.
      metadata: Texts by name that the file carries.
      specs: Shape and dtype of each array.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Reads the header only.

        Raises:
          MmtokError: there is no such file, it is truncated or no safetensors file, or a dtype is not known.
        """
        self.path = Path(path)
        try:
            with safe_open(self.path, framework="numpy") as file:  # checks the header against the size of the file
                self.metadata: dict[str, str] = dict(file.metadata() or {})
        except FileNotFoundError:
            raise MmtokError(f"{self.path}: no such file") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise MmtokError(f"{self.path}: truncated, or not a safetensors file ({error}); copy it again") from error
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self.specs: dict[str, Spec] = {}
        self._starts: dict[str, int] = {}
        for name, entry in header.items():
            if entry["dtype"] not in _DTYPES:
                raise MmtokError(f"{self.path}: tensor '{name}' is of the unknown dtype {entry['dtype']}")
            self.specs[name] = Spec(tuple(entry["shape"]), _DTYPES[entry["dtype"]])
            self._starts[name] = _LENGTH + length + entry["data_offsets"][0]

    def __getitem__(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        values = np.fromfile(self.path, np.uint8, spec.bytes, offset=self._starts[name])
        return values.view(spec.dtype).reshape(spec.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def write_tensors(
    path: str | os.PathLike,
    specs: Mapping[str, Spec],
    read: Callable[[str], np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, all or nothing, holding one array at a time.

    Args:
      path: The file; an older one is replaced.
      specs: Shape and dtype of each array.
      read: Gives an array by its name; asked once for each.
      metadata: Texts by name.

    Raises:
      MmtokError: the file cannot be written.
    """
    order = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))  # keeps every array aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in order:
        spec = specs[name]
        offsets = [start, start + spec.bytes]
        header[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
        start += spec.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    with new_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for name in order:
            array = np.asarray(read(name))
            assert (array.shape, array.dtype) == (specs[name].shape, specs[name].dtype), name
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Compares names and shapes.

    Args:
      expected: Shape by name.
      found: Shape by name.
      where: Begins the error message.

    Raises:
      MmtokError: names are missing, unexpected or have another shape; the error lists them.
    """
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in faults.items() if names)
        raise MmtokError(f"{where}: {listed}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
