"""A picture for every modality, galleries, and natural file formats."""

from mmtok.show.colours import FeatureBasis, feature_basis
from mmtok.show.curves import curves
from mmtok.show.files import read_value, takes_text, write_value
from mmtok.show.gallery import gallery, sheet
from mmtok.show.pictures import SHOWS, absent, picture
from mmtok.show.reconstruction import reconstruction

__all__ = [
    "SHOWS",
    "FeatureBasis",
    "absent",
    "curves",
    "feature_basis",
    "gallery",
    "picture",
    "read_value",
    "reconstruction",
    "sheet",
    "takes_text",
    "write_value",
]
