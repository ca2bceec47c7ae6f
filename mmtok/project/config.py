"""One project: its data, its modalities, its model. A configuration file returns one of these."""

import contextlib
import dataclasses
import importlib.util
import linecache
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mmtok.errors import MmtokError, suggest, unknown
from mmtok.eval.harness import Direction
from mmtok.generate import Target
from mmtok.masking import MaskingConfig
from mmtok.model import ModelConfig
from mmtok.train.config import FitConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """How one modality of a project is made.

    Attributes:
      tokenizer: Configuration of a tokenizer family (a frozen dataclass of `mmtok.tokenizers`).
      source: Raw field it reads; "" means the field named like the modality.
      batch_size: Samples per step while its tokenizer trains (families with weights only).
      fit: How its tokenizer trains (families with weights only).
    """

    tokenizer: Any
    source: str = ""
    batch_size: int = 128
    fit: FitConfig = dataclasses.field(default_factory=lambda: FitConfig(steps=1000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Project:
    """Everything from raw data to an evaluated any-to-any model.

    Attributes:
      root: Folder of all that the project writes: `data/`, `tokenizers/NAME/`, `tokens/`, `model/`, `eval/`.
      data: A `mmtok.source.DataConfig`.
      modalities: Name -> how it is made. The order is the order inside the model.
      tokenizer_samples: At most this many training samples are read to train or fit each tokenizer.
      model: Architecture.
      masking: Token budgets and roles.
      batch_size: Samples per training step, over all devices.
      loss: `modality`: mean over modalities of their mean cross-entropies; `token`: mean over all targets.
      fit: How the model trains.
      sampling: Target modality -> its default settings when it is sampled; kept with the model.
      directions: What `mmtok eval` measures.
      eval_samples: Held-out samples per direction.
      seed: Of the masks and of the order of the samples.
      initial: Folder of a model whose parameters training starts from; modalities that it does not have are new.
    """

    root: Path
    data: Any
    modalities: Mapping[str, Field]
    model: ModelConfig
    masking: MaskingConfig
    fit: FitConfig
    tokenizer_samples: int = 20_000
    batch_size: int = 64
    loss: Literal["modality", "token"] = "modality"
    sampling: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    directions: tuple[Direction, ...] = ()
    eval_samples: int = 128
    seed: int = 0
    initial: Path | None = None

    def __post_init__(self) -> None:
        asked = [name for direction in self.directions for name in (*direction.through, *direction.targets)]
        for name in (*asked, *self.sampling):
            if name not in self.modalities:
                raise unknown("modality (in directions or sampling)", name, self.modalities)

    @property
    def data_folder(self) -> Path:
        """Where data that have to be made are written."""
        return self.root / "data"

    @property
    def token_folder(self) -> Path:
        """The token store."""
        return self.root / "tokens"

    @property
    def model_folder(self) -> Path:
        """The model's run: checkpoints, log, and the finished model."""
        return self.root / "model"

    def tokenizer_folder(self, name: str) -> Path:
        """The artifact of the tokenizer of modality `name`."""
        return self.root / "tokenizers" / name

    def source_of(self, name: str) -> str:
        """The raw field that modality `name` is made from."""
        return self.modalities[name].source or name


def load_project(path: str) -> Project:
    """Loads a configuration file: a Python file whose function `config()` returns a `Project`.

    Args:
      path: A file, or the bare name of one of the shipped configurations (`quickstart`).

    Raises:
      MmtokError: no such file, an error in it (naming the line), or it does not return a project.
    """
    file = Path(path)
    if not file.exists() and (CONFIGS / f"{path}.py").exists():
        file = CONFIGS / f"{path}.py"
    if not file.is_file():
        shipped = sorted(item.stem for item in CONFIGS.glob("[!_]*.py"))
        raise MmtokError(f"{path}: no such configuration file (shipped: {', '.join(shipped)})")
    spec = importlib.util.spec_from_file_location(f"mmtok_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise MmtokError(f"{file}: a configuration is a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    with _explain(file):
        spec.loader.exec_module(module)
    config = getattr(module, "config", None)
    if not callable(config):
        raise MmtokError(f"{file}: has no function config(); it must return a mmtok.project.Project")
    with _explain(file):
        project = config()
    if not isinstance(project, Project):
        raise MmtokError(f"{file}: config() returned {type(project).__name__}, a mmtok.project.Project was expected")
    return project


@contextlib.contextmanager
def _explain(file: Path) -> Iterator[None]:
    """Turns whatever goes wrong inside a configuration file into one sentence with its line."""
    try:
        yield
    except MmtokError as error:
        raise MmtokError(f"{file}: {error}") from error
    except SyntaxError as error:
        raise MmtokError(f"{file}: line {error.lineno} is not Python ({error.msg})") from error
    except Exception as error:
        lines = [step.lineno for step in traceback.extract_tb(error.__traceback__) if step.filename == str(file)]
        where = f"{file}: line {lines[-1]}" if lines else str(file)
        raise MmtokError(f"{where}: {_keyword(error, file) or f'{type(error).__name__}: {error}'}") from error


def _keyword(error: Exception, file: Path) -> str:
    """What is wrong with an unknown keyword of a dataclass, with the nearest field; "" for any other error."""
    match = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    steps = list(traceback.walk_tb(error.__traceback__))
    inside = [index for index, (frame, _) in enumerate(steps) if frame.f_code.co_filename == str(file)]
    if not isinstance(error, TypeError) or match is None or not inside:
        return ""
    frame, line = steps[inside[-1]]
    named = {**frame.f_globals, **frame.f_locals}
    values = [named.get(word) for word in re.findall(r"\w+", linecache.getline(str(file), line))]
    for deeper, _ in steps[inside[-1] + 1 :]:  # such as dataclasses.replace, which was given a value of the class
        values += deeper.f_locals.values()
    for value in values:
        found = value if isinstance(value, type) else type(value)
        if dataclasses.is_dataclass(found):
            fields = [field.name for field in dataclasses.fields(found) if field.init]
            return f"{found.__name__} has no field '{match.group(1)}'{suggest(match.group(1), fields)}"
    return ""
