"""The policies over feeds: what each one draws with, and how likely that makes what was logged."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from bandit.config import Config, Drawing, ExplorerConfig, at_door
from bandit.slate.binding import Bound
from bandit.slate.drawing import limited
from bandit.slate.exploration import Exploration
from bandit.slate.explorers import epsilon_greedy
from replay.errors import BadPolicy
from replay.events import F64, I64, Assignment, Batch, Log, Needs, event_of_slot
from replay.policies.feed_draw import Draw
from replay.policies.feed_models import History, Model, find_model, scores_of
from replay.policies.feed_support import caller_scores, refuse_unsupported, weight_bound
from replay.readers.service import ServiceLog
from replay.readers.service_feeds import Feeds, live_of
from replay.readers.service_rules import bound_otherwise

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
    :param explorer, shortlist, floor, share: None is as each decision's own config has it; a shortlist of 0 is none.
        With an explorer or a floor and no share there is no budget of exploration
    :param config: version of a config to take all of these from, and ``arm`` its arm
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
        share: float | None = None,
        config: int | None = None,
        arm: str | None = None,
    ) -> None:
        super().__init__(name, spec)
        self._named = model
        self._given: dict[str, Any] = {}
        if explorer is not None:
            self._given["explorer"] = explorer
        if shortlist is not None:
            self._given["shortlist"] = shortlist or None
        if floor is not None:
            self._given["floor"] = floor
        if share is not None or explorer is not None or floor is not None:
            self._given["exploration"] = Exploration(share=share)
        self._config = config
        self._arm = arm
        self._document: Config | None = None
        self._documents: dict[tuple[int, str | None], Config] = {}
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
            live = log.configs[self._config]
            if self._arm is not None and self._arm not in live.arms:
                there = f"its arms are {', '.join(live.arms)}" if live.arms else "it has no experiment"
                raise BadPolicy(f"config {self._config} has no arm {self._arm!r}; {there}")
            self._document = live.of(self._arm).document
            if self._document.mode == "apprentice":
                raise BadPolicy(f"config {self._config} serves the caller's order as an apprentice; ask for `caller`")
        self._documents = {}
        self._model = None if self._named == LOGGED else find_model(self._named, log)

    @property
    def learned_until(self) -> int | None:
        """Position up to which the one model that it ranks with has learned from this log, if it has."""
        return None if self._model is None else self._model.learned_until

    def draw(self, feeds: Feeds, i: int) -> Draw:
        return self._draw(feeds, i, self._floors(feeds))

    def _draw(self, feeds: Feeds, i: int, floor: F64) -> Draw:
        drawing = self._drawing(feeds, i)
        if drawing.by_caller:
            scores = caller_scores(feeds, i)
        elif self._model is not None:
            scores = scores_of(self._model, feeds, i)
        else:
            assert self._history is not None
            digest, _, arm = self._served(feeds, i)
            scores = scores_of(self._history.model(digest or ""), feeds, i, arm)
        rules = self._rules(feeds, i)
        draw = Draw.of(feeds, i, scores, drawing.asked, drawing.shortlist, floor, rules)
        if rules is not None:
            draw.refuse_uncovered(feeds.entries[i].pos)
        if drawing.most == 1.0:
            return draw
        explorer = limited(
            scores, draw.state, drawing.asked, shortlist=drawing.shortlist, most=drawing.most,
            rules=draw.rules.restrictions,
        )  # fmt: skip
        return draw._replace(explorer=explorer)

    def _rules(self, feeds: Feeds, i: int) -> Bound | None:
        """Feed rules of its own for a decision; None where they are those that it was made with."""
        if self._document is None:
            return None
        decision = feeds.entries[i].decision
        rules = at_door(self._document, decision.door).rules_in_force
        own = live_of(feeds.configs, decision).document.rules_in_force
        if rules == own:
            return None
        attributes = feeds.items.attributes(feeds.versions[feeds.of[i] : feeds.of[i + 1]])
        return bound_otherwise(decision, own, rules, attributes)

    def _served(self, feeds: Feeds, i: int) -> tuple[str | None, int, str | None]:
        """The model that would have served a decision, how much it had learned, and whose it is: of the arm that is
        asked for, where arms learned apart, else the one that did, and no arm."""
        entry = feeds.entries[i]
        decision = entry.decision
        if self._arm is not None and decision.arm not in (None, self._arm) and decision.model is not None:
            assert self._history is not None
            found = self._history.of_arm(self._arm, decision, entry.pos)
            if found is not None:
                return found.digest, found.learned, self._arm
        return decision.model, decision.n_learned, None

    def _drawing(self, feeds: Feeds, i: int) -> Drawing:
        """How it draws a decision, but for the scores."""
        decision = feeds.entries[i].decision
        n_learned = self._served(feeds, i)[1] if self._model is None else self._model.n_learned
        return self._document_of(feeds, i).drawing(
            decision.n_slots, n_learned, fallback=self._model is None and decision.model is None
        )

    def _document_of(self, feeds: Feeds, i: int) -> Config:
        if self._document is not None:
            return self._document
        decision = feeds.entries[i].decision
        key = decision.config, decision.arm
        if key not in self._documents:
            own = live_of(feeds.configs, decision).document
            self._documents[key] = msgspec.structs.replace(own, mode="serve", **self._given)
        return self._documents[key]

    def _floors(self, feeds: Feeds) -> F64:
        floors = [self._drawing(feeds, i).floors[: len(one.decision.slots)] for i, one in enumerate(feeds.entries)]
        return np.array([phi for each in floors for phi in each])

    def _assign(self, batch: Batch, feeds: Feeds, pmf: bool) -> tuple[F64, F64 | None]:
        assert self._history is not None
        floor, starts = self._floors(feeds), feeds.starts.tolist()
        propensity = np.empty(batch.n_slots)
        listed = _starts(batch)
        every = np.empty(listed[-1]) if pmf else None
        digests = [None if self._model else self._served(feeds, i)[0] for i in range(len(feeds.entries))]
        for i in self._history.in_order(digests):
            draw = self._draw(feeds, i, floor)
            propensity[starts[i] : starts[i + 1]] = draw.propensity()
            if every is not None:
                draw.fill(every[listed[starts[i]] : listed[starts[i + 1]]])
        return propensity, every

    def _most(self, batch: Batch, feeds: Feeds) -> F64:
        """The explorer gives the best at most all, and less where it is known by how much."""
        spread, reach, most = np.zeros(batch.n), np.zeros(batch.n), np.ones(batch.n)
        for i in range(batch.n):
            drawing = self._drawing(feeds, i)
            spread[i], reach[i], most[i] = drawing.asked.spread, drawing.shortlist or np.inf, drawing.most
        event, floor = event_of_slot(feeds.starts), self._floors(feeds)
        reached = np.minimum(reach[event], batch.n_candidates)
        q = 1.0 - np.minimum(spread[event] * (1.0 - 1.0 / reached), most[event])
        return np.asarray((1.0 - floor) * q + floor / batch.n_candidates)


def _starts(batch: Batch) -> I64:
    """Shape (S + 1,): where each slot's candidates begin."""
    return np.concatenate([[0], np.cumsum(batch.n_candidates)])
