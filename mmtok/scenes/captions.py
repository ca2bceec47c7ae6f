"""English captions that are true of a scene, from a small grammar."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from mmtok.scenes.tables import SIZES
from mmtok.scenes.world import Object, Scene

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
THINGS = ("object", "thing", "solid")
DRAWS = 24
"""Random numbers that one caption uses at most."""

MARGIN_ACROSS = 0.08
"""Least distance of middles, in picture widths, to say left or right."""

MARGIN_DEPTH = 0.5
"""Least difference of depth, in metres, to say in front or behind."""

_RELATIONS = ("left", "right", "front", "behind")
_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "front": ("in front of",),
    "behind": ("behind",),
}


@dataclasses.dataclass(frozen=True)
class _Group:
    """Objects said in one phrase: "two small red cubes"."""

    members: tuple[int, ...]
    words: str
    colour: str
    shape: str


class _Dice:
    """Hands out the random numbers of one caption."""

    def __init__(self, numbers: Sequence[float]):
        self._numbers = iter(numbers)

    def __call__(self) -> float:
        return next(self._numbers)

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self() * len(options))]


def caption(scene: Scene, numbers: Float64[np.ndarray, " D"]) -> str:
    """Returns a sentence or two that name every object with colour and shape.

    Args:
      scene: What to describe.
      numbers: `DRAWS` random numbers in [0, 1) that choose among everything that can be said.
    """
    dice = _Dice(numbers.tolist())
    with_size = dice() < 0.6 and len(scene.objects) <= 5
    with_material = dice() < 0.25 and len(scene.objects) <= 3
    merge = dice() < 0.6 or len(scene.objects) > 4
    order, spatial = _order(scene, dice)
    groups = _groups(scene, order, with_size=with_size, with_material=with_material, merge=merge)
    if len(scene.objects) == 1:
        return _single(groups[0], dice)
    forms: list[Callable[[Scene, list[_Group], _Dice], str]] = [_list, _relation, _relation, _list_and_relation]
    if spatial and len(groups) == len(scene.objects):
        return _ordered(scene, groups, spatial, dice)
    return forms[int(dice() * len(forms))](scene, groups, dice)


def holds(scene: Scene, first: int, relation: str, second: int) -> bool:
    """Whether object `first` is clearly left of, right of, in front of or behind object `second`."""
    across = scene.across[first] - scene.across[second]
    depth = scene.depth[first] - scene.depth[second]
    if relation == "left":
        return across < -MARGIN_ACROSS
    if relation == "right":
        return across > MARGIN_ACROSS
    return depth < -MARGIN_DEPTH if relation == "front" else depth > MARGIN_DEPTH


def _order(scene: Scene, dice: _Dice) -> tuple[list[int], str]:
    """Returns the order in which objects are named, and what it means where it is clear enough to be said."""
    indices = list(range(len(scene.objects)))
    kind = dice.pick(("left", "front", "", ""))
    if kind == "left":
        indices.sort(key=lambda index: scene.across[index])
    elif not kind:
        return indices if dice() < 0.5 else indices[::-1], ""
    clear = all(holds(scene, a, kind, b) for a, b in itertools.pairwise(indices))
    return indices, kind if clear else ""


def _groups(scene: Scene, order: list[int], *, with_size: bool, with_material: bool, merge: bool) -> list[_Group]:
    said: dict[tuple[str, str] | int, list[int]] = {}
    for index in order:
        words = _describe(scene.objects[index], with_size=with_size, with_material=with_material)
        said.setdefault((words, scene.objects[index].shape) if merge else index, []).append(index)
    groups = []
    for members in said.values():
        item = scene.objects[members[0]]
        words = _describe(item, with_size=with_size, with_material=with_material)
        groups.append(_Group(tuple(members), words, item.colour, item.shape))
    return groups


def _describe(item: Object, *, with_size: bool, with_material: bool) -> str:
    size = [item.size] if with_size and item.size != SIZES[1] else []
    return " ".join([*size, item.colour, *([item.material] if with_material else [])])


def _phrase(group: _Group) -> str:
    many = len(group.members)
    if many > 1:
        return f"{NUMBERS[many]} {group.words} {group.shape}s"
    return f"{'an' if group.words[0] in 'aeiou' else 'a'} {group.words} {group.shape}"


def _join(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _single(group: _Group, dice: _Dice) -> str:
    thing, words = dice.pick(THINGS), f"{group.words} {group.shape}"
    return _sentence(
        dice.pick(
            (
                f"one {words}",
                f"a single {words}",
                f"there is one {thing}, {_phrase(group)}",
                f"one {thing}: {_phrase(group)}",
                f"one {words} on the floor",
                f"a picture of one {words}",
                f"only one {words} stands on the floor",
            )
        )
    )


def _opening(scene: Scene, dice: _Dice) -> str:
    count = f"{NUMBERS[len(scene.objects)]} {dice.pick(THINGS)}s"
    return dice.pick((count, f"there are {count}", f"a picture of {count}", f"we see {count}", f"{count} on the floor"))


def _list(scene: Scene, groups: list[_Group], dice: _Dice) -> str:
    listed = _join([_phrase(group) for group in groups])
    if dice() < 0.25:
        return _sentence(f"{listed}, {NUMBERS[len(scene.objects)]} {dice.pick(THINGS)}s in all")
    return _sentence(f"{_opening(scene, dice)}: {listed}")


def _ordered(scene: Scene, groups: list[_Group], kind: str, dice: _Dice) -> str:
    listed = _join([_phrase(group) for group in groups])
    how = "from left to right" if kind == "left" else "from front to back"
    return _sentence(f"{_opening(scene, dice)}, {how}: {listed}")


def _related(scene: Scene, groups: list[_Group], dice: _Dice) -> tuple[int, str, int] | None:
    """Returns two groups and a relation that holds between all their members."""
    options = [
        (first, relation, second)
        for first in range(len(groups))
        for second in range(len(groups))
        for relation in _RELATIONS
        if first != second
        and all(holds(scene, a, relation, b) for a in groups[first].members for b in groups[second].members)
    ]
    return options[int(dice() * len(options))] if options else None


def _relation(scene: Scene, groups: list[_Group], dice: _Dice) -> str:
    """Says "a red cube is left of two blue spheres", then the rest."""
    related = _related(scene, groups, dice)
    if related is None:
        return _list(scene, groups, dice)
    first, relation, second = related
    many = len(groups[first].members) > 1
    where = dice.pick(_WORDS[relation])
    verb = dice.pick(("", "are " if many else "is ", "stand " if many else "stands "))
    text = f"{_phrase(groups[first])} {verb}{where} {_phrase(groups[second])}"
    rest = [_phrase(group) for index, group in enumerate(groups) if index not in (first, second)]
    if rest:
        text += f", {dice.pick(('with', 'and also'))} {_join(rest)}"
    ending = dice()
    if ending < 0.3 and len(scene.objects) <= 4:
        return _sentence(text)  # the numbers in the phrases add up to the count
    if ending < 0.65:
        return _sentence(f"{_opening(scene, dice)}: {text}")
    return _sentence(f"{text}, {NUMBERS[len(scene.objects)]} {dice.pick(THINGS)}s in all")


def _list_and_relation(scene: Scene, groups: list[_Group], dice: _Dice) -> str:
    """Lists the objects, then relates two that their words tell apart."""
    single = [group for group in groups if len(group.members) == 1 and _unique(group, groups)]
    related = _related(scene, single, dice) if len(scene.objects) <= 4 else None
    listed = _list(scene, groups, dice)
    if related is None:
        return listed
    first, relation, second = related
    where = dice.pick(_WORDS[relation])
    a, b = (f"the {group.colour} {group.shape}" for group in (single[first], single[second]))
    return f"{listed} {_sentence(f'{a} is {where} {b}')}"


def _unique(group: _Group, groups: list[_Group]) -> bool:
    return sum((other.colour, other.shape) == (group.colour, group.shape) for other in groups) == 1
