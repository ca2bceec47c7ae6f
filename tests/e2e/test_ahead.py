"""`mmtok compile` and `mmtok inspect --shardings` for hardware that is not there."""

import subprocess
import sys

import pytest

SMALL = ("--model.encoder-depth", "2", "--model.decoder-depth", "2", "--model.dim", "256")

HEAD = 274208 * 768 * 4
"""Bytes of the token table of the heads."""


def row(done, path):
    """The cells beside a parameter's path."""
    return next(line.split()[1:] for line in done.out.splitlines() if line.startswith(f"{path} "))


@pytest.mark.parametrize(
    "arguments",
    [
        "pods_b --shardings --target 2xv5e-256",
        "--shardings pods_b --target 2xv5e-256",
        "--target 2xv5e-256 --shardings pods_b",
        "--target=2xv5e-256 --shardings pods_b",
    ],
)
def test_shardings_of_more_devices_than_there_are(mmtok, arguments):
    done = mmtok("inspect", *arguments.split())
    assert done.code == 0, done.err
    assert row(done, "embeddings.tokens.head") == ["274208x768", "float32", "-,table", "-,fsdp", str(HEAD // 8)]


def test_shardings_on_this_machine(mmtok):
    done = mmtok("inspect", "quickstart", "--shardings")
    assert done.code == 0, done.err
    assert row(done, "context.kernel") == ["96x96", "float32", "-,embed", "-,-", str(96 * 96 * 4)]


def test_parameters_split_across_hosts_of_gpus(mmtok):
    across = ("--fit.mesh.slices", "1", "--fit.mesh.fsdp", "16")
    done = mmtok("inspect", "pods_b", "--shardings", "--target", "64xH100", *across)
    assert done.code == 0, done.err
    assert row(done, "embeddings.tokens.head")[-2:] == ["-,fsdp", str(HEAD // 16)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compile pods_b", "needs --target"),
        ("compile pods_b --target v5q-256", "unknown chip 'v5q' (did you mean"),
        ("inspect pods_b", "needs --shardings"),
        ("inspect --shardings", "usage: mmtok inspect CONFIG"),
        ("inspect --shardings --target v5e-8", "usage: mmtok inspect CONFIG"),
        ("inspect --shardings no_such_config", "no_such_config: no such configuration file"),
        ("inspect pods_b --shardings --target v5e-256 --fit.mesh.fsdp 7", "does not fit 256 devices"),
        ("inspect pods_b --shardings --target 2xv5e-256 --fit.mesh.slices 4", "does not fit 2 slices"),
        ("inspect pods_b --shardings --target 64xH100 --fit.mesh.fsdp 16", "or `slices` to 1 for axes that reach"),
        ("inspect pods_b --shardings --target v5e-64 --fit.mesh.rules hybrid", "take rules 'fsdp'"),
        ("inspect pods_b --shardings --target v5e-64 --fit.mesh.fsdp 1", "set fit.mesh.fsdp"),
        ("inspect pods_b --shardings --target v5e-8 --model.dim 100", "100 along 'embed' does not divide by 8"),
    ],
)
def test_what_cannot_be_is_said(mmtok, arguments, message):
    assert message in mmtok(*arguments.split()).error


def compile_small(*arguments: str) -> subprocess.CompletedProcess:
    """In a process of its own: the strict checks of shapes here do not take JAX's stand-ins for arrays."""
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu: pip install 'mmtok[tpu]'")
    command = (sys.executable, "-m", "mmtok", "compile", "pods_b", *SMALL, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_a_step_for_a_tpu():
    done = compile_small("--batch-size", "64", "--target", "v5e-8", "--fit.mesh.fsdp", "4")
    assert done.returncode == 0, done.stderr
    assert "data 2 x fsdp 4" in done.stdout
    assert "GiB of 16.00" in done.stdout
    assert "reduce-scatter" in done.stdout
    assert "all-reduce of f32[256," not in done.stdout, "gradients of heads are scattered"


def test_a_step_that_does_not_fit_a_tpu():
    done = compile_small("--target", "v5e-1", "--fit.mesh.fsdp", "1")
    assert done.returncode == 1
    assert "does not fit v5e-1" in done.stderr
    assert "GiB too many" in done.stderr
    assert "--fit.accumulate 2" in done.stderr
