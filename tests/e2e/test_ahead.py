"""`mmtok compile` and `mmtok inspect --shardings` for hardware that is not there."""

import subprocess
import sys

import pytest

SMALL = ("--batch-size", "64", "--model.encoder-depth", "2", "--model.decoder-depth", "2", "--model.dim", "256")


def mmtok(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mmtok", *arguments], capture_output=True, text=True, timeout=500)


def test_shardings_of_more_devices_than_there_are():
    done = mmtok("inspect", "pods_b", "--shardings", "--target", "2xv5e-256")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["embeddings.tokens.head"] == ["274208x768", "float32", "-,fsdp", str(274208 * 768 * 4 // 8)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", "pods_b"), "needs --target"),
        (("compile", "pods_b", "--target", "v5q-256"), "did you mean"),
        (
            ("inspect", "pods_b", "--shardings", "--target", "v5e-256", "--fit.mesh.fsdp", "7"),
            "does not fit 256 devices",
        ),
        (
            (
                "inspect",
                "pods_l",
                "--shardings",
                "--fit.mesh.rules",
                "fsdp_tp",
                "--fit.mesh.tensor",
                "4",
                "--target",
                "v5e-256",
            ),
            "2730 along 'mlp'",
        ),
    ],
)
def test_what_cannot_be_is_said(arguments, message):
    done = mmtok(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_step_for_a_tpu():
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu: pip install 'mmtok[tpu]'")
    small = (*SMALL, "--target", "v5e-8", "--fit.mesh.fsdp", "4")
    done = mmtok("compile", "pods_b", *small)
    assert done.returncode == 0, done.stderr
    assert "data 2 x fsdp 4" in done.stdout
    assert "GiB of 16.00" in done.stdout
    assert "reduce-scatter" in done.stdout


def test_a_step_that_does_not_fit_a_tpu():
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu: pip install 'mmtok[tpu]'")
    done = mmtok("compile", "pods_b", *SMALL[2:], "--batch-size", "8192", "--target", "v5e-1", "--fit.mesh.fsdp", "1")
    assert done.returncode == 1
    assert "does not fit v5e-1" in done.stderr
    assert "too many" in done.stderr
    assert "--fit.accumulate 2" in done.stderr
