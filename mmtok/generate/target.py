"""One modality to generate, and how."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from mmtok.errors import MmtokError, unknown
from mmtok.generate.schedules import RAMPS, TOKEN_SCHEDULES, parse
from mmtok.modality import Modality

Scheme = Literal["", "halton", "roar", "maskgit", "autoregressive"]
SCHEMES: dict[str, tuple[str, ...]] = {"grid": ("halton", "roar", "maskgit"), "sequence": ("autoregressive",)}
USUAL_STEPS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One modality to generate. A plan is a tuple of targets; each is conditioned on what is known and on those before.

    Attributes:
      modality: Its name.
      scheme: `halton` reveals positions of a 2-D grid so that those of each step lie far apart (Besnier et al. 2025,
        arXiv 2503.17076), `roar` those of any grid in random order, `maskgit` the most confident ones first (Chang et
        al. 2022), `autoregressive` makes a sequence token by token; "" is `halton` for 2-D grids, `roar` for others.
      steps: Decoding steps of a grid; None is 8, or fewer for a grid of fewer tokens.
      token_schedule: Tokens per step, `linear` or `cosine`; "" is cosine for `maskgit`, linear for the others.
      temperature: Divides the logits; 0 takes the most likely token.
      temperature_schedule: `constant`, or for grids `linear` or `onex:LOW:POWER` (see `schedules.temperatures`).
      top_k: Draw among the k most likely tokens; 0 is all.
      top_p: Draw among the fewest tokens that have this probability together, in (0, 1].
      tempered_top_p: Whether `top_p` speaks of the distribution that is sampled, or of that at temperature 1.
      min_p: Draw among the tokens at least this times as likely as the most likely one, in [0, 1] (Nguyen et al. 2024,
        arXiv 2407.01082).
      noise: Of `maskgit`: Gumbel noise of this scale is added to the confidences, less and less as tokens are revealed.
      guidance: Scale of classifier-free guidance (Ho & Salimans 2022): unconditional logits plus this times their
        difference to the conditional ones; 1 is none. Without condition means: nothing but the target itself visible.
      weights: Conditions that are weighted one by one, modality -> weight, negative ones pointing away from it (Liu et
        al. 2022, arXiv 2206.01714): to the logits without all of these is added, for each, its weight times what it
        alone changes. What else is known is seen throughout. Instead of `guidance`.
      guidance_schedule: `constant`; or for grids `linear` or `cosine`: guidance rises from 1, weights from 0, with the
        share of tokens that are revealed, up to what they are in the last step.
      length: Longest sequence to make, end included; None is the modality's limit.
      constrained: Whether only tokens are drawn that make a well-formed sequence where they stand: that the layout of
        spans and the tokenizer's grammar allow. Without, a model may write sentinels, padding and the end anywhere, as
        in 4M's sampler: what follows them is cut off.
    """

    modality: str
    scheme: Scheme = ""
    steps: int | None = None
    token_schedule: Literal["", "cosine", "linear"] = ""
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: int = 0
    top_p: float = 1.0
    tempered_top_p: bool = True
    min_p: float = 0.0
    noise: float = 0.0
    guidance: float = 1.0
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    length: int | None = None
    constrained: bool = True

    def __post_init__(self) -> None:
        where = f"target '{self.modality}'"
        if self.steps is not None and self.steps < 1:
            raise MmtokError(f"{where}: steps must be at least 1, it is {self.steps}")
        if not 0 <= self.temperature < math.inf:
            raise MmtokError(f"{where}: temperature must be 0 (greedy) or a positive number, it is {self.temperature}")
        if self.top_k < 0:
            raise MmtokError(f"{where}: top_k must be at least 0 (0 keeps all tokens), it is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise MmtokError(f"{where}: top_p must be above 0 and at most 1 (which keeps all), it is {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise MmtokError(f"{where}: min_p must be from 0 (which keeps all) to 1, it is {self.min_p}")
        if not 0 <= self.noise < math.inf:
            raise MmtokError(f"{where}: noise must be 0 or a positive number, it is {self.noise}")
        if not math.isfinite(self.guidance):
            raise MmtokError(f"{where}: guidance must be a finite number, it is {self.guidance}")
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise MmtokError(f"{where}: the weight of '{name}' must be a finite number, it is {weight}")
        if self.weights and self.guidance != 1:
            raise MmtokError(f"{where}: guidance {self.guidance:g} and weights both guide it; leave one of them out")
        if self.length is not None and self.length < 1:
            raise MmtokError(f"{where}: length must be at least 1, it is {self.length}")
        if self.token_schedule and self.token_schedule not in TOKEN_SCHEDULES:
            raise unknown(f"token schedule of {where}", self.token_schedule, TOKEN_SCHEDULES)
        if self.guidance_schedule not in RAMPS:
            raise unknown(f"guidance schedule of {where}", self.guidance_schedule, RAMPS)
        parse(self.temperature_schedule)

    def resolved(self, modality: Modality) -> "Target":
        """Returns the target with every default filled in."""
        if modality.kind == "sequence":
            length = modality.size if self.length is None else self.length
            return dataclasses.replace(self, scheme="autoregressive", length=length)
        scheme: Scheme = self.scheme or ("halton" if len(modality.shape) == 2 else "roar")
        return dataclasses.replace(
            self,
            scheme=scheme,
            steps=min(USUAL_STEPS, modality.size) if self.steps is None else self.steps,
            token_schedule=self.token_schedule or ("cosine" if scheme == "maskgit" else "linear"),
        )
