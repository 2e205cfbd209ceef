"""The policies over feeds: what each one draws with, and how likely that makes what was logged."""

from __future__ import annotations

from typing import Final

import numpy as np

from bandit.config import Config, EpsilonGreedy, ExplorerConfig, Uniform
from bandit.explore import epsilon_greedy
from bandit.ranker import CALLER_ORDER
from replay.errors import BadPolicy
from replay.events import F64, I64, Assignment, Batch, Log, Needs, event_of_slot
from replay.policies.feed_draw import Draw
from replay.policies.feed_models import History, Model, find_model, scores_of
from replay.policies.feed_support import caller_scores, refuse_unsupported, weight_bound
from replay.readers.service import ServiceLog
from replay.readers.service_feeds import Feeds

LOGGED: Final = "logged"


class FeedPolicy:
    """What all policies over feeds have in common; see `replay.policies.feed`."""

    stationary = True

    def __init__(self, name: str, spec: str) -> None:
        self.name = name
        self.spec = spec
        self._history: History | None = None

    def needs(self, pmf: bool) -> Needs:
        """With all probabilities, batches are small enough to hold them."""
        return Needs(candidates=pmf)

    def prepare(self, log: Log) -> None:
        """
        :raises BadPolicy: this is no service's log
        """
        if not isinstance(log, ServiceLog):
            raise BadPolicy(
                f"{self.spec} ranks the candidates of a feed again, which only a service's own log holds; "
                f"{log.name} is {log.kind}"
            )
        self.close()
        self._history = History(log)

    def close(self) -> None:
        """Give back what earlier models took."""
        if self._history is not None:
            self._history.close()

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: a model cannot be had, or a slot at which some candidates had no chance
        """
        assert self._history is not None, "prepare comes first"
        feeds: Feeds = batch.source
        propensity, every = self._assign(batch, feeds, pmf)
        # A probability may be rounded to a shade above 1.
        propensity = np.minimum(propensity, 1.0)
        refuse_unsupported(batch, propensity, self.draw, self._history)
        return Assignment(propensity, None if every is None else np.minimum(every, 1.0))

    def draw(self, feeds: Feeds, i: int) -> Draw:
        """How it draws the decision at a place of a batch."""
        raise NotImplementedError

    def _assign(self, batch: Batch, feeds: Feeds, pmf: bool) -> tuple[F64, F64 | None]:
        raise NotImplementedError

    def _most(self, batch: Batch, feeds: Feeds) -> F64:
        """Shape (S,): it gives no candidate of the slot more."""
        raise NotImplementedError

    def largest_weight(self, batch: Batch, assignment: Assignment) -> float:
        """The product over a feed's slots of the most that it gives to any, over the least that was logged with."""
        feeds: Feeds = batch.source
        if assignment.pmf is None:
            return weight_bound(batch, self._most(batch, feeds))
        return weight_bound(batch, np.maximum.reduceat(assignment.pmf, _starts(batch)[:-1]))


class CallerFeed(FeedPolicy):
    """The caller's own order, with exploration if asked."""

    def __init__(self, name: str, spec: str, *, epsilon: float = 0.0, floor: float = 0.0) -> None:
        super().__init__(name, spec)
        self._epsilon = epsilon
        self._floor = floor

    def draw(self, feeds: Feeds, i: int) -> Draw:
        floor = np.full(len(feeds.floor), self._floor)
        return Draw.of(feeds, i, caller_scores(feeds, i), epsilon_greedy(epsilon=self._epsilon), 0, floor)

    def _assign(self, batch: Batch, feeds: Feeds, pmf: bool) -> tuple[F64, F64 | None]:
        # What remains of the caller's order stands in it: the first is the one that it would show.
        rest, first = self._rest(batch), self._most(batch, feeds)
        every = None
        if pmf:
            every = np.repeat(rest, batch.n_candidates)
            every[_starts(batch)[:-1]] = first
        return np.where(batch.chosen == 0, first, rest), every

    def _rest(self, batch: Batch) -> F64:
        each = (1.0 - self._floor) * (self._epsilon / batch.n_candidates) + self._floor / batch.n_candidates
        return np.asarray(np.where(batch.n_candidates == 1, 1.0, each))

    def _most(self, batch: Batch, feeds: Feeds) -> F64:
        q = self._epsilon / batch.n_candidates + (1.0 - self._epsilon)
        return np.asarray((1.0 - self._floor) * q + self._floor / batch.n_candidates)


class RankedFeed(FeedPolicy):
    """The candidates of each decision, with their features as they were, ranked by a model and a config.

    A deadline of the logged request does not hold for it: all candidates are scored. Where it uses the models that
    served and none did, it ranks as the service does without one: the caller's order, with exploration.

    :param model: see `replay.policies.feed`
    :param explorer, shortlist, floor: None is as each decision's own config has it; a shortlist of 0 is none
    :param config: version of a config to take all of these from
    """

    def __init__(
        self,
        name: str,
        spec: str,
        *,
        model: str,
        explorer: ExplorerConfig | None = None,
        shortlist: int | None = None,
        floor: list[float] | None = None,
        config: int | None = None,
    ) -> None:
        super().__init__(name, spec)
        self._named = model
        self._explorer = explorer
        self._shortlist = shortlist
        self._floor = floor
        self._config = config
        self._model: Model | None = None

    def prepare(self, log: Log) -> None:
        """
        :raises BadPolicy: no service's log; no such model or config
        """
        super().prepare(log)
        assert isinstance(log, ServiceLog)
        if self._config is not None:
            if self._config not in log.configs:
                raise BadPolicy(f"the log has no config {self._config}; it has 1 to {max(log.configs)}")
            document = log.configs[self._config].document
            self._explorer, self._shortlist = document.explorer, document.shortlist or 0
            self._floor = document.floor if isinstance(document.floor, list) else [document.floor]
        self._model = None if self._named == LOGGED else find_model(self._named, log)

    @property
    def learned_until(self) -> int | None:
        """Position up to which the one model that it ranks with has learned from this log, if it has."""
        return None if self._model is None else self._model.learned_until

    def draw(self, feeds: Feeds, i: int) -> Draw:
        return self._draw(feeds, i, self._floors(feeds))

    def _draw(self, feeds: Feeds, i: int, floor: F64) -> Draw:
        decision = feeds.entries[i].decision
        if self._model is None and decision.model is None:
            return Draw.of(feeds, i, caller_scores(feeds, i), CALLER_ORDER, 0, floor)
        document = feeds.configs[decision.config].document
        model, n_learned = self._model, decision.n_learned
        if model is None:
            assert self._history is not None
            model = self._history.model(decision.model or "")
        else:
            n_learned = model.n_learned
        explorer = (self._explorer or document.explorer).explorer(n_learned)
        shortlist = self._shortlist_of(document)
        return Draw.of(feeds, i, scores_of(model, feeds, i), explorer, shortlist, floor)

    def _shortlist_of(self, document: Config) -> int:
        return (document.shortlist or 0) if self._shortlist is None else self._shortlist

    def _floors(self, feeds: Feeds) -> F64:
        if self._floor is None:
            return feeds.floor
        given = np.array(self._floor)
        slots = np.arange(len(feeds.floor)) - np.repeat(feeds.starts[:-1], np.diff(feeds.starts))
        return np.asarray(given[np.minimum(slots, len(given) - 1)])

    def _assign(self, batch: Batch, feeds: Feeds, pmf: bool) -> tuple[F64, F64 | None]:
        assert self._history is not None
        floor, starts = self._floors(feeds), feeds.starts.tolist()
        propensity = np.empty(batch.n_slots)
        listed = _starts(batch)
        every = np.empty(listed[-1]) if pmf else None
        digests = [None if self._model else one.decision.model for one in feeds.entries]
        for i in self._history.in_order(digests):
            draw = self._draw(feeds, i, floor)
            propensity[starts[i] : starts[i + 1]] = draw.propensity()
            if every is not None:
                draw.fill(every[listed[starts[i]] : listed[starts[i + 1]]])
        return propensity, every

    def _most(self, batch: Batch, feeds: Feeds) -> F64:
        """The explorer gives the best at most all, and less where it is known by how much."""
        spread, reach = np.zeros(batch.n), np.zeros(batch.n)
        for i, entry in enumerate(feeds.entries):
            document = feeds.configs[entry.decision.config].document
            explorer = self._explorer or document.explorer
            reach[i] = self._shortlist_of(document) or np.inf
            if self._model is None and entry.decision.model is None:
                spread[i], reach[i] = CALLER_ORDER.a, np.inf
            elif isinstance(explorer, EpsilonGreedy):
                spread[i] = explorer.epsilon
            elif isinstance(explorer, Uniform):
                spread[i] = 1.0
        event, floor = event_of_slot(feeds.starts), self._floors(feeds)
        reached = np.minimum(reach[event], batch.n_candidates)
        q = 1.0 - spread[event] + spread[event] / reached
        return np.asarray((1.0 - floor) * q + floor / batch.n_candidates)


def _starts(batch: Batch) -> I64:
    """Shape (S + 1,): where each slot's candidates begin."""
    return np.concatenate([[0], np.cumsum(batch.n_candidates)])
