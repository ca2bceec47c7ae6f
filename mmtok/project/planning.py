"""A project's training before there are data and tokenizers."""

from mmtok.data import RandomBatches
from mmtok.masking import Masker
from mmtok.modality import Modality
from mmtok.project.config import Project
from mmtok.tokenizers.artifact import create, load
from mmtok.train.anytoany import AnyToAnyTask


def plan_training(project: Project) -> AnyToAnyTask:
    """Returns the task of `mmtok train` with random tokens, whose batches have the shapes of real ones.

    A tokenizer that is not trained yet counts with the vocabulary that its configuration asks for.
    """
    modalities = planned_modalities(project)
    masker = Masker(project.masking, modalities)
    batches = RandomBatches(modalities, masker, batch_size=project.batch_size, seed=project.seed)
    return AnyToAnyTask(project.model, modalities, batches=batches, loss=project.loss)


def planned_modalities(project: Project) -> tuple[Modality, ...]:
    """Returns the modalities of the model to come."""
    return tuple(_modality(project, name) for name in project.modalities)


def _modality(project: Project, name: str) -> Modality:
    folder = project.tokenizer_folder(name)
    if folder.exists():
        return load(folder).modality
    return create(name=name, source=project.source_of(name), config=project.modalities[name].tokenizer).modality
