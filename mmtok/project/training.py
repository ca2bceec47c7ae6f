"""Training the project's any-to-any model from its token store."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmtok.config import to_json
from mmtok.data import Store, TokenBatches
from mmtok.errors import MismatchError
from mmtok.files import new_folder
from mmtok.interop.fourm.model import carry_over
from mmtok.masking import Masker
from mmtok.modality import by_name
from mmtok.model import AnyToAny, save_model
from mmtok.project.config import Project
from mmtok.project.initial import Initial
from mmtok.project.tokenizers import open_tokenizers
from mmtok.tokenizers.artifact import Tokenizer
from mmtok.train.anytoany import AnyToAnyTask
from mmtok.train.loop import fit
from mmtok.train.processes import is_first, wait_for_all


def train_project(project: Project, *, profile: int = 0) -> Path:
    """Trains the model, or resumes it, and writes it with copies of its tokenizers.

    Of several processes (`mmtok.train.processes`), all call this; they need to see the same files.

    Args:
      project: What to train.
      profile: Steps to trace, see `mmtok.train.loop.fit`.

    Returns:
      The folder of the finished model.

    Raises:
      MismatchError: the token store was made with other tokenizers than the project has.
    """
    tokenizers = open_tokenizers(project)
    store = Store(project.token_folder)
    check_fingerprints(store, tokenizers)
    modalities = tuple(tokenizers[name].modality for name in project.modalities)
    initial = Initial.open(project.initial) if project.initial else None
    if initial is not None:
        modalities = tuple(initial.inherit(item) for item in modalities)
    batches = TokenBatches(
        store,
        "train",
        batch_size=project.batch_size,
        seed=project.seed,
        masker=Masker(project.masking, modalities),
    )
    task = AnyToAnyTask(
        config=project.model,
        modalities=modalities,
        batches=batches,
        code_vectors=code_vectors(tokenizers),
        entropies={name: store.entropy(name) for name, modality in by_name(modalities).items() if modality.is_target},
        loss=project.loss,
        data={"samples": store.splits["train"], "seed": project.seed, "masking": project.masking},
    )
    start = None if initial is None else lambda fresh: initial.start(fresh, project.model, modalities)
    result = fit(task, project.fit, project.model_folder, start_from=start, profile=profile)
    if is_first():
        _write(project, result.module, tokenizers, initial)
    wait_for_all("the model is written")
    return project.model_folder


def _write(project: Project, module: AnyToAny, tokenizers: Mapping[str, Tokenizer], initial: Initial | None) -> None:
    with new_folder(project.model_folder / "tokenizers") as folder:
        for name in tokenizers:
            shutil.copytree(project.tokenizer_folder(name), folder / name)
    extra = {"sampling": to_json(project.sampling), "project": to_json(project)}
    if initial is not None:
        extra |= carry_over(initial.folder, project.model_folder)
    save_model(project.model_folder, module, extra=extra)


def check_fingerprints(store: Store, tokenizers: dict[str, Tokenizer]) -> None:
    """Refuses a store whose tokens were made by other tokenizers.

    Raises:
      MismatchError: naming the modality and both fingerprints.
    """
    stored = by_name(store.modalities)
    again = f"remove {store.folder} and run `mmtok tokenize` again"
    for name, tokenizer in tokenizers.items():
        if name not in stored:
            raise MismatchError(f"modality '{name}': the token store {store.folder} does not hold it; {again}")
        ours, theirs = tokenizer.modality.fingerprint, stored[name].fingerprint
        if ours != theirs:
            raise MismatchError(
                f"modality '{name}': the token store was made with tokenizer {theirs}, the project's is {ours}; {again}"
            )


def code_vectors(tokenizers: dict[str, Tokenizer]) -> dict[str, np.ndarray]:
    """Vectors of the codes of those tokenizers that have them, (vocabulary, d) float32 each."""
    vectors = {name: tokenizer.code_vectors() for name, tokenizer in tokenizers.items()}
    return {name: vector for name, vector in vectors.items() if vector is not None}
