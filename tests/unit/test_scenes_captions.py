import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.scenes import HELD_OUT, Facts, describe, facts, parse, score
from mmtok.scenes.captions import MARGIN_ACROSS, MARGIN_DEPTH
from mmtok.scenes.samples import captions
from mmtok.scenes.world import Scenes


def described(setting: str, count: int) -> tuple[Scenes, list[str]]:
    scenes = describe(setting, np.arange(count), seed=3)
    return scenes, captions(scenes)


def places(scenes: Scenes, row: int) -> list[tuple[float, float]]:
    """Where each object's middle appears (0..1 across) and its depth, by plain trigonometry."""
    elevation, azimuth, _, field = np.radians(scenes.camera[row, :4])
    distance = scenes.camera[row, 2]
    found = []
    for slot in range(scenes.count[row]):
        x, y, z = scenes.x[row, slot], scenes.y[row, slot], 0.9 * scenes.radius[row, slot] - 0.75
        right = np.cos(azimuth) * x + np.sin(azimuth) * y
        into = -np.sin(azimuth) * x + np.cos(azimuth) * y
        depth = distance + np.cos(elevation) * into - np.sin(elevation) * z
        found.append((0.5 + right / (2 * depth * np.tan(field / 2)), depth))
    return found


@pytest.mark.parametrize(("setting", "count"), [("scenes", 500), ("scenes-hard", 500)])
def test_every_fact_can_be_read_from_the_caption_and_is_true(setting, count):
    scenes, texts = described(setting, count)
    for row, text in enumerate(texts):
        said, true = parse(text), facts(scenes.scene(row))
        assert said.count == true.count == scenes.count[row], text
        assert Counter(item[1:] for item in said.objects) == Counter(item[1:] for item in true.objects), text
        sizes = Counter(true.objects)
        sizes.subtract(item for item in said.objects if item[0])
        assert min(sizes.values()) >= 0, text  # sizes that are said are right
        assert set(said.relations) <= set(true.relations), text
        total = 1 + 2 * len(true.objects)
        assert score(text, text) == (total, total)


@pytest.mark.parametrize("setting", ["scenes", "scenes-hard"])
def test_relations_hold_by_independent_geometry(setting):
    scenes, texts = described(setting, 300)
    stated = 0
    for row, text in enumerate(texts):
        spots = places(scenes, row)
        objects = scenes.scene(row).objects
        for first, relation, second in parse(text).relations:
            stated += 1
            pairs = [
                (a, b)
                for a, left in enumerate(objects)
                for b, right in enumerate(objects)
                if a != b and (left.colour, left.shape) == first and (right.colour, right.shape) == second
            ]
            across = [spots[a][0] - spots[b][0] for a, b in pairs]
            depth = [spots[a][1] - spots[b][1] for a, b in pairs]
            holds = {
                "left": min(across) < -MARGIN_ACROSS,
                "right": max(across) > MARGIN_ACROSS,
                "front": min(depth) < -MARGIN_DEPTH,
                "behind": max(depth) > MARGIN_DEPTH,
            }
            assert holds[relation], (text, spots)
    assert stated > 100


def test_relations_agree_with_the_picture():
    scenes, texts = described("scenes", 120)
    from mmtok.scenes import render

    out = render(scenes, size=64)
    for row, text in enumerate(texts):
        pairs = [(item.colour, item.shape) for item in scenes.scene(row).objects]
        if len(set(pairs)) < len(pairs):
            continue
        middle, depth = {}, {}
        for slot, pair in enumerate(pairs):
            own = out.instance[row] == slot + 1
            middle[pair], depth[pair] = np.nonzero(own)[1].mean(), out.depth[row][own].mean()
        for first, relation, second in parse(text).relations:
            if relation in ("left", "right"):
                assert (middle[first] < middle[second]) == (relation == "left"), text


@pytest.mark.parametrize(("setting", "longest"), [("scenes", 32), ("scenes-hard", 36)])
def test_captions_are_short_varied_and_deterministic(setting, longest):
    scenes, texts = described(setting, 500)
    assert max(len(text.split()) for text in texts) <= longest
    assert len(set(texts)) > 400
    assert captions(scenes[100:103]) == texts[100:103]
    assert all(re.fullmatch(r"[A-Z][a-zA-Z ,:.]*\.", text) for text in texts)
    patterns = {re.sub(r"\b(small|large|metal|rubber) ", "", text) for text in texts}
    assert len(patterns) > 300


def test_held_out_combinations_are_named():
    scenes = describe("scenes", np.arange(50), held_out=True)
    for text in captions(scenes):
        assert {item[1:] for item in parse(text).objects} & set(HELD_OUT)


def test_parse_of_sentences_as_people_type_them():
    assert parse("two red spheres left of a small blue cube") == Facts(
        3,
        ((None, "red", "sphere"), (None, "red", "sphere"), ("small", "blue", "cube")),
        ((("red", "sphere"), "left", ("blue", "cube")),),
    )
    assert parse("A  CYAN cone").objects == ((None, "cyan", "cone"),)
    assert parse("a red cube is to the right of 2 green metal cones, three objects in all").count == 3
    assert parse("") == Facts(None, ())


WORDS = ["two", "red", "blue", "cube", "cubes", "the", "is", "left", "of"]


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_score_of_anything_lies_within_its_total(text):
    truth = "There are two objects: a red cube and a small blue sphere."
    right, total = score(text, truth)
    assert 0 <= right <= total
    assert total >= 5
    assert (right == total) == (right == 5 and total == 5)


@pytest.mark.parametrize(
    ("predicted", "right", "total"),
    [
        ("Two solids: a small blue sphere and a red cube.", 5, 5),
        ("Two things: a red cube and a blue cube.", 4, 5),
        ("Two things: a red sphere and a blue cube.", 3, 5),
        ("One red cube.", 2, 5),
        ("Three things: a red cube, a blue sphere and a green cone.", 4, 7),
        ("", 0, 5),
        ("xqz object 7 of of of", 0, 5),
    ],
)
def test_score_counts_facts(predicted, right, total):
    assert score(predicted, "There are two objects: a red cube and a small blue sphere.") == (right, total)
