"""A trained model with its tokenizers in use, raw values in and raw values out: one sample, many, parts, tiles."""

from mmtok.inference.answers import Answers
from mmtok.inference.batchwork import RECORDS, batches, repeat, work, write_answer
from mmtok.inference.inputs.given import Inputs
from mmtok.inference.inputs.masks import MASK, with_mask
from mmtok.inference.inputs.origin import Origin
from mmtok.inference.inputs.words import identity, read_word
from mmtok.inference.job import Job, Stage, plan_after, with_decoding_steps
from mmtok.inference.loaded import Loaded
from mmtok.inference.manifest import MANIFEST, Manifest, digest
from mmtok.inference.opening import load_anytoany
from mmtok.inference.pictures import Shown, draw
from mmtok.inference.plans import Plan, PlanFile, check_fit, parse_settings, read_plan, with_own_settings, with_settings
from mmtok.inference.recipes import Recipe
from mmtok.inference.regions import Box, Part, Region, keep_parts, known_parts, read_mask

__all__ = [
    "MANIFEST",
    "MASK",
    "RECORDS",
    "Answers",
    "Box",
    "Inputs",
    "Job",
    "Loaded",
    "Manifest",
    "Origin",
    "Part",
    "Plan",
    "PlanFile",
    "Recipe",
    "Region",
    "Shown",
    "Stage",
    "batches",
    "check_fit",
    "digest",
    "draw",
    "identity",
    "keep_parts",
    "known_parts",
    "load_anytoany",
    "parse_settings",
    "plan_after",
    "read_mask",
    "read_plan",
    "read_word",
    "repeat",
    "with_decoding_steps",
    "with_mask",
    "with_own_settings",
    "with_settings",
    "work",
    "write_answer",
]
