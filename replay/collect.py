"""One pass over a log, and what is kept of it: the sums of every policy, whole, by slice and over time.

What was collected from the parts of a log merges into what the whole gives, so the parts may be read anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from replay.disagreement import TEST_FOLD
from replay.embeddings import EmbeddedSums
from replay.errors import BadQuestion, Unsupported
from replay.estimators import SINGLE, Estimator, Mips, terms_for
from replay.events import F64, I64, U8, Batch, Log, Needs, Policy, fold_of, mixed
from replay.expectations import expectations
from replay.policies.feed_policies import FeedPolicy
from replay.policies.feed_support import refuse_unsupported
from replay.prefetch import prefetched
from replay.readers.service_feeds import Feeds
from replay.redraws import REDRAWS, Noise, Redraws, Weights, is_redrawn
from replay.sums import SLICE_BUCKETS, Sums
from replay.terms import Term, TermSet
from replay.timeline import Timeline
from replay.tuning import tuning_terms

MOST_VALUES: Final = 40
"""Values of a sliced field that are kept apart; the rest are put together."""
REST: Final = "(all others)"
_SKETCH: Final = 1 << 20


class Predictor(Protocol):
    """What predicts rewards: a `RewardModel`, or whatever the caller brings."""

    def predict(self, batch: Batch) -> F64:
        """Shape (C,): of every candidate of every slot, by a model that has not seen the event's viewer."""
        ...


class Asked(NamedTuple):
    """What the pass is to collect.

    :param estimators: of these, a policy gets those that it can have
    :param grids: families of which the best member is to be chosen, each by its members
    :param primary: the one that slices and stretches of time are about; by whether there is a reward model
    :param slices: fields of events to slice by
    :param pairs: estimators to test against each other, on the viewers of one fold, which all else then does without:
        (assumes more, assumes less, what is assumed)
    :param weight_bound: no weight can be larger: the caller knows; None to go by what the policies know
    :param redraws, seed: of the logged policy and the target, where estimators need marginal probabilities of a log
        that has them given the slots above
    """

    estimators: tuple[Estimator, ...]
    primary: Callable[[bool], Estimator]
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
    :ivar updates: how often a policy that learns along the log has learned; None of others
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
        self.primary = asked.primary(with_q) if primary is None else primary
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
        self.slices: dict[str, dict[str, Sums]] = {field: {} for field in asked.slices}
        self.times = Timeline(self._part)
        self.pairs = asked.pairs
        pairs = [each for more, less, _ in asked.pairs for each in (more, less)]
        self.tested = Sums(terms_for(pairs, slates=True), table=False, top=1) if pairs else None
        self.updates: int | None = None
        self.noise: Noise | None = None
        self.unsupported = ""

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
            for value, some in _groups(batch.fields[field], rows):
                name = value if value in values or len(values) < MOST_VALUES else REST
                if name not in values:
                    values[name] = self._part()
                values[name].add(batch, **columns, rows=_all_or(some, batch.n))
        for sums, some in self.times.parts(_only(batch.time, rows)):
            sums.add(batch, **columns, rows=_all_or(some, batch.n))

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
        for field in both.slices:
            mine, theirs = self.slices[field], other.slices[field]
            for value in [*mine, *(value for value in theirs if value not in mine)]:
                parts = [sums[value] for sums in (mine, theirs) if value in sums]
                both.slices[field][value] = parts[0] if len(parts) == 1 else parts[0].merge(parts[1])
        both.times = self.times.merge(other.times)
        if self.tested is not None and other.tested is not None:
            both.tested = self.tested.merge(other.tested)
        if self.updates is not None and other.updates is not None:
            both.updates = self.updates + other.updates
        if self.noise is not None and other.noise is not None:
            both.noise = self.noise.merge(other.noise)
        return both


class Collected:
    """What one pass has collected of a log, or of a part of one."""

    def __init__(self, *, slates: bool) -> None:
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
            return other if self.events == 0 else self
        if self.policies.keys() != other.policies.keys() or self.slates != other.slates:
            raise BadQuestion("what was collected of different policies, or kinds of log, does not merge")
        both = Collected(slates=self.slates)
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


def collect(
    log: Log,
    policies: Sequence[Policy],
    asked: Asked,
    *,
    slates: bool,
    model: Predictor | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Collected:
    """Read the log once, and collect what was asked of every policy.

    :param policies: each prepared, with a name of its own
    :param asked: what to collect
    :param slates: whether events have several slots
    :param model: predictions for the estimators that need them; they are left out without it
    :param progress: told, now and then, how much of how much is done
    :raises BadLog, BadPolicy, BadQuestion: as the log, the policies and the sums say
    """
    collected = Collected(slates=slates)
    redraws = None
    if asked.redrawn and not log.marginals:
        redraws = Redraws(log, policies, asked.redrawn, n=asked.redraws, seed=asked.seed)
    try:
        for batch in read(log, policies, asked, with_q=model is not None):
            if collected.events == 0:
                check_fields(log, batch, asked.slices)
            collected.see(batch, asked)
            q = None if model is None or batch.candidates is None else model.predict(batch)
            given = {} if redraws is None else redraws.weights(batch)
            for policy in policies:
                _assign(collected, policy, batch, asked, q, given.get(policy.name), log_marginals=log.marginals)
            progress(log.done(), log.size())
    finally:
        if redraws is not None:
            redraws.close()
    return collected


def check_fields(log: Log, batch: Batch, fields: Sequence[str]) -> None:
    """
    :raises BadQuestion: the log has no such field; says which it has
    """
    unknown = [field for field in fields if field not in batch.fields]
    if unknown:
        names: tuple[str, ...] = getattr(log, "field_names", tuple)()
        raise BadQuestion(
            f"{log.name} has no field {', '.join(unknown)} to slice by; it has {', '.join(names) or 'none'}"
        )


def read(log: Log, policies: Sequence[Policy], asked: Asked, *, with_q: bool) -> Iterator[Batch]:
    """The batches of a log with all that the policies and the reward model want to see, read ahead."""
    embedded = any(isinstance(each, Mips) for each in asked.estimators)
    needs = [policy.needs(with_q or embedded) for policy in policies]
    listed = with_q or embedded or any(need.candidates for need in needs)
    return prefetched(
        log.batches(
            Needs(
                fields=tuple(dict.fromkeys([*asked.slices, *(name for need in needs for name in need.fields)])),
                columns=tuple(dict.fromkeys(name for need in needs for name in need.columns)),
                candidates=listed,
                texts=with_q or embedded or any(need.texts for need in needs),
                logged=listed,
            )
        )
    )


def _assign(
    collected: Collected,
    policy: Policy,
    batch: Batch,
    asked: Asked,
    q: F64 | None,
    given: Weights | None,
    *,
    log_marginals: bool,
) -> None:
    sums = collected.policies.get(policy.name)
    if sums is not None and sums.unsupported:
        return
    try:
        embedded = any(isinstance(each, Mips) for each in asked.estimators)
        assignment = policy.assign(batch, pmf=q is not None or embedded)
        if isinstance(batch.source, Feeds) and not isinstance(policy, FeedPolicy):
            refuse_unsupported(batch, assignment.propensity)
    except Unsupported as error:
        sums = sums or PolicySums(asked, [], with_q=False, slates=collected.slates)
        sums.unsupported = error.message
        collected.policies[policy.name] = sums
        return
    with_q = q is not None and assignment.pmf is not None
    if sums is None:
        estimators = [each for each in asked.estimators if with_q or not each.needs_q]
        # What a learner would have earned after so many updates is, without bias, the plain weighted mean.
        primary = SINGLE["ips"] if hasattr(policy, "updates") and not collected.slates else None
        sums = PolicySums(asked, estimators, with_q=with_q, slates=collected.slates, primary=primary)
        collected.policies[policy.name] = sums
    columns: dict[str, Any] = {
        "weight": assignment.propensity / batch.propensity,
        "weight_bound": (
            policy.largest_weight(batch, assignment) if asked.weight_bound is None else asked.weight_bound
        ),
    }
    if log_marginals:
        columns["marginal_weight"] = columns["weight"]
    if given is not None:
        columns["marginal_weight"] = given.marginal[0]
        columns["pseudo_weight"] = None if given.pseudo is None else given.pseudo[0]
    if sums.with_q:
        if q is None or assignment.pmf is None or batch.candidates is None:
            raise BadQuestion(
                f"{policy.name} has probabilities of all candidates for the log's first events but not for the "
                f"event at {batch.place[0]}; evaluate it without a reward model"
            )
        columns["q_chosen"], columns["dm"] = expectations(assignment.pmf, q, batch.candidates.starts, batch.chosen)
    sums.add(batch, columns, given)
    for embedded_sums in sums.embedded.values():
        embedded_sums.add(batch, assignment.pmf, policy.name)
    if assignment.accepted is not None:
        sums.updates = (sums.updates or 0) + int(assignment.accepted.sum())


def _terms(estimators: Sequence[Estimator], more: Sequence[Term] = (), *, slates: bool) -> TermSet:
    """What the estimators need, and what intervals need besides: of slates, squares of weighted rewards."""
    return terms_for(estimators, extra=[*more, Term("rips2")] if slates else more, slates=slates)


def _groups(values: NDArray[Any], rows: I64 | None) -> Iterator[tuple[str, I64]]:
    """Each different value as text, with the places of its events, ascending; only among ``rows``, if given."""
    different, group = np.unique((values if rows is None else values[rows]).astype(str), return_inverse=True)
    for place, value in enumerate(different.tolist()):
        found = np.flatnonzero(group == place)
        yield value, found if rows is None else rows[found]


def _only(time: F64, rows: I64 | None) -> F64:
    """The times of these events, unknown for all others."""
    if rows is None:
        return time
    known = np.full(len(time), np.nan)
    known[rows] = time[rows]
    return known


def _all_or(rows: I64, n: int) -> I64 | None:
    return None if len(rows) == n else rows
