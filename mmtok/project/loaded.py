"""A trained model with its tokenizers: raw values in, raw values out."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtok.batch import TokenColumn
from mmtok.config import from_json
from mmtok.errors import MismatchError, MmtokError, unknown
from mmtok.generate import Features, Generated, Known, Sampler, Target
from mmtok.modality import Modality, by_name
from mmtok.model import load_model
from mmtok.project.answers import Answers, Box
from mmtok.project.plans import check_fit, with_settings
from mmtok.project.recipes import Recipe, choose
from mmtok.project.scores import Scores
from mmtok.source import Sample
from mmtok.tokenizers.artifact import Tokenizer, load

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


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
            name: self.tokenizers[name].encode([sample.get(modality.source) for sample in samples])
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
        keep: Mapping[str, Box] | None = None,
        batch_size: int = 64,
        **settings: Any,
    ) -> Answers:
        """Generates the targets, in order, for each raw sample; later targets are conditioned on earlier ones.

        Args:
          samples: One sample or several: what is given; any subset of the model's raw fields, another one for each
            sample if need be.
          targets: Modality names, which get the settings of the default recipe, or settings as `plan` returns them.
          seed: Of all random choices.
          draws: Different answers to each sample.
          numbers: Number of each sample, which together with `seed` decides its random choices; None counts from 0.
          keep: Raw field -> the part of the picture that is known; the rest is unknown, and generated when the field
            is also a target.
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
        columns, tokens = self.generate(
            samples, plan, seed=seed, draws=draws, numbers=numbers, keep=keep, batch_size=batch_size
        )
        return self.answers([sample for sample in samples for _ in range(draws)], columns, tokens, keep=keep)

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
        keep: Mapping[str, Box] | None = None,
        taken: Mapping[str, TokenColumn] | None = None,
        batch_size: int = 64,
    ) -> tuple[dict[str, TokenColumn], dict[str, Generated]]:
        """Generates targets, in order, as tokens; arguments as for `sample`.

        Args:
          samples: B raw samples.
          plan: Settings as `plan` returns them.
          seed: Of all random choices.
          draws: Different answers to each sample.
          numbers: Number of each sample.
          keep: Raw field -> the part of the picture that is known.
          taken: What is known besides, such as the tokens that `take_over` returns; B x draws rows.
          batch_size: Answers per compiled step.

        Returns:
          All that is wholly known then, what was given and what was made, and the latter with its log-probabilities;
          B x draws rows, those of the first sample first.
        """
        if draws < 1:
            raise MmtokError(f"draws must be at least 1, it is {draws}")
        row, numbers = np.repeat(np.arange(len(samples)), draws), range(len(samples)) if numbers is None else numbers
        keep = keep or {}
        given = {name: column[row] for name, column in self.encode(samples).items()} | dict(taken or {})
        made = self.sampler.generate(
            self.known(given, keep),
            tuple(plan),
            seed=seed,
            samples=[number for number in numbers for _ in range(draws)],
            draws=[*range(draws)] * len(samples),
            batch_size=batch_size,
        )
        columns = {name: column for name, column in given.items() if self.modalities[name].source not in keep}
        return columns | {name: item.column for name, item in made.items()}, made

    def answers(
        self,
        given: Sequence[Sample],
        columns: Mapping[str, TokenColumn],
        tokens: Mapping[str, Generated],
        *,
        keep: Mapping[str, Box] | None = None,
    ) -> Answers:
        """Decodes what `generate` returned."""
        return Answers(
            given=tuple(given),
            made=tuple(self.decode({name: item.column for name, item in tokens.items()})),
            fields=self.sources,
            targets={name: self.modalities[name] for name in tokens},
            tokens=tokens,
            columns=columns,
            keep=keep or {},
        )

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
        known = self.known(self.encode(samples), {})
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
        return self.sampler.features(self.known(chosen, {}), batch_size=batch_size)

    def known(self, columns: Mapping[str, TokenColumn], keep: Mapping[str, Box]) -> dict[str, Known]:
        """Returns the columns as known tokens, of which only those inside the kept part are visible."""
        for field in keep:
            if field not in {self.modalities[name].source for name in columns}:
                raise MmtokError(f"keep: the field '{field}' is not among the given ones")
        return {
            name: _crop(Known.whole(column), self.modalities[name], keep[self.modalities[name].source])
            if self.modalities[name].source in keep
            else Known.whole(column)
            for name, column in columns.items()
        }


def load_anytoany(path: str | os.PathLike) -> Loaded:
    """Opens a finished model with its tokenizers.

    Args:
      path: Folder that `mmtok train` wrote, or the name of a model that ships with mmtok (`scenes`).

    Raises:
      MmtokError: no model there, or a damaged one.
      MismatchError: its tokenizers are not those it was trained with.
    """
    folder = Path(path)
    if not folder.exists() and (PRETRAINED / str(path)).exists():
        folder = PRETRAINED / str(path)
    if not (folder / "config.json").exists():
        shipped = sorted(item.parent.name for item in PRETRAINED.glob("*/config.json"))
        raise MmtokError(
            f"{path}: no finished model there; name the folder of one that `mmtok train` has finished"
            f" (shipped: {', '.join(shipped) or 'none'})"
        )
    model, description = load_model(folder)
    tokenizers = {}
    for modality in model.modalities:
        tokenizer = load(folder / "tokenizers" / modality.name)
        if tokenizer.modality.fingerprint != modality.fingerprint:
            raise MismatchError(
                f"modality '{modality.name}': the model in {folder} was trained with tokenizer {modality.fingerprint},"
                f" but {folder / 'tokenizers' / modality.name} is {tokenizer.modality.fingerprint}"
            )
        tokenizers[modality.name] = tokenizer
    sampling = {
        name: from_json(Target, target, where=f"{folder / 'config.json'}: sampling")
        for name, target in description.get("sampling", {}).items()
    }
    recipes = {
        name: from_json(Recipe, recipe, where=f"{folder / 'config.json'}: recipe '{name}'")
        for name, recipe in description.get("recipes", {}).items()
    }
    grammars = {name: tokenizer.grammar for name, tokenizer in tokenizers.items() if tokenizer.grammar is not None}
    return Loaded(
        Sampler(model, grammars=grammars), tokenizers, sampling, recipes, weights=description["weights"]["fingerprint"]
    )


def _crop(known: Known, modality: Modality, box: Box) -> Known:
    """Hides the positions of a 2-D grid whose centre lies outside `box`."""
    if len(modality.shape) != 2 or modality.kind == "sequence":
        raise MmtokError(f"keep: '{modality.name}' is not a picture; only a picture can be known in part")
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise MmtokError(
            f"keep: {box} must be left,top,right,bottom with 0 <= left < right <= 1, 0 <= top < bottom <= 1"
        )
    rows, columns = (np.arange(size) + 0.5 for size in modality.shape)
    rows, columns = rows / modality.shape[0], columns / modality.shape[1]
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return dataclasses.replace(known, visible=known.visible & inside.reshape(-1))
