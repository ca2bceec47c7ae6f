"""What a masker is asked to do: a mixture of components, each giving every modality a role."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from mmtok.errors import MmtokError

Keep = Literal["random", "all", "binary"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """The part a modality plays in one component.

    Attributes:
      input_alpha: Dirichlet concentration of its share of the input tokens, >= 0. 0 means never visible.
      target_alpha: The same for the target tokens. 0 means never asked.
      keep: Of sequences: the fraction of units visible before budgets apply is uniform in [0, 1] (`random`),
        one (`all`), or zero or one with equal chance (`binary`).
    """

    input_alpha: float = 1.0
    target_alpha: float = 1.0
    keep: Keep = "random"

    def __post_init__(self) -> None:
        for name in ("input_alpha", "target_alpha"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise MmtokError(f"masking: {name} is {value}, it must be a finite number >= 0")
        if self.keep not in ("random", "all", "binary"):
            raise MmtokError(f"masking: keep is '{self.keep}', it must be 'random', 'all' or 'binary'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """One component of the mixture.

    Attributes:
      weight: Relative frequency, >= 0.
      default: Role of every modality that `roles` does not name.
      roles: Roles by modality name.
      whole: A random non-empty subset of the present modalities is visible whole and a random non-empty subset of the
        others is asked whole ("all of A from only B"), as far as the budgets allow; concentrations then only say
        which modalities take part (those above 0).
    """

    weight: float = 1.0
    default: Role = Role()
    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise MmtokError(f"masking: component weight is {self.weight}, it must be a finite number >= 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Budgets and mixture.

    Attributes:
      input_tokens: N, encoder slots per sample.
      target_tokens: M, decoder slots (predictions) per sample.
      min_input_tokens: When given, each sample's input budget is uniform in [min_input_tokens, input_tokens].
      min_target_tokens: The same for targets.
      components: The mixture.
      redistribute: Budget that a modality cannot use goes to others with room, and absent modalities take none.
        False is the rule of the 4M reference, for comparison: what does not fit is dropped, absent modalities and
        targets of input-only modalities included, and a sequence's target budget counts its opening sentinel.
    """

    input_tokens: int
    target_tokens: int
    min_input_tokens: int | None = None
    min_target_tokens: int | None = None
    components: tuple[Component, ...] = (Component(),)
    redistribute: bool = True

    def __post_init__(self) -> None:
        for name in ("input_tokens", "target_tokens"):
            most, least = getattr(self, name), getattr(self, f"min_{name}")
            if most < 1:
                raise MmtokError(f"masking: {name} is {most}, it must be at least 1")
            if least is not None and not 1 <= least <= most:
                raise MmtokError(f"masking: min_{name} is {least}, it must lie in 1..{most} ({name})")
        if not sum(component.weight for component in self.components) > 0:
            raise MmtokError("masking: components must hold at least one component with a weight above 0")
        if not self.redistribute and any(component.whole for component in self.components):
            raise MmtokError("masking: a component with whole=True needs redistribute=True")
