"""What is kept of a log, or of a part of one: the sums of every policy, whole, by slice and over time.

What was collected from the parts of a log merges into what the whole gives, so the parts may be read anywhere. Sums are
of floats, so the last bits depend on how the log was cut into parts, and on the order in which these are merged. Both
are the log's own: see `replay.parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Final, NamedTuple

import numpy as np

from replay.disagreement import TEST_FOLD
from replay.embeddings import EmbeddedSums
from replay.errors import BadQuestion
from replay.estimators import Estimator, Mips, terms_for
from replay.events import F64, I64, U8, Assignment, Batch, Policy, fold_of, mixed
from replay.redraws import REDRAWS, Noise, Weights, is_redrawn
from replay.slices import Slices
from replay.sums import SLICE_BUCKETS, Sums
from replay.terms import Term, TermSet
from replay.timeline import Timeline
from replay.tuning import tuning_terms

_SKETCH: Final = 1 << 20


class Asked(NamedTuple):
    """What the pass is to collect.

    :param estimators: of these, a policy gets those that it can have
    :param grids: families of which the best member is to be chosen, each by its members
    :param primary: the one that slices and stretches of time are about, without a reward model and with one
    :param slices: fields of events to slice by
    :param pairs: estimators to test against each other, on the viewers of one fold, which all else then does without:
        (assumes more, assumes less, what is assumed)
    :param weight_bound: no weight can be larger: the caller knows; None to go by what the policies know
    :param redraws, seed: of the logged policy and the target, where estimators need marginal probabilities of a log
        that has them given the slots above
    """

    estimators: tuple[Estimator, ...]
    primary: tuple[Estimator, Estimator]
    grids: tuple[tuple[Estimator, ...], ...] = ()
    slices: tuple[str, ...] = ()
    pairs: tuple[tuple[Estimator, Estimator, str], ...] = ()
    weight_bound: float | None = None
    reward_range: tuple[float, float] | None = None
    redraws: int = REDRAWS
    seed: int = 0

    @property
    def redrawn(self) -> tuple[Estimator, ...]:
        """Those that need more than weights given the slots above."""
        every = [*self.estimators, *(each for more, less, _ in self.pairs for each in (more, less))]
        return tuple(dict.fromkeys(each for each in every if is_redrawn(each)))


class PolicySums:
    """What was collected of one policy.

    :ivar whole: over all events
    :ivar embedded: the same as far as candidates are told apart by an embedding, by estimator
    :ivar slices: by field and value
    :ivar times: over stretches of time
    :ivar unsupported: why the log cannot answer for this policy, found on the way; empty if nothing was
    :ivar tested: over the viewers that are kept apart for tests of assumptions; None if none are
    :ivar updates: how often a policy that learns along the log has learned, as far as it is known from which events
    :ivar learned: the same over the whole log, as the learner says it; None of policies that do not learn
    :ivar note: what the policy says of its estimate, in a sentence
    :ivar learned_until: position of the log up to which the policy's model has learned from it, if that is known
    :ivar noise: what re-draws add; None where nothing was drawn again
    """

    def __init__(
        self,
        asked: Asked,
        estimators: Sequence[Estimator],
        *,
        with_q: bool,
        slates: bool,
        primary: Estimator | None = None,
    ) -> None:
        self._asked = asked
        self.estimators = tuple(estimators)
        plain = [each for each in estimators if not isinstance(each, Mips)]
        self.primary = asked.primary[with_q] if primary is None else primary
        self.with_q = with_q
        self.grids = tuple(grid for grid in asked.grids if with_q or not grid[0].needs_q)
        tuned = [term for grid in self.grids for term in tuning_terms(grid)]
        terms = _terms([*plain, self.primary], tuned, slates=slates)
        self._part_terms = _terms([self.primary], slates=slates)
        self.whole = Sums(terms, reward_range=asked.reward_range)
        self.embedded = {
            each: EmbeddedSums(each, _terms([], slates=False), reward_range=asked.reward_range)
            for each in estimators
            if isinstance(each, Mips)
        }
        self.slices = {field: Slices(self._part) for field in asked.slices}
        self.times = Timeline(self._part)
        self.pairs = asked.pairs
        pairs = [each for more, less, _ in asked.pairs for each in (more, less)]
        self.tested = Sums(terms_for(pairs, slates=True), table=False, top=1) if pairs else None
        self.updates: int | None = None
        self.learned: int | None = None
        self.note = ""
        self.learned_until: int | None = None
        self.noise: Noise | None = None
        self.unsupported = ""
        self._uncovered, self._looked_at = 0.0, 0

    @property
    def sliced(self) -> dict[str, dict[str, Sums]]:
        """By field and value."""
        return {field: values.sums for field, values in self.slices.items()}

    @property
    def uncovered(self) -> float:
        """Mean probability, over slots, that it gives to what the log says could not have been shown."""
        return self._uncovered / self._looked_at if self._looked_at else 0.0

    def _part(self) -> Sums:
        return Sums(
            self._part_terms, reward_range=self._asked.reward_range, n_buckets=SLICE_BUCKETS, table=False, top=1
        )

    def add(self, batch: Batch, columns: dict[str, Any], given: Weights | None = None) -> None:
        """Add a batch to the whole and to every part.

        :param given: weights from re-draws
        """
        rows = None
        if self.tested is not None:
            apart = fold_of(batch.viewer) == TEST_FOLD
            self.tested.add(batch, **columns, rows=np.flatnonzero(apart))
            rows = np.flatnonzero(~apart)
            if len(rows) == 0:
                return
        self.whole.add(batch, **columns, rows=rows)
        if given is not None:
            self.noise = self.noise or Noise([each for each in self.estimators if is_redrawn(each)])
            self.noise.add(batch, columns["weight"], given, rows)
        for field, values in self.slices.items():
            for sums, some in values.parts(batch.fields[field], rows):
                sums.add(batch, **columns, rows=_all_or(some, batch.n))
        for sums, some in self.times.parts(_only(batch.time, rows)):
            sums.add(batch, **columns, rows=_all_or(some, batch.n))

    def hear(self, policy: Policy, batch: Batch, assignment: Assignment) -> None:
        """What the policy tells of itself, besides its probabilities."""
        if assignment.uncovered is not None:
            self._uncovered += assignment.uncovered
            self._looked_at += batch.n_slots
        if assignment.accepted is not None:
            self.updates = (self.updates or 0) + int(assignment.accepted.sum())
        self.learned = getattr(policy, "updates", None)
        self.note = getattr(policy, "note", "")
        self.learned_until = getattr(policy, "learned_until", None)

    def merge(self, other: PolicySums) -> PolicySums:
        """Both together; neither is changed."""
        if self.unsupported or other.unsupported:
            return self if self.unsupported else other
        if self.primary != other.primary or self.estimators != other.estimators:
            raise BadQuestion("what was collected with different estimators does not merge")
        both = PolicySums(
            self._asked, self.estimators, with_q=self.with_q, slates=self.whole.terms.slates, primary=self.primary
        )
        both.whole = self.whole.merge(other.whole)
        both.embedded = {each: sums.merge(other.embedded[each]) for each, sums in self.embedded.items()}
        both.slices = {field: mine.merge(other.slices[field]) for field, mine in self.slices.items()}
        both.times = self.times.merge(other.times)
        if self.tested is not None and other.tested is not None:
            both.tested = self.tested.merge(other.tested)
        if self.updates is not None and other.updates is not None:
            both.updates = self.updates + other.updates
        both.learned, both.note, both.learned_until = self.learned, self.note, self.learned_until
        both._uncovered = self._uncovered + other._uncovered
        both._looked_at = self._looked_at + other._looked_at
        if self.noise is not None and other.noise is not None:
            both.noise = self.noise.merge(other.noise)
        return both


class Collected:
    """What one pass has collected of a log, or of a part of one.

    :ivar reports: of the parts that were read, in order: what their readers could not use, see `Reading.report`
    """

    def __init__(self, *, slates: bool) -> None:
        self.reports: list[Any] = []
        self.events = 0
        self.slots = 0
        self.first_time, self.last_time = np.inf, -np.inf
        self.first_place: float = np.inf
        self.slates = slates
        self.policies: dict[str, PolicySums] = {}
        self.production: Sums | None = None
        self._viewers: U8 = np.zeros(_SKETCH // 8, np.uint8)

    def see(self, batch: Batch, asked: Asked) -> None:
        """Count a batch, and what production earned in it: what a policy does whose weights are all 1."""
        if self.production is None:
            terms = _terms([], slates=self.slates)
            self.production = Sums(terms, reward_range=asked.reward_range, table=False, top=1)
        self.production.add(batch, np.ones(batch.n_slots), weight_bound=1.0)
        self.events += batch.n
        self.slots += batch.n_slots
        self.first_place = min(self.first_place, float(batch.place.min()))
        known = batch.time[np.isfinite(batch.time)]
        if len(known):
            self.first_time = min(self.first_time, float(known.min()))
            self.last_time = max(self.last_time, float(known.max()))
        places = mixed(batch.viewer) % np.uint64(_SKETCH)
        np.bitwise_or.at(self._viewers, (places >> np.uint64(3)).astype(np.int64),
                         (1 << (places & np.uint64(7))).astype(np.uint8))  # fmt: skip

    def refuse_lost(self) -> None:
        """
        :raises BadQuestion: no candidate so far has a feature by which they were to be told apart
        """
        for sums in self.policies.values():
            for embedded in sums.embedded.values():
                embedded.refuse_lost()

    @property
    def viewers(self) -> int | None:
        """How many different ones, by linear counting (Whang et al. 1990): exact to a percent or so.

        None if hardly any event shares its viewer with another: then the log tells none, or might as well not.
        """
        zeros = _SKETCH - int(np.bitwise_count(self._viewers).sum())
        count = round(-_SKETCH * np.log(max(zeros, 1) / _SKETCH))
        return count if count < 0.98 * self.events else None

    def merge(self, other: Collected) -> Collected:
        """Both together; neither is changed.

        :raises BadQuestion: they were asked different things
        """
        if self.events == 0 or other.events == 0:
            one = copy(other if self.events == 0 else self)
            one.reports = [*self.reports, *other.reports]
            return one
        if self.policies.keys() != other.policies.keys() or self.slates != other.slates:
            raise BadQuestion("what was collected of different policies, or kinds of log, does not merge")
        both = Collected(slates=self.slates)
        both.reports = [*self.reports, *other.reports]
        both.events, both.slots = self.events + other.events, self.slots + other.slots
        both.first_time = min(self.first_time, other.first_time)
        both.last_time = max(self.last_time, other.last_time)
        both.first_place = min(self.first_place, other.first_place)
        both._viewers = self._viewers | other._viewers
        assert self.production is not None
        assert other.production is not None
        both.production = self.production.merge(other.production)
        both.policies = {name: sums.merge(other.policies[name]) for name, sums in self.policies.items()}
        return both


def _terms(estimators: Sequence[Estimator], more: Sequence[Term] = (), *, slates: bool) -> TermSet:
    """What the estimators need, and what intervals need besides: of slates, squares of weighted rewards."""
    return terms_for(estimators, extra=[*more, Term("rips2")] if slates else more, slates=slates)


def _only(time: F64, rows: I64 | None) -> F64:
    """The times of these events, unknown for all others."""
    if rows is None:
        return time
    known = np.full(len(time), np.nan)
    known[rows] = time[rows]
    return known


def _all_or(rows: I64, n: int) -> I64 | None:
    return None if len(rows) == n else rows
