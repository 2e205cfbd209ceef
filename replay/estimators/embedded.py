"""Estimators that weigh what a candidate is like, not which one it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from replay.errors import BadQuestion
from replay.estimators.base import Estimator
from replay.estimators.single import IPS

_FORM: Final = re.compile(r"\s*mips\s*\(\s*by\s*=\s*([^()=]*?)\s*\)\s*", re.IGNORECASE)
HOW: Final = "mips(by=FIELD), or by=FIELD+FIELD, over features of candidates"


@dataclass(frozen=True)
class Mips(Estimator):
    """E[w(e) r], w(e) = P_target(e) / P_logged(e), where e is what the candidate shown is like: its embedding.

    An embedding is a tuple of categories, one by each field, and the same for all candidates that agree in them. Its
    probability is the sum of theirs, so weights are never heavier than those of candidates, and where many are
    alike far lighter. Unbiased if reward depends on the candidate only through its embedding ("no direct effect"), and
    if the log could show every embedding that the target would; not every candidate.

    :ivar by: names of the fields
    Source: Saito, Joachims 2022, Off-policy evaluation for large action spaces via embeddings.
    """

    by: tuple[str, ...] = ()


def mips(*by: str) -> Mips:
    """By these fields of candidates, see `replay.embeddings.Embedding`.

    >>> mips("genre", "creator").name
    'mips(by=genre+creator)'
    """
    source = "Saito, Joachims 2022: Off-policy evaluation for large action spaces via embeddings"
    return Mips(f"mips(by={'+'.join(by)})", IPS.function, square=IPS.square, source=source, by=by)


def parse_mips(text: str) -> Mips | None:
    """
    :returns: None if something else is asked for
    :raises BadQuestion: it is not said by what
    """
    if not text.strip().lower().startswith("mips"):
        return None
    match = _FORM.fullmatch(text)
    fields = tuple(field.strip() for field in match[1].split("+")) if match else ()
    if not fields or not all(fields) or len(set(fields)) < len(fields):
        raise BadQuestion(f"{text!r}: mips needs what makes candidates alike: {HOW}, such as mips(by=genre)")
    return mips(*fields)
