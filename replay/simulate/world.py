"""Simulated viewers: when they come, what they are offered, what they like, and what they do. Pure, seeded.

When requests come and what is offered depends on the seed alone, never on what is shown: every policy plays the very
same requests with the same luck. What a viewer likes depends on what they were shown before, policy by policy; that
is in a `History`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from replay.errors import BadQuestion
from replay.simulate import facts, viewing
from replay.simulate.catalogue import LANGUAGE_SHARES, TAGS, Catalogue, make_catalogue
from replay.simulate.kernels import F64, I64, Choices, Effects, slate_logits

#: Midnight; the world begins here.
BEGINS: Final = 1_799_971_200.0
DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0
SESSION_BREAK_S: Final = 1_800.0
#: Random numbers are made for so many requests at once.
CHUNK: Final = 256

# Taste, in logits of a valid play. Spreads are choices, such that what is known of single videos under random
# exposure comes out (see `facts.VALID_PLAYS_OF_A_VIDEO`).
QUALITY: Final = 0.58
N_INTERESTS: Final = 3
INTEREST: Final = 1.6
N_DISLIKES: Final = 4
DISLIKE: Final = -1.3
TAG: Final = 0.3
CREATOR: Final = 0.5
N_HIDDEN: Final = 3
HIDDEN: Final = 0.35
LENGTH: Final = 0.3
EVENING_LENGTH: Final = 0.15
OTHER_LANGUAGE: Final = -1.2
SECOND_LANGUAGE: Final = 0.3
SEEN_BEFORE: Final = -1.5
SEEN_HALF_LIFE_S: Final = 7 * DAY_S
#: After an abrupt drift, quality is this share of what it was; the rest is new.
QUALITY_KEPT: Final = 0.6
#: Spread (of the logarithm) of how often viewers come, and of how long they stay.
COMES: Final = 0.375
STAYS: Final = 0.73
#: Breaks of more than two hours: the shortest, and the mean beyond it.
LONG_BREAK_S: Final = (7_200.0, 21_000.0)
#: A session is at its middle so long after it began.
BEFORE_S: Final = 2_400.0
#: Nobody is more tired than after so many videos of a session; at a usual moment they saw the other number.
TIRED_MOST: Final = 150
TIRED_USUALLY: Final = 75.0

Leaving = Literal["independent", "reward"]


@dataclass(frozen=True)
class Scenario:
    """What is simulated; everything follows from it.

    :ivar drift: share of the run after which every taste is another one; None: never
    :ivar wander: how far tastes turn in a day, in radians
    :ivar leave: whether leaving a feed depends on how the slot was liked
    :ivar new_viewers: share of viewers who come for the first time during the run; the same for new_items
    :ivar told: share of viewers whose interests are known from the start
    :ivar silent: share of feeds that nothing is heard of; late: too late; duplicate: twice
    :ivar shuffled: whether what is heard of a feed comes item by item, in any order
    """

    feeds: int = 5_000
    viewers: int = 200
    items: int = 2_000
    candidates: int = 200
    slots: int = 10
    seed: int = 1
    drift: float | None = None
    wander: float = 0.05
    leave: Leaving = "independent"
    new_viewers: float = 0.4
    new_items: float = 0.3
    told: float = 0.0
    silent: float = 0.0
    late: float = 0.0
    duplicate: float = 0.0
    shuffled: bool = False

    def check(self) -> None:
        """:raises BadQuestion: it cannot be played; the message lists every fault"""
        faults = [
            f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be from {low} to {high:,}"
            for name, low, high in (
                ("feeds", 1, 10_000_000), ("viewers", 1, 100_000), ("items", 2, 100_000), ("candidates", 1, 10_000),
                ("slots", 1, 100), ("seed", 0, 2**32), ("wander", 0, 10), ("new_viewers", 0, 0.95),
                ("new_items", 0, 0.95), ("told", 0, 1), ("silent", 0, 1), ("late", 0, 1), ("duplicate", 0, 1),
            )
            if not low <= getattr(self, name) <= high
        ]  # fmt: skip
        if self.drift is not None and not 0 < self.drift <= 0.9:
            faults.append(f"--drift is {self.drift}; it is a share of the run, above 0 and at most 0.9")
        if not faults and self.slots > self.candidates:
            faults.append(f"{self.slots} slots cannot be filled from {self.candidates} candidates")
        old = round(self.items * (1 - self.new_items)) if not faults else 0
        if not faults and self.candidates > old:
            faults.append(f"{self.candidates} candidates cannot be drawn from {old} videos; raise --items")
        if faults:
            raise BadQuestion("; ".join(faults))

    @property
    def effects(self) -> Effects:
        """What a feed does to viewers."""
        return Effects() if self.leave == "independent" else Effects(leave_valid=0.02, leave_other=0.07)


class Feed(NamedTuple):
    """One request: who asks when, and what there is to show.

    :ivar nth: how many feeds this viewer had before
    :ivar begins: it is the first one of a session
    :ivar candidates: shape (n,), items
    :ivar luck: shape (slots, viewing.N_RANDOM), numbers in [0, 1) that settle what the viewer does
    :ivar fate: shape (4,), numbers in [0, 1) that settle what is heard of it
    """

    number: int
    viewer: int
    at: float
    nth: int
    begins: bool
    candidates: I64
    luck: F64
    fate: F64


class Lived(NamedTuple):
    """What a viewer did with a feed; k slots were seen.

    :ivar valid: shape (k,); watch_s: shape (k,), seconds
    :ivar said: k dicts, everything that a client that tells all would send
    """

    valid: npt.NDArray[np.bool_]
    watch_s: F64
    said: list[dict[str, float]]

    @property
    def n_seen(self) -> int:
        """Slots that were seen."""
        return len(self.said)


class History:
    """What viewers were shown so far, by one policy."""

    def __init__(self, scenario: Scenario) -> None:
        self._n_items = scenario.items
        self._seen_at: dict[int, F64] = {}
        self.in_session = np.zeros(scenario.viewers, np.int64)

    def seen_at(self, viewer: int) -> F64:
        """When this viewer last saw each item, shape (n_items,); minus infinity for never."""
        if viewer not in self._seen_at:
            self._seen_at[viewer] = np.full(self._n_items, -np.inf)
        return self._seen_at[viewer]

    def add(self, feed: Feed, items: I64) -> None:
        """They saw these items, in this session."""
        self.seen_at(feed.viewer)[items] = feed.at
        self.in_session[feed.viewer] += len(items)


class _Taste(NamedTuple):
    """What one viewer thinks of each item, in logits.

    :ivar fixed: shape (n_items,), what stays
    :ivar parts: each shape (n_items,): taste at the beginning and what it turns into; the same after an abrupt drift
    """

    fixed: F64
    parts: list[F64]


class World:
    """Viewers, videos and requests of a scenario.

    :raises BadQuestion: the scenario cannot be played
    """

    def __init__(self, scenario: Scenario) -> None:
        scenario.check()
        self.scenario = scenario
        self.effects = scenario.effects
        self.catalogue: Catalogue = make_catalogue(scenario.items, self._rng(1))
        self.lengths_s, self._length = np.unique(self.catalogue.length_s, return_inverse=True)
        self._make_items(self._rng(2))
        self._make_viewers(self._rng(3))
        self._tastes: dict[int, _Taste] = {}
        self._chunk: tuple[int, list[Feed]] = (-1, [])

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.scenario.seed, *purpose])

    # ------------------------------------------------------------ making

    def _make_items(self, rng: np.random.Generator) -> None:
        n = self.scenario.items
        bits = (self.catalogue.tags[:, None] >> np.arange(len(TAGS), dtype=np.uint64)) & np.uint64(1)
        self._item_tags = bits / np.maximum(bits.sum(axis=1, keepdims=True), 1)
        self._quality = QUALITY * rng.standard_normal(n)
        fresh = QUALITY * rng.standard_normal(n)
        self._late_quality = QUALITY_KEPT * self._quality + np.sqrt(1 - QUALITY_KEPT**2) * fresh
        self._hidden = rng.standard_normal((n, N_HIDDEN))
        log_length = np.log(self.catalogue.length_s)
        self._longer = (log_length - log_length.mean()) / log_length.std()
        new = np.sort(np.ceil(100 * rng.random(n - round(n * (1 - self.scenario.new_items)))) / 100)
        # When each item came, as a share of the run, in hundredths; those that were there before have 0.
        self._came = np.concatenate([np.zeros(n - len(new)), new])

    def _make_viewers(self, rng: np.random.Generator) -> None:
        n = self.scenario.viewers
        self.language = rng.choice(len(LANGUAGE_SHARES), n, p=LANGUAGE_SHARES)
        second = rng.choice(len(LANGUAGE_SHARES), n, p=LANGUAGE_SHARES)
        self._second = np.where(rng.random(n) < SECOND_LANGUAGE, second, self.language)
        self._likes_longer = LENGTH * rng.standard_normal(n)
        self._comes = np.exp(COMES * rng.standard_normal(n) - COMES**2 / 2)
        self._stays = np.exp(STAYS * rng.standard_normal(n) - STAYS**2 / 2)
        # The first ones were there before: only the others are met new, during the run.
        new = rng.random(round(n * self.scenario.new_viewers))
        self._viewer_came = np.concatenate([np.zeros(n - len(new)), np.sort(new)])
        self.is_told = rng.random(n) < self.scenario.told

    def interests(self, viewer: int, *, late: bool = False) -> list[str]:
        """The tags that this viewer likes most at the beginning, or (``late``) from an abrupt drift on."""
        return [TAGS[tag] for tag in self._tag_taste(viewer, 2 * late)[1]]

    def _tag_taste(self, viewer: int, part: int) -> tuple[F64, I64]:
        rng = self._rng(4, viewer, part)
        # Everybody can like anything; frequent tags are liked by more.
        frequent = np.sqrt(self._item_tags.mean(axis=0) + 1e-6)
        marked = rng.choice(len(TAGS), N_INTERESTS + N_DISLIKES, replace=False, p=frequent / frequent.sum())
        taste = TAG * rng.standard_normal(len(TAGS))
        taste[marked[:N_INTERESTS]] += INTEREST
        taste[marked[N_INTERESTS:]] += DISLIKE
        return taste, marked[:N_INTERESTS]

    def _part(self, viewer: int, part: int) -> F64:
        rng = self._rng(5, viewer, part)
        creators = CREATOR * rng.standard_normal(len(self.catalogue.creator_names))
        hidden = HIDDEN * self._hidden @ rng.standard_normal(N_HIDDEN)
        made: F64 = self._item_tags @ self._tag_taste(viewer, part)[0] + creators[self.catalogue.creator] + hidden
        return made

    def _taste(self, viewer: int) -> _Taste:
        if viewer not in self._tastes:
            language = self.catalogue.language
            understood = (language == self.language[viewer]) | (language == self._second[viewer])
            fixed = np.where(understood, 0.0, OTHER_LANGUAGE) + self._likes_longer[viewer] * self._longer
            n_parts = 2 if self.scenario.drift is None else 4
            self._tastes[viewer] = _Taste(fixed, [self._part(viewer, part) for part in range(n_parts)])
        return self._tastes[viewer]

    @cached_property
    def base(self) -> float:
        """Logit that makes the public share of videos shown at random be played validly."""
        viewers = range(min(self.scenario.viewers, 300))
        items = np.arange(0, self.scenario.items, max(1, self.scenario.items // 500))
        likings = np.concatenate([self._liking(viewer, items, 0, BEGINS + DAY_S / 2) for viewer in viewers])
        # The usual slot of a feed that is seen, and the usual place in a session.
        slot, effects = (self.feed_length - 1) / 2, self.effects
        in_common = np.mean(self.catalogue.tags[items, None] & self.catalogue.tags[None, items] > 0)
        lost = effects.position * slot + effects.fatigue * (slot + TIRED_USUALLY) + effects.tag_again * slot * in_common
        likings -= lost
        low, high = -20.0, 20.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            played = viewing.sigmoid(likings + middle).mean()
            low, high = (middle, high) if played < facts.VALID_PLAYS else (low, middle)
        return low

    @property
    def feed_length(self) -> float:
        """Slots of a feed that a viewer sees, on average, when shown videos at random."""
        leave = facts.VALID_PLAYS * self.effects.leave_valid + (1 - facts.VALID_PLAYS) * self.effects.leave_other
        return (1.0 - (1.0 - leave) ** self.scenario.slots) / leave

    # ------------------------------------------------------------ requests

    @cached_property
    def _requests(self) -> tuple[I64, F64, I64, npt.NDArray[np.bool_]]:
        """viewer, at, nth, begins of every request, each shape (feeds,)."""
        n = self.scenario.feeds
        rng = self._rng(6)
        viewer, at = np.empty(n, np.int64), np.empty(n)
        nth, begins = np.empty(n, np.int64), np.empty(n, np.bool_)
        left = np.zeros(self.scenario.viewers, np.int64)
        fresh = np.ones(self.scenario.viewers, np.bool_)
        count = np.zeros(self.scenario.viewers, np.int64)
        coming = 0
        heap: list[tuple[float, int]] = []
        now = BEGINS
        for number in range(n):
            while coming < len(left) and (self._viewer_came[coming] * n <= number or not heap):
                # Those who were there before come through the first day, most of them at a busy hour.
                old = self._viewer_came[coming] == 0
                heapq.heappush(heap, (_clock_time(DAY_S * rng.random()) if old else now + 60.0 * rng.random(), coming))
                coming += 1
            now, who = heapq.heappop(heap)
            if left[who] == 0:
                left[who] = rng.geometric(min(1.0, self.feed_length / (facts.SHOWN_A_SESSION * self._stays[who])))
                fresh[who] = True
            viewer[number], at[number], nth[number], begins[number] = who, now, count[who], fresh[who]
            fresh[who] = False
            count[who] += 1
            left[who] -= 1
            pause = _pause(rng) if left[who] else self._break(now, who, rng)
            heapq.heappush(heap, (now + pause, who))
        return viewer, at, nth, begins

    def _break(self, now: float, viewer: int, rng: np.random.Generator) -> float:
        """Seconds until the next session; a long break rather ends at a busy hour."""
        # Who is up at a busy hour is more likely to be back soon.
        if rng.random() < facts.BREAKS_UNDER_2_H * facts.HOURS[hour_of(now)] / _USUAL_HOUR:
            return float(SESSION_BREAK_S * 4.0 ** rng.random())
        earliest = now + LONG_BREAK_S[0]
        # Time passes as fast as there is something going on: quickly in the evening, slowly at night.
        busy_until = _busy_time(earliest) + rng.exponential(LONG_BREAK_S[1]) / self._comes[viewer]
        return max(earliest, _clock_time(busy_until) - BEFORE_S) - now

    def feed(self, number: int) -> Feed:
        """One request; cheapest in order.

        :param number: from 0 to the scenario's feeds - 1
        """
        chunk, place = divmod(number, CHUNK)
        if self._chunk[0] != chunk:
            self._chunk = (chunk, self._feeds(chunk))
        return self._chunk[1][place]

    def _feeds(self, chunk: int) -> list[Feed]:
        scenario = self.scenario
        rng = self._rng(7, chunk)
        numbers = range(chunk * CHUNK, min((chunk + 1) * CHUNK, scenario.feeds))
        luck = rng.random((len(numbers), scenario.slots, viewing.N_RANDOM))
        fate = rng.random((len(numbers), 4))
        viewer, at, nth, begins = self._requests
        feeds = []
        for place, number in enumerate(numbers):
            offered = rng.choice(self.n_items_at(number), scenario.candidates, replace=False).astype(np.int64)
            feeds.append(
                Feed(
                    number, int(viewer[number]), float(at[number]), int(nth[number]), bool(begins[number]), offered,
                    luck[place], fate[place],
                )
            )  # fmt: skip
        return feeds

    def n_items_at(self, number: int) -> int:
        """How many items there are at a request: the first ones of the catalogue."""
        return int(np.searchsorted(self._came, number / self.scenario.feeds, side="right"))

    @property
    def came(self) -> F64:
        """The share of the run after which each item came, shape (n_items,); 0 if it was there before."""
        return self._came

    # ------------------------------------------------------------ viewers

    def is_late(self, number: int) -> bool:
        """Whether an abrupt drift lies behind this request."""
        return self.scenario.drift is not None and number >= self.scenario.drift * self.scenario.feeds

    def _liking(self, viewer: int, items: I64, number: int, at: float) -> F64:
        """Logits of valid plays but for a constant, as if never seen, alone, in the first minute of a session."""
        taste, late = self._taste(viewer), self.is_late(number)
        turned = self.scenario.wander * (at - BEGINS) / DAY_S
        one, other = taste.parts[2 * late : 2 * late + 2]
        evening = EVENING_LENGTH if hour_of(at) >= 18 else 0.0
        liking: F64 = (
            taste.fixed[items]
            + (self._late_quality if late else self._quality)[items]
            + np.cos(turned) * one[items]
            + np.sin(turned) * other[items]
            + evening * self._longer[items]
        )
        return liking

    def choices(self, feed: Feed, history: History) -> Choices:
        """The candidates of a request as this viewer sees them now.

        :param history: what the viewer saw before; a new session begins in it if this request begins one
        """
        if feed.begins:
            history.in_session[feed.viewer] = 0
        items = feed.candidates
        logits = self.base + self._liking(feed.viewer, items, feed.number, feed.at)
        logits -= self.effects.fatigue * min(history.in_session[feed.viewer], TIRED_MOST)
        ago = feed.at - history.seen_at(feed.viewer)[items]
        logits += SEEN_BEFORE * np.exp2(-ago / SEEN_HALF_LIFE_S)
        made = self.catalogue
        return Choices(logits, made.creator[items], made.sound[items], made.tags[items], self._length[items])

    def everybody(self, items: I64, number: int, at: float) -> F64:
        """Logits of a first play by every viewer (or the first 300); shape (n_viewers, n_items)."""
        viewers = range(min(self.scenario.viewers, 300))
        return self.base + np.array([self._liking(viewer, items, number, at) for viewer in viewers])

    @property
    def is_new(self) -> npt.NDArray[np.bool_]:
        """Whether each viewer is met during the run, shape (viewers,); the others were there before."""
        new: npt.NDArray[np.bool_] = self._viewer_came > 0
        return new

    def length_rows(self, items: I64) -> I64:
        """The rows of the table of rewards that items of their lengths have."""
        rows: I64 = self._length[items]
        return rows

    def live(self, choices: Choices, feed: Feed, slate: I64) -> Lived:
        """What the viewer does with a feed.

        :param slate: shape (n_slots,), places among the candidates
        """
        luck = feed.luck[: len(slate)]
        logits = slate_logits(choices, self.effects, slate)
        valid = luck[:, 0] < viewing.sigmoid(logits)
        watch_s = viewing.watch_s(luck[:, 1], self.lengths_s[choices.length[slate]], valid)
        leaves = luck[:, 2] < np.where(valid, self.effects.leave_valid, self.effects.leave_other)
        n_seen = int(leaves.argmax()) + 1 if leaves.any() else len(slate)
        yes = luck[:n_seen, 3:] < viewing.sigmoid(_SAYS[:, 0] + _SAYS[:, 1] * logits[:n_seen, None])
        said = []
        for played, seconds, row in zip(valid.tolist(), watch_s.tolist(), yes.tolist(), strict=False):
            signals = viewing.watched(seconds, played)
            for place in _SAID[played]:
                if row[place]:
                    signals[_NAMES[place]] = 1.0
            said.append(signals)
        return Lived(valid[:n_seen], watch_s[:n_seen], said)


_NAMES: Final = tuple(viewing.SAYS)
_SAYS: Final = np.array(list(viewing.SAYS.values()))
_SAID: Final = {valid: [_NAMES.index(name) for name in names] for valid, names in viewing.SAID_OF.items()}


def hour_of(at: float) -> int:
    """Hour of the day, 0 to 23."""
    return int((at - BEGINS) // HOUR_S) % 24


#: How busy the hour of a video shown is, on average.
_USUAL_HOUR: Final = sum(share**2 for share in facts.HOURS)
_BUSY_S: Final = DAY_S * np.concatenate([[0.0], np.cumsum(facts.HOURS)]) / sum(facts.HOURS)


def _busy_time(at: float) -> float:
    """Seconds since the beginning if every hour were as long as it is busy."""
    day, within = divmod(at - BEGINS, DAY_S)
    return float(day * DAY_S + np.interp(within, HOUR_S * np.arange(25), _BUSY_S))


def _clock_time(busy_s: float) -> float:
    """The inverse of `_busy_time`."""
    day, within = divmod(busy_s, DAY_S)
    return float(BEGINS + day * DAY_S + np.interp(within, _BUSY_S, HOUR_S * np.arange(25)))


def _pause(rng: np.random.Generator) -> float:
    """Seconds between two requests of a session."""
    part = int(np.searchsorted(np.cumsum(facts.PAUSES)[:-1], rng.random(), side="right"))
    low, high = facts.PAUSE_EDGES_S[part : part + 2]
    return float(low * (high / low) ** rng.random())
