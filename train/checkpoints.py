"""Checkpoints on disk: written beside the training, whole or not at all, checked when read.

The only module that knows orbax, whose v1 interface may still change.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp

from mmtok.errors import MismatchError, MmtokError
from mmtok.files import causes, explain_writing
from mmtok.progress import say
from mmtok.train.processes import agree, is_first, of_the_first, wait_for_all

T = TypeVar("T")

SAID = 8  # differences of a config that an error spells out
WRITING = 600  # seconds a checkpoint may take; the others wait so long for a process that could not write its part


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read.

    Attributes:
      step: Steps done.
      state: The arrays, placed as asked.
      position: State of the iterator over the data.
      seconds: Training time so far.
      digest: Of the arrays when they were saved.
    """

    step: int
    state: Any
    position: Any
    seconds: float
    digest: int


class Checkpoints:
    """The checkpoints of one run, `FOLDER/STEP/`.

    Args:
      folder: Where they lie; made when missing. Left-overs of interrupted writes are removed.
      keep: How many of the newest are kept.
      keep_every: Those of multiples of so many steps are kept too; 0: none.
      config: What must be the same for a run to go on, as JSON values; saved with each checkpoint.

    Raises:
      MmtokError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, keep: int, keep_every: int = 0, config: Mapping[str, Any]):
        self._folder, self._config = folder, config
        policies = ocp.training
        preserve = policies.preservation_policies
        kept = [preserve.LatestN(keep), *([preserve.EveryNSteps(keep_every)] if keep_every else [])]
        context = ocp.Context()
        context.async_options.timeout_secs = WRITING
        with explain_writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._orbax = policies.Checkpointer(
                str(folder.absolute()),
                save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore[reportArgumentType]
                preservation_policy=preserve.AnyPreservationPolicy(kept),  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=True,
                context=context,
            )
        # Orbax asks whether a preemption was announced, after each checkpoint and with its step, which has passed by
        # then. JAX would take that for the step this process is at, and could agree on a stop where it never comes.
        self._orbax._manager.reached_preemption = lambda step: False

    @property
    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def save(self, step: int, state: Any, *, position: Any, seconds: float) -> None:
        """Copies the state to host memory and goes on writing while the training runs.

        Args:
          step: Steps done.
          state: Pytree of arrays; may be donated as soon as this returns.
          position: State of the iterator over the data, JSON values.
          seconds: Training time so far.

        Raises:
          MmtokError: this or the previous checkpoint could not be written.
        """
        note = {"config": self._config, "position": position, "seconds": seconds, "digest": int(digest(state))}
        with explain_writing(self._folder):
            self._orbax.save_async(step, state, custom_metadata=note)

    def restore(self, abstract: Any) -> Restored | None:
        """Reads the newest checkpoint that is whole, or returns None where there is none at all.

        A damaged one is said loudly, set aside as `damaged-STEP`, and the one before is taken. All processes try the
        same ones, those that the first sees, and take one that each of them can read.

        Args:
          abstract: Pytree of `jax.ShapeDtypeStruct` with the shardings wanted, which may differ from those saved.

        Raises:
          MismatchError: the checkpoint was made with another config.
          MmtokError: there are checkpoints, but none can be read; or damaged ones cannot be set aside.
        """
        damaged: dict[int, str] = {}
        for step in reversed(of_the_first(self.steps)):
            try:
                restored = self._read(step, abstract)
            except ValueError as error:
                damaged[step] = str(error)
                continue
            if is_first():
                for bad, why in damaged.items():
                    self._set_aside(bad)
                    say(f"WARNING: {self._folder / str(bad)} is damaged ({why}); going on from step {step} instead")
            wait_for_all("damaged checkpoints are set aside")
            self._orbax.reload()
            return restored
        if damaged:
            step, why = next(iter(damaged.items()))
            raise MmtokError(
                f"{self._folder}: none of the checkpoints {sorted(damaged)} can be read (step {step}: {why});"
                " move the folder away to start anew"
            )
        return None

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          MmtokError: the last checkpoint could not be written.
        """
        with explain_writing(self._folder):
            self._orbax.wait()

    def close(self) -> None:
        """Waits until everything is written, and lets go of the folder.

        Raises:
          MmtokError: the last checkpoint could not be written.
        """
        with explain_writing(self._folder):
            self._orbax.close()

    def _read(self, step: int, abstract: Any) -> Restored:
        """Reads one checkpoint; in all processes, or in none.

        Raises:
          MismatchError: it was made with another config.
          ValueError: it is damaged, and how.
        """
        path = str(self._folder.absolute() / str(step))
        # Each process reads by itself: orbax would have those that can read wait five minutes for one that cannot.
        me = jax.process_index()
        alone = ocp.Context()
        alone.multiprocessing_options.active_processes, alone.multiprocessing_options.primary_host = {me}, me
        with alone:
            note = _by_all(lambda: _note(path))
            self._compare(step, note["config"])
            state = _by_all(lambda: ocp.load(path, abstract, checkpointable_name="state"))
        if int(digest(state)) != note["digest"]:
            raise ValueError("the arrays differ from those that were saved")
        return Restored(step, state, note["position"], note["seconds"], note["digest"])

    def _set_aside(self, step: int) -> None:
        aside = self._folder / f"damaged-{step}"
        with explain_writing(self._folder):
            shutil.rmtree(aside, ignore_errors=True)  # of the same step, if that was damaged before
            (self._folder / str(step)).replace(aside)

    def _compare(self, step: int, saved: Mapping[str, Any]) -> None:
        old, new = dict(_leaves(saved)), dict(_leaves(self._config))
        differences = [
            f"{key} = {old.get(key)}, the config says {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if differences:
            more = f"; {len(differences) - SAID} more differ" if len(differences) > SAID else ""
            raise MismatchError(
                f"{self._folder / str(step)}: the checkpoint was made with {'; '.join(differences[:SAID])}{more}; give"
                " the same values or train in another folder"
            )


@jax.jit
def digest(state: Any) -> jax.Array:
    """Returns a checksum of the bits of all arrays; any flipped bit changes it, the placement on devices does not.

    A sum of words modulo 2^32, each times an odd number that depends on its place.
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(state):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
        words = jax.lax.bitcast_convert_type(leaf, f"uint{8 * min(leaf.dtype.itemsize, 4)}").astype(jnp.uint32)
        places = jax.lax.iota(jnp.uint32, words.size).reshape(words.shape)
        total = 3 * total + jnp.sum(words * (2 * places + 1), dtype=jnp.uint32)
    return total


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _by_all(read: Callable[[], T]) -> T:
    """Returns what this process reads, if all can read theirs.

    Raises:
      ValueError: one of them could not.
    """
    found, why = None, "another process could not read it"
    try:
        found = read()
    except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
        why = _cause(error)
    if not agree(found is not None) or found is None:
        raise ValueError(why)
    return found


def _note(path: str) -> Any:
    note: Any = ocp.checkpointables_metadata(path).custom_metadata
    if not note or "digest" not in note:
        raise ValueError("its metadata cannot be read")
    return note


def _cause(error: BaseException) -> str:
    """What first went wrong; orbax says little of it in the errors that it raises in turn."""
    first = causes(error)[-1]
    return str(first).partition("\n")[0][:200] or type(first).__name__
