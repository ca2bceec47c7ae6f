"""Scenes to pictures by ray casting, many scenes at once.

One ray goes through the middle of every pixel; only the colours of uneven pixels are the mean of several. Everything is
element-wise float32 arithmetic with exactly rounded operations, so a scene gives the same bits in every batch.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, UInt8, UInt64

from mmtok.errors import MmtokError
from mmtok.scenes.rays import Hits, Solids, Vector, dot, meet, normals, rows, to_local, unit
from mmtok.scenes.tables import COLOURS, MATERIALS
from mmtok.scenes.tables import setting as setting_of
from mmtok.scenes.world import Scenes, View, draw, view

FLOOR_RADIUS = 13.0
"""The floor is a disc of this radius in metres; the sky begins behind it."""

# Display values; light is added up in linear values, their squares.
_HORIZON = np.array([0.80, 0.87, 0.95], np.float32)
_ZENITH = np.array([0.36, 0.56, 0.86], np.float32)
_FLOOR = np.array([0.60, 0.57, 0.53], np.float32)
_PAINTS = np.array(list(COLOURS.values()), np.float32) / np.float32(255)
_AMBIENT, _DIRECT = 0.34, 0.66
_CHECK_SIZE = 24  # picture in which visibility is judged, whatever the size rendered
_VISIBLE = 0.4  # least share of an object's own pixels that nothing hides, in that picture
_ATTEMPTS = 5000
_ROUGH = 0.06  # difference of display values to a neighbour from which a pixel gets several rays
_PIXELS = 1 << 16  # rays cast together: their arrays stay in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendering:
    """Pictures of B scenes.

    Attributes:
      rgb: Colours.
      depth: Distance along the optical axis in metres, +inf in the sky.
      normal: Unit vectors in camera space (x right, y up, z towards the viewer), 0 in the sky.
      label: Index into `LABELS`.
      instance: 0 for none, then the objects from the nearest to the farthest.
    """

    rgb: UInt8[np.ndarray, "B H W 3"]
    depth: Float32[np.ndarray, "B H W"]
    normal: Float32[np.ndarray, "B H W 3"]
    label: UInt8[np.ndarray, "B H W"]
    instance: UInt8[np.ndarray, "B H W"]


def describe(setting: str, numbers: Int64[np.ndarray, " B"], *, seed: int = 0, held_out: bool = False) -> Scenes:
    """Returns scenes as a pure function of setting, seed, number and `held_out`.

    Layouts are drawn until no two objects touch and enough of each object is seen.

    Args:
      setting: Name of the setting.
      numbers: Which scenes; not negative.
      seed: Of all scenes.
      held_out: Scenes with at least one combination of `HELD_OUT`; otherwise they have none.

    Raises:
      MmtokError: unknown setting.
    """
    setting_of(setting)
    wanted = numbers.astype(np.uint64)
    pending, found, rows = np.arange(len(wanted)), [], []
    for attempt in range(_ATTEMPTS):
        scenes, good = draw(setting, seed=seed, numbers=wanted[pending], attempt=attempt, held_out=held_out)
        kept = np.flatnonzero(good)
        kept = kept[_all_seen(scenes[kept])]
        found.append(scenes[kept])
        rows.append(pending[kept])
        pending = np.delete(pending, kept)
        if not pending.size:
            return _join(found)[np.argsort(np.concatenate(rows))]
    raise MmtokError(f"scene {int(wanted[pending[0]])} of seed {seed} found no layout in {_ATTEMPTS} attempts")


def render(scenes: Scenes, *, size: int) -> Rendering:
    """Renders square pictures of `size` pixels."""
    step = max(1, _PIXELS // size**2)
    parts = [_render(scenes[start : start + step], size) for start in range(0, len(scenes), step)]
    return Rendering(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Rendering)
        }
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cast:
    """What the rays (B, P) of cameras meet.

    Attributes:
      origin: Camera positions, three (B, 1).
      direction: Of the rays, three (B, P); their component along the optical axis is 1, so t is the depth.
      t: Depth, +inf in the sky.
      instance: As in `Rendering`.
      own: Rays that would meet each object if it were alone, (B, K).
    """

    origin: Vector
    direction: Vector
    t: Float32[np.ndarray, "B P"]
    instance: UInt8[np.ndarray, "B P"]
    own: Int[np.ndarray, "B K"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Surface:
    """The N rays of a cast that meet floor or object.

    Attributes:
      ray: Flat index into the (B, P) rays.
      scene: Which scene.
      slot: Which object of the scene; -1 is the floor.
      point: Where, in the world.
      normal: Of the surface there, in the world.
    """

    ray: Int[np.ndarray, " N"]
    scene: Int[np.ndarray, " N"]
    slot: Int[np.ndarray, " N"]
    point: Vector
    normal: Vector


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the middles of the pixels lie in the picture, -1..1 to the right and up, each (1, size * size)."""
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    across, up = np.broadcast_arrays(centres[None, :], -centres[:, None])
    return across.reshape(1, -1), up.reshape(1, -1)


def _cast(scenes: Scenes, cameras: View, across: np.ndarray, up: np.ndarray) -> _Cast:
    """Casts rays through the given places of the pictures, arrays that broadcast to (B, P)."""
    batch, slots = scenes.shape.shape
    forward, position = cameras.forward.astype(np.float32), cameras.position.astype(np.float32)
    right = (cameras.right * cameras.half[:, None]).astype(np.float32)
    upward = (cameras.up * cameras.half[:, None]).astype(np.float32)
    x, y, z = (forward[:, i, None] + across * right[:, i, None] + up * upward[:, i, None] for i in range(3))
    origin, direction = (position[:, 0, None], position[:, 1, None], position[:, 2, None]), (x, y, z)
    t = _floor(origin, direction)
    instance = np.zeros(t.shape, np.uint8)
    own = np.zeros((batch, slots), np.int64)
    for slot in range(slots):
        hits = meet(scenes.solids(slot), origin, direction)
        own[:, slot] = np.bincount(hits.ray // t.shape[1], minlength=batch)
        _keep_nearest(hits, slot, t.reshape(-1), instance.reshape(-1))
    return _Cast(origin=origin, direction=direction, t=t, instance=instance, own=own)


def _floor(origin: Vector, direction: Vector) -> Float32[np.ndarray, "B P"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -origin[2] / direction[2]
        x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
        on = (t > 0) & (x * x + y * y < np.float32(FLOOR_RADIUS**2))
    return np.where(on, t, np.float32(np.inf))


def _keep_nearest(hits: Hits, slot: int, t: Float32[np.ndarray, " N"], instance: UInt8[np.ndarray, " N"]) -> None:
    nearer = hits.t < t[hits.ray]
    ray = hits.ray[nearer]
    t[ray] = hits.t[nearer]
    instance[ray] = slot + 1


def _all_seen(scenes: Scenes) -> Int[np.ndarray, " b"]:
    """Returns which scenes show enough of every object."""
    if not len(scenes):
        return np.zeros(0, np.int64)
    cast = _cast(scenes, view(scenes.camera), *_grid(_CHECK_SIZE))
    slots = scenes.shape.shape[1]
    visible = np.stack([(cast.instance == slot + 1).sum(1) for slot in range(slots)], 1)
    least = 1.2 * setting_of(scenes.setting).least_area * _CHECK_SIZE**2
    enough = (visible >= _VISIBLE * cast.own) & (visible >= least)
    return np.flatnonzero((enough | (np.arange(slots) >= scenes.count[:, None])).all(1))


def _join(parts: list[Scenes]) -> Scenes:
    names = [field.name for field in dataclasses.fields(Scenes) if field.name != "setting"]
    return Scenes(
        setting=parts[0].setting, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def _render(scenes: Scenes, size: int) -> Rendering:
    picture = (len(scenes), size, size)
    cameras = view(scenes.camera)
    cast = _cast(scenes, cameras, *_grid(size))
    surface = _surface(scenes, cast)
    rgb = _smooth(scenes, cameras, _paint(scenes, cameras, cast, surface).reshape(*picture, 3))
    label = np.zeros(cast.t.size, np.uint8)
    label[surface.ray] = np.where(surface.slot < 0, 1, scenes.shape[surface.scene, surface.slot] + 2)
    normal = np.zeros((cast.t.size, 3), np.float32)
    for axis, directions in enumerate((cameras.right, cameras.up, -cameras.forward)):
        normal[surface.ray, axis] = dot(_each(directions, surface.scene), surface.normal)
    return Rendering(
        rgb=(np.clip(rgb, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8),
        depth=cast.t.reshape(picture),
        normal=normal.reshape(*picture, 3),
        label=label.reshape(picture),
        instance=cast.instance.reshape(picture),
    )


def _smooth(scenes: Scenes, cameras: View, rgb: Float32[np.ndarray, "B H W 3"]) -> Float32[np.ndarray, "B H W 3"]:
    """Paints pixels that differ from a neighbour anew, as the mean of 2 x 2 rays."""
    batch, size = rgb.shape[:2]
    rough = np.zeros(rgb.shape[:3], bool)
    for low, high in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:, :, :-1], np.s_[:, :, 1:])):
        differ = np.abs(rgb[low] - rgb[high])
        step = np.fmax(np.fmax(differ[..., 0], differ[..., 1]), differ[..., 2]) > _ROUGH
        rough[low] |= step
        rough[high] |= step
    rough = rough.reshape(batch, -1)
    scene, pixel = np.nonzero(rough)
    many = rough.sum(1)
    column = np.arange(len(scene)) - np.repeat(np.cumsum(many) - many, many)
    chosen = np.zeros((batch, many.max()), np.int64)  # scenes with fewer rough pixels repeat pixel 0
    chosen[scene, column] = pixel
    across, up = (part[0, chosen] for part in _grid(size))
    total = np.zeros((len(scene), 3), np.float32)
    for right in (-0.5 / size, 0.5 / size):
        for above in (-0.5 / size, 0.5 / size):
            cast = _cast(scenes, cameras, across + np.float32(right), up + np.float32(above))
            total += _paint(scenes, cameras, cast, _surface(scenes, cast))[scene, column]
    rgb.reshape(batch, -1, 3)[scene, pixel] = total * np.float32(0.25)
    return rgb


def _paint(scenes: Scenes, cameras: View, cast: _Cast, surface: _Surface) -> Float32[np.ndarray, "B P 3"]:
    """Returns display values 0..1 of all rays."""
    rgb = _sky(cast.direction).reshape(-1, 3)
    rgb[surface.ray] = _shade(scenes, cameras, cast, surface, _shadows(scenes, cameras, surface, cast.t.shape))
    return rgb.reshape(*cast.t.shape, 3)


def _each(vectors: np.ndarray, scene: Int[np.ndarray, " N"]) -> Vector:
    single = vectors.astype(np.float32)
    return single[scene, 0], single[scene, 1], single[scene, 2]


def _surface(scenes: Scenes, cast: _Cast) -> _Surface:
    ray = np.flatnonzero(cast.t.reshape(-1) < np.inf)
    scene, slot = ray // cast.t.shape[1], cast.instance.reshape(-1)[ray].astype(np.int64) - 1
    t = cast.t.reshape(-1)[ray]
    x, y, z = (o.reshape(-1)[scene] + t * d.reshape(-1)[ray] for o, d in zip(cast.origin, cast.direction))
    normal = (np.zeros_like(t), np.zeros_like(t), np.ones_like(t))
    on = np.flatnonzero(slot >= 0)
    solids = _pick(scenes, scene[on], slot[on])
    local = to_local(solids, np.arange(on.size), (x[on], y[on], z[on]), point=True)
    nx, ny, nz = normals(solids.shape, local)
    normal[0][on] = solids.cosine * nx - solids.sine * ny
    normal[1][on] = solids.sine * nx + solids.cosine * ny
    normal[2][on] = nz
    return _Surface(ray=ray, scene=scene, slot=slot, point=(x, y, z), normal=normal)


def _pick(scenes: Scenes, scene: Int[np.ndarray, " N"], slot: Int[np.ndarray, " N"]) -> Solids:
    """Returns the object that each of N rays meets."""
    columns = [scenes.solids(each) for each in range(scenes.shape.shape[1])]
    return Solids(*(np.stack(parts, 1)[scene, slot] for parts in zip(*columns)))


def _shadows(scenes: Scenes, cameras: View, surface: _Surface, shape: tuple[int, ...]) -> Bool[np.ndarray, " N"]:
    """Returns which surface points another object keeps the light from; the side away from it is shading's affair."""
    dark = np.zeros(shape[0] * shape[1], bool)
    own = np.full(dark.shape, -1, np.int64)
    own[surface.ray] = surface.slot
    light = cameras.light.astype(np.float32)
    towards = (light[:, 0, None], light[:, 1, None], light[:, 2, None])
    x, y, z = (_spread(part, surface.ray, shape) for part in surface.point)
    for other in range(scenes.shape.shape[1]):
        hits = meet(scenes.solids(other), (x, y, z), towards)
        dark[hits.ray[own[hits.ray] != other]] = True
    return dark[surface.ray]


def _spread(
    part: Float32[np.ndarray, " N"], ray: Int[np.ndarray, " N"], shape: tuple[int, ...]
) -> Float32[np.ndarray, "B P"]:
    whole = np.full(shape[0] * shape[1], 1e6, np.float32)  # the sky: a place no object is near
    whole[ray] = part
    return whole.reshape(shape)


def _shade(
    scenes: Scenes, cameras: View, cast: _Cast, surface: _Surface, shadow: Bool[np.ndarray, " N"]
) -> Float32[np.ndarray, "N 3"]:
    """Returns display values of surface points."""
    scene, slot, normal = surface.scene, surface.slot, surface.normal
    light = _each(cameras.light, scene)
    lambert = np.fmax(dot(normal, light), np.float32(0))
    lambert[shadow] = 0
    # Light from the sky comes from above: sides that look down get less of it.
    ambient = np.float32(_AMBIENT) * (np.float32(0.8) + np.float32(0.2) * normal[2])
    base = _base(scenes, surface)
    colour = base * (ambient + np.float32(_DIRECT / 0.8) * lambert)[:, None]

    metal = np.flatnonzero((slot >= 0) & (scenes.material[scene, slot] == MATERIALS.index("metal")))
    n = rows(normal, metal)
    x, y, z = (part.reshape(-1) for part in cast.direction)
    ray = unit(rows((x, y, z), surface.ray[metal]))
    facing = dot(ray, n)
    mirrored = (ray[0] - 2 * facing * n[0], ray[1] - 2 * facing * n[1], ray[2] - 2 * facing * n[2])
    glance = np.fmax(dot(mirrored, rows(light, metal)), np.float32(0))
    for _ in range(5):  # to the 32nd power
        glance = glance * glance
    glance[shadow[metal]] = 0
    around = np.where(mirrored[2][:, None] > 0, np.square(_sky(mirrored)), _FLOOR * _FLOOR)
    rim = (1 + facing) * (1 + facing)
    tint = base[metal] * np.float32(0.8) + np.float32(0.2)
    colour[metal] = (
        colour[metal] * np.float32(0.62)
        + around * tint * (np.float32(0.3) + np.float32(0.5) * rim)[:, None]
        + np.float32(0.85) * glance[:, None]
    )
    return np.sqrt(colour)


def _base(scenes: Scenes, surface: _Surface) -> Float32[np.ndarray, "N 3"]:
    """Returns linear surface colours (display value = their square root)."""
    base = (_PAINTS * _PAINTS)[scenes.colour[surface.scene, surface.slot]]
    floor = np.flatnonzero(surface.slot < 0)
    base[floor] = _FLOOR * _FLOOR
    if setting_of(scenes.setting).textured:
        key = scenes.key[surface.scene[floor]]
        base[floor] *= _texture(key, surface.point[0][floor], surface.point[1][floor])[:, None]
    return base


def _texture(
    key: UInt64[np.ndarray, " N"], x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"]
) -> Float32[np.ndarray, " N"]:
    """Brightness of a patterned floor: checks, planks or tiles, different from scene to scene."""
    kind = (key >> np.uint64(8)).astype(np.int64) % 3
    period = np.float32(1.0) + np.float32(0.3) * ((key >> np.uint64(16)).astype(np.int64) % 5).astype(np.float32)
    column, row = np.floor(x / period), np.floor(y / period)
    inside_x, inside_y = x / period - column, y / period - row
    checks = np.where((column + row) % 2 == 0, np.float32(1.15), np.float32(0.7))
    planks = np.float32(0.75) + np.float32(0.125) * ((column * 3) % 4)
    joint = (inside_x < 0.08) | (inside_y < 0.08)
    tiles = np.where(joint, np.float32(0.55), np.float32(1.05))
    return np.choose(kind, [checks, planks, tiles]).astype(np.float32)


def _sky(direction: Vector) -> Float32[np.ndarray, "... 3"]:
    """Returns display values of the sky in the given directions."""
    height = np.clip(unit(direction)[2] * np.float32(1.6), 0, 1)[..., None]
    return _HORIZON + (_ZENITH - _HORIZON) * height
