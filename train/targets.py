"""Hardware to compile for without having it: names as users know them, and what XLA calls the same."""

import dataclasses
import functools
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

from jax.experimental import topologies
from jax.sharding import AbstractMesh

from mmtok.errors import MmtokError, unknown
from mmtok.train.config import MeshConfig
from mmtok.train.sharding import abstract_mesh

GiB = 2**30
GPU_SHARE = 0.92
"""Of a GPU's memory that a run takes; the rest is left to CUDA and NCCL."""
_BY_CORES = {  # v4 and v5p slices are named by their cores, of which a chip has two
    8: "2x2x1",
    16: "2x2x2",
    32: "2x2x4",
    64: "2x4x4",
    128: "4x4x4",
    256: "4x4x8",
    512: "4x8x8",
    1024: "8x8x8",
    2048: "8x8x16",
    4096: "8x16x16",
}
_BY_CHIPS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of accelerator.

    Attributes:
      platform: `tpu` or `cuda`.
      memory: Bytes it has.
      flops: Dense bfloat16 peak in FLOP/s, as its maker states it.
      slices: Of TPUs: number in a slice's name -> its shape.
      options: How XLA is to see the chips.
      kinds: What JAX calls it, where the peak holds (not for slower variants of a GPU).
    """

    platform: str
    memory: int
    flops: float
    slices: Mapping[int, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kinds: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        """Bytes that a program may use."""
        return round(GPU_SHARE * self.memory) if self.platform == "cuda" else self.memory


# One v4 chip is one device ("megacore") only if XLA is told so.
_MEGACORE = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "wrap": (True, True, True)}
_TPU, _GPU = functools.partial(Chip, platform="tpu"), functools.partial(Chip, platform="cuda")
CHIPS: Mapping[str, Chip] = {
    "v4": _TPU(memory=32 * GiB, flops=275e12, slices=_BY_CORES, options=_MEGACORE, kinds=("TPU v4",)),
    "v5e": _TPU(memory=16 * GiB, flops=197e12, slices=_BY_CHIPS, kinds=("TPU v5 lite", "TPU v5e")),
    "v5p": _TPU(memory=95 * GiB, flops=459e12, slices=_BY_CORES, kinds=("TPU v5", "TPU v5p")),
    "v6e": _TPU(memory=32 * GiB, flops=918e12, slices=_BY_CHIPS, kinds=("TPU v6 lite", "TPU v6e")),
    "H100": _GPU(memory=80 * 10**9, flops=989e12, kinds=("NVIDIA H100 80GB HBM3",)),
    "H200": _GPU(memory=141 * 10**9, flops=989e12, kinds=("NVIDIA H200",)),
}
GPUS_PER_HOST = 8


def chip_of(kind: str) -> Chip | None:
    """Returns the chip that JAX calls `kind` (`jax.Device.device_kind`); None for one that is not listed."""
    return next((chip for chip in CHIPS.values() if kind in chip.kinds), None)


def claim_gpu_memory() -> None:
    """Lets this process take `GPU_SHARE` of each GPU's memory, if the user has not said how much; call it before JAX
    starts its backend.

    JAX by itself takes 75 %, and a step that fits the card would fail.
    """
    said = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # two together are an error
    if not any(os.environ.get(name) for name in said):
        os.environ[said[0]] = str(GPU_SHARE)


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips and how they are joined.

    Attributes:
      name: As the user said it.
      chip: Their kind.
      slices: Groups joined by a slower network: slices of TPUs, hosts of GPUs, as the devices of a real run say.
      shape: Of a slice as XLA writes it (`4x4x8`); of GPUs `SLICESxHOSTSxGPUS`, with one host to a slice.
      devices: Chips in all.
    """

    name: str
    chip: str
    slices: int
    shape: str
    devices: int


def parse_target(name: str) -> Target:
    """Reads a name such as `v5p-256`, `2xv5e-256` (two slices) or `64xH100`.

    As Google does, v4 and v5p count cores (two to a chip), v5e and v6e count chips.

    Raises:
      MmtokError: no such chip, or no slice of that size.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?([A-Za-z]\w*)(?:-(\d+))?", name)
    if match is None:
        raise MmtokError(f"target '{name}': expected something like v5p-256, 2xv5e-256 or 8xH100")
    count, kind, size = int(match[1] or 1), match[2], int(match[3] or 0)
    if kind not in CHIPS:
        raise unknown("chip", kind, CHIPS)
    chip = CHIPS[kind]
    if chip.platform == "cuda":
        hosts, rest = divmod(count, GPUS_PER_HOST)
        if size or (hosts and rest):
            raise MmtokError(f"target '{name}': expected 1 to 8 GPUs of a host or a multiple of 8, such as 64x{kind}")
        hosts, gpus = (hosts, GPUS_PER_HOST) if hosts else (1, rest)
        return Target(name, kind, hosts, f"{hosts}x1x{gpus}", count)
    if size not in chip.slices:
        sizes = ", ".join(f"{kind}-{known}" for known in chip.slices)
        raise MmtokError(f"target '{name}': there is no slice of that size (known: {sizes})")
    shape = chip.slices[size]
    chips = 1
    for side in shape.split("x"):
        chips *= int(side)
    return Target(name, kind, count, shape, count * chips)


def mesh_of(target: Target, config: MeshConfig) -> AbstractMesh:
    """Makes the mesh that a run on the target has; see `mmtok.train.sharding.make_mesh`."""
    gpus = CHIPS[target.chip].platform == "cuda"
    return abstract_mesh(config, devices=target.devices, slices=target.slices, regroup=gpus)


def target_devices(target: Target) -> list[Any]:
    """Returns devices that can be compiled for, and nothing else.

    Raises:
      MmtokError: the compiler of the platform is not installed.
    """
    chip = CHIPS[target.chip]
    if chip.platform == "cuda":
        _require("jax_plugins.xla_cuda13", extra="cuda")
        options: dict[str, Any] = {"target_config": _gpu(target.chip), "topology": target.shape}
        return list(topologies.get_topology_desc(platform="cuda", topology_name="", **options).devices)
    _require("libtpu", extra="tpu")
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    options = dict(chip.options) | ({"num_slices": target.slices} if target.slices > 1 else {})
    if target.shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    name = f"{target.chip}:{target.shape}"
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)


# libtpu looks for the machine it runs on, and locks it, unless told that there is none.
_QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
}


def _require(module: str, *, extra: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MmtokError(
            f"compiling for this target needs {module}: pip install 'mmtok[{extra}]' (no such chip needed)"
        )


def _gpu(chip: str) -> str:
    """Describes a Hopper GPU to XLA, as text of its GpuTargetConfigProto; figures of NVIDIA's data sheets."""
    memory, bandwidth = CHIPS[chip].memory, {"H100": 3.35e12, "H200": 4.8e12}[chip]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: {memory}
  shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 device_vendor: "NVIDIA Corporation"
  device_address_bits: 64 name: "NVIDIA {chip}" driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "NVIDIA {chip}"
"""
