"""`mmtok train` in two processes at once."""

import socket

import numpy as np
import pytest

from mmtok.tensors import TensorFile

PATIENCE = 500  # seconds; machines that test are busy


@pytest.fixture
def address() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


@pytest.mark.slow
def test_two_processes_make_the_model_that_one_makes(tiny, start, tmp_path, address):
    for name in ("data", "tokenizers", "tokens"):
        (tmp_path / name).symlink_to(tiny.root / name)
    words = ["train", tiny.config, "--root", tmp_path, "--coordinator", address, "--processes", "2", "--process"]
    both = [start(*words, str(index)) for index in range(2)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert "model: 60/60 steps" in errors[0].replace("train ", "")
    assert "steps" not in errors[1], "only one of them speaks"
    ours, theirs = TensorFile(tmp_path / "model" / "model.safetensors"), TensorFile(tiny.model / "model.safetensors")
    assert set(ours) == set(theirs)
    far = [np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in ours]
    assert max(far) < 0.05  # Adam makes of rounding errors in small gradients what it can


@pytest.mark.parametrize(
    "words", [["--processes", "2"], ["--processes", "0"], ["--coordinator", "a:1"], ["--process", "1"]]
)
def test_half_an_address_is_refused(tiny, mmtok, words):
    said = mmtok("train", tiny.config, *words).error
    assert "several processes need all three" in said


@pytest.mark.parametrize("coordinator", ["host0", "host0:", ":1234", "host0:port"])
def test_a_coordinator_without_host_or_port_is_refused(tiny, mmtok, coordinator):
    said = mmtok("train", tiny.config, "--coordinator", coordinator, "--processes", "2").error
    assert said == f"--coordinator is '{coordinator}', it must be HOST:PORT, such as host0:1234"
