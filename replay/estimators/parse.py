"""Estimators by the names that people type."""

from __future__ import annotations

import re
from typing import Final

from replay.errors import BadQuestion
from replay.estimators.base import Estimator
from replay.estimators.embedded import HOW, parse_mips
from replay.estimators.single import FAMILIES, SINGLE, family
from replay.estimators.slates import SLATES

_FORM: Final = re.compile(r"\s*([a-z_]+)\s*(?:\(\s*(?:(?:lambda|l)\s*=\s*)?([^()\s]+)\s*\))?\s*", re.IGNORECASE)
_OTHER_NAMES: Final = {"ipw": "ips", "snipw": "snips", "sgipw": "sgips", "ipw_clip": "clip", "switch_dr": "switch"}


def parse_estimator(text: str, *, slates: bool) -> Estimator:
    """The estimator of that name: ``snips``, ``dros(lambda=10)``, ``mips(by=genre)``.

    :param slates: whether events have several slots
    :raises BadQuestion: no such estimator for such a log; says which there are
    """
    if not slates and (embedded := parse_mips(text)) is not None:
        return embedded
    match = _FORM.fullmatch(text)
    name = match[1].lower() if match else text
    name = _OTHER_NAMES.get(name, name)
    known = SLATES if slates else SINGLE
    if match and match[2] is None and name in known:
        return known[name]
    if match and name in FAMILIES and not slates:
        if match[2] is None:
            raise BadQuestion(f"{name} needs its lambda: {name}(lambda=10)")
        try:
            lam = float(match[2])
        except ValueError:
            raise BadQuestion(f"lambda of {name} is {match[2]!r}, expected a number") from None
        return family(name, lam)
    raise BadQuestion(f"no estimator {text!r} for {'feeds' if slates else 'single slots'}; {allowed(slates=slates)}")


def allowed(*, slates: bool) -> str:
    """Which estimators there are, in a sentence."""
    if slates:
        return f"there are {', '.join(SLATES)}"
    return f"there are {', '.join(SINGLE)}, and with (lambda=NUMBER) {', '.join(FAMILIES)}; {HOW}"
