"""Several processes as one: how they find each other, and what they do together."""

import contextlib
import os
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmtok.errors import MmtokError

Processes = tuple[str, int, int]
"""Address of the coordinator (`host:port` of process 0), number of processes, index of this one."""


PATIENCE = 300.0
"""Seconds that the processes of a run have to find each other; the hosts of a pod do not start at once."""


def start(given: Processes | None = None, *, patience: float = PATIENCE) -> None:
    """Joins the other processes of a run; does nothing where there are none. Call it before anything else uses JAX.

    Ends the process with exit code 1 and a sentence when the others have not come in time.

    Args:
      given: Who they are; None asks the environment: a TPU pod, SLURM or Open MPI, as far as JAX knows them.
      patience: Seconds to wait for them.

    Raises:
      MmtokError: the others cannot be reached.
    """
    if given is None and not _in_cluster():
        return
    address, count, index = given or (None, None, None)
    who = f"process {index} of {count}, coordinator {address}" if given else "from the environment"
    late = f"{patience:.0f} s have passed; check the address, start all processes and let them reach each other"
    try:
        with _deadline(patience, f"could not join the other processes ({who}): {late}"):
            jax.distributed.initialize(address, count, index, initialization_timeout=int(patience) + 60)
    except ValueError as error:  # the environment says how many there are, not how to reach them
        how = "start them with `srun` or Open MPI 4's `mpirun`, or give --coordinator, --processes and --process"
        raise MmtokError(f"could not join the other processes ({who}): {error.args[0].rstrip('.')}; {how}") from error
    except RuntimeError as error:
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


def same(text: str) -> bool:
    """Whether all processes give the same text; waits for them."""
    if jax.process_count() == 1:
        return True
    sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
    return bool(np.all(sums == sums[0]))


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


@contextlib.contextmanager
def _deadline(seconds: float, sentence: str) -> Iterator[None]:
    """Ends the process if what is done within takes longer. JAX itself would abort, with a stack trace."""

    def end() -> None:
        print(f"mmtok: {sentence}", file=sys.stderr, flush=True)
        os._exit(1)  # the call that waits cannot be interrupted

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
