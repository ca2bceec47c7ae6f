"""Plans that come with a model, by name."""

import dataclasses
from collections.abc import Collection, Mapping

from mmtok.errors import unknown
from mmtok.generate import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to make, in which order and how; kept in a model's config.json under `recipes`.

    Attributes:
      plan: Its targets.
      given: Raw fields of which one is to be given for this recipe to be chosen by itself; none fits all.
    """

    plan: tuple[Target, ...]
    given: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Target]:
        """The targets by name."""
        return {target.modality: target for target in self.plan}


def choose(recipes: Mapping[str, Recipe], *, name: str, given: Collection[str]) -> Recipe | None:
    """Returns the recipe of a name; without one the first that fits what is given, if any.

    Raises:
      MmtokError: there is no recipe of that name.
    """
    if name:
        if name not in recipes:
            raise unknown("recipe", name, recipes)
        return recipes[name]
    return next((recipe for recipe in recipes.values() if not recipe.given or {*recipe.given} & {*given}), None)
