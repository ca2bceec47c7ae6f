"""What is in a scene: objects, camera and light, drawn so that every object can be seen."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt64

from mmtok.scenes.draws import keys, uniform
from mmtok.scenes.rays import FOOTPRINT, Solids
from mmtok.scenes.tables import CAMERA, COLOURS, HELD_OUT, MATERIALS, SHAPES, SIZES, Setting
from mmtok.scenes.tables import setting as setting_of

_GAP = 0.12  # metres between the circles around two objects
_WHOLE = 0.85  # share of an object's half width that lies within the left and right borders
_PLACES = 12  # positions tried per object before the whole layout is drawn anew
_NAMES = tuple(COLOURS)
_ALL = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
_OUT = [(_NAMES.index(colour), SHAPES.index(shape)) for colour, shape in HELD_OUT]
_IN = [pair for pair in _ALL if pair not in _OUT]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Object:
    """One object in words and metres."""

    shape: str
    colour: str
    material: str
    size: str
    x: float
    y: float
    rotation: float
    radius: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene.

    Attributes:
      objects: From the nearest to the farthest.
      camera: As named by `CAMERA`.
      across: Of every object: where its middle appears, from 0 (left border) to 1 (right border).
      depth: Of every object: depth of its middle, metres.
    """

    objects: tuple[Object, ...]
    camera: tuple[float, ...]
    across: tuple[float, ...]
    depth: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
    """B scenes with room for K objects each, sorted from the nearest to the farthest.

    Attributes:
      setting: Name of the setting.
      key: Of the random numbers.
      count: Number of objects.
      shape: Index into `SHAPES`.
      colour: Index into `COLOURS`.
      material: Index into `MATERIALS`.
      size: Index into `SIZES`.
      x: Centre of the base, metres.
      y: Centre of the base, metres.
      rotation: About the vertical axis, radians.
      radius: Metres; 0 where there is no object.
      camera: As named by `CAMERA`.
    """

    setting: str
    key: UInt64[np.ndarray, " B"]
    count: Int[np.ndarray, " B"]
    shape: Int[np.ndarray, "B K"]
    colour: Int[np.ndarray, "B K"]
    material: Int[np.ndarray, "B K"]
    size: Int[np.ndarray, "B K"]
    x: Float64[np.ndarray, "B K"]
    y: Float64[np.ndarray, "B K"]
    rotation: Float64[np.ndarray, "B K"]
    radius: Float64[np.ndarray, "B K"]
    camera: Float64[np.ndarray, "B C"]

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: slice | Int[np.ndarray, " b"]) -> "Scenes":
        """Returns some of the scenes."""
        return Scenes(setting=self.setting, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    def solids(self, slot: int) -> Solids:
        """Returns object `slot` of every scene."""
        rotation = self.rotation[:, slot]
        single = (self.x[:, slot], self.y[:, slot], self.radius[:, slot], np.cos(rotation), np.sin(rotation))
        return Solids(self.shape[:, slot], *(value.astype(np.float32) for value in single))

    def scene(self, index: int) -> Scene:
        """Returns one scene in words and metres."""
        across, depth = seen(self[index : index + 1])
        count = int(self.count[index])
        objects = tuple(
            Object(
                shape=SHAPES[self.shape[index, slot]],
                colour=_NAMES[self.colour[index, slot]],
                material=MATERIALS[self.material[index, slot]],
                size=SIZES[self.size[index, slot]],
                x=float(self.x[index, slot]),
                y=float(self.y[index, slot]),
                rotation=float(self.rotation[index, slot]),
                radius=float(self.radius[index, slot]),
            )
            for slot in range(count)
        )
        return Scene(
            objects=objects,
            camera=tuple(self.camera[index].tolist()),
            across=tuple(across[0, :count].tolist()),
            depth=tuple(depth[0, :count].tolist()),
        )


_ARRAYS = tuple(field.name for field in dataclasses.fields(Scenes) if field.name != "setting")


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Pinhole cameras: positions and unit axes in world coordinates, arrays of shape (B, 3).

    Attributes:
      position: Metres.
      right: Towards the right of the picture.
      up: Towards its top.
      forward: Into it.
      light: Unit vectors towards the light.
      half: Tangent of half the field of view, (B,).
    """

    position: Float64[np.ndarray, "B 3"]
    right: Float64[np.ndarray, "B 3"]
    up: Float64[np.ndarray, "B 3"]
    forward: Float64[np.ndarray, "B 3"]
    light: Float64[np.ndarray, "B 3"]
    half: Float64[np.ndarray, " B"]


_TARGET_HEIGHT = 0.75  # metres above the middle of the floor, where every camera looks


def view(camera: Float64[np.ndarray, "B C"]) -> View:
    """Returns the cameras and lights that `camera` vectors describe."""
    elevation, azimuth, distance, field, light_elevation, light_azimuth = camera.T
    elevation, azimuth, light_elevation = np.radians(elevation), np.radians(azimuth), np.radians(light_elevation)
    light_azimuth = azimuth + np.radians(light_azimuth)
    zero = np.zeros_like(azimuth)
    back = _direction(azimuth, elevation)
    position = back * distance[:, None] + np.array([0.0, 0.0, _TARGET_HEIGHT])
    right = np.stack([np.cos(azimuth), np.sin(azimuth), zero], -1)
    up = np.stack([-np.sin(azimuth) * np.sin(elevation), np.cos(azimuth) * np.sin(elevation), np.cos(elevation)], -1)
    light = _direction(light_azimuth, light_elevation)
    return View(position=position, right=right, up=up, forward=-back, light=light, half=np.tan(np.radians(field) / 2))


def _direction(azimuth: Float64[np.ndarray, " B"], elevation: Float64[np.ndarray, " B"]) -> Float64[np.ndarray, "B 3"]:
    flat = np.cos(elevation)
    return np.stack([np.sin(azimuth) * flat, -np.cos(azimuth) * flat, np.sin(elevation)], -1)


def seen(scenes: Scenes) -> tuple[Float64[np.ndarray, "B K"], Float64[np.ndarray, "B K"]]:
    """Returns where the middles of objects appear across the picture (0 left .. 1 right), and their depths."""
    cameras = view(scenes.camera)
    away = np.stack([scenes.x, scenes.y, scenes.radius * 0.9], -1) - cameras.position[:, None]
    depth = (away * cameras.forward[:, None]).sum(-1)
    across = (away * cameras.right[:, None]).sum(-1)
    return 0.5 + 0.5 * across / (depth * cameras.half[:, None]), depth


def draw(
    setting: str, *, seed: int, numbers: UInt64[np.ndarray, " B"], attempt: int, held_out: bool
) -> tuple[Scenes, Bool[np.ndarray, " B"]]:
    """Draws one layout per scene; the number of objects, shapes and colours do not depend on the attempt.

    Args:
      setting: Name of the setting.
      seed: Of all scenes.
      numbers: Which scenes.
      attempt: Which try at placing the objects.
      held_out: Scenes with at least one combination of `HELD_OUT`; otherwise they have none.

    Returns:
      The scenes, and for which of them no two objects touch and all middles lie in the picture.
    """
    kind = setting_of(setting)
    slots = kind.objects
    key = keys(seed, numbers)
    count, shape, colour, material = _things(key, kind, held_out=held_out)
    rows = np.arange(slots)[None] < count[:, None]
    stream = 2 * attempt + 2
    size = (uniform(key, stream, 3 * slots)[:, :slots] * len(SIZES)).astype(np.int64)
    radius = np.where(rows, np.take(np.array(kind.radius), size), 0.0)
    ranges = np.array([kind.camera[name] for name in CAMERA])
    more = uniform(key, stream, 3 * slots + len(CAMERA))
    camera = ranges[:, 0] + more[:, 3 * slots :] * (ranges[:, 1] - ranges[:, 0])
    rotation = more[:, slots : 2 * slots] * (2 * np.pi)
    reach = np.where(rows, np.take(np.array(FOOTPRINT), shape) * radius, 0.0)
    x, y, apart = _places(uniform(key, stream + 1, slots * _PLACES * 2), reach, rows, camera, kind)
    scenes = Scenes(
        setting=setting,
        key=key,
        count=count,
        shape=shape,
        colour=colour,
        material=material,
        size=size,
        x=x,
        y=y,
        rotation=rotation,
        radius=radius,
        camera=camera,
    )
    across, depth = seen(scenes)
    width = 0.5 * radius / (depth * np.tan(np.radians(camera[:, CAMERA.index("field_of_view"), None]) / 2))
    inside = (np.abs(across - 0.5) + _WHOLE * width < 0.5) | ~rows
    order = np.argsort(np.where(rows, depth, np.inf), axis=1, kind="stable")
    arranged = {
        name: np.take_along_axis(getattr(scenes, name), order, 1)
        for name in ("shape", "colour", "material", "size", "x", "y", "rotation", "radius")
    }
    return dataclasses.replace(scenes, **arranged), apart & inside.all(1)


def _things(
    key: UInt64[np.ndarray, " B"], kind: Setting, *, held_out: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    slots = kind.objects
    u = uniform(key, 0, 2 + 2 * slots)
    count = 1 + (u[:, 0] * slots).astype(np.int64)
    pairs = np.array(_ALL if held_out else _IN)
    pair = pairs[(u[:, 2 : 2 + slots] * len(pairs)).astype(np.int64)]
    if held_out:
        chosen = np.array(_OUT)[(u[:, 1] * len(_OUT)).astype(np.int64)]
        pair[:, 0] = chosen  # slot 0 is always there; the order of slots says nothing about the place
    material = (u[:, 2 + slots :] * len(MATERIALS)).astype(np.int64)
    return count, pair[..., 1], pair[..., 0], material


def _places(
    u: Float64[np.ndarray, "B D"],
    reach: Float64[np.ndarray, "B K"],
    rows: Bool[np.ndarray, "B K"],
    camera: Float64[np.ndarray, "B C"],
    kind: Setting,
) -> tuple[Float64[np.ndarray, "B K"], Float64[np.ndarray, "B K"], Bool[np.ndarray, " B"]]:
    batch, slots = reach.shape
    azimuth = np.radians(camera[:, CAMERA.index("azimuth")])[:, None]
    u = u.reshape(batch, slots, _PLACES, 2)
    x, y = np.zeros((batch, slots)), np.zeros((batch, slots))
    apart = np.ones(batch, bool)
    for slot in range(slots):
        across, away = (2 * u[:, slot, :, 0] - 1) * kind.spread[0], (2 * u[:, slot, :, 1] - 1) * kind.spread[1]
        tried_x = np.cos(azimuth) * across - np.sin(azimuth) * away
        tried_y = np.sin(azimuth) * across + np.cos(azimuth) * away
        free = np.ones((batch, _PLACES), bool)
        for other in range(slot):
            least = (reach[:, slot] + reach[:, other] + _GAP)[:, None]
            far = (tried_x - x[:, other, None]) ** 2 + (tried_y - y[:, other, None]) ** 2
            free &= (far > least * least) | ~rows[:, other, None]
        first = free.argmax(1)
        x[:, slot], y[:, slot] = tried_x[np.arange(batch), first], tried_y[np.arange(batch), first]
        apart &= free.any(1) | ~rows[:, slot]
    return x, y, apart
