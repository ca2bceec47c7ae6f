"""What a caption says, as facts that can be compared."""

import dataclasses
import itertools
import re

import numpy as np
from scipy.optimize import linear_sum_assignment

from mmtok.scenes.captions import NUMBERS, THINGS, holds
from mmtok.scenes.tables import COLOURS, MATERIALS, SHAPES, SIZES
from mmtok.scenes.world import Scene

Thing = tuple[str | None, str, str]
"""(size or None where it is not said, colour, shape)."""

Relation = tuple[tuple[str, str], str, tuple[str, str]]
"""((colour, shape), "left" | "right" | "front" | "behind", (colour, shape)): the first is left of ... the second."""

_MOST = 24  # objects one phrase may claim; nonsense is cut here


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is said of a scene.

    Attributes:
      count: Number of objects; None where nothing is said.
      objects: In the order of mention.
      relations: Between objects.
    """

    count: int | None
    objects: tuple[Thing, ...]
    relations: tuple[Relation, ...] = ()


def facts(scene: Scene) -> Facts:
    """Returns everything that is true of a scene, objects from the nearest to the farthest."""
    pairs = [(item.colour, item.shape) for item in scene.objects]
    every = range(len(pairs))
    return Facts(
        count=len(pairs),
        objects=tuple((item.size, item.colour, item.shape) for item in scene.objects),
        relations=tuple(
            (pairs[a], relation, pairs[b])
            for a in every
            for b in every
            for relation in ("left", "right", "front", "behind")
            if a != b and holds(scene, a, relation, b)
        ),
    )


_COUNT = "|".join((*NUMBERS[1:], "an?", "the", "single", "[1-6]"))
_PHRASE = re.compile(
    rf"(?:\b(?P<many>{_COUNT}) )?(?:\b(?P<size>{'|'.join(SIZES)}) )?\b(?P<colour>{'|'.join(COLOURS)})"
    rf" (?:(?:{'|'.join(MATERIALS)}) )?(?P<shape>{'|'.join(SHAPES)})s?\b"
)
_TOTAL = re.compile(rf"\b(?P<many>{'|'.join(NUMBERS)}|[0-6]) (?:{'|'.join(THINGS)})s?\b")
_BETWEEN = re.compile(r"^(?: (?:is|are|stands?))?(?: to the)? (?P<where>left of|right of|in front of|behind) $")
_WHERE = {"left of": "left", "right of": "right", "in front of": "front", "behind": "behind"}
_ORDERED = {"from left to right": "left", "from front to back": "front"}


def parse(caption: str) -> Facts:
    """Returns the facts a caption states; text that states none gives no objects and no count."""
    text = re.sub(r"\s+", " ", caption.lower())
    phrases = list(_PHRASE.finditer(text))
    objects: list[Thing] = []
    mentioned: list[tuple[str, str]] = []
    for phrase in phrases:
        mentioned.append((phrase["colour"], phrase["shape"]))
        if phrase["many"] != "the":
            objects += [(phrase["size"], phrase["colour"], phrase["shape"])] * _number(phrase["many"])
    relations: list[Relation] = []
    for index in range(len(phrases) - 1):
        between = _BETWEEN.match(text[phrases[index].end() : phrases[index + 1].start()])
        if between:
            relations.append((mentioned[index], _WHERE[between["where"]], mentioned[index + 1]))
    for words, relation in _ORDERED.items():
        if words in text:
            relations += [(a, relation, b) for a, b in itertools.pairwise(mentioned)]
    total = _TOTAL.search(text)
    count = _number(total["many"]) if total else len(objects) or None
    return Facts(count=count, objects=tuple(objects[:_MOST]), relations=tuple(relations))


def score(predicted: str, truth: str) -> tuple[int, int]:
    """Compares two captions: one fact for the count, and colour and shape of every object.

    Objects are matched one to one as well as can be; an object too many counts as two facts wrong, like one too few, so
    that naming everything does not pay.

    Args:
      predicted: Any text.
      truth: The caption of the scene.

    Returns:
      Facts right and facts in all.
    """
    said, true = parse(predicted), parse(truth)
    right = int(said.count == true.count)
    if said.objects and true.objects:
        agree = np.array([[(a[1] == b[1]) + (a[2] == b[2]) for b in true.objects] for a in said.objects])
        right += int(agree[linear_sum_assignment(agree, maximize=True)].sum())
    return right, 1 + 2 * max(len(said.objects), len(true.objects))


def _number(word: str | None) -> int:
    if word is None or word in ("a", "an", "the", "single"):
        return 1
    return int(word) if word.isdigit() else NUMBERS.index(word)
