"""A project from raw data to an evaluated model: its configuration and the stages the command line runs."""

from mmtok.project.answers import Answers
from mmtok.project.batchwork import RECORDS, batches, repeat, work, write_answer
from mmtok.project.config import Field, Project, load_project
from mmtok.project.evaluation import evaluate_project
from mmtok.project.fourm import export_fourm, import_fourm
from mmtok.project.given import Inputs
from mmtok.project.initial import Initial
from mmtok.project.inputs import Origin
from mmtok.project.job import Job, Stage, plan_after
from mmtok.project.loaded import Loaded
from mmtok.project.manifest import MANIFEST, Manifest, digest
from mmtok.project.masks import MASK, with_mask
from mmtok.project.opening import load_anytoany
from mmtok.project.pictures import Shown, draw
from mmtok.project.planning import plan_training
from mmtok.project.plans import Plan, PlanFile, check_fit, parse_settings, read_plan, with_own_settings, with_settings
from mmtok.project.recipes import Recipe
from mmtok.project.regions import Box, Part, Region, keep_parts, known_parts, read_mask
from mmtok.project.tokenizers import evaluate_tokenizers, open_tokenizers, train_tokenizers
from mmtok.project.tokens import tokenize_project
from mmtok.project.training import train_project
from mmtok.project.words import identity, read_word

__all__ = [
    "MANIFEST",
    "MASK",
    "RECORDS",
    "Answers",
    "Box",
    "Field",
    "Initial",
    "Inputs",
    "Job",
    "Loaded",
    "Manifest",
    "Origin",
    "Part",
    "Plan",
    "PlanFile",
    "Project",
    "Recipe",
    "Region",
    "Shown",
    "Stage",
    "batches",
    "check_fit",
    "digest",
    "draw",
    "evaluate_project",
    "evaluate_tokenizers",
    "export_fourm",
    "identity",
    "import_fourm",
    "keep_parts",
    "known_parts",
    "load_anytoany",
    "load_project",
    "open_tokenizers",
    "parse_settings",
    "plan_after",
    "plan_training",
    "read_mask",
    "read_plan",
    "read_word",
    "repeat",
    "tokenize_project",
    "train_project",
    "train_tokenizers",
    "with_mask",
    "with_own_settings",
    "with_settings",
    "work",
    "write_answer",
]
