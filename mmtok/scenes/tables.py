"""Names, colours, sizes and ranges of everything in a scene."""

import dataclasses
import types
from collections.abc import Mapping

from mmtok.errors import unknown

LABELS = ("sky", "floor", "sphere", "cube", "cylinder", "cone")
"""Semantic classes: the index is the value in `label`."""

SHAPES = LABELS[2:]
"""Solids: index + 2 is the semantic class."""

COLOURS: Mapping[str, tuple[int, int, int]] = types.MappingProxyType(
    {
        "red": (214, 38, 38),
        "orange": (245, 130, 28),
        "yellow": (245, 214, 48),
        "green": (44, 156, 58),
        "cyan": (52, 208, 214),
        "blue": (38, 76, 214),
        "purple": (140, 44, 176),
        "white": (240, 240, 240),
    }
)
"""Colour name -> RGB of the surface in full light."""

MATERIALS = ("rubber", "metal")
"""Rubber is diffuse; metal mirrors sky and floor and has a highlight."""

SIZES = ("small", "medium", "large")

HELD_OUT = (("cyan", "cone"), ("yellow", "cube"), ("purple", "cylinder"))
"""(colour, shape) that occur in split `compositional` only."""

CAMERA = ("elevation", "azimuth", "distance", "field_of_view", "light_elevation", "light_azimuth")
"""Entries of the `camera` vector: metres for the distance, degrees for the rest.

The camera looks at a point above the middle of the floor from `elevation` above the horizon. The azimuth of the light
is relative to the camera: 0 is a light behind the camera, positive is to its right.
"""

METADATA_RANGES: Mapping[str, tuple[float, float]] = types.MappingProxyType(
    {
        "brightness": (0.0, 255.0),  # mean of the luma
        "contrast": (0.0, 128.0),  # standard deviation of the luma
        "saturation": (0.0, 1.0),  # mean HSV saturation
        "colorfulness": (0.0, 128.0),  # Hasler and Suesstrunk 2003, "Measuring colorfulness in natural images", eq. 8
        "entropy": (0.0, 8.0),  # of the luma histogram, bits
        "objects": (0.0, 6.0),
        "spheres": (0.0, 6.0),
        "cubes": (0.0, 6.0),
        "cylinders": (0.0, 6.0),
        "cones": (0.0, 6.0),
        "coverage": (0.0, 1.0),  # share of the picture that shows objects
        "nearest": (0.0, 16.0),  # least depth of a visible object point, metres
    }
)
"""Key of `metadata` -> (lowest, highest) value it can have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What scenes of one setting are drawn from; ranges are (lowest, highest).

    Attributes:
      objects: Most objects in a scene.
      radius: Radius in metres of small, medium and large objects.
      spread: Half the extent of the region of object centres, to the right and away from the camera, in metres.
      camera: Range of every entry of the `camera` vector.
      textured: The floor has a pattern.
      least_area: Least share of the picture that every object shows.
    """

    objects: int
    radius: tuple[float, float, float]
    spread: tuple[float, float]
    camera: Mapping[str, tuple[float, float]]
    textured: bool
    least_area: float


SETTINGS: Mapping[str, Setting] = types.MappingProxyType(
    {
        "scenes": Setting(
            objects=3,
            radius=(0.78, 1.05, 1.4),
            spread=(1.9, 1.6),
            camera=types.MappingProxyType(
                {
                    "elevation": (19.0, 22.0),
                    "azimuth": (-4.0, 4.0),
                    "distance": (7.3, 7.7),
                    "field_of_view": (39.0, 41.0),
                    "light_elevation": (46.0, 54.0),
                    "light_azimuth": (-60.0, -40.0),
                }
            ),
            textured=False,
            least_area=0.025,
        ),
        "scenes-hard": Setting(
            objects=6,
            radius=(0.55, 0.8, 1.1),
            spread=(2.8, 2.8),
            camera=types.MappingProxyType(
                {
                    "elevation": (12.0, 45.0),
                    "azimuth": (-180.0, 180.0),
                    "distance": (8.0, 11.0),
                    "field_of_view": (38.0, 50.0),
                    "light_elevation": (35.0, 70.0),
                    "light_azimuth": (-110.0, 110.0),
                }
            ),
            textured=True,
            least_area=0.008,
        ),
    }
)


def setting(name: str) -> Setting:
    """Returns the setting of that name.

    Raises:
      MmtokError: there is none.
    """
    if name not in SETTINGS:
        raise unknown("scenes setting", name, SETTINGS)
    return SETTINGS[name]
