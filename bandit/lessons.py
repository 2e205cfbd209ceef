"""From the log to what VW is taught; serving's trainer and replay's rebuild share all of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from bandit import records
from bandit.columns import NAMES
from bandit.config import Config
from bandit.features import resolve_item, with_dense
from bandit.fold import Fold, Lesson, Record
from bandit.learner import Learner
from bandit.signals import Lengths
from bandit.statistics import Statistics
from bandit.store.configs import read_config
from bandit.store.items import versions
from bandit.store.log import EventLog, LogRow
from bandit.store.serving import voids

READ_AT_ONCE = 500

MAX_KEPT_ITEMS = 100_000
_SCORED_AS = b'"S":{"slot":"0"}'

#: Item versions by number: (id, features text).
Versions = dict[int, tuple[str, bytes]]


def with_slot(shared: bytes, slot: int) -> bytes:
    """Resolved shared features as they are learned from: with the slot that the item stood at.

    Scoring leaves the slot at 0 for all, so what position does to reward is learned apart from the item.

    >>> with_slot(b'{"S":{"slot":"0"},"U":{"id":"u1"}}', 3)
    b'{"S":{"slot":"3"},"U":{"id":"u1"}}'
    """
    # A string cannot hold this text: its quotes would be escaped.
    return shared.replace(_SCORED_AS, b'"S":{"slot":"%d"}' % slot, 1)


class Teacher:
    """Puts a lesson's features together and teaches them.

    :param versions_of: the item versions with these numbers, as the log holds them
    """

    def __init__(self, learner: Learner, versions_of: Callable[[Sequence[int]], Versions]) -> None:
        self._learner = learner
        self._versions_of = versions_of
        self._texts: dict[int, bytes] = {}

    def teach(self, lessons: Sequence[Lesson]) -> int:
        """Learn those that are to be learned, in their order; how many they were."""
        taught = [lesson for lesson in lessons if lesson.status == "learned"]
        self._fetch({lesson.version for lesson in taught})
        for lesson in taught:
            assert lesson.reward is not None
            assert lesson.weight is not None
            item = self._texts[lesson.version]
            if any(lesson.dense):
                item = with_dense(item, NAMES[: len(lesson.dense)], lesson.dense)
            self._learner.learn(
                with_slot(lesson.shared, lesson.slot),
                item,
                reward=lesson.reward,
                weight=lesson.weight,
            )
        return len(taught)

    def _fetch(self, wanted: set[int]) -> None:
        missing = sorted(wanted - self._texts.keys())
        if not missing:
            return
        if len(self._texts) + len(missing) > MAX_KEPT_ITEMS:
            self._texts = {version: self._texts[version] for version in wanted & self._texts.keys()}
        for version, (item_id, text) in self._versions_of(missing).items():
            self._texts[version] = resolve_item(item_id, records.decode(text, records.Features, what="features"))


class Course:
    """The log, taught to one learner record by record. What was learned depends on the records alone.

    :param learner: its model holds the log up to ``position``
    :param reads_from: the earliest record needed to know what was open at ``position``; see `records.Publish`
    :param statistics: they hold the log up to ``counted``, and count on from there
    :raises LogUnavailable: the log cannot be read; begin again with a learner as it was
    """

    def __init__(
        self,
        log: EventLog,
        learner: Learner,
        *,
        position: int = 0,
        reads_from: int = 1,
        statistics: Statistics | None = None,
        counted: int = 0,
    ) -> None:
        self._log = log
        self._learner = learner
        self._counted = counted
        self._teacher = Teacher(learner, lambda numbers: versions(log, numbers))
        self._voids = voids(log)
        # Only those that were there: what a record does must not depend on a config that came after it.
        before = [row for row in log.read_kinds(["config"]) if row.pos < reads_from]
        self._configs = {live.version: live for live in map(read_config, (row.payload for row in before))}
        self.fold = Fold(
            self._configs,
            log.payload_at,
            lengths_of=Lengths(lambda numbers: versions(log, numbers)),
            observer=statistics,
        )
        self.position = reads_from - 1
        while self.position < position:
            rows = log.read(self.position, min(READ_AT_ONCE, position - self.position), candidates=True)
            for row in rows:
                if row.pos <= position:
                    # Its lessons are in the model already.
                    self._fold(row)
            self.position = rows[-1].pos if rows else position
        self.position = position

    @property
    def document(self) -> Config:
        """The config in force at its position."""
        return self._configs[max(self._configs)].document if self._configs else Config()

    def take(self, row: LogRow) -> list[Lesson]:
        """Fold the next record and teach what closed because of it; see `Fold.apply`.

        What a later `records.Hold` names is not taught: it has the status ``held``.

        :raises LogUnavailable: the record may be half learned: the learner is of no more use
        """
        lessons = self._fold(row)
        if lessons and self._is_void(row.pos):
            lessons = [one._replace(status="held") if one.status == "learned" else one for one in lessons]
        elif lessons:
            self._teacher.teach(lessons)
        self.position = row.pos
        return lessons

    def _is_void(self, position: int) -> bool:
        """Whether a hold says that no model holds the lessons of this record."""
        place = bisect_left(self._voids, position, key=lambda stretch: stretch[1])
        return place < len(self._voids) and self._voids[place][0] < position

    def go_on_with(self, learner: Learner) -> None:
        """Teach this learner from the next record on; what was open stays open."""
        self._learner = learner
        self._teacher = Teacher(learner, lambda numbers: versions(self._log, numbers))

    def _fold(self, row: LogRow) -> list[Lesson]:
        if row.kind == "config":
            live = read_config(row.payload)
            self._configs[live.version] = live
        self.fold.observing = row.pos > self._counted
        return self.fold.apply(Record(*row))
