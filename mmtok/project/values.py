"""Reading one raw field of many samples."""

from collections.abc import Iterator
from typing import Any

from mmtok.progress import Progress
from mmtok.source import Source

CHUNK = 256


def read_values(source: Source, field: str, *, limit: int) -> list[Any]:
    """Reads field `field` of the first `limit` samples that have it."""
    return [value for chunk in iterate_values(source, field, limit=limit) for value in chunk]


def iterate_values(source: Source, field: str, *, limit: int) -> Iterator[list[Any]]:
    """Yields the values of `field` in chunks; samples that lack it are left out."""
    total = min(limit, len(source))
    with Progress(f"read {field}", total=total, unit="samples") as progress:
        for start in range(0, total, CHUNK):
            stop = min(start + CHUNK, total)
            samples = source.read(range(start, stop), [field])
            yield [sample[field] for sample in samples if sample.get(field) is not None]
            progress.update(stop - start)
