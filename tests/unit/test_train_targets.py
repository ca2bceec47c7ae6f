"""Names of hardware, and what a compilation says where it cannot be done."""

import importlib.util

import pytest

from mmtok.errors import MmtokError
from mmtok.train.targets import CHIPS, parse_target, target_devices


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


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_missing_compiler_is_said():
    with pytest.raises(MmtokError, match=r"pip install 'mmtok\[tpu\]'"):
        target_devices(parse_target("v5e-8"))
