"""Rays against solids that stand on the floor: which rays meet which object, and where.

Every solid is given in its own frame: its base is centred at the origin of the plane z = 0, z points up, and the
object's radius is 1. A ray is origin + t * direction; t is the same in every frame, as directions are not normalised.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from mmtok.scenes.tables import SHAPES

CUBE_HALF = 0.8
CYLINDER_RADIUS, CYLINDER_HEIGHT = 0.8, 1.6
CONE_RADIUS, CONE_HEIGHT = 1.0, 2.0
_SLOPE = CONE_RADIUS / CONE_HEIGHT

FOOTPRINT = (1.0, CUBE_HALF * 2**0.5, CYLINDER_RADIUS, CONE_RADIUS)
"""Radius of the circle around each shape seen from above, in units of the object's radius; order of `SHAPES`."""

_BALL_HEIGHT = np.array([1.0, 0.8, 0.8, 0.75], np.float32)  # centre and radius of a ball around each shape
_BALL_RADIUS = np.array([1.0, 0.8 * 3**0.5, 0.8 * 2**0.5, 1.25], np.float32)

Vector = tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, "..."], Float32[np.ndarray, "..."]]
"""x, y and z in arrays of their own: element-wise work on them is much faster than on a last axis of three."""


class Solids(NamedTuple):
    """One object of each of B scenes; a radius of 0 says that the scene has none.

    Attributes:
      shape: Index into `SHAPES`.
      x: Centre of the base, metres.
      y: Centre of the base, metres.
      radius: Metres.
      cosine: Of the rotation about the vertical axis.
      sine: Of the rotation about the vertical axis.
    """

    shape: Int[np.ndarray, " B"]
    x: Float32[np.ndarray, " B"]
    y: Float32[np.ndarray, " B"]
    radius: Float32[np.ndarray, " B"]
    cosine: Float32[np.ndarray, " B"]
    sine: Float32[np.ndarray, " B"]


class Hits(NamedTuple):
    """The rays that meet a solid.

    Attributes:
      ray: Flat index into the (B, P) rays.
      t: Where along the ray.
    """

    ray: Int[np.ndarray, " N"]
    t: Float32[np.ndarray, " N"]


def meet(solids: Solids, origin: Vector, direction: Vector) -> Hits:
    """Finds the first point where rays meet one solid per scene.

    Args:
      solids: B objects.
      origin: Three arrays that broadcast to (B, P), outside the solids.
      direction: Three arrays that broadcast to (B, P).
    """
    radius = solids.radius[:, None]
    height, ball = _BALL_HEIGHT[solids.shape][:, None] * radius, _BALL_RADIUS[solids.shape][:, None] * radius
    away = (origin[0] - solids.x[:, None], origin[1] - solids.y[:, None], origin[2] - height)
    along, outside = dot(away, direction), dot(away, away) - ball * ball
    # Only rays that meet the ball around the solid, or start in it, are worth solving for.
    near = (outside < 0) | ((along < 0) & (along * along > dot(direction, direction) * outside))
    near &= radius > 0
    ray = np.flatnonzero(near)
    scene = ray // near.shape[1]
    local_origin = to_local(solids, scene, _take(origin, near.shape, ray), point=True)
    local_direction = to_local(solids, scene, _take(direction, near.shape, ray), point=False)
    t = np.full(ray.shape, np.inf, np.float32)
    shape = solids.shape[scene]
    for index, solve in enumerate(_SOLVE):
        of_shape = np.flatnonzero(shape == index)
        if of_shape.size:
            with np.errstate(divide="ignore", invalid="ignore"):  # a miss is NaN or infinite
                t[of_shape] = solve(rows(local_origin, of_shape), rows(local_direction, of_shape))
    hit = np.flatnonzero((t > 0) & (t < np.inf))
    return Hits(ray[hit], t[hit])


def to_local(solids: Solids, scene: Int[np.ndarray, " N"], vector: Vector, *, point: bool) -> Vector:
    """Turns points (or directions) of the world into the frame of the solid of their scene."""
    x, y, z = vector
    if point:
        x, y = x - solids.x[scene], y - solids.y[scene]
    cosine, sine, scale = solids.cosine[scene], solids.sine[scene], np.float32(1) / solids.radius[scene]
    return (cosine * x + sine * y) * scale, (cosine * y - sine * x) * scale, z * scale


def normals(shape: Int[np.ndarray, " N"], point: Vector) -> Vector:
    """Returns the outward unit normals at points on the surfaces, all in the frames of their solids."""
    out = (np.zeros_like(point[0]), np.zeros_like(point[1]), np.zeros_like(point[2]))
    for index, solve in enumerate(_NORMAL):
        chosen = np.flatnonzero(shape == index)
        if chosen.size:
            for part, value in zip(out, solve(rows(point, chosen))):
                part[chosen] = value
    return unit(out)


def dot(a: Vector, b: Vector) -> Float32[np.ndarray, "..."]:
    """Returns the scalar products."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Vector) -> Vector:
    """Returns the vectors scaled to length 1."""
    scale = np.float32(1) / np.sqrt(dot(a, a))
    return a[0] * scale, a[1] * scale, a[2] * scale


def rows(a: Vector, index: Int[np.ndarray, " n"]) -> Vector:
    """Returns some of the vectors."""
    return a[0][index], a[1][index], a[2][index]


def _take(vector: Vector, shape: tuple[int, ...], ray: Int[np.ndarray, " N"]) -> Vector:
    """Returns the vectors of some rays, from arrays that broadcast to all (B, P) of them."""
    x, y, z = (part.reshape(-1) for part in vector)
    return rows((x, y, z), ray if x.size == shape[0] * shape[1] else ray // shape[1])


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Roots of a t^2 + 2 b t + c, NaN where there is none."""
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (-b + root) / a


def _sphere(o: Vector, d: Vector) -> np.ndarray:
    oz = o[2] - np.float32(1)
    first, _ = _roots(dot(d, d), o[0] * d[0] + o[1] * d[1] + oz * d[2], o[0] * o[0] + o[1] * o[1] + oz * oz - 1)
    return first


def _cube(o: Vector, d: Vector) -> np.ndarray:
    half = np.float32(CUBE_HALF)
    enter = np.full(o[0].shape, -np.inf, np.float32)
    leave = np.full(o[0].shape, np.inf, np.float32)
    for origin, direction in zip((o[0], o[1], o[2] - half), d):
        inverse = np.float32(1) / direction
        middle, extent = -origin * inverse, np.abs(half * inverse)
        enter, leave = np.fmax(enter, middle - extent), np.fmin(leave, middle + extent)
    return np.where(enter < leave, enter, np.float32(np.inf))


def _cylinder(o: Vector, d: Vector) -> np.ndarray:
    radius, height = np.float32(CYLINDER_RADIUS), np.float32(CYLINDER_HEIGHT)
    side, _ = _roots(d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - radius * radius)
    z = o[2] + side * d[2]
    side = np.where((z >= 0) & (z <= height), side, np.float32(np.inf))
    top = (height - o[2]) / d[2]
    x, y = o[0] + top * d[0], o[1] + top * d[1]
    inside = (x * x + y * y <= radius * radius) & (top > 0)
    return np.where(inside, np.fmin(side, top), side)


def _cone(o: Vector, d: Vector) -> np.ndarray:
    height, slope2 = np.float32(CONE_HEIGHT), np.float32(_SLOPE * _SLOPE)
    below = height - o[2]
    a = d[0] * d[0] + d[1] * d[1] - slope2 * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + slope2 * below * d[2]
    c = o[0] * o[0] + o[1] * o[1] - slope2 * below * below
    nearest = np.full(a.shape, np.inf, np.float32)
    for t in _roots(a, b, c):
        z = o[2] + t * d[2]  # the other half of the double cone lies above the tip
        nearest = np.where((z >= 0) & (z <= height) & (t > 0), np.fmin(nearest, t), nearest)
    return nearest


def _sphere_normal(p: Vector) -> Vector:
    return p[0], p[1], p[2] - np.float32(1)


def _cube_normal(p: Vector) -> Vector:
    x, y, z = p[0], p[1], p[2] - np.float32(CUBE_HALF)
    ax, ay, az = np.abs(x), np.abs(y), np.abs(z)
    along_z = (az >= ax) & (az >= ay)
    along_x = ~along_z & (ax >= ay)
    zero = np.float32(0)
    return (
        np.where(along_x, np.sign(x), zero),
        np.where(along_z | along_x, zero, np.sign(y)),
        np.where(along_z, np.sign(z), zero),
    )


def _cylinder_normal(p: Vector) -> Vector:
    radial = np.sqrt(p[0] * p[0] + p[1] * p[1]) * np.float32(1 / CYLINDER_RADIUS)
    # On the top the height is right and the radius is free; on the side it is the other way round.
    top = np.abs(p[2] - np.float32(CYLINDER_HEIGHT)) < np.float32(CYLINDER_RADIUS) * np.abs(np.float32(1) - radial)
    zero = np.float32(0)
    return np.where(top, zero, p[0]), np.where(top, zero, p[1]), np.where(top, np.float32(1), zero)


def _cone_normal(p: Vector) -> Vector:
    ring = np.fmax(np.sqrt(p[0] * p[0] + p[1] * p[1]), np.float32(1e-6))
    return p[0], p[1], np.float32(_SLOPE) * ring


_SOLVE: tuple[Callable[[Vector, Vector], np.ndarray], ...] = (_sphere, _cube, _cylinder, _cone)
_NORMAL: tuple[Callable[[Vector], Vector], ...] = (_sphere_normal, _cube_normal, _cylinder_normal, _cone_normal)
assert len(_SOLVE) == len(_NORMAL) == len(FOOTPRINT) == len(SHAPES)
