"""Builds every published model and epoch of statistics again from the log alone, and says whether each is matched.

Models are matched byte for byte. The digests of epochs are chained: an epoch that is matched vouches for all before it.
"""

from __future__ import annotations

import argparse
import heapq
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bandit import records
from bandit.errors import BanditError, LogUnavailable
from bandit.learning.learner import Learner
from bandit.learning.lessons import READ_AT_ONCE, Course
from bandit.progress import Progress
from bandit.statistics.folding import Statistics
from bandit.store.bases import bases
from bandit.store.items import versions
from bandit.store.models import digest_of
from bandit.store.reading import ReadOnlyLog
from bandit.store.statistics import LoggedEpoch, last_logged_epoch, logged_epochs
from replay.beginning import Beginning, beginning
from replay.spill import Spill


class NotALog(BanditError):
    """What was named is no data directory whose models could be built again."""

    code = "not_a_log"


class Published(NamedTuple):
    """A model as the log says it was published.

    :ivar published_pos: position of the record that says so
    :ivar position: of the last record that the model holds
    """

    published_pos: int
    position: int
    digest: str
    learned: int
    arm: str | None = None


class Mismatch(Struct):
    """A published model that the log does not give.

    :param arm: whose it is, where arms learn apart and it is not the champion's
    """

    position: int
    published_pos: int
    published: str
    rebuilt: str
    published_learned: int
    rebuilt_learned: int
    arm: str | None = None


class EpochMismatch(Struct):
    """An epoch of statistics that the log does not give.

    :param epoch_pos: position of the record that says so
    """

    position: int
    epoch_pos: int
    published: str
    rebuilt: str


class Rebuilt(Struct):
    """What became of a rebuild.

    :param base: position that the base holds, from which was built; 0: from the log's beginning
    :param records: how many were folded after it: up to the last published position
    :param learned: slots taught on the way
    :param newest: digest of the newest published model; None if none was published
    :param before: models that were published before the base, which cannot be built again: what they were built from
        was erased, or is too old to be kept
    :param epochs: of statistics of items and viewers
    :param epoch_mismatch: the first; what comes after it is not matched either, as their digests are chained
    """

    data: str
    arguments: str
    base: int
    records: int
    learned: int
    published: int
    matched: int
    newest: str | None
    before: int
    mismatch: Mismatch | None
    epochs: int
    epochs_matched: int
    epoch_mismatch: EpochMismatch | None

    @property
    def ok(self) -> bool:
        """Every published model and epoch was matched."""
        return self.matched == self.published and self.epochs_matched == self.epochs


def rebuild(data: Path, *, progress: Callable[[int, int], None] = lambda done, of: None) -> Rebuilt:
    """Fold the log from its base with a new learner, and compare wherever a model was published.

    Reads only, also beside a running service; what is published after the start is left for the next time.

    :param progress: told, now and then, how many records of how many are folded
    :raises NotALog: there is no log, or it begins in a way that this release does not know
    :raises LogUnavailable: the log cannot be read now
    """
    if not data.is_dir():
        raise NotALog(f"{data} is no directory; name the data directory of a service")
    if not (data / "log.db").is_file():
        raise NotALog(f"{data} holds no log.db; name the data directory of a service")
    log = ReadOnlyLog(data)
    kept = Spill()
    try:
        begin = _begin(log, data)
        end = log.last_position()
        every = [model for model in _published(log) if model.published_pos <= end]
        published = [model for model in every if model.published_pos > begin.base_pos]
        main = [model for model in every if model.arm is None]
        with tempfile.TemporaryDirectory(prefix="rebuild-") as scratch, begin.learner(Path(scratch)) as learner:
            statistics = Statistics(
                lambda numbers: versions(log, numbers),
                lambda user: kept.get(user) or begin.statistics.body(user),
                begin.statistics.tallies,
                begin.statistics.own,
                keep=kept.put,
            )
            course = begin.course(log, learner, statistics, scratch=Path(scratch))
            models, epochs = _Models(course), _Epochs(statistics, begin.base.epoch_digest)
            for due in _passed(log, course, published, begin.base_pos, end, progress):
                if isinstance(due, Published):
                    models.compare(due)
                else:
                    epochs.compare(due)
            if bases(log)[0].base_pos != begin.base_pos:
                raise LogUnavailable("older records were deleted while the log was read; ask again")
            return Rebuilt(
                data=str(data),
                arguments=begin.base.arguments,
                base=begin.base.position,
                records=course.position - begin.base.position,
                learned=course.n_taught,
                published=len(published),
                matched=models.matched,
                newest=max((one.published_pos, one.digest) for one in main)[1] if main else None,
                before=len(every) - len(published),
                mismatch=models.mismatch,
                epochs=epochs.n,
                epochs_matched=epochs.matched,
                epoch_mismatch=epochs.mismatch,
            )
    finally:
        log.close()
        kept.close()


class _Models:
    """Compares published models with what learners have become."""

    def __init__(self, course: Course) -> None:
        self._course = course
        # Saving is the greater part of the work, and who has learned nothing saves the same.
        self._saved: dict[Learner, tuple[int, str]] = {}
        self.matched = 0
        self.mismatch: Mismatch | None = None

    def compare(self, model: Published) -> None:
        learners = self._course.learners
        name = learners.champion if model.arm is None else model.arm
        learner = dict(learners).get(name)
        digest = "no model: no such arm learns apart there" if learner is None else self._digest_of(learner)
        if digest == model.digest:
            self.matched += 1
        elif self.mismatch is None:
            self.mismatch = Mismatch(
                position=model.position,
                published_pos=model.published_pos,
                published=model.digest,
                rebuilt=digest,
                published_learned=model.learned,
                rebuilt_learned=0 if learner is None else learner.n_learned,
                arm=model.arm,
            )

    def _digest_of(self, learner: Learner) -> str:
        found = self._saved.get(learner)
        if found is None or found[0] != learner.n_learned:
            found = self._saved[learner] = learner.n_learned, digest_of(learner.save())
        return found[1]


class _Epochs:
    """Compares epochs with what statistics have become, link by link."""

    def __init__(self, statistics: Statistics, digest: str) -> None:
        self._statistics = statistics
        self._digest = digest
        self.n = self.matched = 0
        self.mismatch: EpochMismatch | None = None

    def compare(self, epoch: LoggedEpoch) -> None:
        self.n += 1
        self._digest = self._statistics.changes().digest(self._digest)
        self._statistics.clean()
        if self._digest == epoch.digest:
            self.matched += 1
        elif self.mismatch is None:
            self.mismatch = EpochMismatch(
                position=epoch.position, epoch_pos=epoch.pos, published=epoch.digest, rebuilt=self._digest
            )


def _begin(log: ReadOnlyLog, data: Path) -> Beginning:
    try:
        return beginning(log, data)
    except LogUnavailable as error:
        if "no such table" in error.message or "not a database" in error.message:
            raise NotALog(f"{data / 'log.db'} is no log of this service ({error.message})") from None
        if "no base" in error.message:
            raise NotALog(f"{data}: {error.message}") from None
        raise


def _published(log: ReadOnlyLog) -> list[Published]:
    """All published models, in the order of the positions that they hold."""
    found = []
    for row in log.read_kinds(["publish"]):
        publish = records.decode(row.payload, records.Publish, what=f"record {row.pos}")
        found.append(Published(row.pos, publish.position, publish.digest, publish.learned))
        for arm, (digest, learned) in publish.arms.items():
            found.append(Published(row.pos, publish.position, digest, learned, arm))
    return sorted(found, key=lambda model: (model.position, model.published_pos))


def _passed(
    log: ReadOnlyLog,
    course: Course,
    published: Sequence[Published],
    after: int,
    end: int,
    progress: Callable[[int, int], None],
) -> Iterator[Published | LoggedEpoch]:
    """Each model and epoch, when the course has come to the position that it holds."""
    newest = last_logged_epoch(log, end=end)
    last = max((one.position for one in (*published, newest) if one is not None), default=0)
    due: Iterator[Published | LoggedEpoch] = heapq.merge(
        published, logged_epochs(log, after=after, end=end), key=lambda one: one.position
    )
    for one in due:
        while course.position < one.position:
            rows = log.read(course.position, min(READ_AT_ONCE, one.position - course.position), candidates=True)
            for row in rows:
                if row.pos > one.position:
                    break
                course.take(row)
            if not rows or rows[-1].pos > one.position:
                break
            progress(course.position, last)
        yield one


# ---------------------------------------------------------------- the command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The ``rebuild`` command."""
    parser = subparsers.add_parser(
        "rebuild",
        help="build every published model and statistic again from the log, and compare",
        description="Build every published model and epoch of statistics again from the log alone, and say whether "
        "each is matched, models byte for byte. Only reads, also beside a running service. Exit status: 0 all matched, "
        "1 one is not, 2 no such log.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="data directory of a service, running or not")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 all matched, 1 a mismatch, 2 the log cannot be used (the reason is on stderr)."""
    try:
        with Progress("records", sys.stderr) as progress:
            result = rebuild(arguments.data, progress=progress)
    except BanditError as error:
        print(f"rebuild: {error.message}", file=sys.stderr)
        return 2
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print(_report(result))
    return 0 if result.ok else 1


def _report(result: Rebuilt) -> str:
    lines = [
        f"log        {result.data}",
        f"arguments  {result.arguments}",
        f"folded     {result.records:,} records, {result.learned:,} slots learned",
        f"published  {result.published:,} models, newest {result.newest or 'none'}",
        f"matched    {result.matched:,}, byte for byte",
        f"statistics {result.epochs:,} epochs, {result.epochs_matched:,} matched",
    ]
    if result.base:
        lines.insert(2, f"base       at position {result.base:,}; {result.before:,} models were published before it")
    wrong = result.mismatch
    if wrong is not None:
        lines += [
            f"NOT MATCHED {result.published - result.matched:,}; the first holds the log up to position "
            f"{wrong.position} (published at {wrong.published_pos}):",
            f"  published  {wrong.published}  {wrong.published_learned:,} slots learned",
            f"  rebuilt    {wrong.rebuilt}  {wrong.rebuilt_learned:,} slots learned",
            "Models are the same byte for byte with the same VW on the same kind of processor; here it is VW "
            f"{version('vowpalwabbit')} on {platform.machine()}.",
        ]
    other = result.epoch_mismatch
    if other is not None:
        lines += [
            f"STATISTICS NOT MATCHED; the first such epoch holds the log up to position {other.position} (published at "
            f"{other.epoch_pos}):",
            f"  published  {other.published}",
            f"  rebuilt    {other.rebuilt}",
        ]
    return "\n".join(lines)
