"""Several processes as one: how they find each other, and what they do together."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmtok.errors import MmtokError

Processes = tuple[str, int, int]
"""Address of the coordinator (`host:port` of process 0), number of processes, index of this one."""


def start(given: Processes | None = None) -> None:
    """Joins the other processes of a run; does nothing where there are none. Call it before anything else uses JAX.

    Args:
      given: Who they are; None asks the environment: a TPU pod, SLURM or Open MPI, as far as JAX knows them.

    Raises:
      MmtokError: the others cannot be reached.
    """
    try:
        if given is not None:
            address, count, index = given
            jax.distributed.initialize(address, num_processes=count, process_id=index)
        elif _in_cluster():
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        who = f"process {given[2]} of {given[1]}, coordinator {given[0]}" if given else "from the environment"
        raise MmtokError(f"could not join the other processes ({who}): {error}") from error


def is_first() -> bool:
    """Whether this process is the one that writes logs and speaks."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agree(good: bool) -> bool:
    """Whether all processes say that all is good; waits for them."""
    return bool(np.all(multihost_utils.process_allgather(np.bool_(good)))) if jax.process_count() > 1 else good


def local(arrays: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Returns arrays that this process can read: itself those it holds, copies in host memory of those it shares."""
    return {
        name: array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)
        for name, array in arrays.items()
    }


def _in_cluster() -> bool:
    """Whether the environment tells of other processes, or of a TPU, of which JAX finds out by itself."""
    ranks = (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
    launched = any(rank in os.environ and int(os.environ.get(count, 1)) > 1 for rank, count in ranks)
    tpu = any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))
    return launched or (tpu and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu"))
