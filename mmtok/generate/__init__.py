"""Sampling any modality from any others: plans of targets, schedules, filters and the decoding engine."""

from mmtok.generate.describe import describe
from mmtok.generate.engine import Features, Generated, Sampler
from mmtok.generate.known import Known
from mmtok.generate.plan import validate
from mmtok.generate.target import Target

__all__ = ["Features", "Generated", "Known", "Sampler", "Target", "describe", "validate"]
