"""Metrics, and an evaluation in which every number stands beside its controls."""

from mmtok.eval.harness import Direction, Evaluation, Example, Generate, evaluate
from mmtok.eval.metrics import METRICS, Metric, metrics_of
from mmtok.eval.table import Row, Table
from mmtok.eval.tokenizers import evaluate_tokenizer

__all__ = [
    "METRICS",
    "Direction",
    "Evaluation",
    "Example",
    "Generate",
    "Metric",
    "Row",
    "Table",
    "evaluate",
    "evaluate_tokenizer",
    "metrics_of",
]
