"""Plans as data: files, words of the command line, and settings for all targets that they fit."""

import dataclasses
import json

import pytest

from mmtok.errors import MmtokError
from mmtok.generate import Target
from mmtok.inference.plans import (
    PlanFile,
    check_fit,
    parse_settings,
    read_plan,
    with_own_settings,
    with_settings,
)
from mmtok.modality import Modality, Vocabulary

WORDS = Vocabulary(size=32, sentinel_first=4, sentinel_count=8)
MODALITIES = {
    "depth@224": Modality(name="depth@224", kind="grid", shape=(4, 4), vocabulary=Vocabulary(size=8)),
    "caption": Modality(name="caption", kind="sequence", shape=(6,), vocabulary=WORDS),
}
PLAN = (Target(modality="depth@224"), Target(modality="caption", temperature=0.3))


def test_settings_go_to_the_targets_whose_kind_they_fit():
    depth, caption = with_settings(PLAN, MODALITIES, {"steps": 3, "temperature": 0.5, "scheme": "maskgit", "length": 5})
    assert (depth.steps, depth.temperature, depth.scheme, depth.length) == (3, 0.5, "maskgit", None)
    assert (caption.steps, caption.temperature, caption.scheme, caption.length) == (None, 0.5, "", 5)
    assert with_settings(PLAN, MODALITIES, {}) == PLAN
    check_fit(MODALITIES, {"steps": 3, "length": 5, "top_k": 2})
    with pytest.raises(MmtokError, match="steps = 3 fits none of the targets caption; leave it out"):
        check_fit({"caption": MODALITIES["caption"]}, {"steps": 3})
    with pytest.raises(MmtokError, match=r"unknown setting of a target 'stesp' .*'steps'"):
        with_settings(PLAN, MODALITIES, {"stesp": 3})
    with pytest.raises(MmtokError, match=r"unknown target modality 'depht@224' .*'depth@224'"):
        with_settings([Target(modality="depht@224")], MODALITIES, {})


def test_settings_of_single_targets():
    words = ["depth@224.steps=4", "depth@224.tempered_top_p=false", "caption.top_k=3", "depth@224.scheme=maskgit"]
    depth, caption = with_own_settings(PLAN, parse_settings([*words, "depth@224.temperature=2"]))
    assert depth == Target(modality="depth@224", steps=4, tempered_top_p=False, scheme="maskgit", temperature=2.0)
    assert caption == Target(modality="caption", temperature=0.3, top_k=3)
    assert with_own_settings(PLAN, parse_settings(["depth@224.steps=null"])) == PLAN


def test_weights_take_the_place_of_the_guidance_a_target_had():
    plan = (dataclasses.replace(PLAN[0], guidance=2.0), *PLAN[1:])
    words = ['depth@224.weights={"caption": 3, "rgb": -0.5}']
    weighted = with_own_settings(plan, parse_settings(words))[0]
    assert (weighted.weights, weighted.guidance) == ({"caption": 3, "rgb": -0.5}, 1.0)
    with pytest.raises(MmtokError, match="guidance 2 and weights both guide it; leave one of them out"):
        with_own_settings(plan, parse_settings([*words, "depth@224.guidance=2"]))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("depth@224.steps=2.5", "depth@224.steps=2.5: this would be read as 2; give a value of that type"),
        ("depth@224.steps=x", "depth@224.steps=x: "),
        ("depth@224.scheme=row", "depth@224.scheme=row: "),
        ("depth@224.tempered_top_p=no", "this would be read as True"),
        ("depth@224.temperature=-1", "temperature must be 0"),
        ("depth@224.modality=rgb", "unknown setting of a target 'modality'"),
        ("steps=4", "steps=4: TARGET.SETTING=VALUE was expected"),
        (".steps=4", "TARGET.SETTING=VALUE was expected"),
        ("depth@224.steps=", "TARGET.SETTING=VALUE was expected"),
    ],
)
def test_wrong_words(word, sentence):
    with pytest.raises(MmtokError) as error:
        with_own_settings(PLAN, parse_settings([word]))
    assert sentence in str(error.value)


def test_plan_files_come_back_as_they_were(tmp_path):
    for file in (PlanFile(plan=PLAN), PlanFile(plan=PLAN[:1], then=PLAN[1:])):
        (tmp_path / "plan.json").write_text(json.dumps(file.to_json()))
        assert read_plan(tmp_path / "plan.json") == file
    assert isinstance(PlanFile(plan=PLAN).to_json(), list)
