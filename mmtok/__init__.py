"""mmtok: train, extend and sample any-to-any multimodal models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from mmtok.inference import Loaded

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | os.PathLike) -> Loaded:
    """Opens a trained model to sample, score and embed with.

    Args:
      path: Folder that `mmtok train` or `mmtok import` wrote, or the name of a model that ships with mmtok (`scenes`).

    Returns:
      The model with its tokenizers; see its methods `sample`, `score` and `embed`.

    Raises:
      MmtokError: no model there, or a damaged one.
      MismatchError: its tokenizers are not those it was trained with.
    """
    from mmtok.inference import load_anytoany  # here: `import mmtok` stays light

    return load_anytoany(path)
