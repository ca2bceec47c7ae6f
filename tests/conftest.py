"""Strict numerics for every test: shape annotations are enforced, and nothing touches an accelerator."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
install_import_hook("mmtok", "beartype.beartype")


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference outputs and real data that lies beside the project, where it is present."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def lightly() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """For programs that run a few steps, which are not worth optimising: `with lightly(): ...`.

    JAX goes on using what it compiled under the other setting, whose results may differ in the last bit: with clean
    caches, results are the same whatever ran before.
    """
    import jax  # after the platform is set above

    @contextlib.contextmanager
    def compiling() -> Iterator[None]:
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        jax.clear_caches()
        yield
        jax.config.update("jax_disable_most_optimizations", before)
        jax.clear_caches()

    return compiling


@pytest.fixture(scope="module")
def compile_lightly(lightly: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """All of a module."""
    with lightly():
        yield
