"""Plays the requests of a world under one policy, and keeps what only the simulator knows of each."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from replay.simulate.kernels import F64, I64, Choices
from replay.simulate.policies import BestConstant, Heard, NothingTwice, Oracle, Policy, Popularity, Uniform
from replay.simulate.truth import Truth
from replay.simulate.world import Feed, History, Lived, World

#: Nothing is heard of a feed sooner than this, even if its viewer left at once.
HEARD_AFTER_S: Final = 1.0

Make = Callable[["Table"], Policy]


class Table:
    """Where a policy plays: the world, the truth, and what viewers were shown by this policy.

    :ivar choices: the candidates of the present request as its viewer sees them
    """

    def __init__(self, world: World, truth: Truth) -> None:
        self.world, self.truth = world, truth
        self.history = History(world.scenario)
        self.choices: Choices | None = None

    def unseen(self, feed: Feed) -> npt.NDArray[np.bool_]:
        """Which candidates the viewer has not seen, shape (n,)."""
        never: npt.NDArray[np.bool_] = np.isneginf(self.history.seen_at(feed.viewer)[feed.candidates])
        return never


class Visited(NamedTuple):
    """One request as it was played; enough to ask what another ranking would have been worth there.

    :ivar choices: the candidates as the viewer saw them then: `Truth.value_of` answers for any slate of them
    :ivar slate: shape (n_slots,), places among the candidates
    """

    feed: Feed
    choices: Choices
    slate: I64
    lived: Lived


class Played(NamedTuple):
    """What one policy earned, request by request; n feeds.

    :ivar reward: shape (n,), sum over the slots seen, as it turned out; with the luck that all policies share
    :ivar value: shape (n,), the same on average over luck: the truth
    :ivar best: shape (n,), value of the best feed that could have been shown there
    :ivar n_seen: shape (n,), slots seen; and n_valid of them played validly
    :ivar viewer: shape (n,); ``nth``: how many feeds the viewer had before
    :ivar creators: shape (n,), different creators in the feed; the same for tags
    :ivar likeness: shape (n,), share of pairs in the feed that have a tag or the creator in common
    :ivar again: shape (n,), slots shown that this viewer had seen before
    :ivar shown: shape (n_items,), how often each item was shown
    :ivar age_shown: shape (len(AGES) + 1,), slots with items of each age; the last: those that were there before
    :ivar age_offered: the same for candidates; ``age_reward``: the sum of what slots of that age earned
    """

    name: str
    reward: F64
    value: F64
    best: F64
    n_seen: I64
    n_valid: I64
    viewer: I64
    nth: I64
    creators: I64
    tags: I64
    likeness: F64
    again: I64
    shown: I64
    age_shown: I64
    age_offered: I64
    age_reward: F64

    @property
    def regret(self) -> F64:
        """What was missed at each request; shape (n,)."""
        return self.best - self.value


#: Ages of items that came during the run, as shares of the run: each is younger than this.
AGES: Final = (0.01, 0.03, 0.1, 1.01)


def play(
    table: Table,
    policy: Policy,
    *,
    window_s: float,
    progress: Callable[[int, int], None] = lambda done, of: None,
    watch: Callable[[Visited], None] | None = None,
) -> Played:
    """Play all requests of a world.

    :param window_s: what is heard later than so many seconds after its request is late
    :param watch: is told of every request; asking the truth of others there is up to it
    """
    world, truth, history = table.world, table.truth, table.history
    scenario = world.scenario
    n = scenario.feeds
    made = world.catalogue
    tag_bits = [int(bits) for bits in made.tags]
    post = _Post(scenario.silent, scenario.late, scenario.duplicate, scenario.shuffled, window_s)
    out = _nothing(policy.name, n, scenario.items)
    came = world.came
    for number in range(n):
        feed = world.feed(number)
        post.deliver(policy, until=feed.at, viewer=feed.viewer)
        choices = table.choices = world.choices(feed, history)
        slate = policy.rank(feed, scenario.slots)
        lived = world.live(choices, feed, slate)
        items = feed.candidates[slate]
        seen = items[: lived.n_seen]
        lengths = made.length_s[seen].tolist()
        rewards = np.array([truth.reward(said, length) for said, length in zip(lived.said, lengths, strict=True)])
        out.reward[number] = rewards.sum()
        out.value[number] = truth.value(choices, slate)
        out.best[number] = truth.value(choices, truth.best(choices, scenario.slots))
        out.n_seen[number], out.n_valid[number] = lived.n_seen, lived.valid.sum()
        out.viewer[number], out.nth[number] = feed.viewer, feed.nth
        bits = [tag_bits[item] for item in items.tolist()]
        creators = made.creator[items].tolist()
        out.creators[number] = len(set(creators))
        out.tags[number] = reduce(or_, bits, 0).bit_count()
        out.likeness[number] = _likeness(bits, creators)
        out.again[number] = np.isfinite(history.seen_at(feed.viewer)[items]).sum()
        ages = np.searchsorted(AGES, np.where(came > 0, number / n - came, np.inf)[feed.candidates], side="right")
        out.age_offered[:] += np.bincount(ages, minlength=len(AGES) + 1)
        out.age_shown[:] += np.bincount(ages[slate], minlength=len(AGES) + 1)
        np.add.at(out.age_reward, ages[slate[: lived.n_seen]], rewards)
        out.shown[items] += 1
        if watch is not None:
            watch(Visited(feed, choices, slate, lived))
        post.send(Heard(feed, seen, lived.said, rewards), took_s=float(lived.watch_s.sum()))
        history.add(feed, seen)
        progress(number + 1, n)
    return out


def _nothing(name: str, n: int, n_items: int) -> Played:
    counted = ("n_seen", "n_valid", "viewer", "nth", "creators", "tags", "again")
    counts: dict[str, Any] = {each: np.zeros(n, np.int64) for each in counted}
    sums: dict[str, Any] = {each: np.zeros(n) for each in ("reward", "value", "best", "likeness")}
    ages = len(AGES) + 1
    by_age: dict[str, Any] = {"age_shown": np.zeros(ages, np.int64), "age_offered": np.zeros(ages, np.int64)}
    return Played(
        name=name, shown=np.zeros(n_items, np.int64), age_reward=np.zeros(ages), **by_age, **counts, **sums
    )  # fmt: skip


def _likeness(bits: list[int], creators: list[int]) -> float:
    pairs = [(one, other) for other in range(len(bits)) for one in range(other)]
    alike = sum(bool(bits[one] & bits[other]) or creators[one] == creators[other] for one, other in pairs)
    return alike / len(pairs) if pairs else 0.0


class _Post:
    """Carries what clients say to the policy: when the viewer is done, too late, twice, in any order, or never."""

    def __init__(self, silent: float, late: float, duplicate: float, shuffled: bool, window_s: float) -> None:
        self._shares = (silent, late, duplicate)
        self._shuffled = shuffled
        self._window_s = window_s
        self._due: list[tuple[float, int]] = []
        self._waiting: dict[int, Heard] = {}
        self._of: dict[int, list[int]] = {}
        self._n = 0

    def send(self, heard: Heard, *, took_s: float) -> None:
        """What became of a feed, which took so many seconds to watch; it comes when it comes."""
        silent, late, duplicate = self._shares
        fate = heard.feed.fate
        if fate[0] < silent:
            return
        at = heard.feed.at + max(took_s, HEARD_AFTER_S)
        if fate[1] < late:
            heard, at = heard._replace(late=True), heard.feed.at + self._window_s * (1.5 + fate[3]) + 1.0
        parts = _shuffled(heard) if self._shuffled else [heard]
        again = [part._replace(again=True) for part in parts] if fate[2] < duplicate else []
        for part in [*parts, *again]:
            self._n += 1
            self._waiting[self._n] = part
            heapq.heappush(self._due, (at, self._n))
            if not part.late:
                self._of.setdefault(heard.feed.viewer, []).append(self._n)

    def deliver(self, policy: Policy, *, until: float, viewer: int) -> None:
        """What came by this time, and what this viewer has finished: who asks for more is done with the last."""
        while self._due and self._due[0][0] <= until:
            at, order = heapq.heappop(self._due)
            heard = self._waiting.pop(order, None)
            if heard is not None:
                policy.hear(heard, now=at)
        for order in self._of.pop(viewer, []):
            heard = self._waiting.pop(order, None)
            if heard is not None:
                policy.hear(heard, now=until)


def _shuffled(heard: Heard) -> list[Heard]:
    order = np.argsort(heard.feed.luck[: len(heard.said), 0])
    return [
        heard._replace(
            items=heard.items[place : place + 1], said=[heard.said[place]], rewards=heard.rewards[place : place + 1],
            part=number + 1,
        )
        for number, place in enumerate(order.tolist())
    ]  # fmt: skip


def policies_of(table: Table) -> dict[str, Callable[[], Policy]]:
    """The policies that need nothing but the world, by name."""
    world, truth = table.world, table.truth
    seed = world.scenario.seed
    from replay.simulate.ccb import VwCcb

    def present(_: Feed) -> Choices:
        assert table.choices is not None
        return table.choices

    unseen = table.unseen
    return {
        "uniform": lambda: Uniform(seed),
        "popularity": lambda: Popularity(world.scenario.items, seed, unseen),
        "constant": lambda: BestConstant(world, truth, unseen),
        "oracle": lambda: Oracle(truth, present),
        "ccb": lambda: NothingTwice(VwCcb(world), unseen),
    }
