"""From the log to what VW is taught; serving's trainer and replay's rebuild share all of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from bandit import records
from bandit.config import Config, own_labels
from bandit.experiments import Apart, apart_of
from bandit.features.hashing import resolve_item, with_dense
from bandit.learning.fold import Fold, Lesson, Record
from bandit.learning.learner import Learner
from bandit.learning.learners import Learners
from bandit.loop.counts import LoopCounts
from bandit.reward.signals import Lengths
from bandit.statistics.columns import NAMES
from bandit.statistics.folding import Statistics
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
    :param traits: of the learners' arguments
    """

    def __init__(self, versions_of: Callable[[Sequence[int]], Versions], *, traits: bool) -> None:
        self._versions_of = versions_of
        self._traits = traits
        self._texts: dict[int, bytes] = {}

    def teach(self, lessons: Sequence[tuple[Lesson, Sequence[Learner]]]) -> None:
        """Learn these in their order, each lesson by those it is for."""
        self._fetch({lesson.version for lesson, _ in lessons})
        for lesson, learners in lessons:
            assert lesson.reward is not None
            assert lesson.weight is not None
            item = self._texts[lesson.version]
            if any(lesson.dense):
                item = with_dense(item, NAMES[: len(lesson.dense)], lesson.dense)
            shared = with_slot(lesson.shared, lesson.slot)
            for learner in learners:
                learner.learn(shared, item, reward=lesson.reward, weight=lesson.weight)

    def _fetch(self, wanted: set[int]) -> None:
        # Not a difference of sets: that looks at all that is kept.
        missing = sorted(version for version in wanted if version not in self._texts)
        if not missing:
            return
        if len(self._texts) + len(missing) > MAX_KEPT_ITEMS:
            self._texts = {version: self._texts[version] for version in wanted & self._texts.keys()}
        for version, (item_id, text) in self._versions_of(missing).items():
            features = records.decode(text, records.Features, what="features")
            self._texts[version] = resolve_item(item_id, features, traits=self._traits)


class Course:
    """The log, taught record by record to one learner, or to those of the arms that learn apart. What was learned
    depends on the records alone.

    :param learner: its model holds the log up to ``position``; the champion's, where arms learn apart there
    :param arms: the other arms' at ``position``, by name
    :param reads_from: the earliest record needed to know what was open at ``position``; see `records.Publish`
    :param statistics: they hold the log up to ``counted``, and count on from there
    :param loop: counts what it has not counted yet; only beside statistics
    :ivar n_taught: lessons taught here, each counted once whoever learned it
    :raises LogUnavailable: the log cannot be read; begin again with a learner as it was
    """

    def __init__(
        self,
        log: EventLog,
        learner: Learner,
        *,
        arms: Mapping[str, Learner] | None = None,
        position: int = 0,
        reads_from: int = 1,
        statistics: Statistics | None = None,
        counted: int = 0,
        loop: LoopCounts | None = None,
    ) -> None:
        self._log = log
        self._counted = counted
        self._teacher = Teacher(lambda numbers: versions(log, numbers), traits=learner.args.traits)
        self._loop = loop
        self._voids = voids(log)
        # Only those that were there: what a record does must not depend on a config that came after it.
        every = [(row.pos, read_config(row.payload)) for row in log.read_kinds(["config"])]
        self._configs = {live.version: live for at, live in every if at < reads_from}
        if statistics is not None:
            statistics.apart(own_labels({live.version: live for at, live in every if at <= counted}))
        self.fold = Fold(
            self._configs,
            log.payload_at,
            lengths_of=Lengths(lambda numbers: versions(log, numbers)),
            observer=statistics,
            watcher=loop,
        )
        self.position = reads_from - 1
        while self.position < position:
            rows = log.read(self.position, min(READ_AT_ONCE, position - self.position), candidates=True)
            for row in rows:
                if row.pos <= position:
                    # Its lessons are in the model already.
                    self._count(self._fold(row))
            self.position = rows[-1].pos if rows else position
        self.position = position
        self.n_taught = 0
        self.learners = Learners(learner, arms, self._apart)

    @property
    def document(self) -> Config:
        """The config in force at its position."""
        return self._configs[max(self._configs)].document if self._configs else Config()

    def document_of(self, name: str | None) -> Config:
        """The same as it is for one of the learners: in its arm, where arms learn apart."""
        return self.document if name is None else self._configs[max(self._configs)].of(name).document

    @property
    def _apart(self) -> Apart | None:
        return apart_of(self.document.experiment)

    def take(self, row: LogRow) -> list[Lesson]:
        """Fold the next record and teach what closed because of it; see `Fold.apply`.

        What a later `records.Hold` names is not taught: if nobody learns a lesson it has the status ``held``.

        :raises LogUnavailable: the record may be half learned: the learners are of no more use
        """
        lessons = self._fold(row)
        taught = []
        for place, lesson in enumerate(lessons):
            if lesson.status != "learned":
                continue
            names = [name for name in self.learners.taught(lesson) if not self._is_void(name, row.pos)]
            if names:
                taught.append((lesson, [self.learners[name] for name in names]))
            else:
                lessons[place] = lesson._replace(status="held")
        self._teacher.teach(taught)
        self.n_taught += len(taught)
        if row.kind == "config" and self._apart != self.learners.apart:
            # What closed with this record was still learned as before.
            self.learners.become(self._apart)
        self._count(lessons)
        self.position = row.pos
        return lessons

    def _is_void(self, name: str | None, position: int) -> bool:
        """Whether a hold says that the model of this name has not learned the lessons of a record."""
        for stretches in (self._voids.get(None, []), self._voids.get(name, [])):
            place = bisect_left(stretches, position, key=lambda stretch: stretch[1])
            if place < len(stretches) and stretches[place][0] < position:
                return True
        return False

    def _fold(self, row: LogRow) -> list[Lesson]:
        if row.kind == "config":
            live = read_config(row.payload)
            self._configs[live.version] = live
        self.fold.observing = row.pos > self._counted
        if self._loop is not None:
            self._loop.begin(row.pos, row.ts)
        return self.fold.apply(Record(*row))

    def _count(self, lessons: Sequence[Lesson]) -> None:
        if self._loop is not None:
            self._loop.taught(lessons)
            self._loop.end()
