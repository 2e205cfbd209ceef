"""What is deleted from a data directory, and when: the trainer's work between two lessons."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from bandit import records
from bandit.store.bases import append_base, bases
from bandit.store.data import DataDirectory
from bandit.store.erasures import (
    Erasure,
    begin_deleting,
    delete_some,
    drop_bases,
    finish,
    forget_names,
    unfinished,
)
from bandit.store.log import Txn
from bandit.store.models import PublishedModel, append_publish, arm_models
from bandit.store.retention import cut_of, delete_before, first_since, start_of, used_bytes
from bandit.store.scrub import scrub
from bandit.store.serving import append_release, kept_models, serving
from bandit.store.statistics import StoredEpoch

DAY_S: Final = 86_400.0
# Whatever the size, the newest hour stays.
LEAST_KEPT_S: Final = 3_600.0
# When the log is too large, it is cut to this share of what is allowed.
LEFT_FULL: Final = 0.95
FEWEST_RECORDS: Final = 1_000
HELD_S: Final = 0.01
SCRUB_EVERY_S: Final = 3_600.0


class Housekeeper:
    """Writes bases, carries out erasures, deletes what is too old; each step can be the last, and a start goes on.

    :param monotonic: seconds; asked only for how much to do at once, and how often to look at the files
    :ivar asked: an erasure may wait to be begun
    """

    def __init__(self, data: DataDirectory, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._data = data
        self._log = data.log
        self._monotonic = monotonic
        self.asked = True
        self._target = 0
        self._at_once = 64
        self._unscrubbed = False
        self._scrubbed_at = monotonic()

    # ------------------------------------------------------------ bases

    def write_base(
        self,
        cause: str,
        model: PublishedModel | records.Publish,
        epoch: StoredEpoch,
        erasures: Sequence[Erasure] = (),
        *,
        also: Callable[[Txn, int], None] = lambda txn, base_pos: None,
    ) -> records.Base:
        """A base at the position of a model that was just published, durable; and with it, begin these erasures.

        :param also: more to be written in the same transaction, given the base's own position
        :param epoch: the newest one: statistics hold the log up to the model's position, and nobody changes them
        :raises OSError: it cannot be written; nothing has changed
        :raises LogUnavailable: the same
        """
        names = [name for one in erasures for name in one.names]
        statistics = self._data.bases.write(self._log, epoch, without=names)
        if isinstance(model, PublishedModel):
            found = arm_models(self._log, model.published_pos)
            arms = {arm: (one.digest, one.learned) for arm, one in found.items()}
            experiment = next((one.experiment for one in found.values()), None)
        else:
            arms, experiment = model.arms, model.experiment
        base = records.Base(
            arguments=self._data.args.text,
            cause=cause,
            position=model.position,
            reads_from=model.reads_from,
            model=model.digest,
            learned=model.learned,
            statistics=statistics,
            epoch=epoch.position,
            epoch_digest=epoch.digest,
            erased=[one.erase_pos for one in erasures],
            experiment=experiment,
            arms=arms,
        )

        def write(txn: Txn) -> None:
            position = append_base(txn, base)
            if erasures:
                begin_deleting(txn, erasures, position)
            also(txn, position)

        self._log.append(write)
        return base

    def begin_anew(
        self, cause: str, publish: records.Publish, weights: Mapping[str, str], epoch: StoredEpoch, *, reason: str
    ) -> None:
        """Publish a model that does not come of those before, at a base of its own, and let it serve.

        :param publish: its files are written
        :param weights: as for `append_publish`
        :param epoch: as for `write_base`
        :raises OSError: the base cannot be written; nothing has changed
        :raises LogUnavailable: the same
        """

        def begin(txn: Txn, base_pos: int) -> None:
            append_publish(txn, publish, weights)
            drop_bases(txn, base_pos)
            now = serving(txn)
            if now.pinned is not None or now.champion is not None:
                # What they name is not what goes on.
                append_release(
                    txn,
                    records.Release(
                        number=now.release + 1,
                        champion=publish.digest,
                        position=publish.position,
                        by="operator",
                        reason=reason,
                    ),
                )

        self.write_base(cause, publish, epoch, also=begin)

    def delete_files(self) -> None:
        """Files of bases that are no more, and of all models but the newest, a pinned one and the champion.

        :raises OSError: one cannot be deleted
        """
        found = [one.base for one in bases(self._log)]
        self._data.bases.keep_only([one.statistics for one in found])
        problems: list[OSError] = []

        def write(txn: Txn) -> None:
            # Under the log's lock: nobody can roll back to a model that is just being deleted.
            try:
                self._data.models.keep_only(kept_models(txn, 1))
            except OSError as error:
                problems.append(error)

        self._log.append(write)
        if problems:
            raise problems[0]

    # ------------------------------------------------------------ retention

    def look(self, position: int, now: float) -> bool:
        """See which records are too old or too many; `delete_old` deletes them. Whether to write a base, too.

        The log then begins with the oldest base that needs none of them: bases are written along the way, each an
        eighth of the log on.

        :param position: of the last record that was folded
        :param now: UTC seconds
        """
        days, limit = self._data.settings.retain_days, self._data.settings.retain_gb * 1e9
        if not days and not limit:
            return False
        cut, used = cut_of(self._log), used_bytes(self._log)
        wanted = cut

        def since(age_s: float) -> int:
            return first_since(self._log, now - age_s, low=cut, high=position)

        if days:
            wanted = max(wanted, since(days * DAY_S))
        if limit and used > limit:
            share = 1.0 - LEFT_FULL * limit / used
            wanted = max(wanted, min(cut + int((position - cut) * share), since(LEAST_KEPT_S)))
        found = bases(self._log)
        start = start_of(found, wanted)
        if start.base_pos > found[0].base_pos:
            # First: nobody is to begin with a base whose records are going.
            self._log.append(lambda txn: drop_bases(txn, start.base_pos))
            # A file that cannot be deleted now is deleted with the next one.
            with suppress(OSError):
                self._data.bases.keep_only([one.base.statistics for one in found if one.base_pos >= start.base_pos])
        self._target = min(wanted, start.base.reads_from)
        near = (days and self._log.time_at(cut) < now - days * DAY_S / 2) or (limit and used > limit / 2)
        return bool(near) and position - found[-1].base.position >= max(FEWEST_RECORDS, (position - cut) // 8)

    def delete_old(self) -> None:
        """Delete some of what is too old; the log's lock is held for about `HELD_S`.

        :raises LogUnavailable: the log is away; go on later
        """
        if self._target:
            cut = cut_of(self._log)
            if cut < self._target:
                began = self._monotonic()
                self._log.append(lambda txn: delete_before(txn, cut, self._target, self._at_once))
                held = self._monotonic() - began
                self._at_once = max(8, min(4_096, int(self._at_once * (0.5 if held > HELD_S else 1.25))))
                self._unscrubbed = True
                return
            self._target = 0
        if self._unscrubbed and self._monotonic() - self._scrubbed_at > SCRUB_EVERY_S:
            self._scrubbed_at = self._monotonic()
            # What cannot be scrubbed now is scrubbed with what is deleted next.
            with suppress(OSError):
                self._unscrubbed = not scrub(self._log, lambda txn: None)

    # ------------------------------------------------------------ erasures

    def waiting(self, position: int) -> list[Erasure]:
        """Erasures that were asked for up to a position, and are not begun."""
        return [one for one in unfinished(self._log) if one.state == "asked" and one.erase_pos <= position]

    def unfinished(self) -> bool:
        """Whether any is asked for or begun."""
        return bool(unfinished(self._log))

    def go_on(self) -> str | None:
        """Carry on with what was begun, to its end if possible; else why not.

        :raises LogUnavailable: the log is away; go on later
        """
        begun = [one for one in unfinished(self._log) if one.state != "asked"]
        if not begun:
            return None
        for one in begun:
            if one.state == "deleting":
                while self._log.append(lambda txn, one=one: delete_some(txn, one)):  # type: ignore[misc]
                    pass
                self._log.append(lambda txn, one=one: forget_names(txn, one))  # type: ignore[misc]
        try:
            self.delete_files()

            def last(txn: Txn) -> None:
                for one in begun:
                    finish(txn, one)

            if not scrub(self._log, last):
                return "an erasure waits for somebody who has been reading the log for long"
        except OSError as error:
            return f"an erasure cannot be finished ({error}); it is tried again"
        return None
