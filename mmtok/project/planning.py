"""A project's training before there are data and tokenizers: shapes only."""

import jax
import numpy as np

from mmtok.masking import Masker
from mmtok.modality import Modality
from mmtok.project.config import Project
from mmtok.tokenizers.artifact import create, load
from mmtok.train.anytoany import AnyToAnyTask


def plan_training(project: Project) -> AnyToAnyTask:
    """Returns the task of `mmtok train`, whose batches have the shapes of real ones and nothing in them.

    A tokenizer that is not trained yet counts with the vocabulary that its configuration asks for.
    """
    modalities = tuple(_modality(project, name) for name in project.modalities)
    masked = Masker(project.masking, modalities)({}, seed=project.seed, step=0, samples=np.arange(1))
    batch = jax.tree.map(
        lambda row: np.broadcast_to(row, (project.batch_size, *row.shape[1:])), masked
    )  # takes no memory
    return AnyToAnyTask(project.model, modalities, batches=lambda _: batch, loss=project.loss)


def _modality(project: Project, name: str) -> Modality:
    folder = project.tokenizer_folder(name)
    if folder.exists():
        return load(folder).modality
    return create(name=name, source=project.source_of(name), config=project.modalities[name].tokenizer).modality
