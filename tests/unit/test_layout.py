"""The layout of the repository: code of three packages lives at the top level without shadowing other packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("tokenizers", "train", "configs")


def run(*command: str) -> str:
    """Runs a command from the root of the repository and returns what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", LINKED)
def test_top_level_folders_hold_code_but_are_not_packages(name):
    assert list((ROOT / name).glob("*.py"))
    assert not (ROOT / name / "__init__.py").exists()


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative(name):
    link = ROOT / "mmtok" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_other_rooms_are_packages():
    rooms = [path for path in (ROOT / "mmtok").iterdir() if path.is_dir() and any(path.glob("*.py"))]
    missing = [path.name for path in rooms if not path.is_symlink() and not (path / "__init__.py").exists()]
    assert not missing


def test_import_tokenizers_from_the_root_is_hugging_faces():
    found = Path(run(sys.executable, "-c", "import tokenizers; print(tokenizers.__file__)"))
    assert ROOT not in found.parents or "site-packages" in found.parts
    assert found.name == "__init__.py"


def test_linked_code_imports_under_the_package_name():
    found = Path(run(sys.executable, "-c", "import mmtok.tokenizers.artifact as a; print(a.__file__)"))
    assert found.resolve() == ROOT / "tokenizers" / "artifact.py"


def test_rooms_import_downwards_only():
    assert "0 broken" in run(str(Path(sys.executable).parent / "lint-imports"))
