"""Rankings to compare a service with, on the very same requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from replay.simulate.kernels import F64, I64, Choices
from replay.simulate.truth import Truth
from replay.simulate.world import Feed, World

#: An item that was never shown counts as if so many showings had gone as they go on average.
PRIOR_SHOWINGS: Final = 20.0
#: What the best constant ranking knows of the items is worked out anew after so many requests.
LOOKS_AGAIN: Final = 500


class Heard(NamedTuple):
    """What is heard of one feed, or of a part of it.

    :ivar items: shape (k,), items that were seen, from the top
    :ivar said: k dicts of signals
    :ivar rewards: shape (k,)
    :ivar late: after the window: it is kept, and not learned from
    :ivar part: 0 for all of it; else one item of several that come alone
    :ivar again: it was told before, word for word
    """

    feed: Feed
    items: I64
    said: list[dict[str, float]]
    rewards: F64
    late: bool = False
    part: int = 0
    again: bool = False


#: Which candidates of a feed its viewer has not seen yet, shape (n,).
Unseen = Callable[[Feed], npt.NDArray[np.bool_]]


class Policy(Protocol):
    """Ranks requests one after the other, and hears what became of them."""

    name: str

    def rank(self, feed: Feed, n_slots: int) -> I64:
        """Places among the feed's candidates, from the top; shape (n_slots,), or fewer."""
        ...

    def hear(self, heard: Heard, *, now: float) -> None:
        """What became of a feed, at this time; times never fall."""
        ...


class Uniform:
    """Any candidate alike."""

    name = "uniform"

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 101])

    def rank(self, feed: Feed, n_slots: int) -> I64:
        drawn: I64 = self._rng.permutation(len(feed.candidates))[:n_slots]
        return drawn

    def hear(self, heard: Heard, *, now: float) -> None:
        """Learns nothing."""


class Popularity:
    """The highest mean reward so far, whoever is watching; drawn to the mean of all where little was shown.

    What the viewer has seen comes last.
    """

    name = "popularity"

    def __init__(self, n_items: int, seed: int, unseen: Unseen) -> None:
        self._rng = np.random.default_rng([seed, 102])
        self._unseen = unseen
        self._shown = np.zeros(n_items)
        self._earned = np.zeros(n_items)
        self._all_shown = self._all_earned = 0.0

    def rank(self, feed: Feed, n_slots: int) -> I64:
        items = feed.candidates
        mean = self._all_earned / max(self._all_shown, 1.0)
        score = (self._earned[items] + PRIOR_SHOWINGS * mean) / (self._shown[items] + PRIOR_SHOWINGS)
        best: I64 = np.lexsort((self._rng.random(len(items)), -score, ~self._unseen(feed)))[:n_slots]
        return best

    def hear(self, heard: Heard, *, now: float) -> None:
        if not heard.late and not heard.again:
            np.add.at(self._shown, heard.items, 1.0)
            np.add.at(self._earned, heard.items, heard.rewards)
            self._all_shown += len(heard.items)
            self._all_earned += float(heard.rewards.sum())


class BestConstant:
    """Knows what every item earns from all viewers on average, and nothing of who is watching but what they saw."""

    name = "best constant"

    def __init__(self, world: World, truth: Truth, unseen: Unseen) -> None:
        self._world, self._truth, self._unseen = world, truth, unseen
        self._means: tuple[int, F64] = (-1, np.empty(0))

    def rank(self, feed: Feed, n_slots: int) -> I64:
        look = (feed.number // LOOKS_AGAIN, self._world.is_late(feed.number))
        if self._means[0] != hash(look):
            self._means = (hash(look), mean_rewards(self._world, self._truth, feed.number, feed.at))
        best: I64 = np.lexsort((-self._means[1][feed.candidates], ~self._unseen(feed)))[:n_slots]
        return best

    def hear(self, heard: Heard, *, now: float) -> None:
        """Learns nothing: it knows."""


class Oracle:
    """Knows everything but the luck: the best feed for this viewer now, slot by slot."""

    name = "oracle"

    def __init__(self, truth: Truth, choices: Callable[[Feed], Choices]) -> None:
        self._truth, self._choices = truth, choices

    def rank(self, feed: Feed, n_slots: int) -> I64:
        return self._truth.best(self._choices(feed), n_slots)

    def hear(self, heard: Heard, *, now: float) -> None:
        """Learns nothing: it knows."""


class NothingTwice:
    """A policy that is offered only what the viewer has not seen, as long as that fills the slots.

    For peers that have no such rule of their own: their callers would do the same.
    """

    def __init__(self, policy: Policy, unseen: Unseen) -> None:
        self.name = policy.name
        self._policy, self._unseen = policy, unseen
        self._open: dict[int, Feed] = {}

    def rank(self, feed: Feed, n_slots: int) -> I64:
        left = np.flatnonzero(self._unseen(feed))
        if len(left) < n_slots:
            left = np.arange(len(feed.candidates))
        self._open[feed.number] = feed._replace(candidates=feed.candidates[left])
        places: I64 = left[self._policy.rank(self._open[feed.number], n_slots)]
        return places

    def hear(self, heard: Heard, *, now: float) -> None:
        self._policy.hear(heard._replace(feed=self._open[heard.feed.number]), now=now)


def mean_rewards(world: World, truth: Truth, number: int, at: float) -> F64:
    """Expected reward of every item, standing first, over the viewers; shape (n_items,)."""
    items = np.arange(world.scenario.items)
    logits = world.everybody(items, number, at)
    nothing = np.zeros(len(items), np.int64)
    rows = world.length_rows(items)
    tags = world.catalogue.tags
    total = np.zeros(len(items))
    for each in logits:
        total += truth.first(Choices(each, nothing, nothing, tags, rows))
    mean: F64 = total / len(logits)
    return mean
