"""Strict numerics for every test: shape annotations are enforced, and nothing touches an accelerator."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of what tests compile runs once
install_import_hook("mmtok", "beartype.beartype")


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference outputs and real data that lies beside the project, where it is present."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not part of the project")
    return SHARED
