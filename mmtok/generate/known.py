"""What is known of one modality before and during sampling."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool

from mmtok.batch import TokenColumn
from mmtok.modality import Modality


@dataclasses.dataclass(frozen=True)
class Known:
    """The tokens (or vectors) of one modality that the model may see, for a batch of samples.

    A sample may know all of a modality, a part, or nothing; nothing means that the modality is absent there, or wholly
    to be generated where it is a target. In a sequence each run of hidden positions stands for a gap of any length:
    `a [hidden] sphere <end>` asks for the words between. What follows the last visible token is a gap too, unless that
    token is the end.

    Attributes:
      values: (B, L, K) integer ids, or (B, L, channels) numbers for a continuous modality; L is the modality's size.
      visible: Positions that are known.
    """

    values: np.ndarray
    visible: Bool[np.ndarray, "B L"]

    @classmethod
    def whole(cls, column: TokenColumn) -> "Known":
        """Returns all that a column holds as known; samples of length 0 know nothing."""
        return cls(column.values, np.arange(column.values.shape[1]) < np.asarray(column.length)[:, None])

    @classmethod
    def nothing(cls, modality: Modality, *, samples: int) -> "Known":
        """Returns a modality of which no sample knows anything."""
        if modality.kind == "continuous":
            values = np.zeros((samples, modality.size, modality.channels), np.float32)
        else:
            values = np.zeros((samples, modality.size, modality.codes), np.int32)
        return cls(values, np.zeros((samples, modality.size), bool))

    @property
    def present(self) -> Bool[np.ndarray, " B"]:
        """Samples that know anything of this modality."""
        return np.any(self.visible, axis=1)

    def hidden(self) -> "Known":
        """Returns the same with nothing visible."""
        return Known(self.values, np.zeros_like(self.visible))

    def __getitem__(self, rows: Any) -> "Known":
        return Known(self.values[rows], self.visible[rows])
