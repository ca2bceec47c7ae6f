"""Recipes: which one is chosen, and that 4M's are what its authors recommend."""

import dataclasses

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.config import from_json, to_json
from mmtok.errors import MismatchError, MmtokError
from mmtok.generate import Sampler, Target
from mmtok.generate.plan import validate
from mmtok.inference import Loaded
from mmtok.inference.recipes import Recipe, choose
from mmtok.interop.fourm.modalities import MODALITIES
from mmtok.modality import Modality, Role, Vocabulary
from mmtok.project.fourm_recipes import default_plan, recipes

SMALL = [item for name, item in MODALITIES.items() if "@448" not in name]
LARGE = [
    dataclasses.replace(item, role="target" if "@448" in item.name else "input") if item.vocabulary else item
    for item in MODALITIES.values()
]


def test_the_first_recipe_that_fits_is_chosen():
    first, second = Recipe(plan=(Target(modality="a"),), given=("rgb", "depth")), Recipe(plan=(Target(modality="b"),))
    table = {"first": first, "second": second, "third": Recipe(plan=())}
    assert choose(table, name="", given=["depth", "caption"]) is first
    assert choose(table, name="", given=["caption"]) is second
    assert choose(table, name="third", given=["rgb"]) is table["third"]
    assert choose({"first": first}, name="", given=[]) is None
    with pytest.raises(MmtokError, match=r"unknown recipe 'frist' \(did you mean 'first'\?\)"):
        choose(table, name="frist", given=[])


def test_recipes_are_plans_that_the_model_can_follow_and_json():
    for items in (SMALL, LARGE):
        for recipe in recipes(items).values():
            validate(recipe.plan, {}, tuple(items))
            assert from_json(Recipe, to_json(recipe), where="test") == recipe
    found = recipes(SMALL)
    assert list(found) == ["from-picture", "from-anything", "text-to-picture"]
    targets = {item.name for item in SMALL if item.is_target}
    for name in ("from-picture", "from-anything"):
        assert {target.modality for target in found[name].plan} == targets
    assert [target.modality for target in found["text-to-picture"].plan] == ["tok_clip@224", "tok_rgb@224"]
    assert choose(found, name="", given=["rgb", "caption"]) is found["from-picture"]
    assert choose(found, name="", given=["caption"]) is found["from-anything"]
    assert {target.modality for target in default_plan(sorted(targets))} == targets


def test_settings_of_4m():
    found = {name: recipe.settings for name, recipe in recipes(SMALL).items()}
    for name in ("tok_clip@224", "tok_dinov2@224", "tok_depth@224", "tok_sam_edge@224"):
        target = found["from-picture"][name]
        assert (target.scheme, target.steps, target.temperature, target.guidance) == ("roar", 1, 0.01, 2.0)
        assert (target.top_p, target.tempered_top_p) == (0.8, False)
    clip, depth = (found["from-anything"][f"tok_{name}@224"] for name in ("clip", "depth"))
    assert (clip.steps, clip.temperature, clip.guidance) == (50, 5.0, 3.0)
    assert (depth.steps, depth.temperature, depth.guidance) == (8, 3.0, 2.0)
    assert clip.temperature_schedule == depth.temperature_schedule == "onex:0.5:0.5"
    assert found["from-anything"]["tok_dinov2@224"].temperature == 0.01
    assert found["from-anything"]["tok_dinov2@224"].steps == 8
    for table in (found["from-picture"], found["from-anything"]):
        rgb = table["tok_rgb@224"]
        assert (rgb.steps, rgb.temperature, rgb.temperature_schedule, rgb.guidance) == (25, 3.0, "onex:0.5:0.5", 2.0)
        texts = {name: target.temperature for name, target in table.items() if "tok" not in name}
        assert texts == {
            "caption": 0.3,
            "det": 0.7,
            "human_poses": 0.1,
            "sam_instance": 0.01,
            "color_palette": 0.1,
            "metadata": 0.1,
        }
        assert table["sam_instance"].length == 256
    clip, rgb = found["text-to-picture"].values()
    assert (clip.steps, clip.temperature, clip.temperature_schedule) == (49, 6.0, "onex:0.5:0.5")
    assert (rgb.steps, rgb.temperature, rgb.temperature_schedule) == (25, 0.5, "constant")
    assert {clip.guidance, rgb.guidance} == {3.0}
    assert {clip.top_p, rgb.top_p} == {0.9}


def test_super_resolution_goes_by_confidence():
    found = recipes(LARGE)
    assert list(found) == ["enlarge", "enlarge-all"]
    assert list(found["enlarge"].settings) == ["tok_clip@448", "tok_rgb@448"]
    assert len(found["enlarge-all"].plan) == 5
    for target in found["enlarge-all"].plan:
        assert (target.scheme, target.steps, target.temperature) == ("maskgit", 8, 1.0)
        assert (target.guidance, target.top_p) == (3.0, 0.9)


def model_of(*items: Modality, recipes: dict[str, Recipe] | None = None) -> Loaded:
    sampler = object.__new__(Sampler)  # no network: only what it knows of modalities
    sampler.modalities = items
    return Loaded(sampler, {}, {"depth": Target(modality="depth", steps=3)}, recipes or {})


def grid(name: str, fingerprint: str, role: Role = "both") -> Modality:
    vocabulary = Vocabulary(size=4)
    return Modality(
        name=name, kind="grid", shape=(2,), vocabulary=vocabulary, source=name, role=role, fingerprint=fingerprint
    )


def test_a_model_without_recipes_makes_all_that_it_can():
    model = model_of(grid("rgb", "a"), grid("depth", "b"), grid("edge", "c", "input"))
    assert model.targets(["rgb"]) == ["depth"]
    assert [(target.modality, target.steps) for target in model.recipe().plan] == [("depth", 3), ("rgb", None)]
    with pytest.raises(MmtokError, match="unknown recipe 'from-picture'"):
        model.recipe("from-picture")


def test_a_recipe_goes_before_the_settings_of_the_model():
    recipe = Recipe(plan=(Target(modality="depth", steps=1), Target(modality="rgb")), given=("rgb",))
    model = model_of(grid("rgb", "a"), grid("depth", "b"), recipes={"one": recipe})
    assert model.targets(["rgb"]) == ["depth"]
    assert model.plan(["depth"])[0].steps == 3
    assert model.plan(["depth"], recipe=recipe)[0].steps == 1
    assert model.plan(["depth"], recipe=recipe, steps=2)[0].steps == 2
    assert model.targets([], recipe=recipe) == ["depth", "rgb"]


def test_tokens_are_handed_on_between_models_with_the_same_tokenizers():
    first = model_of(grid("rgb", "a"), grid("depth", "b"), grid("edge", "c"))
    columns = {name: TokenColumn(np.ones((1, 2, 1), np.int32), np.array([2], np.int32)) for name in first.modalities}
    second = model_of(grid("rgb", "a"), grid("edge", "c", "target"), grid("large", "d"))
    assert list(second.take_over(columns, first)) == ["rgb"]
    other = model_of(grid("depth", "e"))
    with pytest.raises(MismatchError, match=r"'depth': .* of the first model .* tokenizer b, .* with e"):
        other.take_over(columns, first)
