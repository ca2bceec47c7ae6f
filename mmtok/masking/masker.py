"""The masker: token samples to fixed-shape training batches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from mmtok.batch import MaskedBatch, TokenBatch
from mmtok.errors import MmtokError, unknown
from mmtok.masking import plan, slots, spans
from mmtok.masking.config import MaskingConfig
from mmtok.masking.memory import Memory
from mmtok.masking.random import Draws, Stream
from mmtok.modality import Modality, by_name

_KEEP = {"random": 0, "all": 1, "binary": 2}
_PADDING = 4096  # tokens that are masked in the time of the numpy calls for one more modality


class Masker:
    """Multimodal masking of 4M (Mizrahi et al. 2023, section 2.2) without its losses of budget.

    For every sample: a component of the mixture is drawn; Dirichlet shares divide the input budget, then the target
    budget, among the modalities; grids show and ask disjoint random positions; sequences are masked in spans
    of whole units with sentinels. `mmtok.masking.plan` states the rules for samples with little material.

    All of it runs on whole batches in numpy, and every number is a function of (seed, step, sample) alone.
    """

    def __init__(self, config: MaskingConfig, modalities: tuple[Modality, ...]) -> None:
        """Checks that the components name known modalities only.

        Raises:
          MmtokError: an unknown or doubled modality name.
        """
        self.config = config
        self.modalities = modalities
        self._memory = Memory()
        table = by_name(modalities)
        for component in config.components:
            for name in component.roles:
                if name not in table:
                    raise unknown("modality in a masking role", name, table)
        roles = [[c.roles.get(name, c.default) for name in table] for c in config.components]
        self._input_alpha = np.array([[role.input_alpha for role in row] for row in roles], np.float64)
        self._target_alpha = np.array([[role.target_alpha for role in row] for row in roles], np.float64)
        self._keep = np.array([[_KEEP[role.keep] for role in row] for row in roles])
        self._whole = np.array([component.whole for component in config.components])
        weights = np.array([component.weight for component in config.components], np.float64)
        self._chances = np.cumsum(weights) / weights.sum()

    def __call__(self, tokens: TokenBatch, *, seed: int, step: int, samples: Int[np.ndarray, " B"]) -> MaskedBatch:
        """Masks a batch.

        Args:
          tokens: Columns by modality name; a name that is missing is absent in all samples, names the masker does not
            know are left out.
          seed: Seed of the run.
          step: Training step; the same sample is masked anew at another step.
          samples: Number of each sample in its data set.

        Returns:
          Numpy arrays; row b depends on the configuration, seed, step, sample b's number and its tokens only.
          Encoder slots stand in the order of the modalities; so do decoder slots.

        Raises:
          MmtokError: a column does not have the shape its modality declares.
        """
        length = self._lengths(tokens, len(samples))
        draws = Draws.of(samples, seed=seed, step=step)
        streams, count = (Stream.COMPONENT, Stream.TOTALS, Stream.KEEP), max(len(self.modalities), 2)
        which, totals, keep = draws.each(streams).uniform(count).reshape(len(streams), len(samples), count)
        component = self._chances.searchsorted(which[:, 0])
        config = self.config
        task = plan.Task(
            length=length,
            input_alpha=self._input_alpha[component],
            target_alpha=self._target_alpha[component],
            keep=_keep_fraction(keep[:, : len(self.modalities)], self._keep[component]),
            whole=self._whole[component],
            inputs=_between(config.min_input_tokens, config.input_tokens, totals[:, 0]),
            targets=_between(config.min_target_tokens, config.target_tokens, totals[:, 1]),
            sequences=self._sequences(tokens, length),
        )
        rule = plan.redistributed if config.redistribute else plan.reference
        return slots.lay_out(
            draws,
            rule(draws, task, self.modalities),
            tokens,
            self.modalities,
            inputs=config.input_tokens,
            targets=config.target_tokens,
            memory=self._memory,
        )

    def _sequences(self, tokens: TokenBatch, length: Int[np.ndarray, "B m"]) -> dict[tuple[int, ...], spans.Sequences]:
        """Returns the sequences by the indices of their modalities, several together where they are about as long."""
        longest = np.maximum(length.max(axis=0, initial=1), 1)
        present = [m for m, modality in enumerate(self.modalities) if modality.in_spans and modality.name in tokens]
        result = {}
        for group in _groups(present, longest, samples=len(length)):
            own = [self.modalities[m] for m in group]
            ids = [_ids(tokens[modality.name].values[:, : longest[m]], modality) for m, modality in zip(group, own)]
            result[group] = spans.stack(ids, [modality.vocabulary for modality in own], length=length[:, group])
        return result

    def _lengths(self, tokens: TokenBatch, batch: int) -> Int[np.ndarray, "B m"]:
        length = np.zeros((batch, len(self.modalities)), np.int64)
        for m, modality in enumerate(self.modalities):
            if modality.name not in tokens:
                continue
            column = tokens[modality.name]
            expected = (batch, modality.size, modality.channels or modality.codes)
            if column.values.shape != expected:
                raise MmtokError(
                    f"modality '{modality.name}': tokens of shape {column.values.shape} given, {expected} expected"
                    " (samples, positions, codes or channels); tokenize the data again for these modalities"
                )
            length[:, m] = column.length
        return length


def fill_rates(batch: MaskedBatch) -> dict[str, float]:
    """Returns the fraction of encoder slots (`input`) and of decoder slots (`target`) that are in use."""
    return {
        "input": float(np.asarray(batch.encoder.valid).mean()),
        "target": float(np.asarray(batch.decoder.valid).mean()),
    }


def _between(least: int | None, most: int, uniform: Float[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    least = most if least is None else least
    return least + np.floor(uniform * (most - least + 1)).astype(np.int64)


def _groups(members: Sequence[int], longest: Int[np.ndarray, " m"], *, samples: int) -> list[tuple[int, ...]]:
    """Puts modalities together as long as padding them to one length costs less than further numpy calls."""
    groups: list[list[int]] = []
    for m in sorted(members, key=lambda m: -longest[m]):
        if groups and (longest[groups[-1][0]] - longest[m]) * samples <= _PADDING:
            groups[-1].append(m)
        else:
            groups.append([m])
    return [tuple(sorted(group)) for group in groups]


def _ids(values: np.ndarray, modality: Modality) -> Integer[np.ndarray, "B T"]:
    """What spans are drawn over: the ids, or for vectors, each of which is a unit of its own, nothing."""
    return np.zeros(values.shape[:2], np.int32) if modality.kind == "continuous" else values[..., 0]


def _keep_fraction(uniform: Float[np.ndarray, "B m"], keep: Int[np.ndarray, "B m"]) -> Float[np.ndarray, "B m"]:
    return np.where(keep == 0, uniform, np.where((keep == 1) | (uniform < 0.5), 1.0, 0.0))
