"""Columns to slice a service's log by: what made a decision, and any feature of viewer or context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.features.hashing import CONTEXT, SLOT, USER
from bandit.records import Decision
from replay.errors import BadQuestion

#: Fields that every decision has.
OWN: Final = ("model", "config", "experiment", "arm", "policy", "fallback", "deferred", "n_candidates")
#: Where a feature of this name was not there.
NOTHING: Final = "(none)"

_ALIASES: Final = {"user": USER, "viewer": USER, "context": CONTEXT}


def column(name: str, decisions: Sequence[Decision], policies: Sequence[str], sizes: Sequence[int]) -> NDArray[Any]:
    """Shape (n,), strings: one field of these decisions.

    :param name: one of ``OWN``, else a feature: ``hour``, or ``context.hour``, ``user.age``, ``geo.city``
    :param policies: name of each decision's explorer
    :param sizes: how many candidates each had
    """
    values: list[str]
    match name:
        case "model":
            values = [one.model or NOTHING for one in decisions]
        case "config":
            values = [str(one.config) for one in decisions]
        case "experiment":
            values = [one.experiment or NOTHING for one in decisions]
        case "arm":
            values = [one.arm or NOTHING for one in decisions]
        case "policy":
            values = list(policies)
        case "fallback":
            values = [one.fallback or NOTHING for one in decisions]
        case "deferred":
            values = ["yes" if one.deferred else "no" for one in decisions]
        case "n_candidates":
            values = [bucket(size) for size in sizes]
        case _:
            values = [_feature(name, msgspec.json.decode(one.shared)) for one in decisions]
    return np.array(values)


def bucket(n: int) -> str:
    """
    >>> bucket(7), bucket(250), bucket(1000)
    ('1-9', '100-999', '1000-9999')
    """
    low = 10 ** (len(str(n)) - 1)
    return f"{low}-{10 * low - 1}"


def _feature(name: str, shared: dict[str, dict[str, Any]]) -> str:
    space, dot, inner = name.partition(".")
    if dot:
        features = shared.get(_ALIASES.get(space, space), {})
        if inner in features:
            return _text(features[inner])
    # The context's before the viewer's, then the named ones: as VW orders them.
    for letter, features in shared.items():
        if letter != SLOT and name in features:
            return _text(features[name])
    return NOTHING


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "yes" if value is True else f"{value:g}"


def check(names: Iterable[str], sample: Sequence[Decision]) -> None:
    """Refuse a field that no decision of a sample has.

    :raises BadQuestion: says which there are
    """
    texts = [msgspec.json.decode(one.shared) for one in sample]
    for name in names:
        if name in OWN or not sample or any(_feature(name, shared) != NOTHING for shared in texts):
            continue
        seen = {
            f"{ {USER: 'user', CONTEXT: 'context'}.get(space, space) }.{inner}"
            for shared in texts
            for space, features in shared.items()
            if space != SLOT
            for inner in features
        }
        known = sorted(seen)
        more = f" and {len(known) - 30} more" if len(known) > 30 else ""
        raise BadQuestion(
            f"no decision looked at has the field {name!r}; there are {', '.join([*OWN, *known[:30]])}{more}"
        )
