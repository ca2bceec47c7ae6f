"""How likely a model finds outputs that are already there."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mmtok.generate import Generated


@dataclasses.dataclass(frozen=True)
class Scores:
    """Log-likelihoods of the outputs for B samples, given the samples and the targets before.

    Attributes:
      tokens: Target -> its tokens with the log-probability of each in nats, (B, L, K); 0 at padding.
    """

    tokens: Mapping[str, Generated]

    @property
    def total(self) -> dict[str, Float[np.ndarray, " B"]]:
        """Target -> log-likelihood of all its tokens together, in nats."""
        return {name: item.log_probs.sum((1, 2)) for name, item in self.tokens.items()}

    @property
    def per_token(self) -> dict[str, Float[np.ndarray, " B"]]:
        """Target -> mean log-likelihood of its tokens in nats, which compares outputs of different lengths."""
        return {
            name: total / np.maximum(self.tokens[name].column.length * self.tokens[name].log_probs.shape[2], 1)
            for name, total in self.total.items()
        }
