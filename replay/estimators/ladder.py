"""Whether two estimators disagree by more than chance: then the stronger one's assumption does not hold."""

from __future__ import annotations

from math import erfc, inf, sqrt
from typing import NamedTuple

from replay.estimators.base import Estimator, standard_error
from replay.sums import Sums


class Disagreement(NamedTuple):
    """``p_value``: how often estimators whose assumptions both hold would differ this much."""

    difference: float
    se: float
    z: float
    p_value: float


def disagreement(first: Estimator, second: Estimator, sums: Sums) -> Disagreement:
    """Value of the first less value of the second, on the same events, against its standard error.

    Not rejected is no proof: a test on few events rejects nothing. Whoever lets the result choose the estimator must
    take the answer from other viewers, ``sums.split(parts, part, rest=True)``, than the test,
    ``sums.split(parts, part)``; an estimator that was chosen beforehand needs no such care.

    :raises BadQuestion: the sums lack terms of one of them, or there is nothing to divide by
    """
    difference = first.value(sums) - second.value(sums)
    se = standard_error(sums, first.gradient(sums) - second.gradient(sums))
    z = 0.0 if difference == 0.0 else inf if se == 0.0 else abs(difference) / se
    return Disagreement(difference, se, z, erfc(z / sqrt(2.0)))
