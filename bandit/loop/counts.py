"""What the trainer counts as it folds: by minute, hour and day of the log, without any viewer's name.

The fold tells of every decision, window that ended, feedback and lesson. Little is done then: what was told is put by,
and worked out for many at once by `LoopCounts.settle`, at the latest when the log's minute ends. So the counts follow
from the log alone, up to rounding, and can be made again from it.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from bandit.config import LiveConfig
from bandit.learning.fold import Ended, Lesson
from bandit.loop.check import Check
from bandit.loop.comparison import GROUPS, SEQUENCE_S, Comparing, Scale, Target
from bandit.loop.comparison import Sequence as Compared
from bandit.records import Decision, encode

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400
SPANS: Final = (MINUTE, HOUR, DAY)
#: How long stretches of each length are kept, in seconds of the log.
KEPT_S: Final = {MINUTE: 3 * HOUR, HOUR: 15 * DAY, DAY: inf}
#: Slots that are counted one by one; those below them are not.
SLOTS: Final = 20
#: Of so many decisions one is asked which of its candidates nobody has ever seen.
ASKED: Final = 8

#: Columns of a stretch's `groups`, one row for each group of viewers.
FEEDS, N_SLOTS, REWARD, COMPARED, COMPARED_REWARD = range(5)
#: By target, the columns of sums of w * r and of w over compared slots.
WEIGHED: Final = {"chance": (5, 6), "caller": (7, 8), "best": (9, 10)}
GROUP_COLUMNS: Final = 11
#: Columns of a stretch's `slots`, one row for each slot from the top.
DRAWN, SEEN, SLOT_REWARD, PROPENSITY, EXPLORED, CHANCES = range(6)
SLOT_COLUMNS: Final = 6
#: Columns of an arm, by group.
ARM_COLUMNS: Final = 3


class Stretch(Struct):
    """What was counted in a minute, an hour or a day of the log.

    :ivar counts: sums, by what was counted
    :ivar gauges: the newest value of what is no sum
    :ivar groups: shape (GROUPS, GROUP_COLUMNS)
    :ivar slots: shape (SLOTS, SLOT_COLUMNS)
    """

    counts: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    groups: F64 = field(default_factory=lambda: np.zeros((GROUPS, GROUP_COLUMNS)))
    slots: F64 = field(default_factory=lambda: np.zeros((SLOTS, SLOT_COLUMNS)))

    def add(self, other: Stretch) -> None:
        """Count what the other counted as well; the other is the later one."""
        for what, n in other.counts.items():
            self.counts[what] = self.counts.get(what, 0) + n
        self.gauges.update(other.gauges)
        self.groups += other.groups
        self.slots += other.slots


class LoopState(Struct):
    """What is kept beside the stretches.

    :ivar position: every record up to it was counted
    :ivar reads_from: the earliest record that who goes on from there must read, to know what was open
    :ivar since: log time of the first record that was counted
    :ivar at: log time of the last
    :ivar check: of the newest day, ``checked`` of the one before
    :ivar scale: what the next comparison is scaled by, while that is being found
    :ivar compared: the comparison that goes on; ``before`` the one before it, ended
    """

    position: int = 0
    reads_from: int = 1
    since: float | None = None
    at: float = 0.0
    check: Check = field(default_factory=Check)
    checked: Check | None = None
    scale: Scale | None = None
    compared: Compared | None = None
    before: Compared | None = None


class _Drawn(NamedTuple):
    """A decision's slots, small: many windows may be open.

    :ivar p, n: propensities and chances, as bytes of float64 and uint32
    :ivar marks: of each slot 1: explored, 2: the caller's first, 4: compared
    """

    p: bytes
    n: bytes
    marks: bytes
    floors: tuple[float, ...]
    group: int
    experiment: str | None
    arm: str | None


_EXPLORED, _FIRST, _COMPARED = 1, 2, 4
_MOST_FLOORS: Final = 1_000
# No weight is larger; products of bounds stay finite.
_MOST: Final = 1e300


class LoopCounts:
    """Counts one log, record by record.

    :param state: as it was left
    :param stretch_of: what was kept of a stretch, by its length and its beginning
    :param decided: whether the log holds a decision with an event id
    :param never_seen: how many of these candidates, item versions, no viewer has seen yet
    """

    def __init__(
        self,
        state: LoopState,
        stretch_of: Callable[[int, int], Stretch | None] = lambda span, start: None,
        *,
        decided: Callable[[str], bool] = lambda event_id: False,
        never_seen: Callable[[NDArray[np.uint32]], int] = lambda versions: 0,
    ) -> None:
        self.state = state
        self._stretch_of = stretch_of
        self._decided = decided
        self._never_seen = never_seen
        self._minute = -1
        self._counting = False
        self._pos = 0
        self._open: dict[int, _Drawn] = {}
        self._floors: dict[tuple[int, str | None, int], tuple[float, ...]] = {}
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._gauges: dict[str, float] = {}
        self._drawn: list[_Drawn] = []
        self._ended: list[tuple[_Drawn, Ended]] = []
        self._config: LiveConfig | None = None
        self._comparing: Comparing | None = None if state.compared is None else Comparing(state.compared)
        self._stretches: dict[tuple[int, int], Stretch] = {}
        self._arms: dict[tuple[str, str], F64] = {}
        self._changed: set[tuple[int, int]] = set()
        self._dirty = False

    # ------------------------------------------------------------ told, record by record

    def begin(self, pos: int, ts: float) -> None:
        """A record is about to be folded; what it makes known counts, unless it was counted before."""
        self._pos = pos
        self._counting = pos > self.state.position
        if not self._counting:
            return
        if ts >= (self._minute + 1) * MINUTE:
            self.settle()
            self._minute = int(ts // MINUTE)
        if self.state.since is None:
            self.state.since = ts
        self.state.at = ts

    def end(self) -> None:
        """The record is folded."""
        if self._counting:
            self.state.position = self._pos
            self._dirty = True

    def decided(
        self, pos: int, event_id: str, decision: Decision, candidates: bytes, config: LiveConfig
    ) -> None:
        """A feed was drawn.

        :param config: that it was drawn with, of its arm
        """
        slots = decision.slots
        k = len(slots)
        marks = bytearray(k)
        for slot in decision.explored_at:
            marks[slot] |= _EXPLORED
        for slot in decision.as_caller:
            marks[slot] |= _FIRST
        if decision.fallback is None and decision.apprentice is None and decision.chances:
            marks = bytearray(mark | _COMPARED for mark in marks)
        drawn = _Drawn(
            array("d", [slot.propensity for slot in slots]).tobytes(),
            array("I", decision.chances or (0,) * k).tobytes(),
            bytes(marks),
            self._floors_of(config, decision.n_slots)[:k],
            crc32((decision.user or event_id).encode()) % GROUPS,
            decision.experiment,
            decision.arm,
        )
        self._open[pos] = drawn
        if self._config is not config:
            # What was told so far is worked out as it was meant.
            self.settle()
            self._config = config
        if not self._counting:
            return
        self._drawn.append(drawn)
        counts = self._counts
        counts["decisions"] += 1
        counts["candidates"] += len(candidates) // 4
        counts["explored"] += decision.explored
        if decision.share is not None:
            counts["exploring"] += decision.share * k
            counts["exploring_slots"] += k
        if decision.fallback is not None:
            counts["fallbacks"] += 1
        if decision.apprentice is not None:
            counts["apprentice"] += 1
        if pos % ASKED == 0:
            versions = np.frombuffer(candidates, "<u4")
            counts["asked"] += len(versions)
            counts["never_seen"] += self._never_seen(versions)

    def _floors_of(self, config: LiveConfig, n_slots: int) -> tuple[float, ...]:
        key = config.version, config.arm, n_slots
        found = self._floors.get(key)
        if found is None:
            if len(self._floors) >= _MOST_FLOORS:
                self._floors.clear()
            found = self._floors[key] = config.document.drawing(n_slots, 0, fallback=False).floors
        return found

    def ended(self, feed: Ended) -> None:
        """A feed's window is over."""
        drawn = self._open.pop(feed.pos, None)
        if not self._counting:
            return
        counts = self._counts
        if not feed.activated:
            counts["not_activated"] += 1
        elif feed.altered:
            counts["altered"] += 1
        else:
            counts["feeds"] += 1
            if feed.answered:
                counts["answered"] += 1
            if drawn is not None and drawn.p:
                self._ended.append((drawn, feed))

    def forgotten(self, pos: int) -> None:
        """A decision is gone from the log before its window ended."""
        self._open.pop(pos, None)

    def reported(self, event_id: str, *, is_open: bool) -> None:
        """Feedback came."""
        if self._counting:
            self._counts["feedback"] += 1
            if not is_open and self._decided(event_id):
                self._counts["late"] += 1

    def unmatched(self, event_id: str) -> None:
        """Feedback or an activation waited for a decision long enough."""
        if self._counting and not self._decided(event_id):
            self._counts["orphans"] += 1

    def taught(self, lessons: Sequence[Lesson]) -> None:
        """What became of slots."""
        if not self._counting:
            return
        counts = self._counts
        for lesson in lessons:
            counts[f"slots {lesson.status}"] += 1
            if lesson.status == "learned":
                counts[f"evidence {lesson.evidence}"] += 1
                counts["learned_reward"] += lesson.reward or 0.0

    def gauge(self, name: str, value: float) -> None:
        """The newest value of what is no sum."""
        self._gauges[name] = value
        self._dirty = True

    # ------------------------------------------------------------ worked out

    @property
    def dirty(self) -> bool:
        """Whether anything was counted since `clean`."""
        return self._dirty

    def settle(self) -> None:
        """Work out what was told in this minute of the log."""
        if not (self._counts or self._drawn or self._ended or self._gauges):
            return
        now = Stretch(dict(self._counts), self._gauges)
        self._counts, self._gauges = defaultdict(float), {}
        if self._drawn:
            self._check(now, self._drawn)
            self._drawn = []
        if self._ended:
            self._compare(now, self._ended)
            self._ended = []
        minute = max(self._minute, 0) * MINUTE
        for span in SPANS:
            key = (span, minute - minute % span)
            kept = self._stretches.get(key)
            if kept is None:
                # Log time does not go back: those before it are full.
                self._stretches = {
                    k: s for k, s in self._stretches.items() if k[0] != span or k in self._changed
                }
                kept = self._stretches[key] = self._stretch_of(*key) or Stretch()
            kept.add(now)
            self._changed.add(key)

    def _check(self, now: Stretch, drawn: list[_Drawn]) -> None:
        slots = _Slots(drawn)
        p, n, floor, place = slots.p, slots.n, slots.floor, slots.place
        first = place < SLOTS
        at, marks = place[first], slots.marks[first]
        for column, values in (
            (DRAWN, None),
            (PROPENSITY, p[first]),
            (EXPLORED, (marks & _EXPLORED) / _EXPLORED),
            (CHANCES, n[first]),
        ):
            now.slots[:, column] += np.bincount(at, values, SLOTS)
        counts = now.counts
        counts["slots"] = len(p)
        looked = (n > 0) & (floor > 0.0)
        p, n, floor = p[looked], n[looked], floor[looked]
        if not len(p):
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            u = 1.0 / (p * n)
        sound = np.isfinite(u) & (u > 0)
        counts["checked"] = int(sound.sum())
        counts["inverse"] = float((u * n)[sound].sum())
        counts["chances"] = float(n[sound].sum())
        counts["even"] = float(u[sound].sum())
        counts["even2"] = float((u[sound] ** 2).sum())
        day = max(self._minute, 0) * MINUTE // DAY
        if day != self.state.check.day:
            self.state.checked = self.state.check if self.state.check.slots else None
            self.state.check = Check(day=day)
        before = self.state.check.impossible
        self.state.check.add(u, 1.0 / floor)
        counts["impossible"] = self.state.check.impossible - before

    def _compare(self, now: Stretch, ended: list[tuple[_Drawn, Ended]]) -> None:
        drawn = [one for one, _ in ended]
        slots = _Slots(drawn)
        group = np.array([one.group for one in drawn])
        n_slots, starts = slots.n_slots, slots.starts
        reward = np.zeros(len(slots.p))
        seen = np.zeros(len(slots.p), bool)
        for start, (_, feed) in zip(starts.tolist(), ended, strict=False):
            for place, each in feed.rewards.items():
                reward[start + place] = each
                seen[start + place] = True
        first = slots.place < SLOTS
        now.slots[:, SEEN] += np.bincount(slots.place[first], seen[first], SLOTS)
        now.slots[:, SLOT_REWARD] += np.bincount(slots.place[first], reward[first], SLOTS)
        of_feed = np.add.reduceat(reward, starts[:-1])
        counts = now.counts
        counts["reward"] = float(of_feed.sum())
        counts["seen"] = int(seen.sum())
        counts["ended_slots"] = len(reward)
        for column, values in ((FEEDS, None), (N_SLOTS, n_slots), (REWARD, of_feed)):
            now.groups[:, column] += np.bincount(group, values, GROUPS)
        self._count_arms(drawn, group, n_slots, of_feed)
        # Feeds as a whole: what was drawn without a floor somewhere is weighed 1 there, and so compared with nobody.
        compared = np.logical_and.reduceat((slots.marks & _COMPARED) > 0, starts[:-1])
        if not compared.any():
            return
        chosen = np.repeat(compared, n_slots)
        p, n, marks, floor = slots.p[chosen], slots.n[chosen], slots.marks[chosen], slots.floor[chosen]
        reward, of_slot = reward[chosen], np.repeat(group, n_slots)[chosen]
        known = (floor > 0.0) & (p > 0.0) & (n > 0)
        inverse = np.divide(1.0, p, out=np.ones_like(p), where=known)
        uniform = np.divide(inverse, n, out=np.ones_like(p), where=known)
        most = np.divide(1.0, floor, out=np.ones_like(p), where=known)
        one = np.ones_like(p)
        weights = {
            "chance": np.where(known, uniform, one),
            "caller": np.where(known, np.where(marks & _FIRST, inverse, 0.0), one),
            "best": np.where(known, np.where(marks & _EXPLORED, 0.0, inverse), one),
        }
        now.groups[:, COMPARED] += np.bincount(of_slot, minlength=GROUPS)
        now.groups[:, COMPARED_REWARD] += np.bincount(of_slot, reward, GROUPS)
        for target, w in weights.items():
            product, weight = WEIGHED[target]
            now.groups[:, product] += np.bincount(of_slot, w * reward, GROUPS)
            now.groups[:, weight] += np.bincount(of_slot, w, GROUPS)
            counts[f"weight2_{target}"] = float((w * w).sum())
        begins = np.concatenate([[0], np.cumsum(n_slots[compared])])
        start = self._comparing_from(reward, begins)
        if self._comparing is None or start + 1 >= len(begins):
            return
        first = int(begins[start])
        targets: dict[Target, tuple[F64, F64]] = {
            "chance": (weights["chance"], np.minimum(most, _MOST)),
            "caller": (
                weights["caller"],
                np.where(known, np.minimum(n * np.minimum(most, _MOST), _MOST), one),
            ),
        }
        self._comparing.add(
            {target: (w[first:], bound[first:]) for target, (w, bound) in targets.items()},
            reward[first:],
            begins[start:] - first,
        )

    def _comparing_from(self, reward: F64, starts: I64) -> int:
        """From which of these feeds on what is served is compared; the feeds above are needed to find a scale.

        A comparison begins anew after a while, and where rewards are something else.
        """
        state, config, now = self.state, self._config, max(self._minute, 0) * MINUTE
        assert config is not None
        document = config.document
        slow = document.guard.slow.reward_range
        reward_of = encode((document.reward, document.default_reward, document.reward_range, slow)).decode()
        found = self._comparing
        if found is not None:
            if found.sequence.reward_of == reward_of and now < found.sequence.began_at + SEQUENCE_S:
                return 0
            state.before, state.compared, self._comparing = found.kept(), None, None
        limits = slow or document.reward_range
        needed, scale = 0, slow
        if slow is None:
            if state.scale is None or state.scale.limits != limits:
                state.scale = Scale(limits)
            needed = state.scale.add(reward, starts)
            scale = state.scale.range
        if scale is not None:
            state.scale = None
            state.compared = Compared(*scale, reward_of=reward_of, began_at=now)
            self._comparing = Comparing(state.compared)
        return needed

    def _count_arms(self, drawn: list[_Drawn], group: I64, n_slots: I64, reward: F64) -> None:
        of_arm: dict[tuple[str, str], list[int]] = defaultdict(list)
        for at, one in enumerate(drawn):
            if one.experiment is not None and one.arm is not None:
                of_arm[one.experiment, one.arm].append(at)
        for key, places in of_arm.items():
            sums = self._arms.setdefault(key, np.zeros((GROUPS, ARM_COLUMNS)))
            for column, values in enumerate((None, n_slots[places], reward[places])):
                sums[:, column] += np.bincount(group[places], values, GROUPS)

    # ------------------------------------------------------------ handed over

    def changes(self, reads_from: int) -> Changes:
        """What is to be stored, all in one transaction: it holds the log up to `LoopState.position`.

        :param reads_from: see `LoopState`
        """
        self.settle()
        self.state.reads_from = reads_from
        if self._comparing is not None:
            self._comparing.kept()
        return Changes(self.state, {key: self._stretches[key] for key in sorted(self._changed)}, self._arms)

    def clean(self) -> None:
        """What changed has been stored."""
        self._changed, self._arms, self._dirty = set(), {}, False


class Changes(NamedTuple):
    """What was counted since `LoopCounts.clean`.

    :ivar stretches: whole, by length and beginning
    :ivar arms: what is to be added, by experiment and arm; shape (GROUPS, ARM_COLUMNS)
    """

    state: LoopState
    stretches: dict[tuple[int, int], Stretch]
    arms: dict[tuple[str, str], F64]


class _Slots:
    """The slots of several decisions, one after the other."""

    def __init__(self, drawn: Sequence[_Drawn]) -> None:
        self.p = np.frombuffer(b"".join(one.p for one in drawn), np.float64)
        self.n = np.frombuffer(b"".join(one.n for one in drawn), np.uint32).astype(np.float64)
        self.marks = np.frombuffer(b"".join(one.marks for one in drawn), np.uint8)
        self.floor = np.array([phi for one in drawn for phi in one.floors])
        self.n_slots = np.array([len(one.marks) for one in drawn])
        self.starts = np.concatenate([[0], np.cumsum(self.n_slots)])
        self.place = np.arange(len(self.p)) - np.repeat(self.starts[:-1], self.n_slots)
