"""Weights by what candidates are like: the log as if it had shown embeddings, and sums of that.

A log whose candidates are told apart only as far as their embedding is a log like any other, with fewer and likelier
candidates. So it has sums of its own, and ordinary estimates, errors and intervals are made of these.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from replay.errors import BadQuestion
from replay.estimators.embedded import Mips
from replay.events import F64, I64, U64, Batch, Candidates, hash_key, mixed
from replay.policies.base import is_uniform
from replay.sums import Sums
from replay.terms import TermSet

MOST_KEPT: Final = 200_000
"""Texts of candidates whose category is remembered; a catalogue's come again and again."""
_NONE: Final = b"(none)"

_members: Final = msgspec.json.Decoder(Any)
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Embedding:
    """Keys of what candidates are like.

    :param by: features of a candidate: ``genre``, in whatever namespace, or ``item.genre``. Any value is a category,
        lists too; candidates without the feature are one category more
    """

    def __init__(self, by: tuple[str, ...]) -> None:
        self.by = by
        self._paths = [field.split(".") for field in by]
        self._known: dict[bytes, int] = {}
        self._found = [False] * len(by)
        self._names: dict[str, None] = {}

    def keys(self, batch: Batch) -> U64:
        """Shape (C,).

        :raises BadQuestion: the log has no features of candidates
        """
        if batch.texts is None:
            raise BadQuestion(f"mips(by={'+'.join(self.by)}) needs features of candidates, and this log has none")
        known = self._known
        if len(known) > MOST_KEPT:
            known.clear()
        texts = batch.texts.candidates
        for text in dict.fromkeys(texts):
            if text not in known:
                known[text] = self._key(text)
        return np.array([known[text] for text in texts], np.uint64)

    def refuse_lost(self) -> None:
        """
        :raises BadQuestion: no candidate so far had one of the fields
        """
        lost = [field for field, found in zip(self.by, self._found, strict=True) if not found]
        if lost:
            raise BadQuestion(
                f"no candidate has a feature {', '.join(lost)}, by which mips was to tell them apart; they have "
                f"{', '.join(list(self._names)[:20]) or 'none'}"
            )

    def _key(self, text: bytes) -> int:
        members = _members.decode(text)
        parts = []
        for at, path in enumerate(self._paths):
            value = _at(members, path)
            self._found[at] = self._found[at] or value is not _NOTHING
            parts.append(_NONE if value is _NOTHING else _encode(value))
        if not all(self._found):
            self._names.update(dict.fromkeys(_names(members)))
        return hash_key(_encode([part.decode() for part in parts]).decode())


_NOTHING: Final = object()


def _at(members: Any, path: list[str]) -> Any:
    """What is at a path, in the candidate or in one of its namespaces; ``_NOTHING`` if nothing is."""
    found = _down(members, path)
    if found is _NOTHING and isinstance(members, dict):
        for within in members.values():
            found = _down(within, path)
            if found is not _NOTHING:
                break
    return found


def _down(members: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(members, list):
            members = next((each for each in members if isinstance(each, dict) and part in each), None)
        if not isinstance(members, dict) or part not in members:
            return _NOTHING
        members = members[part]
    return members


def _names(members: Any) -> list[str]:
    if not isinstance(members, dict):
        return []
    names = []
    for name, within in members.items():
        inner = [part for each in (within if isinstance(within, list) else [within]) for part in _names(each)]
        names += [f"{name}.{part}" for part in inner] or [name]
    return names


class Weights(NamedTuple):
    """Of embeddings.

    :ivar weight: shape (S,), of what was shown
    :ivar bound: no embedding could have had a larger one
    :ivar uncovered: how much of the target, added up over slots, goes to embeddings that could not be shown
    """

    weight: F64
    bound: float
    uncovered: float


def embedded_weights(keys: U64, candidates: Candidates, chosen: I64, pmf: F64, logged: F64) -> Weights:
    """
    :param keys: shape (C,), what each candidate is like
    :param chosen: shape (S,), place of what was shown among the slot's candidates
    :param pmf, logged: shape (C,), target and logged probability of each
    """
    slot = np.repeat(np.arange(len(chosen)), np.diff(candidates.starts))
    # Cells of slot and embedding: 64 mixed bits, as with tables of items and slots.
    cells = mixed(keys) ^ (mixed(slot.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    _, cell = np.unique(cells, return_inverse=True)
    target, log = np.bincount(cell, pmf), np.bincount(cell, logged)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(target > 0.0, target / log, 0.0)
    lost = ~np.isfinite(ratio)
    weight = ratio[cell[candidates.starts[:-1] + chosen]]
    return Weights(weight, float(ratio[~lost].max(initial=0.0)), float(target[lost].sum()))


def logged_probabilities(batch: Batch, asked_by: str) -> F64:
    """Shape (C,): of every candidate.

    :raises BadQuestion: the log does not have them
    """
    assert batch.candidates is not None
    logged = batch.candidates.logged
    if logged is not None and not np.isnan(logged).any():
        return logged
    if is_uniform(batch):
        return np.repeat(1.0 / batch.n_candidates, np.diff(batch.candidates.starts))
    raise BadQuestion(
        f"{asked_by} adds up the logged probabilities of candidates that are alike, and near place {batch.place[0]} "
        "the log has that of what was shown alone; log all of them (dsjson: p with a; Parquet: candidate_propensities)"
    )


class EmbeddedSums:
    """What one policy is, as far as candidates are told apart by an embedding.

    :ivar sums: with weights of embeddings
    """

    def __init__(self, estimator: Mips, terms: TermSet, *, reward_range: tuple[float, float] | None) -> None:
        self.estimator = estimator
        self.sums = Sums(terms, reward_range=reward_range)
        self._embedding = Embedding(estimator.by)
        self._lost = 0.0

    @property
    def uncovered(self) -> float:
        """Mean probability that the target gives to embeddings that the log could never show."""
        return self._lost / self.sums.n if self.sums.n else 0.0

    def add(self, batch: Batch, pmf: F64 | None, policy: str) -> None:
        """
        :param pmf: shape (C,), target probability of each candidate
        :raises BadQuestion: the log or the policy does not have what this needs
        """
        name = self.estimator.name
        if batch.candidates is None:
            raise BadQuestion(f"{name} needs what could have been shown, and this log does not say")
        if pmf is None:
            raise BadQuestion(f"{name} needs how likely {policy} makes each candidate, and it says so of one alone")
        logged = logged_probabilities(batch, name)
        found = embedded_weights(self._embedding.keys(batch), batch.candidates, batch.chosen, pmf, logged)
        self._lost += found.uncovered
        self.sums.add(batch, found.weight, weight_bound=np.inf if found.uncovered > 0.0 else found.bound)

    def refuse_lost(self) -> None:
        """See `Embedding.refuse_lost`."""
        self._embedding.refuse_lost()

    def merge(self, other: EmbeddedSums) -> EmbeddedSums:
        """Both together; neither is changed."""
        both = EmbeddedSums(self.estimator, self.sums.terms, reward_range=self.sums.reward_range)
        both.sums = self.sums.merge(other.sums)
        both._lost = self._lost + other._lost
        return both
