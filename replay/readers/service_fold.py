"""What any fold of a service's log needs that is only read: payloads of what is open, and plain words for damage."""

from __future__ import annotations

from typing import Final

import msgspec

from bandit.learning.fold import Fold, Lesson, Record
from bandit.store.log import LogRow
from bandit.store.reading import ReadOnlyLog
from replay.errors import BadLog

# Payloads of open decisions, kept until their window ends; others are read again.
KEPT_BYTES: Final = 64 << 20


class Payloads:
    """Payloads of decisions whose windows are open; when there are too many the oldest are read again."""

    def __init__(self, log: ReadOnlyLog) -> None:
        self._log = log
        self._kept: dict[int, bytes] = {}
        self._size = 0

    def keep(self, position: int, payload: bytes) -> None:
        self._kept[position] = payload
        self._size += len(payload)
        while self._size > KEPT_BYTES:
            self.drop(next(iter(self._kept)))

    def drop(self, position: int) -> None:
        self._size -= len(self._kept.pop(position, b""))

    def at(self, position: int) -> bytes:
        payload = self._kept.get(position)
        return self._log.payload_at(position) if payload is None else payload


def folded(fold: Fold, row: LogRow) -> list[Lesson]:
    """What closed because of a record.

    :raises BadLog: it cannot be read, or one that it is about
    """
    try:
        return fold.apply(Record(*row))
    except (msgspec.DecodeError, KeyError, IndexError) as error:
        raise BadLog(
            f"the log is damaged: the {row.kind} at position {row.pos} cannot be read, or one that it is about "
            f"({error}); mend it, or restore a copy"
        ) from None
