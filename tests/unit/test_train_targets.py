"""Names of hardware, and what a compilation says where it cannot be done."""

import importlib.util
import os

import pytest

from mmtok.errors import MmtokError
from mmtok.train.targets import CHIPS, chip_of, claim_gpu_memory, parse_target, target_devices


@pytest.mark.parametrize(
    ("name", "devices", "slices", "shape"),
    [
        ("v5p-256", 128, 1, "4x4x8"),
        ("v4-8", 4, 1, "2x2x1"),
        ("v5e-256", 256, 1, "16x16"),
        ("2xv5e-256", 512, 2, "16x16"),
        ("v6e-1", 1, 1, "1x1"),
        ("64xH100", 64, 8, "8x1x8"),
        ("3xH100", 3, 1, "1x1x3"),
        ("H200", 1, 1, "1x1x1"),
    ],
)
def test_names(name, devices, slices, shape):
    target = parse_target(name)
    assert (target.devices, target.slices, target.shape) == (devices, slices, shape)


def test_every_slice_has_the_chips_of_its_name():
    for kind, chip in CHIPS.items():
        for size in chip.slices:
            chips = size // 2 if kind in ("v4", "v5p") else size
            assert parse_target(f"{kind}-{size}").devices == chips


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5x-256", r"unknown chip 'v5x' \(did you mean"),
        ("v5p-250", "no slice of that size .*v5p-256"),
        ("v5p", "no slice of that size"),
        ("12xH100", "multiple of 8"),
        ("H100-8", "multiple of 8"),
        ("256", "expected something like"),
        ("0xH100", "expected something like"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(MmtokError, match=message):
        parse_target(name)


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({}, "0.92"),
        ({"XLA_CLIENT_MEM_FRACTION": "0.5"}, "0.5"),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, None),
    ],
)
def test_a_run_takes_most_of_a_gpu_unless_told(monkeypatch, said, taken):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, said.get(name, ""))
        if name not in said:
            monkeypatch.delenv(name)
    claim_gpu_memory()
    assert os.environ.get("XLA_CLIENT_MEM_FRACTION") == taken


def test_chips_are_known_by_what_jax_calls_them():
    assert chip_of("NVIDIA H200") is CHIPS["H200"]
    assert chip_of("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of("NVIDIA H100 PCIe") is None, "its peak is lower"


def test_only_a_share_of_a_gpu_is_usable():
    assert CHIPS["H100"].usable == round(0.92 * CHIPS["H100"].memory)
    assert CHIPS["v5e"].usable == CHIPS["v5e"].memory


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_missing_compiler_is_said():
    with pytest.raises(MmtokError, match=r"pip install 'mmtok\[tpu\]'"):
        target_devices(parse_target("v5e-8"))
