"""Data: readers of raw samples, the token store, and batches as a pure function of the step."""

from mmtok.data.batches import ArrayBatches, TokenBatches
from mmtok.data.derived import Derived
from mmtok.data.folders import FoldersConfig
from mmtok.data.random import RandomBatches
from mmtok.data.store import Store
from mmtok.data.tfds import TfdsConfig
from mmtok.data.tokenize import tokenize
from mmtok.data.values import read_value

__all__ = [
    "ArrayBatches",
    "Derived",
    "FoldersConfig",
    "RandomBatches",
    "Store",
    "TfdsConfig",
    "TokenBatches",
    "read_value",
    "tokenize",
]
