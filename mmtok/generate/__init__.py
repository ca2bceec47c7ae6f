"""Sampling any modality from any others: plans of targets, schedules, filters and the decoding engine."""

from mmtok.generate.engine import Features, Generated, Sampler
from mmtok.generate.known import Known
from mmtok.generate.plan import Target, describe, validate

__all__ = ["Features", "Generated", "Known", "Sampler", "Target", "describe", "validate"]
