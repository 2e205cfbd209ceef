"""The log opened for reading alone: by those who ask of it, beside or after the service that wrote it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandit.errors import LogUnavailable
from bandit.store.log import BUSY_TIMEOUT_MS, EventLog


class ReadOnlyLog(EventLog):
    """The log of a directory, live or at rest; nothing there is made, migrated or written.

    :raises LogUnavailable: any attempt to write; or, from a read, that this is no log
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, durable=True, clock=_no_clock)
        self._wal = Path(f"{self.path}-wal")
        self._immutable = False

    def _connect(self) -> sqlite3.Connection:
        # Without a WAL nobody writes, and without `immutable` SQLite would make one, only to read: which
        # changes a backup, and fails on a medium that cannot be written.
        self._immutable = not self._wal.exists()
        uri = f"{self.path.absolute().as_uri()}?mode=ro{'&immutable=1' if self._immutable else ''}"
        return sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a read; each sees the newest committed state.

        :raises LogUnavailable: there is no log, or it cannot be read
        """
        self._leave_immutable()
        rows = super().query(sql, parameters)
        # A service that has started meanwhile may have changed what was taken for immutable.
        return super().query(sql, parameters) if self._leave_immutable() else rows

    def _leave_immutable(self) -> bool:
        """True if a writer has come, and connections must be opened anew."""
        if not (self._immutable and self._wal.exists()):
            return False
        self.close()
        self._immutable = False
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        raise LogUnavailable(f"{self.path} was opened to be read only")
        yield


def _no_clock() -> float:
    raise AssertionError("what is only read needs no clock")
