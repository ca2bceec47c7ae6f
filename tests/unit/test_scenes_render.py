import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.feature import canny as reference_canny

from mmtok.errors import MmtokError
from mmtok.scenes import COLOURS, HELD_OUT, LABELS, METADATA_RANGES, SETTINGS, SHAPES, describe, render, samples
from mmtok.scenes.draws import keys, uniform
from mmtok.scenes.edges import canny
from mmtok.scenes.measures import features, luma, palettes
from mmtok.scenes.rays import FOOTPRINT
from mmtok.scenes.tables import CAMERA
from mmtok.scenes.world import view

BOTH = pytest.mark.parametrize("setting", ["scenes", "scenes-hard"])


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], np.ndarray):
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])
        else:
            assert a[key] == b[key]


def rays(scenes, size):
    """Camera position and ray directions of the pixels of scene 0, in float64, by another route than the renderer."""
    elevation, azimuth, distance, field = (np.radians(scenes.camera[0, i]) for i in range(4))
    distance = np.degrees(distance)
    towards = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.cross(-towards, [0, 0, 1])
    right /= np.linalg.norm(right)
    up = np.cross(right, -towards)
    plane = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(field / 2)
    direction = -towards + plane[None, :, None] * right - plane[:, None, None] * up
    return towards * distance + [0, 0, 0.75], direction, np.stack([right, up, towards])


def points(scenes, depth):
    position, direction, axes = rays(scenes, depth.shape[-1])
    return position + direction * depth[..., None], direction, axes


@BOTH
def test_a_scene_has_the_same_bits_in_every_batch(setting):
    numbers = np.array([3, 11, 7, 3, 12345678901])
    batch = samples(setting, numbers, size=32, seed=5)
    for number, sample in zip(numbers, batch):
        same(samples(setting, np.array([number]), size=32, seed=5)[0], sample)
    many = samples(setting, np.arange(90), size=32, seed=5)  # rendered in several pieces
    same(many[11], batch[1])


def test_seed_number_and_setting_all_matter():
    one = samples("scenes", np.array([1]), size=32, seed=0)[0]["rgb"]
    assert not np.array_equal(one, samples("scenes", np.array([2]), size=32, seed=0)[0]["rgb"])
    assert not np.array_equal(one, samples("scenes", np.array([1]), size=32, seed=1)[0]["rgb"])
    assert not np.array_equal(one, samples("scenes-hard", np.array([1]), size=32, seed=0)[0]["rgb"])


def test_the_picture_size_does_not_change_the_scene():
    small, large = (samples("scenes", np.arange(6), size=size) for size in (32, 64))
    for a, b in zip(small, large):
        assert a["caption"] == b["caption"]
        np.testing.assert_array_equal(a["camera"], b["camera"])
        assert (a["label"] == b["label"][::2, ::2]).mean() > 0.9


@BOTH
def test_fields_have_the_documented_form(setting):
    for sample in samples(setting, np.arange(8), size=32):
        assert sample["rgb"].shape == sample["normal"].shape == (32, 32, 3)
        assert (sample["rgb"].dtype, sample["normal"].dtype) == (np.uint8, np.float32)
        assert sample["depth"].dtype == np.float32
        for name, count in (("label", len(LABELS)), ("instance", 7), ("edge", 2)):
            assert sample[name].shape == (32, 32)
            assert sample[name].dtype == np.uint8
            assert sample[name].max() < count
        assert sample["feature"].shape == (4, 4, 16)
        assert np.abs(sample["feature"]).max() < 20
        assert 1 <= len(sample["palette"]) <= 5
        assert list(sample["metadata"]) == list(METADATA_RANGES)
        for key, value in sample["metadata"].items():
            low, high = METADATA_RANGES[key]
            assert low <= value <= high, key
        for name, value in zip(CAMERA, sample["camera"]):
            low, high = SETTINGS[setting].camera[name]
            assert np.float32(low) <= value <= np.float32(high), name


@BOTH
def test_depth_and_normals_agree_with_the_closed_forms(setting):
    checked = dict.fromkeys(SHAPES, 0)
    for number in range(20):
        scenes = describe(setting, np.array([number]))
        out = render(scenes, size=32)
        where, direction, axes = points(scenes, np.where(out.depth[0] < np.inf, out.depth[0], 0).astype(np.float64))
        normal = out.normal[0] @ axes  # camera space to world
        floor = out.label[0] == 1
        np.testing.assert_allclose(where[floor][:, 2], 0, atol=2e-5)
        np.testing.assert_allclose(normal[floor], np.broadcast_to([0, 0, 1], normal[floor].shape), atol=1e-5)
        seen = out.depth[0] < np.inf
        np.testing.assert_allclose(np.linalg.norm(out.normal[0][seen], axis=-1), 1, atol=1e-5)
        assert (out.normal[0][~seen] == 0).all()
        assert ((normal * direction).sum(-1)[seen] < 1e-4).all()  # every surface faces the camera
        for slot in range(int(scenes.count[0])):
            own = out.instance[0] == slot + 1
            shape = SHAPES[scenes.shape[0, slot]]
            radius, turn = scenes.radius[0, slot], scenes.rotation[0, slot]
            across, along, z = np.moveaxis((where[own] - [scenes.x[0, slot], scenes.y[0, slot], 0]) / radius, -1, 0)
            x, y = np.cos(turn) * across + np.sin(turn) * along, np.cos(turn) * along - np.sin(turn) * across
            n = normal[own]
            ring = np.hypot(x, y)
            if shape == "sphere":
                centre = np.stack([across, along, z - 1], -1)
                np.testing.assert_allclose(np.linalg.norm(centre, axis=-1), 1, atol=1e-4)
                np.testing.assert_allclose(n, centre, atol=2e-3)
            elif shape == "cube":
                np.testing.assert_allclose(np.abs(np.stack([x, y, z - 0.8])).max(0), 0.8, atol=1e-4)
            elif shape == "cylinder":
                np.testing.assert_allclose(np.minimum(np.abs(ring - 0.8), np.abs(z - 1.6)), 0, atol=1e-4)
                assert ((ring < 0.801) & (z > -1e-4) & (z < 1.601)).all()
            else:
                np.testing.assert_allclose(ring, (2 - z) / 2, atol=5e-4)
                np.testing.assert_allclose(n[:, 2], 1 / 5**0.5, atol=1e-3)
            checked[shape] += int(own.sum())
    assert min(checked.values()) > 100


def test_sphere_depth_by_the_quadratic_formula():
    scenes = describe("scenes", np.arange(60))
    alone = np.flatnonzero((scenes.count == 1) & (scenes.shape[:, 0] == SHAPES.index("sphere")))
    assert alone.size
    for row in alone:
        one = scenes[row : row + 1]
        position, direction, _ = rays(one, 32)
        away = position - [one.x[0, 0], one.y[0, 0], one.radius[0, 0]]
        a, b = (direction**2).sum(-1), (direction * away).sum(-1)
        inside = b * b - a * ((away**2).sum() - one.radius[0, 0] ** 2)
        out = render(one, size=32)
        sure = np.abs(inside) > 1e-3
        np.testing.assert_array_equal((out.label[0] == 2)[sure], (inside > 0)[sure])
        hit = (out.label[0] == 2) & sure
        np.testing.assert_allclose(out.depth[0][hit], ((-b - np.sqrt(np.abs(inside))) / a)[hit], rtol=1e-4)


def test_depth_gradients_give_the_normals_of_flat_faces():
    scenes = describe("scenes", np.array([0]))
    out = render(scenes, size=128)
    where, _, axes = points(scenes, out.depth[0].astype(np.float64))
    with np.errstate(invalid="ignore"):
        across, down = where[1:-1, 2:] - where[1:-1, :-2], where[2:, 1:-1] - where[:-2, 1:-1]
        geometric = np.cross(down, across)
        geometric /= np.linalg.norm(geometric, axis=-1, keepdims=True)
    normal = (out.normal[0] @ axes)[1:-1, 1:-1]
    flat = np.ones(normal.shape[:2], bool)
    for rows in (np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:]):
        flat &= np.abs((out.normal[0] @ axes)[rows] - normal).max(-1) < 1e-5
        flat &= out.instance[0][rows] == out.instance[0][1:-1, 1:-1]
    flat &= out.depth[0][1:-1, 1:-1] < np.inf
    assert flat.sum() > 1000
    np.testing.assert_allclose(geometric[flat], normal[flat], atol=2e-2)


@BOTH
def test_objects_are_apart_seen_and_sorted_by_depth(setting):
    scenes = describe(setting, np.arange(60))
    out = render(scenes, size=64)
    for row in range(len(scenes)):
        count = int(scenes.count[row])
        assert 1 <= count <= SETTINGS[setting].objects
        one = scenes.scene(row)
        assert list(one.depth) == sorted(one.depth)
        for a in range(count):
            area = (out.instance[row] == a + 1).mean()
            assert area >= SETTINGS[setting].least_area
            for b in range(a):
                reach = sum(FOOTPRINT[scenes.shape[row, i]] * scenes.radius[row, i] for i in (a, b))
                assert np.hypot(*(getattr(scenes, k)[row, a] - getattr(scenes, k)[row, b] for k in "xy")) > reach
    assert set(scenes.count) == set(range(1, SETTINGS[setting].objects + 1))


@BOTH
def test_at_least_a_third_of_every_object_is_not_hidden(setting):
    scenes = describe(setting, np.arange(24))
    out = render(scenes, size=64)
    for slot in range(scenes.shape.shape[1]):
        there = np.flatnonzero(scenes.count > slot)
        hidden = scenes.radius.copy()
        hidden[:, [other for other in range(hidden.shape[1]) if other != slot]] = 0
        alone = render(
            type(scenes)(**{**{k: getattr(scenes, k) for k in scenes.__dataclass_fields__}, "radius": hidden}), size=64
        )
        own = (alone.instance > 0).sum((1, 2))[there]
        shown = (out.instance == slot + 1).sum((1, 2))[there]
        assert (shown >= 0.35 * own).all()


@BOTH
def test_labels_instances_and_boxes_agree(setting):
    for sample in samples(setting, np.arange(30), size=32):
        np.testing.assert_array_equal(sample["instance"] > 0, sample["label"] >= 2)
        np.testing.assert_array_equal(sample["label"] == 0, sample["depth"] == np.inf)
        assert len(sample["box"]) == sample["instance"].max()
        nearest = []
        for index, item in enumerate(sample["box"]):
            rows, columns = np.nonzero(sample["instance"] == index + 1)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert item["box"] == pytest.approx(np.array(expected) / 32)
            assert {item["label"]} == {LABELS[value] for value in sample["label"][rows, columns]}
            nearest.append(sample["depth"][rows, columns].mean())
        counts = [sum(item["label"] == shape for item in sample["box"]) for shape in SHAPES]
        assert [sample["metadata"][f"{shape}s"] for shape in SHAPES] == counts
        assert sample["metadata"]["objects"] == len(sample["box"])
        assert sample["metadata"]["nearest"] == pytest.approx(sample["depth"][sample["instance"] > 0].min())


def test_shadows_lie_where_the_light_is_blocked_and_are_darker():
    lit_colours, dark_colours = [], []
    for number in range(12):
        scenes = describe("scenes", np.array([number]))
        out = render(scenes, size=64)
        where, _, _ = points(scenes, np.where(out.depth[0] < np.inf, out.depth[0], 0).astype(np.float64))
        light = view(scenes.camera).light[0]
        floor = out.label[0] == 1
        blocked, near = np.zeros(floor.shape, bool), np.zeros(floor.shape, bool)
        for slot in range(int(scenes.count[0])):
            if scenes.shape[0, slot] != SHAPES.index("sphere"):
                near |= floor & (np.hypot(where[..., 0] - scenes.x[0, slot], where[..., 1] - scenes.y[0, slot]) < 5)
                continue
            radius = scenes.radius[0, slot]
            away = np.array([scenes.x[0, slot], scenes.y[0, slot], radius]) - where
            miss = np.linalg.norm(away - (away @ light)[..., None] * light, axis=-1)
            blocked |= floor & (miss < radius * 0.9)
            near |= floor & (miss < radius * 1.2)
        lit_colours.append(out.rgb[0][floor & ~near])
        dark_colours.append(out.rgb[0][blocked])
    lit, dark = (luma(np.concatenate(part)[None, None]) for part in (lit_colours, dark_colours))
    assert dark.size > 200
    # Colours at the borders of objects and shadows are mixed: leave the extremes out.
    assert np.percentile(dark, 98) < 0.8 * np.percentile(lit, 2)


def test_colours_in_the_picture_are_those_of_the_objects():
    scenes = describe("scenes", np.arange(200))
    out = render(scenes, size=32)
    names = list(COLOURS)
    table = np.array(list(COLOURS.values()), float)
    table = table / np.linalg.norm(table, axis=-1, keepdims=True)
    right = []
    for row in range(len(scenes)):
        for slot in range(int(scenes.count[row])):
            colour = out.rgb[row][out.instance[row] == slot + 1].mean(0)
            nearest = (table @ (colour / np.linalg.norm(colour))).argmax()
            right.append(names[nearest] == names[scenes.colour[row, slot]])
    assert np.mean(right) > 0.9


def test_held_out_combinations_occur_only_where_they_are_asked_for():
    def pairs(scenes):
        return [{(item.colour, item.shape) for item in scenes.scene(row).objects} for row in range(len(scenes))]

    usual = set().union(*pairs(describe("scenes", np.arange(1500))))
    assert usual == {(colour, shape) for colour in COLOURS for shape in SHAPES} - set(HELD_OUT)
    special = pairs(describe("scenes", np.arange(300), held_out=True))
    assert all(some & set(HELD_OUT) for some in special)
    assert set(HELD_OUT) <= set().union(*special)


def test_edges_agree_with_an_independent_canny():
    grey = luma(render(describe("scenes", np.arange(30)), size=64).rgb) / np.float32(255)
    ours = canny(grey).astype(bool)
    theirs = np.stack(
        [reference_canny(one, sigma=1.0, low_threshold=0.08, high_threshold=0.2, mode="nearest") for one in grey]
    )
    assert (ours & theirs).sum() >= 0.99 * max(ours.sum(), theirs.sum())
    assert ours.any((1, 2)).all()
    assert not canny(np.full((2, 16, 16), 0.5, np.float32)).any()


def test_palette_is_the_largest_colours_with_the_largest_first():
    rgb = np.zeros((1, 8, 8, 3), np.uint8)
    rgb[0, :5] = (200, 10, 10)
    rgb[0, 5:7] = (10, 10, 220)
    rgb[0, 7] = (250, 250, 250)
    np.testing.assert_array_equal(palettes(rgb)[0], [(200, 10, 10), (10, 10, 220), (250, 250, 250)])


def test_metadata_by_plain_formulas():
    for sample in samples("scenes", np.arange(4), size=32):
        rgb = sample["rgb"].reshape(-1, 3).astype(float)
        grey = rgb @ [0.299, 0.587, 0.114]
        values = sample["metadata"]
        assert values["brightness"] == pytest.approx(grey.mean(), rel=1e-4)
        assert values["contrast"] == pytest.approx(grey.std(), rel=1e-4)
        assert values["saturation"] == pytest.approx(1 - (rgb.min(1) / rgb.max(1)).mean(), rel=1e-3)
        share = np.histogram(grey, np.arange(257))[0] / grey.size
        assert values["entropy"] == pytest.approx(-(share[share > 0] * np.log2(share[share > 0])).sum(), abs=0.05)
        assert values["coverage"] == (sample["instance"] > 0).mean()


def test_features_of_a_bar_answer_in_its_direction():
    def answers(picture):
        return features(picture[None].repeat(3, -1).reshape(1, 16, 16, 3))[0].mean((0, 1))

    stripes = np.zeros((16, 16, 1), np.uint8)
    stripes[:, (np.arange(16) // 2) % 2 == 0] = 255
    vertical, horizontal = answers(stripes), answers(stripes.swapaxes(0, 1))
    assert vertical[0] > vertical[2] + 1  # channel 0: differences across; channel 2: differences down
    assert horizontal[2] > horizontal[0] + 1


def test_unknown_setting_names_the_nearest():
    with pytest.raises(MmtokError, match="did you mean 'scenes-hard'"):
        describe("scene-hard", np.arange(2))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**62), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_draws_depend_on_their_own_counters_only(seed, number, stream):
    key = keys(seed, np.array([number, number + 1], np.uint64))
    both, one = uniform(key, stream, 5), uniform(key[1:], stream, 3)
    np.testing.assert_array_equal(both[1, :3], one[0])
    assert ((both >= 0) & (both < 1)).all()
    assert not np.array_equal(both[0], both[1])


def test_draws_are_uniform_and_independent():
    draws = uniform(keys(0, np.arange(20000, dtype=np.uint64)), 3, 4)
    for column in draws.T:
        counts = np.histogram(column, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-squared with 19 degrees of freedom: p < 0.0002
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
