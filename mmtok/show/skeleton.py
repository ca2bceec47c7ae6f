"""Forward kinematics of a generic human body: the 24 joints and the tree of SMPL (Loper et al. 2015), bones of our own.

The measured body of SMPL is licensed; a stick figure does not need it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

BODY = (
    # joint, its parent, metres from there in a T-pose: to the body's left, up, to its front
    ("pelvis", -1, (0.0, 0.0, 0.0)),
    ("left hip", 0, (0.08, -0.09, 0.0)),
    ("right hip", 0, (-0.08, -0.09, 0.0)),
    ("lower spine", 0, (0.0, 0.12, 0.0)),
    ("left knee", 1, (0.03, -0.40, 0.0)),
    ("right knee", 2, (-0.03, -0.40, 0.0)),
    ("middle spine", 3, (0.0, 0.13, 0.0)),
    ("left ankle", 4, (0.0, -0.42, -0.02)),
    ("right ankle", 5, (0.0, -0.42, -0.02)),
    ("upper spine", 6, (0.0, 0.08, 0.0)),
    ("left foot", 7, (0.03, -0.06, 0.14)),
    ("right foot", 8, (-0.03, -0.06, 0.14)),
    ("neck", 9, (0.0, 0.20, 0.0)),
    ("left collar", 9, (0.08, 0.12, 0.0)),
    ("right collar", 9, (-0.08, 0.12, 0.0)),
    ("head", 12, (0.0, 0.14, 0.03)),
    ("left shoulder", 13, (0.11, 0.02, 0.0)),
    ("right shoulder", 14, (-0.11, 0.02, 0.0)),
    ("left elbow", 16, (0.27, 0.0, 0.0)),
    ("right elbow", 17, (-0.27, 0.0, 0.0)),
    ("left wrist", 18, (0.25, 0.0, 0.0)),
    ("right wrist", 19, (-0.25, 0.0, 0.0)),
    ("left hand", 20, (0.08, 0.0, 0.0)),
    ("right hand", 21, (-0.08, 0.0, 0.0)),
)
BONES = tuple((parent, joint) for joint, (_, parent, _) in enumerate(BODY) if parent >= 0)
HEAD = 15
TURNED = len(BODY) - 1
"""Joints with a rotation of their own besides that of the whole body."""

_FACING = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))  # upright in a camera's axes: right, down, away


def is_posed(person: Mapping[str, Any]) -> bool:
    """Whether the turns of a person's joints are known, and not only as tokens of a tokenizer that is not there."""
    return np.size(person.get("pose", ())) == TURNED * 9


def joints_of(person: Mapping[str, Any]) -> Float[np.ndarray, "24 3"]:
    """Returns where a person's joints are, in metres from the pelvis, in the camera's axes: right, down, away.

    Args:
      person: With "global", the rotation matrix of the whole body, and "pose", those of the other joints relative to
        their parents, (23, 3, 3); a body without them faces the camera with its arms stretched out.
    """
    whole = np.asarray(person.get("global", _FACING), np.float64).reshape(1, 3, 3)
    limbs = np.asarray(person["pose"], np.float64) if is_posed(person) else np.broadcast_to(np.eye(3), (TURNED, 3, 3))
    return forward(nearest_rotations(np.concatenate([whole, limbs.reshape(TURNED, 3, 3)])))


def forward(rotations: Float[np.ndarray, "24 3 3"]) -> Float[np.ndarray, "24 3"]:
    """Returns the places of the joints, each of which is turned with its parent, and then by itself."""
    turned, places = rotations.copy(), np.zeros((len(BODY), 3))
    for joint, (_, parent, offset) in enumerate(BODY):
        if parent >= 0:
            places[joint] = places[parent] + turned[parent] @ offset
            turned[joint] = turned[parent] @ rotations[joint]
    return places


def nearest_rotations(matrices: Shaped[np.ndarray, "*B 3 3"]) -> Float[np.ndarray, "*B 3 3"]:
    """Returns the rotations that are nearest to matrices in the Frobenius norm, as a network gives no exact ones."""
    left, _, right = np.linalg.svd(np.nan_to_num(matrices.astype(np.float64)))
    sign = np.where(np.linalg.det(left @ right) < 0, -1.0, 1.0)
    left[..., -1] *= sign[..., None]
    return left @ right
