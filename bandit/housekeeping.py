"""What is deleted from a data directory, and when: the trainer's work between two lessons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bandit import records
from bandit.store.bases import append_base, bases
from bandit.store.data import DataDirectory
from bandit.store.erasures import (
    Erasure,
    begin_deleting,
    delete_some,
    finish,
    forget_names,
    unfinished,
)
from bandit.store.log import Txn
from bandit.store.models import PublishedModel
from bandit.store.scrub import scrub
from bandit.store.serving import kept_models
from bandit.store.statistics import StoredEpoch


class Housekeeper:
    """Writes bases and carries out erasures; each step can be the last, and a start goes on where it was.

    :ivar asked: an erasure may wait to be begun
    """

    def __init__(self, data: DataDirectory) -> None:
        self._data = data
        self._log = data.log
        self.asked = True

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
        )

        def write(txn: Txn) -> None:
            position = append_base(txn, base)
            if erasures:
                begin_deleting(txn, erasures, position)
            also(txn, position)

        self._log.append(write)
        return base

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
