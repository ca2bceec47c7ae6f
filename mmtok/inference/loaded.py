"""A trained model with its tokenizers: raw values in, raw values out."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.generate import Features, Known, Sampler, Target
from mmtok.inference.answers import Answers
from mmtok.inference.plans import check_fit, with_settings
from mmtok.inference.recipes import Recipe, choose
from mmtok.inference.reductions import Likelihood
from mmtok.inference.regions import Part, Region, keep_parts, known_parts, paste, show_region, whole
from mmtok.inference.scores import Scores
from mmtok.inference.windows import check_tiles, tiled
from mmtok.modality import Modality, by_name
from mmtok.source import Sample
from mmtok.tokenizers.artifact import Learned, Tokenizer


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An any-to-any model ready to use.

    Attributes:
      sampler: The decoding engine around the model.
      tokenizers: By modality name.
      sampling: Default settings per target modality.
      recipes: Named plans; the first that fits what is given is the default.
      weights: Fingerprint of the model's weights.
    """

    sampler: Sampler
    tokenizers: Mapping[str, Tokenizer]
    sampling: Mapping[str, Target]
    recipes: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    weights: str = ""

    @property
    def modalities(self) -> dict[str, Modality]:
        """The model's modalities by name."""
        return by_name(self.sampler.modalities)

    @property
    def sources(self) -> dict[str, Modality]:
        """Raw field -> the first modality that is made from it."""
        return {modality.source: modality for modality in reversed(self.sampler.modalities)}

    @property
    def fields(self) -> dict[str, str]:
        """Raw field -> how it is shown and read (`mmtok.show`)."""
        return {field: modality.show for field, modality in self.sources.items()}

    @property
    def picture_sizes(self) -> dict[str, int]:
        """Raw field -> height and width of the largest picture (or feature map) that the model reads of it."""
        sizes: dict[str, int] = {}
        for name, modality in self.modalities.items():
            size = self.tokenizers[name].picture_size
            if modality.is_input and size is not None:
                sizes[modality.source] = max(size, sizes.get(modality.source, 0))
        return sizes

    def decoding_steps(self, targets: Iterable[str]) -> dict[str, int]:
        """Returns the passes that decoding takes, for those targets that are decoded by diffusion."""
        steps = {name: self.tokenizers[name].decoding_steps for name in targets}
        return {name: count for name, count in steps.items() if count is not None}

    def with_decoding_steps(self, steps: Mapping[str, int]) -> "Loaded":
        """Returns the model with other numbers of passes for some targets that are decoded by diffusion.

        Raises:
          MmtokError: a target is decoded in one pass, or not in as many.
        """
        changed = {name: self.tokenizers[name].with_decoding_steps(count) for name, count in steps.items()}
        return dataclasses.replace(self, tokenizers={**self.tokenizers, **changed})

    def recipe(self, name: str = "", *, given: Collection[str] = ()) -> Recipe:
        """Returns a recipe by name, or the default for some raw fields; that of a model without any makes all it can.

        Raises:
          MmtokError: the model has no recipe of that name.
        """
        chosen = choose(self.recipes, name=name, given=given)
        if chosen is not None:
            return chosen
        names = [*self.sampling, *(name for name in self.modalities if name not in self.sampling)]
        return Recipe(plan=self.plan([name for name in names if self.modalities[name].is_target]))

    def plan(self, targets: Sequence[str], *, recipe: Recipe | None = None, **overrides: Any) -> tuple[Target, ...]:
        """Returns the chain of targets with the settings of a recipe or else the model's own, changed by `overrides`.

        Raises:
          MmtokError: a target the model does not have or cannot produce.
        """
        settings = {**self.sampling, **(recipe.settings if recipe else {})}
        plan = []
        for name in targets:
            if name not in self.modalities:
                raise unknown("target modality", name, [n for n, m in self.modalities.items() if m.is_target])
            target = settings.get(name, Target(modality=name))
            plan.append(dataclasses.replace(target, **overrides))
        return tuple(plan)

    def targets(self, given: Collection[str], *, recipe: Recipe | None = None) -> list[str]:
        """Returns what a recipe makes, less what is made from a given raw field, in order."""
        plan = (recipe or self.recipe(given=given)).plan
        return [target.modality for target in plan if self.modalities[target.modality].source not in given]

    def encode(self, samples: Sequence[Sample]) -> dict[str, TokenColumn]:
        """Encodes raw samples: every modality whose raw field occurs in at least one of them.

        Raises:
          MmtokError: a field that no modality of the model is made from, or a value its tokenizer does not take.
        """
        given = dict.fromkeys(field for sample in samples for field in sample)
        self.check_fields(given)
        return {
            name: self.tokenizers[name].encode([whole(sample.get(modality.source)) for sample in samples])
            for name, modality in self.modalities.items()
            if modality.source in given
        }

    def check_fields(self, fields: Iterable[str]) -> None:
        """Raises MmtokError for a raw field that no modality of the model is made from."""
        for field in fields:
            if field not in self.fields:
                raise unknown("input field", field, self.fields)

    def sample(
        self,
        samples: Sample | Sequence[Sample],
        targets: str | Target | Sequence[str | Target],
        *,
        seed: int = 0,
        draws: int = 1,
        numbers: Sequence[int] | None = None,
        keep: Mapping[str, Region] | None = None,
        tiles: int | float | None = None,
        batch_size: int = 64,
        **settings: Any,
    ) -> Answers:
        """Generates the targets, in order, for each raw sample; later targets are conditioned on earlier ones.

        Args:
          samples: One sample or several: what is given; any subset of the model's raw fields, another one for each
            sample if need be. A picture may be known in part (`mmtok.inference.Part`); what is known of it stays as it
            is, to the pixel, in what is made of the same field.
          targets: Modality names, which get the settings of the default recipe, or settings as `plan` returns them.
          seed: Of all random choices.
          draws: Different answers to each sample.
          numbers: Number of each sample, which together with `seed` decides its random choices; None counts from 0.
          keep: Raw field -> the part of the picture that is known, the same in all samples.
          tiles: Pictures may be larger than the tokenizers take: they are cut into windows that overlap by at least
            this share of a side, 0 to 0.9, and what is made of the windows is blended (`mmtok.inference.tiles`).
          batch_size: Answers per compiled step.
          settings: Fields of `Target` such as `temperature=0.5`, which change all targets whose kind they fit.

        Returns:
          `draws` answers for each sample, those of the first sample first: target modality -> decoded raw value.

        Raises:
          MmtokError: something that the model does not have, cannot read or cannot produce, or settings that do not
            fit, before anything is computed.
        """
        samples = [samples] if isinstance(samples, Mapping) else list(samples)
        plan = self.chosen(samples, targets, settings)
        samples = keep_parts(samples, keep or {})
        numbers = range(len(samples)) if numbers is None else numbers

        def run(parts: Sequence[Sample], numbers: Sequence[int], windows: Sequence[int] | None = None) -> Answers:
            return self.generate(
                parts, plan, seed=seed, draws=draws, numbers=numbers, windows=windows, batch_size=batch_size
            )

        if tiles is None:
            return run(samples, numbers)
        given = {field for sample in samples for field in sample}
        sizes = {field: size for field, size in self.picture_sizes.items() if field in given}
        check_tiles(tiles, sizes, {target.modality: self.modalities[target.modality] for target in plan})
        return tiled(run, samples, numbers, sizes=sizes, overlap=tiles)

    def chosen(
        self,
        samples: Sequence[Sample],
        targets: str | Target | Sequence[str | Target],
        settings: Mapping[str, Any],
    ) -> tuple[Target, ...]:
        """Returns the plan that `sample` follows for these arguments."""
        recipe = self.recipe(given={field for sample in samples for field in sample})
        items = [targets] if isinstance(targets, str | Target) else targets
        plan = [item if isinstance(item, Target) else self.plan([item], recipe=recipe)[0] for item in items]
        plan = with_settings(plan, self.modalities, settings)
        check_fit({target.modality: self.modalities[target.modality] for target in plan}, settings)
        return plan

    def generate(
        self,
        samples: Sequence[Sample],
        plan: Sequence[Target],
        *,
        seed: int = 0,
        draws: int = 1,
        numbers: Sequence[int] | None = None,
        windows: Sequence[int] | None = None,
        taken: Mapping[str, TokenColumn] | None = None,
        batch_size: int = 64,
    ) -> Answers:
        """Generates targets, in order; `sample` with all settings made.

        Args:
          samples: B raw samples.
          plan: Settings as `plan` returns them.
          seed: Of all random choices.
          draws: Different answers to each sample.
          numbers: Number of each sample; None counts from 0.
          windows: Number of each sample among those of the same number, such as windows of one picture; None is 0.
          taken: What is known besides, such as the tokens that `take_over` returns; B x draws rows.
          batch_size: Answers per compiled step.

        Returns:
          B x draws answers, those of the first sample first. Known pixels are in them as they were given.
        """
        if draws < 1:
            raise MmtokError(f"draws must be at least 1, it is {draws}")
        row, count = np.repeat(np.arange(len(samples)), draws), len(samples)
        rows = [samples[index] for index in row.tolist()]
        parts = [known_parts(sample) for sample in rows]
        given = {name: column[row] for name, column in self.encode(samples).items()} | dict(taken or {})
        known = self.known(given, parts)
        first = np.zeros(count, np.int64) if windows is None else np.asarray(windows) * draws
        tokens = self.sampler.generate(
            known,
            tuple(plan),
            seed=seed,
            samples=[number for number in (range(count) if numbers is None else numbers) for _ in range(draws)],
            draws=(first[:, None] + np.arange(draws)).ravel().tolist(),
            batch_size=batch_size,
        )
        made = self.decode({name: item.column for name, item in tokens.items()})
        return Answers(
            given=tuple(rows),
            made=tuple(self._with_known(sample, answer) for sample, answer in zip(rows, made, strict=True)),
            fields=self.sources,
            targets={name: self.modalities[name] for name in tokens},
            tokens=tokens,
            columns=self._whole(given, parts) | {name: item.column for name, item in tokens.items()},
            likelihood=Likelihood.of(tokens, known),
            draws=draws,
        )

    def _whole(
        self, columns: Mapping[str, TokenColumn], parts: Sequence[Mapping[str, Region]]
    ) -> dict[str, TokenColumn]:
        """The columns, empty in rows that know only a part of the field they are made from."""
        return {
            name: _without(column, [self.modalities[name].source in part for part in parts])
            for name, column in columns.items()
        }

    def _with_known(self, sample: Sample, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The answer with the known pixels of pictures that were given in part, in the units of the tokenizer."""
        pasted = dict(answer)
        for name, value in answer.items():
            part, tokenizer = sample.get(self.modalities[name].source), self.tokenizers[name]
            if isinstance(part, Part) and isinstance(tokenizer, Learned):
                (given,) = tokenizer.prepare([part.value])
                if given.size == value.size:  # a decoder may give another size than the encoder takes
                    pasted[name] = paste(value, given.reshape(value.shape), part.region)
        return pasted

    def decode(self, columns: Mapping[str, TokenColumn]) -> list[dict[str, Any]]:
        """Returns the raw values of token columns, for each sample those of all of them."""
        decoded = {name: self.tokenizers[name].decode(column) for name, column in columns.items()}
        return [dict(zip(decoded, values)) for values in zip(*decoded.values(), strict=True)]

    def score(
        self,
        samples: Sample | Sequence[Sample],
        outputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        batch_size: int = 64,
        **settings: Any,
    ) -> Scores:
        """Returns how likely outputs are, given samples.

        A grid is scored in the steps of its scheme, a random order included, as `sample` would have drawn it; more
        steps come closer to its likelihood. Guidance and temperature change the probabilities: `guidance=1` gives those
        of the model itself.

        Args:
          samples: One sample or several, as for `sample`.
          outputs: For each sample target -> raw value, the same targets in each; later ones are given the earlier.
          seed: Of the order of grids.
          numbers: Number of each sample.
          batch_size: Samples per compiled step.
          settings: Fields of `Target`, which change the default recipe.

        Raises:
          MmtokError: see `sample`; or samples and outputs do not belong together.
        """
        samples = [samples] if isinstance(samples, Mapping) else list(samples)
        outputs = [outputs] if isinstance(outputs, Mapping) else list(outputs)
        if len(samples) != len(outputs) or not outputs:
            raise MmtokError(f"{len(samples)} samples and {len(outputs)} outputs: one output for each sample is needed")
        for place, output in enumerate(outputs):
            if output.keys() != outputs[0].keys() or any(value is None for value in output.values()):
                raise MmtokError(f"output {place}: values of the targets {', '.join(outputs[0])} were expected")
        plan = self.chosen(samples, list(outputs[0]), settings)
        columns = {name: self.tokenizers[name].encode([output[name] for output in outputs]) for name in outputs[0]}
        known = self.known(self.encode(samples), [known_parts(sample) for sample in samples])
        return Scores(self.sampler.score(known, plan, columns, seed=seed, samples=numbers, batch_size=batch_size))

    def take_over(self, columns: Mapping[str, TokenColumn], maker: "Loaded") -> dict[str, TokenColumn]:
        """Returns those token columns of another model that are of modalities which this one reads too.

        Raises:
          MismatchError: the two models have different tokenizers for a modality.
        """
        shared = {name: column for name, column in columns.items() if name in self.modalities}
        for name in shared:
            theirs, ours = maker.modalities[name].fingerprint, self.modalities[name].fingerprint
            if theirs != ours:
                raise MismatchError(
                    f"modality '{name}': the tokens of the first model are those of tokenizer {theirs}, the second one"
                    f" was trained with {ours}; import or train both with the same"
                )
        return {name: column for name, column in shared.items() if self.modalities[name].is_input}

    def embed(self, samples: Sample | Sequence[Sample], *, only: Sequence[str] = (), batch_size: int = 64) -> Features:
        """Returns what the model's encoder makes of raw samples; the decoder is not used.

        Args:
          samples: One sample or several: any subset of the model's raw fields each.
          only: The modalities to read; empty means all that are made from the fields given.
          batch_size: Samples per compiled step.

        Returns:
          Pooled features (B, D), those of the tokens (B, N, D), and what the tokens are (B, N each).

        Raises:
          MmtokError: a field or modality that the model does not have or cannot read, or a value that does not fit.
        """
        readable = [name for name, modality in self.modalities.items() if modality.is_input]
        for name in only:
            if name not in readable:
                raise unknown("input modality", name, readable)
        columns = self.encode([samples] if isinstance(samples, Mapping) else samples)
        chosen = {name: column for name, column in columns.items() if name in (only or readable)}
        return self.sampler.features(self.known(chosen), batch_size=batch_size)

    def known(self, columns: Mapping[str, TokenColumn], parts: Sequence[Mapping[str, Region]] = ()) -> dict[str, Known]:
        """Returns columns as known tokens.

        Args:
          columns: By modality name.
          parts: For each row, raw field -> the known part; tokens that do not lie wholly in it are hidden.
        """
        known = {name: Known.whole(column) for name, column in columns.items()}
        for name, modality in self.modalities.items():
            regions = [part.get(modality.source) for part in parts]
            if name in known and any(region is not None for region in regions):
                known[name] = show_region(known[name], modality, regions)
        return known


def _without(column: TokenColumn, absent: Sequence[bool]) -> TokenColumn:
    """The column without some of its rows, which are empty then."""
    there = ~np.asarray(absent, bool)
    return TokenColumn(column.values * there[:, None, None], column.length * there)
