"""From raw data to the token store."""

from mmtok.data import Store, tokenize
from mmtok.project.config import Project
from mmtok.project.tokenizers import open_tokenizers


def tokenize_project(project: Project) -> Store:
    """Encodes every split of the project's data; continues where an interrupted call stopped.

    Returns:
      The finished token store.
    """
    tokenizers = open_tokenizers(project)
    for split in project.data.splits:
        source = project.data.open(split, project.data_folder)
        tokenize(source, list(tokenizers.values()), folder=project.token_folder, split=split, description=project.data)
    return Store(project.token_folder)
