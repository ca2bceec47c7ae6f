"""A model ready to be run in compiled steps, on one device or many."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmtok.generate import context, steps
from mmtok.generate.target import Target
from mmtok.modality import Modality
from mmtok.model import Context

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Machine:
    """A model's parameters on devices, each of which takes its share of the samples of a batch.

    Attributes:
      graph: Of the model; static in compiled code.
      state: Its parameters, whole on every device.
      modalities: In the model's order.
      mesh: The devices in a row.
    """

    graph: Any
    state: Any
    modalities: tuple[Modality, ...]
    mesh: Mesh

    @classmethod
    def of(cls, model: Any, modalities: tuple[Modality, ...], *, devices: Sequence[Any]) -> "Machine":
        """Returns a model as it is now, on some devices."""
        mesh = Mesh(np.array(devices), ("samples",))
        graph, state = nnx.split(model.unstacked())
        return cls(graph, jax.device_put(state, NamedSharding(mesh, PartitionSpec())), modalities, mesh)

    @property
    def devices(self) -> int:
        """How many devices share a batch."""
        return self.mesh.size

    @property
    def codes(self) -> int:
        """Most codes that a position of any modality has."""
        return max(modality.codes for modality in self.modalities)

    def place(self, batch: T) -> T:
        """Returns arrays with leading axis B, a multiple of the number of devices, split over these."""
        return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec("samples")))

    def read(self, views: Sequence[Mapping[str, context.Shown]], *, rows: int) -> Context:
        """Runs the encoder on every view of `rows` samples, each padded to its own bucket.

        Returns:
          The contexts of the views of each sample side by side.
        """
        slots = [context.encoder_slots(view, self.modalities, rows=rows) for view in views]
        contexts = steps.encode(self.graph, self.state, tuple(map(self.place, slots)))
        longest = max(part.valid.shape[1] for part in contexts)
        registers = longest - max(view.valid.shape[1] for view in slots)
        most = registers + max(sum(part.valid.shape[1] for part in view.values()) for view in views)
        size = max(longest, min(context.bucket(longest, step=context.CONTEXT_STEP), most))
        return contexts[0] if len(contexts) == 1 and size == longest else steps.join(contexts, size=size)

    def choice(self, target: Target, modality: Modality) -> steps.Choice:
        """Returns how tokens of a target are chosen."""
        return steps.Choice(
            modality=modality,
            index=self.modalities.index(modality),
            top_k=target.top_k,
            top_p=target.top_p,
            min_p=target.min_p,
            tempered=target.tempered_top_p,
        )
