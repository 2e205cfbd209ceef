"""A fresh model, learned from what the log still holds, and a base that the log goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import NamedTuple

from bandit.errors import BanditError
from bandit.learning.fold import Lesson
from bandit.learning.guard import Fault
from bandit.learning.housekeeping import Housekeeper
from bandit.learning.learner import Learner
from bandit.learning.lessons import READ_AT_ONCE, Course
from bandit.learning.probe import Gate, Good
from bandit.statistics.folding import Statistics
from bandit.store.data import DataDirectory
from bandit.store.items import versions
from bandit.store.models import Written, newest_models, publish_of, trainer_state, write_outcomes
from bandit.store.statistics import StoredEpoch, all_tallies, append_epoch, newest_epoch, own_tallies, stored_viewer

LESSONS_AT_ONCE = 1_000


class CannotRetrain(BanditError):
    """The fresh model cannot go live; nothing has changed."""

    code = "cannot_retrain"
    status = 409


class Retrained(NamedTuple):
    """What was learned.

    :ivar records: of the log, from the first that is still there
    :ivar before: slots that the model before had learned
    """

    digest: str
    position: int
    records: int
    learned: int
    before: int


class Taught(NamedTuple):
    """What became of logs.

    :ivar lines: read
    :ivar learned: slots
    :ivar skipped: lines by reason
    :ivar examples: of each reason, where it was found first
    """

    lines: int
    learned: int
    skipped: dict[str, int]
    examples: dict[str, str]


def retrain(
    data: DataDirectory,
    *,
    cause: str = "retrain",
    first: Callable[[Learner], None] = lambda learner: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Retrained:
    """Learn a fresh model from all that the log holds, and publish it as a new base; delete every other model.

    No trainer may work on the directory, and no erasure may wait. Statistics go on as they are.

    :param cause: of the base
    :param first: teaches the fresh model before the log does; what it raises changes nothing
    :param progress: told, now and then, up to which position of which the log is folded
    :raises CannotRetrain: the fresh model fails the checks that every model has to pass
    :raises LogUnavailable: the log cannot be used
    :raises OSError: the model or the base cannot be written
    """
    log = data.log
    last = log.last_position()
    scratch = data.path / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    epoch = newest_epoch(log)
    statistics = Statistics(lambda numbers: versions(log, numbers), _stored(data), all_tallies(log), own_tallies(log))
    state = trainer_state(log)
    known = 0 if state is None else state.position
    new: list[Lesson] = []
    n_records = 0
    with Learner(data.args, scratch=scratch) as learner:
        first(learner)
        course = Course(log, learner, statistics=statistics, counted=epoch.position)
        while course.position < last:
            rows = log.read(course.position, min(READ_AT_ONCE, last - course.position), candidates=True)
            for row in rows:
                lessons = course.take(row)
                if row.pos > known:
                    new += lessons
            n_records += len(rows)
            progress(course.position, last)
        gate = Gate(log, data.args)
        sound: dict[str | None, tuple[bytes, Good]] = {}
        for name, one in course.learners:
            model = one.save()
            found = gate.look(
                model, course.document_of(name), position=last, n_learned=one.n_learned, before=None, lenient=True
            )
            if isinstance(found, Fault):
                raise CannotRetrain(f"the fresh model fails a check, so nothing was changed: {found.reason}")
            sound[name] = model, found
        apart = course.learners.apart
        reads_from = course.fold.reads_from(last)
    before = next(iter(newest_models(log)), None)
    written = {
        name: Written(*data.models.write(model, good.weights), good.n_learned) for name, (model, good) in sound.items()
    }
    publish = publish_of(written, apart, position=last, reads_from=reads_from)
    weights = {one.digest: one.weights_digest for one in written.values()}
    if statistics.dirty:
        changes = statistics.changes()
        epoch = StoredEpoch(last, log.time_at(last), changes.digest(epoch.digest))
        log.append(lambda txn: append_epoch(txn, changes, epoch))
    for start in range(0, len(new), LESSONS_AT_ONCE):
        part = new[start : start + LESSONS_AT_ONCE]
        log.append(lambda txn, part=part: write_outcomes(txn, part))  # type: ignore[misc]

    keeper = Housekeeper(data)
    # What a rollback and the champion name is deleted: it was learned from what may be gone.
    keeper.begin_anew(cause, publish, weights, epoch, reason="learned anew")
    keeper.delete_files()
    return Retrained(publish.digest, last, n_records, publish.learned, 0 if before is None else before.learned)


def _stored(data: DataDirectory) -> Callable[[str], bytes | None]:
    def body(user: str) -> bytes | None:
        found = stored_viewer(data.log, user)
        return None if found is None else found.body

    return body
