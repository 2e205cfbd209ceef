"""Marginal and pseudo-inverse weights for a log whose propensities are given the slots above: the service's own.

The logged policy is drawn again, by the code and the models that served, and so is the target. Re-draws of different
decisions are independent of each other, so what they add to the noise is in the spread between viewers, and in every
standard error and interval with it; two halves of them tell how much of it they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final, NamedTuple

import numpy as np

from bandit.errors import BanditError
from replay.errors import BadQuestion
from replay.estimators import Estimator, terms_for
from replay.estimators.base import Means
from replay.events import F64, I64, U64, Batch, Log, Policy, event_of_slot
from replay.policies import feed_marginals as marginals
from replay.policies import feed_pseudo
from replay.policies.feed_draw import Draw
from replay.policies.feed_marginals import Level
from replay.policies.feed_models import History
from replay.policies.feed_policies import FeedPolicy
from replay.policies.feed_pseudo import Pseudo
from replay.policies.feed_support import logged_draw, uniform_draw
from replay.policies.plain import Logged, Uniform
from replay.readers.service import ServiceLog
from replay.readers.service_feeds import Feeds
from replay.sums import Sums

REDRAWS: Final = 64
"""Of each placement that cannot be enumerated."""
FEWEST: Final = 16
LISTS: Final = 8
"""The pseudo-inverse has a list drawn again for each placement that might be, ``redraws / LISTS`` times over."""

_TOLD: Final = 1e-4

DrawOf = Callable[[Feeds, int], Draw]


def is_redrawn(estimator: Estimator) -> bool:
    """Whether it needs more than weights given the slots above."""
    return estimator.needs_marginals or estimator.needs_pseudo_inverse


class Weights(NamedTuple):
    """Of a batch with n events and S slots; the first axis is: by all re-draws, by the first half, by the second.

    :ivar marginal: shape (3, S)
    :ivar pseudo: shape (3, n); None if no estimator needs it
    :ivar drawn: shape (S,): slots that were drawn again, not enumerated
    :ivar unspanned: shape (n,): see `Pseudo.unspanned`
    """

    marginal: F64
    pseudo: F64 | None
    drawn: F64
    unspanned: F64


class _Redraw(NamedTuple):
    """The logged policy at one decision.

    :ivar depth: of how many slots all is enumerated
    :ivar inverse: shape (3, slots): one over the probability of what was logged
    :ivar pseudo: by all re-draws and either half; None if it is not needed
    """

    depth: int
    inverse: F64
    pseudo: tuple[Pseudo, Pseudo, Pseudo] | None


class Redraws:
    """Weights of the policies that can be drawn again, on a log whose logged policy can.

    :param estimators: of these, those that need it are served
    :param n: re-draws of each placement that cannot be enumerated
    :param seed: of the re-draws, with each event's id
    :raises BadQuestion: the log's policy, or a target, cannot be drawn again; says what can be asked instead
    """

    def __init__(
        self, log: Log, policies: Sequence[Policy], estimators: Sequence[Estimator], *, n: int, seed: int
    ) -> None:
        self._names = ", ".join(each.name for each in estimators)
        self._pseudo = any(each.needs_pseudo_inverse for each in estimators)
        self._n = n - n % 2
        self._seed = seed
        if not isinstance(log, ServiceLog):
            raise BadQuestion(
                f"{self._names} needs how likely each placement is whatever stands above it (marginal). {log.name} is "
                f"{log.kind}: its propensities are given the slots above, and only a service's own log holds what it "
                "takes to draw again; use rips or cascade_dr"
            )
        self._targets = {policy.name: self._draw_of(policy) for policy in policies}
        self._history = History(log)

    def _draw_of(self, policy: Policy) -> DrawOf | None:
        """None for the logged policy itself."""
        if isinstance(policy, FeedPolicy):
            return policy.draw
        if isinstance(policy, Uniform):
            return uniform_draw
        if isinstance(policy, Logged):
            return None
        raise BadQuestion(
            f"{self._names} needs how likely each placement is whatever stands above it (marginal), and "
            f"{policy.name} ({policy.spec}) says that only given the slots above, as logged; use rips or cascade_dr"
        )

    def close(self) -> None:
        """Give back what earlier models took."""
        self._history.close()

    def weights(self, batch: Batch) -> dict[str, Weights]:
        """By policy's name.

        :raises BadQuestion: a decision cannot be drawn again, or is too large for the pseudo-inverse
        """
        feeds: Feeds = batch.source
        if self._pseudo:
            _check_size(batch)
        found = {
            name: Weights(
                np.ones((3, batch.n_slots)), np.ones((3, batch.n)) if self._pseudo else None,
                np.zeros(batch.n_slots), np.zeros(batch.n),
            )
            for name in self._targets
        }  # fmt: skip
        digests = [one.decision.model for one in feeds.entries]
        targets = [(draw_of, found[name]) for name, draw_of in self._targets.items() if draw_of is not None]
        for i in self._history.in_order(digests) if targets else ():
            draw = self._logged(batch, feeds, i)
            # The logged policy's own weights are exactly 1, without noise.
            others = [(new, weights) for draw_of, weights in targets if not (new := draw_of(feeds, i)).same_as(draw)]
            logged = self._redraw(feeds, i, draw) if others else None
            for new, weights in others:
                assert logged is not None
                self._weigh(feeds, i, logged, new, weights)
        return found

    def _logged(self, batch: Batch, feeds: Feeds, i: int) -> Draw:
        entry, slots = feeds.entries[i], slice(feeds.starts[i], feeds.starts[i + 1])
        try:
            draw = logged_draw(feeds, i, self._history)
        except BanditError as error:
            raise self._lost(entry.pos, error.message) from None
        if draw.rules.by_order:
            raise self._lost(entry.pos, "its feed rules, or its pins, go by the order of what stands above")
        if not np.allclose(draw.propensity(), batch.propensity[slots], rtol=1e-9, atol=0.0):
            raise self._lost(entry.pos, "what serves now gives other propensities than were logged")
        return draw

    def _redraw(self, feeds: Feeds, i: int, draw: Draw) -> _Redraw:
        entry = feeds.entries[i]
        found = marginals.levels(draw)
        n_slots, depth = len(draw.at), len(found)
        inverse = np.empty((3, n_slots))
        place = np.searchsorted(marginals.shown(draw), draw.at)
        for slot, p in enumerate(marginals.placements(found)):
            inverse[:, slot] = 1.0 / p[place[slot]]
        for slot in range(depth, n_slots):
            drawn = marginals.redrawn(draw, slot, self._seeds(entry.event_id, marginals.LOGGED, slot, self._n))
            own = marginals.as_logged(draw, slot)
            for which, some in enumerate((drawn, drawn[::2], drawn[1::2])):
                inverse[which, slot] = (len(some) + 1) / (some.sum() + own)
        return _Redraw(depth, inverse, self._inverted(entry.event_id, draw, found))

    def _lost(self, position: int, why: str) -> BadQuestion:
        return BadQuestion(
            f"{self._names} needs the logged policy drawn again, and the decision at position {position} cannot be: "
            f"{why}; use rips or cascade_dr"
        )

    def _inverted(self, event_id: str, draw: Draw, found: list[Level]) -> tuple[Pseudo, Pseudo, Pseudo] | None:
        if not self._pseudo:
            return None
        if len(found) == len(draw.at):
            whole = feed_pseudo.enumerated(draw, found)
            return whole, whole, whole
        size = len(draw.at) * len(marginals.shown(draw))
        n = 2 * max(1, self._n * size // (2 * LISTS))
        return feed_pseudo.redrawn(draw, self._seeds(event_id, marginals.LISTS, 0, n))

    def _weigh(self, feeds: Feeds, i: int, logged: _Redraw, target: Draw, weights: Weights) -> None:
        """Write one decision's."""
        begin, event_id = int(feeds.starts[i]), feeds.entries[i].event_id
        found = marginals.levels(target)
        place = np.searchsorted(marginals.shown(target), target.at)
        depth = len(found)
        for slot, p in enumerate(marginals.placements(found)):
            weights.marginal[:, begin + slot] = p[place[slot]] * logged.inverse[:, slot]
        for slot in range(depth, len(target.at)):
            drawn = marginals.redrawn(target, slot, self._seeds(event_id, marginals.TARGET, slot, self._n))
            p = np.array([drawn.mean(), drawn[::2].mean(), drawn[1::2].mean()])
            weights.marginal[:, begin + slot] = p * logged.inverse[:, slot]
        weights.drawn[begin + min(depth, logged.depth) : begin + len(target.at)] = 1.0
        if weights.pseudo is None or logged.pseudo is None:
            return
        halves = marginals.averaged(target, found, self._seeds(event_id, marginals.TARGET, -1, self._n))
        both = halves.mean(0)
        for which, (q, inverse) in enumerate(zip((both, *halves), logged.pseudo, strict=True)):
            weights.pseudo[which, i] = inverse.weight(q)
        weights.unspanned[i] = logged.pseudo[0].unspanned(both)

    def _seeds(self, event_id: str, stream: int, slot: int, n: int) -> U64:
        return marginals.seeds(event_id, seed=self._seed, stream=stream, slot=slot, n=n)


def _check_size(batch: Batch) -> None:
    """
    :raises BadQuestion: a decision is too large for the pseudo-inverse
    """
    slots, candidates = np.diff(batch.starts), batch.n_candidates[batch.starts[:-1]]
    i = int(np.argmax(slots * candidates))
    if slots[i] * candidates[i] > feed_pseudo.MOST_PLACEMENTS:
        raise BadQuestion(
            f"pi inverts a matrix over slots times candidates, at most {feed_pseudo.MOST_PLACEMENTS}; the decision at "
            f"position {batch.place[i]} has {slots[i]} times {candidates[i]}; use iips, which has no such limit"
        )


class Noise:
    """How much of a policy's standard errors the re-draws are: its sums by either half of them.

    :param estimators: those that need re-draws
    """

    def __init__(self, estimators: Sequence[Estimator]) -> None:
        self._estimators = tuple(estimators)
        terms = terms_for(self._estimators, slates=True)
        self._halves = tuple(Sums(terms, table=False, top=1) for _ in range(2))
        self.slots = 0
        self.drawn = 0
        self.events = 0
        self.unspanned = 0.0

    def add(self, batch: Batch, weight: F64, given: Weights, rows: I64 | None) -> None:
        """Add a batch, or only these events of it."""
        for which, half in enumerate(self._halves, 1):
            half.add(
                batch, weight, marginal_weight=given.marginal[which],
                pseudo_weight=None if given.pseudo is None else given.pseudo[which], rows=rows,
            )  # fmt: skip
        some = np.ones(batch.n, bool) if rows is None else np.isin(np.arange(batch.n), rows)
        of_slot = some[event_of_slot(batch.starts)]
        self.events += int(some.sum())
        self.slots += int(of_slot.sum())
        self.drawn += int(given.drawn[of_slot].sum())
        self.unspanned += float(given.unspanned[some].sum())

    def merge(self, other: Noise) -> Noise:
        """Both together; neither is changed."""
        both = Noise(self._estimators)
        both._halves = tuple(mine.merge(its) for mine, its in zip(self._halves, other._halves, strict=True))
        for name in ("slots", "drawn", "events", "unspanned"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def error(self, estimator: Estimator, whole: Sums) -> float:
        """Standard error of its value over other re-draws of the same log; contained in that over other logs.

        Two halves differ by twice what their mean is off by, to first order.
        """
        first, second = self._halves
        partials = estimator.function(Means(whole))[1]
        along = np.array([partials.get(name, 0.0) for name in first.names])
        off = (first.buckets - second.buckets) @ along / 2.0
        return sqrt(float(off @ off)) / whole.size

    def note(self, estimator: Estimator, whole: Sums, n: int) -> str:
        """What was enumerated and what drawn again, and how much of its standard error that is.

        :param n: as `Redraws` was asked for
        """
        if not self.drawn:
            return "marginal probabilities enumerated"
        if estimator.needs_marginals:
            how = f"{1.0 - self.drawn / self.slots:.0%} of placements enumerated, the others drawn again {n} times each"
        else:
            how = f"lists drawn again, {n / LISTS:g} for each candidate of each slot where there are too many"
        left_out = self.unspanned / self.events
        if estimator.needs_pseudo_inverse and left_out >= _TOLD:
            how += f"; {left_out:.1%} of the target's placements left out: they were not drawn (more --redraws)"
        return f"{how}; Monte Carlo is {self.error(estimator, whole):.2g} of its standard error"
