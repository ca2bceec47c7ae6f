"""What comes out of decoding one modality."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mmtok.batch import TokenColumn


@dataclasses.dataclass(frozen=True)
class Generated:
    """One generated modality of B samples.

    Attributes:
      column: All of its tokens, those known before included.
      log_probs: Log-probability in nats of each generated token under the model when it was drawn (guided, at
        temperature 1, among the tokens that are legal there, otherwise unfiltered); 0 at known tokens and padding.
      entropies: Entropy in nats of the distribution that it is a token of; 0 at known tokens and padding.
    """

    column: TokenColumn
    log_probs: Float[np.ndarray, "B L K"]
    entropies: Float[np.ndarray, "B L K"]

    @classmethod
    def joined(cls, parts: Sequence["Generated"]) -> "Generated":
        """Returns several batches as one."""
        return cls(
            TokenColumn(
                np.concatenate([part.column.values for part in parts]),
                np.concatenate([part.column.length for part in parts]),
            ),
            np.concatenate([part.log_probs for part in parts]),
            np.concatenate([part.entropies for part in parts]),
        )

    def __getitem__(self, rows: slice) -> "Generated":
        return Generated(self.column[rows], self.log_probs[rows], self.entropies[rows])
