"""Persons and instances over an image: where they are, and in which colours."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mmtok.show import picture
from mmtok.show.canvas import PANEL
from mmtok.show.colours import class_colours
from mmtok.show.skeleton import HEAD, joints_of

FIRST, SECOND = (tuple(class_colours()[2 + index].tolist()) for index in range(2))
REST = np.broadcast_to(np.eye(3), (23, 3, 3))


def has(pixels: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    return (pixels == colour).all(-1)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_figure_stands_in_its_box_with_its_head_up():
    pixels = picture([{"box": [0.25, 0.1, 0.75, 0.9], "pose": REST}], "pose", size=200)
    left, _, right, _ = extent(has(pixels, FIRST))
    assert abs(left - 50) < 4  # stretched arms are what fills the box
    assert abs(right - 149) < 4
    joints = joints_of({"pose": REST})[:, :2]
    low, high = joints.min(0), joints.max(0)
    scale = min(0.5 * 199 / (high - low)[0], 0.8 * 199 / (high - low)[1])
    places = (joints - (low + high) / 2) * scale + 99.5
    for x, y in places:
        assert has(pixels, FIRST)[round(y), round(x)]
    elbow, wrist = places[18], places[20]
    assert has(pixels, FIRST)[tuple(((elbow + wrist) / 2).round().astype(int)[::-1])]
    assert has(pixels, PANEL)[round(places[HEAD][1]), 60]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_any_pose_stays_within_its_box(seed):
    rng = np.random.default_rng(seed)
    person = {
        "box": [0.2, 0.3, 0.6, 0.9],
        "pose": Rotation.from_rotvec(rng.normal(size=(23, 3))).as_matrix(),
        "global": Rotation.from_rotvec(rng.normal(size=3)).as_matrix().ravel().tolist(),
    }
    left, top, right, bottom = extent(has(picture([person], "pose", size=160), FIRST))
    around = 0.055 * 0.6 * 160 + 3  # the radius of the head, the width of a line
    assert 32 - around <= left < right <= 96 + around
    assert 48 - around <= top < bottom <= 144 + around


def test_raised_arms_are_drawn_raised():
    raised = REST.copy()
    raised[15] = Rotation.from_euler(
        "z", 90, degrees=True
    ).as_matrix()  # the left shoulder, about the axis to the front
    assert joints_of({"pose": raised})[20][1] < joints_of({"pose": raised})[HEAD][1]
    assert joints_of({"pose": raised})[21][1] > joints_of({"pose": raised})[HEAD][1]


def test_persons_have_colours_of_their_own_and_lie_on_the_image():
    image = np.full((40, 80, 3), (0, 0, 200), np.uint8)
    people = [{"box": [0, 0, 0.4, 1], "pose": REST}, {"box": [0.6, 0, 1, 1], "pose": REST}]
    pixels = picture(people, "pose", size=160, context=image)
    assert extent(has(pixels, FIRST))[2] < 80 < extent(has(pixels, SECOND))[0]
    assert pixels[45, 80].tolist() == [115, 115, 225]
    assert has(pixels, (115, 115, 225)).any()


def test_a_person_whose_pose_is_not_known_is_a_box():
    pixels = picture([{"box": [0.25, 0.25, 0.75, 0.75], "pose": [1] * 8}], "pose", size=160)
    assert extent(has(pixels, FIRST))[2:] == (120, 120) or extent(has(pixels, FIRST))[2:] == (119, 119)
    assert has(pixels, PANEL)[100, 80]


def segment(box: list[float], mask) -> list[dict]:
    return [{"point": [0.0, 0.0], "instances": [{"box": box, "mask": mask}]}]


def test_masks_are_laid_over_their_boxes():
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1  # the right half
    pixels = picture(segment([0.25, 0.25, 0.75, 0.75], mask), "segment", size=160)
    veil = np.array(PANEL) * 0.4 + np.array(FIRST) * 0.6
    assert np.abs(pixels[80, 100] - veil).max() <= 2
    assert has(pixels, PANEL)[80, 60]
    assert has(pixels, PANEL)[80, 130]
    assert has(pixels, FIRST)[39:41, 42:118].any(0).all()  # the frame


def test_small_instances_lie_on_large_ones_and_tokens_are_boxes_only():
    ones = np.ones((4, 4), np.uint8)
    value = segment([0.4, 0.4, 0.6, 0.6], ones) + segment([0.0, 0.0, 1.0, 1.0], ones)
    pixels = picture(value, "segment", size=160)
    assert np.abs(pixels[80, 80].astype(int) - FIRST).sum() < np.abs(pixels[80, 80].astype(int) - SECOND).sum()
    assert np.abs(pixels[20, 80].astype(int) - SECOND).sum() < np.abs(pixels[20, 80].astype(int) - FIRST).sum()
    bare = picture(segment([0.25, 0.25, 0.75, 0.75], [5] * 16), "segment", size=160)
    assert has(bare, PANEL)[80, 80]
    assert has(bare, FIRST).any()


def test_nobody_and_nothing_are_the_image():
    image = np.full((4, 4, 3), 100, np.uint8)
    for show in ("pose", "segment", "box"):
        assert has(picture([], show, size=64, context=image), (170, 170, 170)).all()
