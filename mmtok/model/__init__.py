"""The any-to-any Transformer: configuration, embeddings, blocks, heads and its artifact on disk."""

from mmtok.model.adopt import Adopted, adopt
from mmtok.model.anytoany import FLOP_RULE, AnyToAny, Context
from mmtok.model.artifact import load_description, load_model, named_parameters, save_model, set_parameters, write_model
from mmtok.model.config import SIZES, ModelConfig, sized

__all__ = [
    "FLOP_RULE",
    "SIZES",
    "Adopted",
    "AnyToAny",
    "Context",
    "ModelConfig",
    "adopt",
    "load_description",
    "load_model",
    "named_parameters",
    "save_model",
    "set_parameters",
    "sized",
    "write_model",
]
