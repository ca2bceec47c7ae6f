"""Plans: what is refused before anything is computed, and how a plan reads."""

import dataclasses

import numpy as np
import pytest

from mmtok.config import from_json, to_json
from mmtok.errors import MmtokError
from mmtok.generate import Known, Target, describe, validate
from mmtok.modality import Modality, Vocabulary

TEXT = Vocabulary(size=60, sentinel_first=4, sentinel_count=20)
MODALITIES = (
    Modality(name="rgb", kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=64)),
    Modality(name="depth", kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=32)),
    Modality(name="caption", kind="sequence", shape=(12,), vocabulary=TEXT),
    Modality(name="pixels", kind="continuous", shape=(4, 4), channels=12),
    Modality(name="wave", kind="grid", shape=(16,), vocabulary=Vocabulary(size=8)),
    Modality(name="score", kind="grid", shape=(1,), vocabulary=Vocabulary(size=8), role="target"),
)


def known(name: str, *, samples: int = 2) -> Known:
    modality = next(modality for modality in MODALITIES if modality.name == name)
    empty = Known.nothing(modality, samples=samples)
    return dataclasses.replace(empty, visible=np.ones_like(empty.visible))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "depht"}, "unknown target modality 'depht' (did you mean 'depth'?)"),
        ({"modality": "pixels"}, "target 'pixels': the model reads this continuous modality but cannot produce it"),
        ({"modality": "depth", "steps": 0}, "target 'depth': steps must be at least 1, it is 0"),
        ({"modality": "depth", "steps": 17}, "target 'depth': 17 steps are more than its 16 tokens"),
        ({"modality": "depth", "top_p": 0.0}, "target 'depth': top_p must be above 0 and at most 1"),
        ({"modality": "depth", "top_p": 1.01}, "target 'depth': top_p must be above 0 and at most 1"),
        ({"modality": "depth", "top_p": float("nan")}, "target 'depth': top_p must be above 0 and at most 1"),
        ({"modality": "depth", "top_k": -1}, "target 'depth': top_k must be at least 0"),
        ({"modality": "depth", "top_k": 33}, "target 'depth': top_k 33 is more than its vocabulary of 32"),
        (
            {"modality": "depth", "temperature": -0.1},
            "target 'depth': temperature must be 0 (greedy) or a positive number",
        ),
        ({"modality": "depth", "temperature": float("nan")}, "target 'depth': temperature must be 0 (greedy)"),
        ({"modality": "depth", "guidance": float("inf")}, "target 'depth': guidance must be a finite number"),
        (
            {"modality": "depth", "scheme": "autoregressive"},
            "scheme 'autoregressive' does not fit a grid, use halton or",
        ),
        ({"modality": "caption", "scheme": "roar"}, "scheme 'roar' does not fit a sequence, use autoregressive"),
        ({"modality": "caption", "steps": 3}, "target 'caption': steps and schedules belong to grids"),
        ({"modality": "caption", "length": 13}, "length 13 is above the modality's limit of 12 tokens"),
        ({"modality": "caption", "length": 0}, "target 'caption': length must be at least 1"),
        ({"modality": "depth", "length": 3}, "target 'depth': length belongs to sequences"),
        ({"modality": "depth", "min_p": 1.5}, "target 'depth': min_p must be from 0 (which keeps all) to 1, it is 1.5"),
        ({"modality": "depth", "noise": -1.0}, "target 'depth': noise must be 0 or a positive number"),
        ({"modality": "depth", "noise": 1.0}, "target 'depth': noise belongs to scheme 'maskgit'"),
        (
            {"modality": "wave", "scheme": "halton"},
            "target 'wave': scheme 'halton' is for 2-D grids, this one is",
        ),
        (
            {"modality": "caption", "guidance_schedule": "linear"},
            "target 'caption': steps and schedules belong to grids",
        ),
        ({"modality": "depth", "guidance": 2.0, "weights": {"rgb": 1.0}}, "guidance 2 and weights both guide it"),
        ({"modality": "depth", "weights": {"rgb": float("nan")}}, "the weight of 'rgb' must be a finite number"),
        (
            {"modality": "depth", "weights": {"rbg": 1.0}},
            "unknown condition in the weights of target 'depth' 'rbg'",
        ),
        ({"modality": "depth", "weights": {"depth": 1.0}}, "target 'depth': it cannot be a condition of itself"),
        ({"modality": "depth", "weights": {"score": 1.0}}, "predicts 'score' but cannot read it"),
        (
            {"modality": "depth", "weights": {"rgb": 1.0}},
            "its condition 'rgb' is neither given nor generated before it",
        ),
        ({"modality": "depth", "temperature_schedule": "linera"}, "unknown temperature schedule 'linera'"),
    ],
)
def test_bad_targets(settings, message):
    with pytest.raises(MmtokError) as error:
        validate((Target(**settings), Target(modality="rgb")), {}, MODALITIES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_plans_and_conditions():
    plan = (Target(modality="depth"),)
    cases = [
        ((), {}, "the plan is empty"),
        (plan * 2, {}, "target 'depth' occurs twice"),
        (plan, {"rbg": known("rgb")}, "unknown known modality 'rbg' (did you mean 'rgb'?)"),
        (plan, {"rgb": known("rgb"), "caption": known("caption", samples=3)}, "number of samples: rgb 2, caption 3"),
        (plan, {"rgb": known("caption")}, "values of shape (samples, 16, 1) expected, found (2, 12, 1)"),
        (plan, {"rgb": known("rgb", samples=0)}, "known 'rgb' holds no samples"),
        (plan, {"rgb": dataclasses.replace(known("rgb"), visible=np.ones((2, 9), bool))}, "visible has shape (2, 9)"),
        (
            plan,
            {"rgb": dataclasses.replace(known("rgb"), values=np.full((2, 16, 1), 64))},
            "ids 64 to 64, expected 0 to 63",
        ),
        (plan, {"pixels": dataclasses.replace(known("pixels"), values=np.full((2, 16, 12), np.nan))}, "not finite"),
    ]
    for targets, conditions, message in cases:
        with pytest.raises(MmtokError) as error:
            validate(targets, conditions, MODALITIES)
        assert message in str(error.value)


def test_hidden_values_may_be_anything():
    partial = Known(np.full((1, 16, 1), -7), np.zeros((1, 16), bool))
    validate((Target(modality="rgb"),), {"rgb": partial}, MODALITIES)


def test_defaults_fit_the_modality():
    rgb, masked, caption = validate(
        (Target(modality="rgb"), Target(modality="depth", scheme="maskgit"), Target(modality="caption")), {}, MODALITIES
    )
    assert (rgb.scheme, rgb.steps, rgb.token_schedule) == ("halton", 8, "linear")
    assert (masked.scheme, masked.token_schedule) == ("maskgit", "cosine")
    assert (caption.scheme, caption.length, caption.steps) == ("autoregressive", 12, None)


def test_describe_says_what_conditions_on_what():
    half = dataclasses.replace(known("rgb"), visible=np.tile(np.arange(16) < 4, (2, 1)))
    plan = (
        Target(modality="depth", steps=4, guidance=2.0, top_p=0.9),
        Target(modality="caption", temperature=0.3),
        Target(modality="rgb", steps=6),
    )
    text = describe(plan, {"rgb": half, "pixels": known("pixels")}, MODALITIES).splitlines()
    assert text[0] == "given: rgb (4 of 16 positions), pixels (16 positions)"
    assert text[1].startswith("1. depth from rgb, pixels: halton, 16 tokens in 4 linear steps, temperature 1 constant")
    assert text[1].endswith("top_p 0.9, guidance 2 (2 passes each)")
    assert text[2].startswith("2. caption from rgb, depth, pixels: autoregressive, at most 12 tokens, temperature 0.3")
    assert text[3].startswith(
        "3. rgb from depth, caption, pixels, its known part (4 of 16 positions): halton, 12 tokens in 6"
    )
    assert text[4] == "forward passes: at most 26"
    assert describe(plan[:1], {}, MODALITIES).splitlines()[:2] == [
        "given: nothing",
        "1. depth from nothing: halton, 16 tokens in 4 linear steps, temperature 1 constant, top_p 0.9",
    ]


def test_weighted_conditions_are_described_and_exist_when_they_are_used():
    plan = (
        Target(modality="rgb", steps=2),
        Target(modality="depth", steps=4, weights={"rgb": 2.0, "pixels": -0.5}, guidance_schedule="cosine"),
    )
    lines = describe(plan, {"pixels": known("pixels")}, MODALITIES).splitlines()
    assert lines[2].endswith("guidance rgb=2 pixels=-0.5 cosine (3 passes each)")
    assert lines[3] == "forward passes: at most 14"
    with pytest.raises(MmtokError, match="its condition 'rgb' is neither given nor generated before it"):
        validate(plan[::-1], {"pixels": known("pixels")}, MODALITIES)


def test_schemes_fit_the_rank_of_a_grid():
    depth, wave = validate((Target(modality="depth"), Target(modality="wave")), {}, MODALITIES)
    assert (depth.scheme, wave.scheme) == ("halton", "roar")


def test_plans_are_data():
    plan = (
        Target(modality="depth", steps=4, temperature_schedule="onex:0.5:0.5"),
        Target(modality="caption", weights={"depth": 1.5}),
    )
    assert tuple(from_json(Target, item, where="plan") for item in to_json(plan)) == plan
