"""Estimators: smooth functions of means, with their derivatives. One file each for single slots and for slates."""

from replay.estimators.base import (
    Estimator,
    Means,
    difference,
    difference_gradient,
    event_variance,
    squares,
    standard_error,
    terms_for,
)
from replay.estimators.embedded import Mips, mips
from replay.estimators.parse import allowed, parse_estimator
from replay.estimators.single import FAMILIES, SINGLE, family
from replay.estimators.slates import SLATES

__all__ = [
    "FAMILIES",
    "SINGLE",
    "SLATES",
    "Estimator",
    "Means",
    "Mips",
    "allowed",
    "difference",
    "difference_gradient",
    "event_variance",
    "family",
    "mips",
    "parse_estimator",
    "squares",
    "standard_error",
    "terms_for",
]
