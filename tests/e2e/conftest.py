"""One tiny project, made once through the command line and shared by all end-to-end tests."""

import contextlib
import dataclasses
import fcntl
import io
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtok.cli import main

HERE = Path(__file__).parent
TINY = HERE / "tiny.py"
STAGES = ("data", "tokenizer train", "tokenizer eval", "tokenize", "train")


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command left behind on the terminal."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one sentence of a command that failed because of its user."""
        assert self.code == 1, f"exit code {self.code}, standard error: {self.err}"
        lines = self.err.splitlines()
        said = [line for line in lines if line.startswith("mmtok: ") and not line.startswith("mmtok: warning: ")]
        assert said == lines[-1:], f"one sentence at the end expected, standard error: {self.err}"
        assert "Traceback" not in self.err
        return said[0].removeprefix("mmtok: ")


def call(*words: str | Path) -> Ran:
    """Runs a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
    assert isinstance(left.value.code, int)
    return Ran(left.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def mmtok() -> Callable[..., Ran]:
    """Runs a command in this process, as `mmtok("sample", "--to", "rgb")`."""
    return call


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Reads all files below a folder, hidden ones too."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@dataclasses.dataclass(frozen=True)
class Tiny:
    """The finished project: its folder, and what each command said on the way."""

    root: Path
    said: dict[str, Ran]
    config: Path = TINY

    @property
    def model(self) -> Path:
        return self.root / "model"


@pytest.fixture(scope="package")
def tiny(together: Path) -> Tiny:
    """The tiny project after every command up to `train`; processes that test side by side share it."""
    record = together / "tiny.json"
    with (together / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            said = {stage: call(*stage.split(), TINY, "--root", together / "tiny") for stage in STAGES}
            record.write_text(json.dumps({stage: dataclasses.asdict(ran) for stage, ran in said.items()}))
    return Tiny(together / "tiny", {stage: Ran(**ran) for stage, ran in json.loads(record.read_text()).items()})


@pytest.fixture(scope="package")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a process of its own."""

    def run(*words: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mmtok", *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny project's folder, to be spoiled."""
    return Path(shutil.copytree(tiny.root, tmp_path / "project"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture as people have them: not square, with transparency, larger than what the tokenizers take."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(path)
    return path
