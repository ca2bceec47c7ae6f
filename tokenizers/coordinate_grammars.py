"""Grammars of the sequences of `mmtok.tokenizers.coordinates`."""

import numpy as np

from mmtok.grammar import ILLEGAL, Grammar, either, maybe, one_of, sequence, some
from mmtok.tokenizers.sequences import AXES, Coordinates

FINEST_ORDERED = 64  # bins; the states that remember a corner grow with their square


def boxes(coordinates: Coordinates) -> Grammar:
    """Returns the grammar of v0 v1 v2 v3 name, any number of times.

    Up to `FINEST_ORDERED` bins, v0 <= v2 and v1 <= v3; with more, only the form is demanded.
    """
    if coordinates.bins <= FINEST_ORDERED:
        return _ordered_boxes(coordinates)
    box = sequence(*(one_of(coordinates.axis(axis)) for axis in range(AXES + 1)))
    return maybe(some(box)).grammar(coordinates.size)


def palette(coordinates: Coordinates, *, colours: int) -> Grammar:
    """Returns the grammar of v1 = n, up to `colours`, then 3 n times v0."""
    level = one_of(coordinates.axis(0))
    counted = (sequence(one_of((coordinates.at(1, n),)), *[level] * (3 * n)) for n in range(colours + 1))
    return either(*counted).grammar(coordinates.size)


def metadata(coordinates: Coordinates, *, keys: int) -> Grammar:
    """Returns the grammar of v1 = key, v0 = value, for some of the keys in ascending order."""
    value = one_of(coordinates.axis(0))
    pairs = (maybe(sequence(one_of((coordinates.at(1, key),)), value)) for key in range(keys))
    return sequence(*pairs).grammar(coordinates.size)


def _ordered_boxes(coordinates: Coordinates) -> Grammar:
    """What is still to be compared is remembered: v0, then v0 and v1, then v1, then nothing."""
    bins = coordinates.bins
    after_v0 = 1
    after_v1 = after_v0 + bins
    after_v2 = after_v1 + bins**2
    after_v3 = after_v2 + bins

    v0, v1, v2, v3 = (slice(1 + axis * bins, 1 + (axis + 1) * bins) for axis in range(AXES))
    name = 1 + AXES * bins
    classes = np.zeros(coordinates.size, np.int32)
    classes[coordinates.first :] = np.minimum(np.arange(1, 1 + coordinates.size - coordinates.first), name)

    xmin, ymin, xmax = np.ogrid[:bins, :bins, :bins]
    low, high = np.ogrid[:bins, :bins]
    step = np.full((after_v3 + 1, name + 1), ILLEGAL, np.int16)
    step[0, v0] = after_v0 + np.arange(bins)
    step[after_v0:after_v1, v1] = after_v1 + np.arange(bins**2).reshape(bins, bins)
    step[after_v1:after_v2].reshape(bins, bins, -1)[..., v2] = np.where(xmin <= xmax, after_v2 + ymin, ILLEGAL)
    step[after_v2:after_v3, v3] = np.where(low <= high, after_v3, ILLEGAL)
    step[after_v3, name] = 0
    return Grammar(classes, step, np.arange(len(step)) == 0)
