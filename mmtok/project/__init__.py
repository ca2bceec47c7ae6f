"""A project from raw data to an evaluated model: its configuration and the stages the command line runs."""

from mmtok.project.config import Field, Project, load_project
from mmtok.project.evaluation import evaluate_project
from mmtok.project.fourm import export_fourm, import_fourm
from mmtok.project.initial import Initial
from mmtok.project.planning import plan_training
from mmtok.project.tokenizers import evaluate_tokenizers, open_tokenizers, train_tokenizers
from mmtok.project.tokens import tokenize_project
from mmtok.project.training import train_project

__all__ = [
    "Field",
    "Initial",
    "Project",
    "evaluate_project",
    "evaluate_tokenizers",
    "export_fourm",
    "import_fourm",
    "load_project",
    "open_tokenizers",
    "plan_training",
    "tokenize_project",
    "train_project",
    "train_tokenizers",
]
