"""A project's training before there are data and tokenizers."""

from mmtok.data import RandomBatches
from mmtok.data.tokenize import stored_dtype
from mmtok.masking import Masker
from mmtok.modality import Modality
from mmtok.project.config import Project
from mmtok.tokenizers.artifact import Tokenizer, create, load
from mmtok.train.anytoany import AnyToAnyTask


def plan_training(project: Project) -> AnyToAnyTask:
    """Returns the task of `mmtok train` with random tokens, whose batches have the shapes and dtypes of real ones.

    A tokenizer that is not trained yet counts with the vocabulary that its configuration asks for.
    """
    batches = random_batches(project)
    return AnyToAnyTask(project.model, batches.modalities, batches=batches, loss=project.loss)


def random_batches(project: Project) -> RandomBatches:
    """Returns the batches of `mmtok train` with random tokens."""
    tokenizers = [_tokenizer(project, name) for name in project.modalities]
    modalities = tuple(tokenizer.modality for tokenizer in tokenizers)
    return RandomBatches(
        modalities,
        Masker(project.masking, modalities),
        batch_size=project.batch_size,
        seed=project.seed,
        dtypes={t.modality.name: stored_dtype(t) for t in tokenizers if t.modality.kind == "continuous"},
    )


def planned_modalities(project: Project) -> tuple[Modality, ...]:
    """Returns the modalities of the model to come."""
    return tuple(_tokenizer(project, name).modality for name in project.modalities)


def _tokenizer(project: Project, name: str) -> Tokenizer:
    folder = project.tokenizer_folder(name)
    if folder.exists():
        return load(folder)
    return create(name=name, source=project.source_of(name), config=project.modalities[name].tokenizer)
