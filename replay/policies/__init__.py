"""Target policies: what would another one have earned?

=====================================  ==========================================================================
``logged``                             what was in production: every weight is 1
``uniform``                            every candidate alike
``table:FILE``                         probability by item, or by item and position: .csv, .tsv or .json
``column:NAME``                        probabilities in a column of the log
``propensities:FILE``                  probabilities of every slot of the log, in order: .npy
``python:MODULE:NAME``                 a callable of a batch; or ``python:FILE.py:NAME``
``greedy:MODEL``                       the best by a model that VW saved
``epsilon:MODEL,epsilon=.1``           epsilon-greedy over its scores
``softmax:MODEL,lambda=5``             softmax over them
``squarecb:MODEL,gamma_scale=10``      SquareCB over them; all four also take ``floor`` and ``shortlist``
``vw:ARGS``                            VW with these arguments, learning along the log; ``,c=.1``, ``,seed=1``
``feed:...``, ``config:...``           over the service's own log: see `replay.policies.feed`
``caller``                             the caller's own order, there
=====================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from replay.errors import BadPolicy
from replay.events import Policy
from replay.policies.given import Called, Column, Propensities, load_callable, load_propensities
from replay.policies.plain import Logged, Uniform
from replay.policies.table import Table, from_mapping, read_table

KINDS = (
    "logged", "uniform", "table:FILE", "column:NAME", "propensities:FILE", "python:MODULE:NAME", "greedy:MODEL",
    "epsilon:MODEL,epsilon=.1", "softmax:MODEL,lambda=5", "squarecb:MODEL", "vw:ARGS", "feed:MODEL", "config:VERSION",
    "caller",
)  # fmt: skip


def parse_policy(text: str) -> Policy:
    """The policy that ``NAME=SPEC`` asks for; the name is the spec itself if it is left out.

    :raises BadPolicy: no such policy, or one that cannot be made; says what there is
    """
    given, equals, spec = text.partition("=")
    # `epsilon:m.vw,epsilon=.1` and `caller,floor=.1` have no name, but a sign of equality.
    if not equals or ":" in given or "," in given:
        given, spec = text, text
    name, spec = given.strip(), spec.strip()
    if not spec:
        raise BadPolicy(f"{text!r} names no policy; give NAME=SPEC, SPEC one of {', '.join(KINDS)}")
    if not name:
        raise BadPolicy(f"{text!r} has an empty name; give NAME=SPEC, or the spec alone")
    kind, colon, rest = spec.partition(":")
    kind = kind.partition(",")[0]
    if kind in ("feed", "config", "caller"):
        from replay.policies import feed

        return cast(Policy, feed.parse_feed(name, spec))
    if kind in ("logged", "uniform"):
        if kind != spec:
            raise BadPolicy(f"{spec}: {kind} takes nothing more")
        return Logged(name, spec) if kind == "logged" else Uniform(name, spec)
    if kind in _MADE_BY:
        if not colon or not rest.strip():
            usage = next(each for each in KINDS if each.startswith(kind + ":"))
            raise BadPolicy(f"{spec} is not complete; give {usage}")
        return cast(Policy, _MADE_BY[kind](name, spec, rest))
    raise BadPolicy(f"there is no policy {spec!r}; there are {', '.join(KINDS)}")


def as_policy(given: Any, name: str | None = None) -> Policy:
    """A policy from what Python code has at hand.

    :param given: a policy; a text, see :func:`parse_policy`; a callable, see `replay.policies.given.Probabilities`;
        a dict of probabilities by item; an array of probabilities, (slots,) or (slots, candidates)
    :param name: what it is to be called
    :raises BadPolicy: it is none of these
    """
    if isinstance(given, str):
        return parse_policy(given if name is None else f"{name}={given}")
    if all(hasattr(given, each) for each in ("name", "spec", "stationary", "needs", "prepare", "assign")):
        return cast(Policy, given)
    if isinstance(given, np.ndarray):
        return Propensities(name or "array", "an array", given)
    if isinstance(given, Mapping):
        return Table(name or "table", "a table", from_mapping("a table", given))
    if callable(given):
        called = str(name or getattr(given, "__name__", "callable"))
        return Called(called, f"python:{called}", given)
    raise BadPolicy(
        f"{type(given).__name__} is no policy; give a text such as uniform, a callable of a batch, a dict of "
        "probabilities by item, or an array of probabilities"
    )


def _model(name: str, spec: str, rest: str) -> Any:
    from replay.policies.vw_model import parse_model

    return parse_model(name, spec)


def _learning(name: str, spec: str, rest: str) -> Any:
    from replay.policies.learning import parse_learning

    return parse_learning(name, spec)


_MADE_BY: Mapping[str, Any] = {
    "table": lambda name, spec, rest: Table(name, spec, read_table(spec, Path(rest))),
    "column": lambda name, spec, rest: Column(name, spec, rest.strip()),
    "propensities": lambda name, spec, rest: Propensities(name, spec, load_propensities(spec, Path(rest))),
    "python": lambda name, spec, rest: Called(name, spec, load_callable(spec, rest.strip()), rest.strip()),
    "greedy": _model,
    "epsilon": _model,
    "softmax": _model,
    "squarecb": _model,
    "vw": _learning,
}
