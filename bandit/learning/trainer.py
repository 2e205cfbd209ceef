"""The trainer's loop: read the log, fold it, learn, publish. One process; one learner, or one for each arm."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from bandit import records
from bandit.config import Settings
from bandit.errors import CorruptModel, DataDirectoryInUse, LogUnavailable
from bandit.learning.fold import Lesson
from bandit.learning.guard import Fault
from bandit.learning.housekeeping import Housekeeper
from bandit.learning.learner import Learner
from bandit.learning.lessons import READ_AT_ONCE, Course
from bandit.learning.probe import Gate, Good
from bandit.loop.counts import Changes, LoopCounts
from bandit.ranking.scorer import weights_from_model
from bandit.statistics.folding import ChangedStatistics, Statistics
from bandit.store.bases import bases
from bandit.store.data import DataDirectory
from bandit.store.erasures import Erasure
from bandit.store.events import find_decision
from bandit.store.items import versions
from bandit.store.log import LogRow, Txn
from bandit.store.loop import loop_state, stretch_at, write_loop
from bandit.store.models import (
    PublishedModel,
    TrainerState,
    Written,
    append_publish,
    arm_models,
    digest_of,
    furthest_published,
    newest_models,
    publish_of,
    trainer_state,
    write_outcomes,
    write_trainer_state,
)
from bandit.store.serving import append_hold, kept_models, last_hold
from bandit.store.statistics import StoredEpoch, all_tallies, append_epoch, newest_epoch, own_tallies, stored_viewer
from bandit.store.tallies import settle

IDLE_S = 0.02
STATE_EVERY_S = 1.0
CHECKPOINT_EVERY_S = 2.0
# What is settled meanwhile is read by every worker that meets a new candidate.
SETTLE_EVERY_S = 2.0
# Without anything learned, a publish still moves the point from which a restart has to read.
IDLE_PUBLISH_S = 60.0
# Erasures that are asked for at about the same time share a base.
ERASE_EVERY_S = 0.5
LOOK_BACK_EVERY_S = 60.0
# How many weights are in use is counted, and told, no more often.
WEIGH_EVERY_S = 60.0


class HalfLearned(RuntimeError):
    """The process must start again from what it last published."""


class _Live(NamedTuple):
    """What of a learner went live last."""

    written: Written
    good: Good


class Trainer:
    """Folds the log of one data directory into a model, and publishes it.

    :param clock: UTC seconds; asked only to decide *when* to publish or to let time pass in the log, never
        by the fold
    """

    def __init__(self, data: DataDirectory, *, clock: Callable[[], float] = time.time) -> None:
        self._data = data
        self._log = data.log
        self._clock = clock
        self._unwritten: list[Lesson] = []
        self._problem: str | None = None
        self._gate = Gate(self._log, data.args)
        # What was published of each learner; of one that an arm has just begun with, nothing yet.
        self._live: dict[Learner, _Live] = {}
        # Lessons since the last good models: decision position and slot, and the arm if it alone was taught.
        self._not_live: list[tuple[int, int, str | None]] = []
        self._accepted = False
        # What the newest publish says of where to read from; 0 until there is one that can be served.
        self._published_from = 0
        self._last_state = self._last_tick = self._last_checkpoint = self._last_settled = self._last_look = clock()
        self._last_publish = self._last_epoch = self._last_erasure = self._last_look_back = float("-inf")
        self._keeper = Housekeeper(data)
        # What was begun goes on before anything is read: a base says how the log looks without it.
        self._keeper.go_on()
        self._epoch = newest_epoch(self._log)
        self._statistics = Statistics(
            lambda numbers: versions(self._log, numbers),
            self._stored_viewer,
            all_tallies(self._log),
            own_tallies(self._log),
        )
        self._loop = LoopCounts(
            loop_state(self._log),
            lambda span, start: stretch_at(self._log, span, start),
            decided=lambda event_id: find_decision(self._log, event_id) is not None,
            never_seen=self._statistics.never_seen,
        )
        self._last_weighed = self._last_counted = float("-inf")
        self._course = self._resume()
        self._published_apart = self._course.learners.apart

    @property
    def position(self) -> int:
        """Of the last record that was folded."""
        return self._course.position

    def _stored_viewer(self, user: str) -> bytes | None:
        stored = stored_viewer(self._log, user)
        return None if stored is None else stored.body

    # ------------------------------------------------------------ starting

    def _resume(self) -> Course:
        """The newest published models that are whole, and the fold as it stood there."""
        # A trainer that was killed while it saved left its file here.
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(exist_ok=True)
        begins = bases(self._log)[0].base
        for place, model in enumerate(newest_models(self._log, limit=1_000)):
            if model.position < begins.position:
                # What it would have to read again may not be there.
                break
            arms = arm_models(self._log, model.published_pos)
            try:
                learners = {arm: self._open(one) for arm, one in arms.items()}
                main = self._open(model)
            except CorruptModel as error:
                self._problem = f"{error.message}; resumed from an older one"
                self._live.clear()
                continue
            if place == 0:
                self._published_from, self._last_publish = model.reads_from, self._clock()
                self._remember_hold(model)
            return self._begin(main, learners, model.position, model.reads_from)
        if begins.model is not None:
            raise CorruptModel(
                f"no model from position {begins.position} on can be read ({self._problem}), and the log begins there: "
                "restore the models folder, or learn what the log still holds anew: python server.py retrain",
                digest=begins.model,
            )
        return self._begin(Learner(self._data.args, scratch=self._scratch), {}, 0, 1)

    @property
    def _scratch(self) -> Path:
        return self._data.path / "scratch"

    def _open(self, model: PublishedModel) -> Learner:
        """A learner that stands where a published model does.

        :raises CorruptModel: its file is not whole
        """
        read = self._data.models.read(model.digest)
        learner = Learner(self._data.args, read, scratch=self._scratch)
        good = Good(weights_from_model(read, self._data.args), model.learned)
        self._live[learner] = _Live(Written(model.digest, model.weights_digest, model.learned), good)
        return learner

    def _begin(self, main: Learner, arms: dict[str, Learner], position: int, reads_from: int) -> Course:
        # Each publish writes an epoch if anything changed since the last: a model is never ahead of the statistics.
        # A log from before there were any is counted from its beginning.
        if not self._epoch.position:
            reads_from = 1
        if self._loop.state.position < position:
            # Counts are written less often than models; what they lack is read again, and not learned again.
            reads_from = min(reads_from, self._loop.state.reads_from)
        return Course(
            self._log,
            main,
            arms=arms,
            position=position,
            reads_from=reads_from,
            statistics=self._statistics,
            counted=self._epoch.position,
            loop=self._loop,
        )

    # ------------------------------------------------------------ the loop

    def step(self) -> bool:
        """Fold what is new, publish if it is time; False if there was nothing to read.

        :raises LogUnavailable: the log cannot be read or written now; nothing is lost, call again
        """
        rows = self._log.read(self.position, READ_AT_ONCE, candidates=True)
        for row in rows:
            self._learn_from(row)
            self._publish_if_due()
        self._erase_if_asked()
        self._delete_old()
        now = self._clock()
        self._publish_if_due()
        if self._passed(self._last_state, STATE_EVERY_S):
            self._write_state(now)
        if not rows:
            self._let_time_pass(now)
        if self._passed(self._last_settled, SETTLE_EVERY_S):
            self._last_settled = now
            settle(self._log)
        if self._passed(self._last_checkpoint, CHECKPOINT_EVERY_S):
            self._last_checkpoint = now
            self._log.checkpoint()
        return bool(rows)

    def _learn_from(self, row: LogRow) -> None:
        if row.kind == "reset":
            self._begin_anew(row)
        self._accepted = self._accepted or row.kind == "release"
        self._keeper.asked = self._keeper.asked or row.kind == "erase"
        apart = self._course.learners.apart
        try:
            lessons = self._course.take(row)
        except LogUnavailable as error:
            # Half a record may have been learned: only the published state is known to be whole.
            raise HalfLearned(f"record {row.pos} was interrupted: {error}") from error
        self._unwritten += lessons
        for one in lessons:
            if one.status == "learned":
                names = self._course.learners.taught(one)
                self._not_live.append((one.decision_pos, one.slot, names[0] if len(names) == 1 else None))
        if self._course.learners.apart != apart:
            # At once: what new arms begin as is then at hand, should a snapshot of theirs be held.
            self._last_publish = float("-inf")

    def _publish_if_due(self) -> None:
        if self._publish_is_due():
            self._publish()
        # Statistics go on also where a model is held.
        if self._statistics.dirty and self._passed(self._last_epoch, self._data.settings.publish_ms / 1000):
            self._publish_epoch()

    def _publish_epoch(self) -> None:
        changes, epoch = self._next_epoch()
        self._log.append(lambda txn: append_epoch(txn, changes, epoch))
        self._epoch_is_written(epoch)

    def _next_epoch(self) -> tuple[ChangedStatistics, StoredEpoch]:
        self._last_epoch = self._clock()
        at = self._log.time_at(self.position)
        changes = self._statistics.changes()
        return changes, StoredEpoch(self.position, at, changes.digest(self._epoch.digest))

    def _epoch_is_written(self, epoch: StoredEpoch) -> None:
        self._epoch = epoch
        self._statistics.clean()

    def _publish_is_due(self) -> bool:
        if self._published_from == 0 or self._has_news:
            return self._passed(self._last_publish, self._data.settings.publish_ms / 1000)
        if not (self._passed(self._last_publish, IDLE_PUBLISH_S) and self._passed(self._last_look, IDLE_PUBLISH_S)):
            return False
        self._last_look = self._clock()
        # One further is the record of the last publish itself: an idle service need not write for ever.
        return self._course.fold.reads_from(self.position) > self._published_from + 1

    @property
    def _has_news(self) -> bool:
        """Whether something was learned since it was published, or arms have come or gone."""
        learners = self._course.learners
        return learners.apart != self._published_apart or any(self._n_new(one) for _, one in learners)

    def _before(self, learner: Learner) -> Good | None:
        """What of a learner went live last; of an arm that has just begun, what the champion had."""
        live = self._live.get(learner) or self._live.get(self._course.learners.main)
        return None if live is None else live.good

    def _n_new(self, learner: Learner) -> int:
        """Lessons since it went live last."""
        before = self._before(learner)
        return learner.n_learned - (0 if before is None else before.n_learned)

    def _passed(self, since: float, seconds: float) -> bool:
        """Whether so long has passed; a clock that was set back must not stop the trainer until it is there again."""
        return not since <= self._clock() < since + seconds

    def _publish(self) -> None:
        self._last_publish = self._clock()
        learners = self._course.learners
        try:
            saved = {name: one.save() for name, one in learners if one not in self._live or self._n_new(one)}
        except (OSError, RuntimeError) as error:
            # VW saves by way of a file, and says no more than that it failed.
            self._problem = f"the model cannot be saved ({error}); the last good one serves"
            return
        found = {name: self._look(name, model) for name, model in saved.items()}
        # Who has learned nothing new is what serves already.
        faults = {name: one for name, one in found.items() if isinstance(one, Fault) and self._n_new(learners[name])}
        if faults:
            if self.position > furthest_published(self._log):
                self._hold(saved, faults)
            else:
                # Resumed from an older model, not yet past what was published: that cannot be left out any more.
                reason = next(iter(faults.values())).reason
                self._problem = f"a model cannot go live, the last good one serves: {reason}"
            return
        try:
            live = {name: self._live[one] for name, one in learners if name not in saved}
            for name, model in saved.items():
                good, n_learned = found[name], learners[name].n_learned
                if isinstance(good, Fault):
                    good = Good(weights_from_model(model, self._data.args), n_learned)
                live[name] = _Live(Written(*self._data.models.write(model, good.weights), n_learned), good)
        except CorruptModel as error:
            self._problem = f"a model cannot go live, the last good one serves: {error.message}"
            return
        except OSError as error:
            self._problem = f"the model cannot be written ({error}); the last good one serves"
            return
        publish = publish_of(
            {name: one.written for name, one in live.items()},
            learners.apart,
            position=self.position,
            reads_from=self._course.fold.reads_from(self.position),
        )
        weights = {one.written.digest: one.written.weights_digest for one in live.values()}
        self._problem = None
        state = self._state()
        if self._passed(self._last_weighed, WEIGH_EVERY_S):
            self._last_weighed = self._clock()
            self._loop.gauge("weights", float(np.count_nonzero(live[learners.champion].good.weights)))
        counted = self._counted_if_due()
        held = last_hold(self._log)
        cannot_delete: list[OSError] = []
        # Put together before the lock is held, for which rankings wait.
        news = self._next_epoch() if self._statistics.dirty else None

        def write(txn: Txn) -> None:
            write_outcomes(txn, self._unwritten)
            if news is not None:
                append_epoch(txn, *news)
            append_publish(txn, publish, weights)
            write_trainer_state(txn, state)
            if counted is not None:
                write_loop(txn, counted)
            # Under the log's lock: nobody can roll back to a model that is just being deleted.
            kept = kept_models(txn, self._data.settings.keep_models)
            try:
                self._data.models.keep_only(kept, None if held is None else held.digest)
            except OSError as error:
                cannot_delete.append(error)

        self._log.append(write)
        self._counted(counted)
        self._live = {learners[name]: one for name, one in live.items()}
        self._published_apart = learners.apart
        self._not_live, self._accepted = [], False
        if news is not None:
            self._epoch_is_written(news[1])
        self._published_from = publish.reads_from
        self._unwritten = []
        self._last_state = self._clock()
        if cannot_delete:
            self._problem = f"old models cannot be deleted ({cannot_delete[0]}), and fill the disk"

    def _look(self, name: str | None, model: bytes) -> Good | Fault:
        """Whether what a learner saved may go live."""
        learner = self._course.learners[name]
        return self._gate.look(
            model, self._course.document_of(name), position=self.position, n_learned=learner.n_learned,
            before=self._before(learner), lenient=self._accepted,
        )  # fmt: skip

    # ------------------------------------------------------------ bases

    def _erase_if_asked(self) -> None:
        if not (self._keeper.asked and self._passed(self._last_erasure, ERASE_EVERY_S)):
            return
        self._last_erasure = self._clock()
        waiting = self._keeper.waiting(self.position)
        if waiting and not self._rebase("erasure", waiting):
            return
        self._problem = self._keeper.go_on() or self._problem
        self._keeper.asked = self._keeper.unfinished()

    def _delete_old(self) -> None:
        if self._passed(self._last_look_back, LOOK_BACK_EVERY_S):
            self._last_look_back = self._clock()
            if self._keeper.look(self.position, self._clock()):
                self._rebase("retention")
        self._keeper.delete_old()

    def _rebase(self, cause: str, erasures: Sequence[Erasure] = ()) -> bool:
        """Publish, and write a base there; False if that could not be, and the problem is told."""
        self._publish()
        if not self._is_published():
            # What was learned is held: then what serves is published again, as of this position.
            self._publish()
        newest = next(iter(newest_models(self._log)), None)
        if newest is None or not self._is_published():
            return False
        try:
            self._keeper.write_base(cause, newest, self._epoch, erasures)
        except OSError as error:
            self._problem = f"a base cannot be written ({error}); it is tried again"
            return False
        for one in erasures:
            self._course.fold.forget(one.names, one.erase_pos)
            for name in one.names:
                self._statistics.forget(name)
        return True

    def _begin_anew(self, row: LogRow) -> None:
        """Fresh models from this record on, which alone is not folded yet.

        :raises HalfLearned: they cannot be written; a start tries again
        """
        newest = bases(self._log)[-1].base
        if (newest.cause, newest.position) == ("reset", self.position):
            # A trainer that ended just after it had begun.
            return
        reset = records.read_stored(row.payload, records.Reset, what="a reset")
        if self._statistics.dirty:
            self._publish_epoch()
        self._write_state(self._clock())
        learners = self._course.learners
        fresh = {name: Learner(self._data.args, scratch=self._scratch) for name, _ in learners}
        try:
            model = next(iter(fresh.values())).save()
            weights = weights_from_model(model, self._data.args)
            written = Written(*self._data.models.write(model, weights), 0)
            publish = publish_of(
                dict.fromkeys(fresh, written), learners.apart, position=self.position,
                reads_from=self._course.fold.reads_from(self.position),
            )  # fmt: skip
            of_digest = {written.digest: written.weights_digest}
            self._keeper.begin_anew("reset", publish, of_digest, self._epoch, reason=reset.reason)
        except (OSError, RuntimeError, LogUnavailable) as error:
            for learner in fresh.values():
                learner.close()
            raise HalfLearned(f"a fresh model cannot be begun ({error})") from error
        for name, learner in fresh.items():
            learners.replace(name, learner)
        self._live = {learner: _Live(written, Good(weights, 0)) for learner in fresh.values()}
        self._published_apart, self._published_from = learners.apart, publish.reads_from
        self._last_publish = self._clock()
        self._not_live, self._problem = [], None

    def _is_published(self) -> bool:
        newest = next(iter(newest_models(self._log)), None)
        return newest is not None and newest.position == self.position and not self._has_news

    # ------------------------------------------------------------ holding

    def _hold(self, saved: dict[str | None, bytes], faults: dict[str | None, Fault]) -> None:
        """Say in the log that snapshots do not go live, and go on from the last good ones.

        The fold stays a function of the log: whoever reads the records leaves out what they name. Where arms learn
        apart only what is at fault is held; but if the arms are not those that were published last, then all is.

        :param saved: what learners saved, by name
        :raises HalfLearned: a last good model cannot be read, or is of other arms; a start finds them and folds again
        """
        names = [name for name, _ in self._course.learners]
        changed = self._course.learners.apart != self._published_apart
        if changed or len(faults) == len(names):
            first = next(iter(faults))
            holds = [self._hold_of(None, saved[first], faults[first], len(self._not_live))]
        else:
            holds = [
                self._hold_of(name, saved[name], fault, self._n_new(self._course.learners[name]))
                for name, fault in faults.items()
            ]
            names = list(faults)
        first_hold = holds[0]
        self._problem = _held(first_hold.position, first_hold.reason, first_hold.lessons, first_hold.arm)
        state = self._state()
        whose = {hold.arm for hold in holds}
        taught = [one for one in self._not_live if None in whose or one[2] in whose]

        def write(txn: Txn) -> None:
            write_outcomes(txn, self._unwritten)
            for hold in holds:
                append_hold(txn, hold, [one[:2] for one in taught if hold.arm is None or one[2] == hold.arm])
            write_trainer_state(txn, state)

        self._log.append(write)
        self._unwritten = []
        self._not_live = [one for one in self._not_live if one not in taught]
        self._last_state = self._clock()
        if changed:
            raise HalfLearned("a model is held where the arms of an experiment have just changed")
        self._go_back(names)

    def _hold_of(self, arm: str | None, model: bytes, fault: Fault, lessons: int) -> records.Hold:
        try:
            digest = self._data.models.write_held(model)
        except OSError:
            # Only for people to look at.
            digest = digest_of(model)
        return records.Hold(
            digest=digest,
            position=self.position,
            after=furthest_published(self._log),
            failed=fault.check,
            reason=fault.reason,
            lessons=lessons,
            probe=self._gate.anchor,
            arm=arm,
        )

    def _go_back(self, names: Sequence[str | None]) -> None:
        good = next(iter(newest_models(self._log)), None)
        learners = self._course.learners
        try:
            if good is None:
                learners.replace(learners.champion, Learner(self._data.args, scratch=self._scratch))
                return
            if good.position != furthest_published(self._log):
                raise CorruptModel("the newest model was learned again from an older one")
            arms = arm_models(self._log, good.published_pos)
            for name in names:
                learners.replace(name, self._open(good if name == learners.champion else arms[str(name)]))
        except CorruptModel as error:
            raise HalfLearned(f"a model is held, and the last good one cannot be read: {error.message}") from error

    def _remember_hold(self, newest: PublishedModel) -> None:
        """After a start: what was held since the newest published model is still held."""
        held = last_hold(self._log)
        if held is not None and held.hold_pos > newest.published_pos:
            self._problem = _held(held.position, held.reason, held.lessons, held.arm)

    def _state(self) -> TrainerState:
        return TrainerState(
            position=self.position,
            at=self._clock(),
            open_decisions=self._course.fold.n_open,
            learned=self._course.learners.main.n_learned,
            counts=msgspec.json.encode(dict(self._course.fold.counts)),
            problem=self._problem,
        )

    def _counted_if_due(self) -> Changes | None:
        """What was counted, if it is time to store it."""
        if not (self._loop.dirty and self._passed(self._last_counted, STATE_EVERY_S)):
            return None
        return self._loop.changes(self._course.fold.reads_from(self.position))

    def _counted(self, changes: Changes | None) -> None:
        """These are stored."""
        if changes is not None:
            self._last_counted = self._clock()
            self._loop.clean()

    def _write_state(self, now: float) -> None:
        self._last_state = now
        before = trainer_state(self._log)
        state = self._state()
        idle = before is not None and before[:1] + before[2:] == state[:1] + state[2:] and not self._loop.dirty
        if idle and before is not None and not self._unwritten and not self._passed(before.at, 10 * STATE_EVERY_S):
            return

        counted = self._counted_if_due()

        def write(txn: Txn) -> None:
            write_outcomes(txn, self._unwritten)
            write_trainer_state(txn, state)
            if counted is not None:
                write_loop(txn, counted)

        self._log.append(write)
        self._unwritten = []
        self._counted(counted)

    def _let_time_pass(self, now: float) -> None:
        """Nobody writes, but a window has ended: say so in the log, whose time is the only time."""
        closes = self._course.fold.next_close()
        if closes is None or closes > now or not self._passed(self._last_tick, self._data.settings.tick_s):
            return
        self._last_tick = now
        self._log.append(lambda txn: txn.append("tick", records.encode(records.Tick())))

    def run(self, stop: Callable[[], bool]) -> None:
        """Loop until ``stop``; then publish what was learned, so that a start has nothing to do again."""
        while not stop():
            try:
                busy = self.step()
            except LogUnavailable:
                # The next step reads on from the same position.
                time.sleep(0.2)
                continue
            if not busy:
                time.sleep(IDLE_S)
        # If the log is away now, the next start learns it again.
        with suppress(LogUnavailable):
            if self._has_news:
                self._publish()
            if self._unwritten or self._loop.dirty:
                self._last_counted = float("-inf")
                self._write_state(self._clock())
            if self._statistics.dirty:
                self._publish_epoch()
        self.close()

    def close(self) -> None:
        """Give the learners' memory back; what was not published is learned again at the next start."""
        self._course.learners.close()


def _held(position: int, reason: str, lessons: int, arm: str | None) -> str:
    whose = "a model" if arm is None else f"the model of arm {arm}"
    return (
        f"{whose} is held, the last good one serves and learning goes on from it ({lessons} lessons up to position "
        f"{position} are left out): {reason}"
    )


def hold_trainer_lock(directory: Path) -> int:
    """A descriptor that marks this process as the one trainer, until it ends.

    :raises DataDirectoryInUse: there is one
    """
    descriptor = os.open(directory / "trainer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DataDirectoryInUse(f"another trainer works on {directory}; stop it first") from None
    return descriptor


def train(settings: Settings, stop: Callable[[], bool]) -> None:
    """Run the trainer of a data directory until ``stop``.

    :raises BanditError: it cannot start
    """
    lock = hold_trainer_lock(settings.data)
    try:
        data = DataDirectory(settings)
        try:
            Trainer(data).run(stop)
        finally:
            data.close()
    finally:
        os.close(lock)
