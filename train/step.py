"""The compiled training step: shapes and placement first, arrays second."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from mmtok.axes import placed
from mmtok.errors import MmtokError
from mmtok.train.config import FitConfig
from mmtok.train.layout import Arrays, Layout
from mmtok.train.optimizer import make_optimizer
from mmtok.train.processes import local
from mmtok.train.sharding import make_mesh, placement, shardings
from mmtok.train.task import Task

Change = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Freshly initialised parameters by dotted name -> those to start from."""

# libtpu joins sums of gradients into large ones, and then leaves each of them whole on every device: several times the
# traffic of a reduce-scatter (docs/pods.md has the figures).
OPTIONS: Mapping[str, dict[str, Any]] = {"tpu": {"xla_jf_crs_combiner_threshold_in_bytes": str(2**24)}}

OWN = 3  # metrics of the step itself, before those of the task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on, besides its place in the data.

    The leaves are arrays; trees of their shapes and of their shardings have the same structure.

    Attributes:
      step: () int32, steps done.
      key: (words,) uint32, raw PRNG key of the run; each step folds its number in.
      params: Trained arrays by dotted name.
      rest: Other arrays of the module by dotted name.
      optimizer: State of the optimizer.
      ema: Moving average of `params`; empty where there is none.
      window: (metrics, 2) float32, total and count of each metric since the last log entry.
    """

    step: Any
    key: Any
    params: Any
    rest: Any
    optimizer: Any
    ema: Any
    window: Any


class Program:
    """The compiled functions of a run and where its arrays lie.

    Args:
      task: What to train.
      config: How.
      devices: Where; all devices unless given. To compile for devices that are not there, those of a topology.

    Attributes:
      task: What is trained.
      config: How.
      layout: Structure of the module.
      mesh: Devices.
      metrics: Name of each row of `TrainState.window`.
      abstract: The state as shapes, dtypes and placement.

    Raises:
      MmtokError: the batch does not split into devices and microbatches, or a parameter not over the mesh.
    """

    def __init__(self, task: Task, config: FitConfig, *, devices: Sequence[Any] | None = None):
        self.task, self.config = task, config
        self.mesh = make_mesh(config.mesh, devices)
        self._placement = placement(self.mesh, rules=config.mesh.rules)
        self.layout = Layout(nnx.eval_shape(lambda: task.init(jax.random.key(config.seed))))
        self._optimizer = make_optimizer(config.optimizer, steps=config.steps, parameters=self.layout.params)
        self._batch_sharding = self._placement.sharding(("batch",))

        self._check_batch_size()
        batch = self._example()
        module = jax.eval_shape(self._module, jax.random.key(0))
        with placed(self._placement):
            rows = jax.eval_shape(self._loss, *module, batch, jax.random.key(0))[1][1]
        self.metrics = ("loss", "grad_norm", "non_finite", *sorted(rows))

        shapes = jax.eval_shape(self._init)
        self._shardings = self._place(shapes)
        self.abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self._shardings
        )
        leaves, structure = jax.tree.flatten(batch)
        self._abstract_leaves = [
            jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype), sharding=self._batch_sharding)
            for leaf in leaves
        ]
        self._jitted = jax.jit(
            lambda state, leaves: self._step(state, structure.unflatten(leaves)),
            donate_argnums=0,
            in_shardings=(self._shardings, self._batch_sharding),
            out_shardings=(self._shardings, NamedSharding(self.mesh, PartitionSpec())),
            compiler_options=OPTIONS.get(self.mesh.devices.flat[0].platform),
        )
        self._compiled: jax.stages.Compiled | None = None

    def init(self) -> TrainState:
        """Makes the first state, each array directly where it lies."""
        # It runs once: on CPU, where code for many random arrays compiles slowly, it is optimised lightly.
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        options: Any = {"xla_backend_optimization_level": 1} if on_cpu else None
        return jax.jit(self._init, out_shardings=self._shardings, compiler_options=options)()

    def starting_from(self, state: TrainState, change: Change) -> TrainState:
        """Returns the first state with its parameters changed."""
        changed = change(local(state.params))
        params = {name: jax.device_put(value, self._shardings.params[name]) for name, value in changed.items()}
        ema = jax.tree.map(jnp.copy, params) if self.config.ema else {}
        return dataclasses.replace(state, params=params, ema=ema)

    @functools.cached_property
    def rows(self) -> Int[np.ndarray, " b"]:
        """Rows of the global batch that the devices of this process hold, ascending."""
        size = self.task.batch_size
        held = self._batch_sharding.addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[index] for index in held]))

    def put(self, batch: Any) -> Any:
        """Starts the transfer of this process's `rows` of a batch to its devices."""
        return jax.tree.map(
            lambda part: jax.make_array_from_process_local_data(self._batch_sharding, part, self._shape(part)), batch
        )

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, Float[Array, "metrics 2"]]:
        """Starts one step; `state` is consumed.

        Returns:
          The next state, and a copy of its `window` that outlives it.
        """
        try:
            return self.compile()(state, jax.tree.leaves(batch))
        except TypeError as error:
            shapes = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(batch)]
            raise RuntimeError(
                f"internal error: the training step was compiled for other shapes than those of this batch: {shapes}"
            ) from error

    def compile(self) -> jax.stages.Compiled:
        """Compiles the step, once for one set of shapes."""
        if self._compiled is None:
            self._compiled = self.lower().compile()
        return self._compiled

    def lower(self) -> jax.stages.Lowered:
        """Lowers the step for its devices, of which none needs to be there."""
        return self._jitted.lower(self.abstract, self._abstract_leaves)

    def _module(self, key: Array) -> tuple[Arrays, Arrays]:
        return self.layout.split(self.task.init(key))

    def _init(self) -> TrainState:
        init, run = jax.random.split(jax.random.key(self.config.seed))
        params, rest = self._module(init)
        return TrainState(
            step=jnp.int32(0),
            key=jax.random.key_data(run),
            params=params,
            rest=rest,
            optimizer=self._optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if self.config.ema else {},
            window=jnp.zeros((len(self.metrics), 2), jnp.float32),
        )

    def _loss(self, params: Arrays, rest: Arrays, batch: Any, key: Array) -> tuple[Array, tuple[Arrays, dict]]:
        module = self.layout.merge(params, rest)
        loss, means = self.task.loss(module, batch, key)
        rows = {name: jnp.stack([mean.total, mean.count]).astype(jnp.float32) for name, mean in means.items()}
        return loss, (self.layout.split(module)[1], rows)

    def _gradients(self, params: Arrays, rest: Arrays, batch: Any, key: Array) -> tuple[Arrays, Arrays, Array, Array]:
        """Returns gradients, other arrays, loss and (total, count) of each mean."""
        with placed(self._placement):  # around the backward pass too
            (loss, (rest, rows)), grads = jax.value_and_grad(self._loss, has_aux=True)(params, rest, batch, key)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        rows = jnp.array([rows[name] for name in self.metrics[OWN:]], jnp.float32).reshape(-1, 2)
        return grads, rest, loss.astype(jnp.float32), rows

    def _accumulated(self, params: Arrays, rest: Arrays, batch: Any, key: Array) -> tuple[Arrays, Arrays, Array, Array]:
        """The same as the mean over microbatches. Microbatch i takes samples i, i + count, ...: no device sends any."""
        count = self.config.accumulate
        if count == 1:
            return self._gradients(params, rest, batch, key)
        micro = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

        def add(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
            sums, rest = carry
            index, batch = inputs
            grads, rest, loss, rows = self._gradients(params, rest, batch, jax.random.fold_in(key, index))
            return (jax.tree.map(jnp.add, sums, (grads, loss, rows)), rest), None

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        start = ((zeros, jnp.float32(0), jnp.zeros((len(self.metrics) - OWN, 2), jnp.float32)), rest)
        ((grads, loss, rows), rest), _ = jax.lax.scan(add, start, (jnp.arange(count), micro))
        return jax.tree.map(lambda g: g / count, grads), rest, loss / count, rows

    def _step(self, state: TrainState, batch: Any) -> tuple[TrainState, Float[Array, "metrics 2"]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, rest, loss, rows = self._accumulated(state.params, state.rest, batch, key)
        with jax.named_scope("optimizer"):
            norm = optax.global_norm(grads)
            updates, optimizer = self._optimizer.update(grads, state.optimizer, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            decay = jnp.minimum(self.config.ema, (1 + state.step) / (10 + state.step))
            ema = {name: decay * mean + (1 - decay) * params[name] for name, mean in state.ema.items()}
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        after = (params, rest, optimizer, ema)
        own = jnp.array([[loss, 1], [norm, 1]], jnp.float32)
        if self.config.non_finite == "skip":
            before = (state.params, state.rest, state.optimizer, state.ema)
            after = jax.tree.map(functools.partial(jnp.where, finite), after, before)
            own, rows = jnp.where(finite, own, 0), jnp.where(finite, rows, 0)
        rows = jnp.concatenate([own, jnp.array([[~finite, 1]], jnp.float32), rows])
        window = jnp.where(state.step % self.config.log_every == 0, 0, state.window) + rows
        params, rest, optimizer, ema = after
        state = TrainState(
            step=state.step + 1,
            key=state.key,
            params=params,
            rest=rest,
            optimizer=optimizer,
            ema=ema,
            window=window,
        )
        return state, window

    def _place(self, shapes: TrainState) -> TrainState:
        rules = self.config.mesh.rules
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        params = shardings(self.layout.params, mesh=self.mesh, rules=rules)
        return TrainState(
            step=everywhere,
            key=everywhere,
            params=params,
            rest=shardings(self.layout.rest, mesh=self.mesh, rules=rules),
            optimizer=optax.tree_utils.tree_map_params(
                self._optimizer.init,
                lambda _, sharding: sharding,
                shapes.optimizer,
                params,
                transform_non_params=lambda _: everywhere,
            ),
            ema=params if self.config.ema else {},
            window=everywhere,
        )

    def _example(self) -> Any:
        """A global batch whose rows are all the same, in the memory of one."""
        first = self.task.batch(0, np.arange(1))
        return jax.tree.map(lambda part: np.broadcast_to(part, self._shape(part)), first)

    def _shape(self, part: np.ndarray) -> tuple[int, ...]:
        return self.task.batch_size, *part.shape[1:]

    def _check_batch_size(self) -> None:
        size, devices = self.task.batch_size, self._batch_sharding.num_devices // self.mesh.shape["tensor"]
        if size % (devices * self.config.accumulate):
            raise MmtokError(
                f"task '{self.task.name}': a batch of {size} samples does not split over {devices} devices and"
                f" {self.config.accumulate} microbatches"
            )
