"""The generic body: its joints against scipy's rotations, and what no pose can change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mmtok.show.skeleton import BODY, BONES, TURNED, forward, is_posed, joints_of, nearest_rotations

SEEDS = st.integers(0, 10**6)


def poses(seed: int) -> Rotation:
    return Rotation.from_rotvec(np.random.default_rng(seed).normal(size=(24, 3)))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_joints_are_those_of_a_chain_of_rotations(seed):
    turns, places = poses(seed), forward(poses(seed).as_matrix())
    for joint in range(24):
        chain = [joint]
        while BODY[chain[-1]][1] >= 0:
            chain.append(BODY[chain[-1]][1])
        place = np.zeros(3)
        for link in chain[:-1]:  # from the joint down to the pelvis: move by the bone, then turn with the parent
            place = turns[BODY[link][1]].apply(np.array(BODY[link][2]) + place)
        np.testing.assert_allclose(places[joint], place, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_bones_keep_their_lengths_and_the_whole_turns_as_one(seed):
    turns = poses(seed)
    places = forward(turns.as_matrix())
    for parent, joint in BONES:
        length = np.linalg.norm(BODY[joint][2])
        assert np.linalg.norm(places[joint] - places[parent]) == pytest.approx(length)
    more = turns.as_matrix()
    spin = Rotation.from_rotvec([0.3, -1.0, 2.0])
    more[0] = spin.as_matrix() @ more[0]
    np.testing.assert_allclose(forward(more), spin.apply(places), atol=1e-12)


def test_a_body_at_rest_is_a_person_that_faces_the_camera():
    names, places = [name for name, _, _ in BODY], joints_of({})
    at = dict(zip(names, places))
    assert at["head"][1] < at["pelvis"][1] < at["left knee"][1] < at["left ankle"][1]  # down is positive
    assert at["left hand"][0] > 0 > at["right hand"][0]  # its left is our right
    assert 1.4 < np.ptp(places[:, 1]) < 1.9
    left = [name for name in names if name.startswith("left")]
    mirrored = np.array([at[name] * [-1, 1, 1] for name in left])
    np.testing.assert_allclose(mirrored, [at[name.replace("left", "right")] for name in left])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.2, 3))
def test_the_nearest_rotation_is_that_of_scipy(seed, scale):
    matrices = poses(seed).as_matrix() * scale + 0.1 * np.random.default_rng(seed).normal(size=(24, 3, 3))
    found = nearest_rotations(matrices)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    for matrix, rotation in zip(matrices, found):
        # the rotation that best turns the unit vectors into the matrix's columns
        best = Rotation.align_vectors(matrix.T, np.eye(3))[0]
        np.testing.assert_allclose(rotation, best.as_matrix(), atol=1e-6)


def test_token_ids_are_no_pose():
    assert not is_posed({"pose": [1] * 8})
    assert not is_posed({})
    assert is_posed({"pose": np.zeros((TURNED, 3, 3))})
    np.testing.assert_array_equal(joints_of({"pose": [1] * 8}), joints_of({}))
