"""Several processes as one: how they find each other, and what they do together."""

import contextlib
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # its client has no public name
from jax.experimental import multihost_utils

from mmtok.errors import MmtokError
from mmtok.files import causes

Processes = tuple[str, int, int]
"""Address of the coordinator (`host:port` of process 0), number of processes, index of this one."""


PATIENCE = 300.0
"""Seconds that the processes of a run have to find each other; the hosts of a pod do not start at once."""

OUTCOME = "mmtok/outcome"  # key under which a process says why it fails, and nothing when all have ended in order
FOREVER = 10**10  # milliseconds
LOST = (jax.errors.JaxRuntimeError, TimeoutError)  # what mostly comes of a peer that is gone, or does not come
GRACE = 2.0  # seconds to say so and to hear it; the first process stays twice as long, for the key goes with it


def start(given: Processes | None = None, *, patience: float = PATIENCE) -> None:
    """Joins the other processes of a run; does nothing where there are none. Call it before anything else uses JAX.

    Ends the process with exit code 1 and a sentence when the others have not come in time.

    Args:
      given: Who they are; None asks the environment: a TPU pod, SLURM or Open MPI, as far as JAX knows them.
      patience: Seconds to wait for them.

    Raises:
      MmtokError: the others cannot be reached.
    """
    if given is None and not (_launched() or _has_tpu()):
        return
    address, count, index = given or (None, None, None)
    who = f"process {index} of {count}, coordinator {address}" if given else "from the environment"
    late = f"{patience:.0f} s have passed; check the address, start all processes and let them reach each other"
    try:
        with _deadline(patience, f"could not join the other processes ({who}): {late}"):
            jax.distributed.initialize(address, count, index, initialization_timeout=int(patience) + 60)
    except ValueError as error:  # the environment says how many there are, not how to reach them
        if given is None and not _launched():  # or it has a device like a TPU's, and no pod
            return
        how = "start them with `srun` or Open MPI 4's `mpirun`, or give --coordinator, --processes and --process"
        raise MmtokError(f"could not join the other processes ({who}): {error.args[0].rstrip('.')}; {how}") from error
    except RuntimeError as error:
        raise MmtokError(f"could not join the other processes ({who}): {error}") from error


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Within it, an error in one process ends all of them; alone, it would leave the others waiting for it.

    The others say which process failed and why, and exit with code 1. That a peer was lost without a word is left to
    JAX, which aborts the process, so that a supervisor starts it again.
    """
    client = distributed.global_state.client
    if client is None:
        yield
        return
    own = threading.Event()  # set when this process has an error of its own
    peers = threading.Thread(target=_obey, args=(client, own), name="peers", daemon=True)
    peers.start()
    try:
        yield
    except SystemExit:
        _end_in_order(client, peers)
        raise
    except BaseException as error:
        if isinstance(causes(error)[-1], LOST) and not isinstance(error, MmtokError):
            peers.join(3 * GRACE)  # ends this process, where a peer has said why it went
            raise
        own.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first, or there is nobody to tell
            client.key_value_set(OUTCOME, f"process {distributed.global_state.process_id} failed: {_said(error)}")
        # Once the error is printed, JAX and threads of orbax may keep this process waiting for the others.
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        threading.Thread(target=_leave, args=(code, GRACE), name="leave", daemon=True).start()
        raise
    else:
        _end_in_order(client, peers)


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


def of_the_first(numbers: Sequence[int]) -> list[int]:
    """Returns the numbers that the first process gives; waits for all."""
    if jax.process_count() == 1:
        return list(numbers)
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    mine = np.zeros(count, np.int32)
    mine[: len(numbers)] = numbers[:count]
    return multihost_utils.broadcast_one_to_all(mine).tolist()


def local(arrays: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Returns arrays that this process can read: itself those it holds, copies in host memory of those it shares."""
    return {name: _whole(array) for name, array in arrays.items()}


def gather(arrays: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Returns to the first process what `local` does; to the others, which help with one array at a time, nothing."""
    whole = ((name, _whole(array)) for name, array in arrays.items())
    return {name: value for name, value in whole if is_first()}


def _whole(array: jax.Array) -> Any:
    return array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)


def _obey(client: Any, own: threading.Event) -> None:
    """Ends this process when another one fails."""
    try:
        why = client.blocking_key_value_get(OUTCOME, FOREVER)
    except jax.errors.JaxRuntimeError:  # the first process was lost
        return
    if why and not own.wait(GRACE):  # an error that all of them meet, each says by itself
        print(f"mmtok: {why}", file=sys.stderr)
        _leave(1)


def _end_in_order(client: Any, peers: threading.Thread) -> None:
    """Waits for the others, and ends the thread: Python would abort if it came back while the process exits."""
    client.wait_at_barrier(OUTCOME, int(1000 * PATIENCE))
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first
        client.key_value_set(OUTCOME, "")
    peers.join()


def _leave(code: int, after: float = 0.0) -> NoReturn:
    """Exits without waiting for the others, after some seconds; the first process last."""
    time.sleep(after + (GRACE if distributed.global_state.process_id == 0 else 0))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _said(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return text if isinstance(error, MmtokError) else f"{type(error).__name__}: {text}"


def _launched() -> bool:
    """Whether a launcher has started several processes."""
    ranks = (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
    return any(rank in os.environ and int(os.environ.get(count, 1)) > 1 for rank, count in ranks)


def _has_tpu() -> bool:
    """Whether there seems to be a TPU, of whose pod JAX finds out by itself."""
    found = any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))
    return found and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")


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
