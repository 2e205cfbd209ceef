"""The event log on SQLite: group commit, reads by position, and nothing acknowledged before it is durable.

Source of the figures in the comments: measured on two cores, rows of 2 KB, an fsync for each commit.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import starmap
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from sqlite_utils import Database

from bandit.access.apps import stored_id
from bandit.errors import BanditError, LogUnavailable
from bandit.store.schema import migrations

T = TypeVar("T")

BUSY_TIMEOUT_MS = 2_000
SHORT_TIMEOUT_MS = 5
# A backstop only: the trainer checkpoints the WAL off the request path.
WAL_BACKSTOP_PAGES = 50_000
WAL_RESTART_PAGES = 16_384

# sqlite3 raises the third for a message that quotes the garbage in a damaged database.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)

_INSERT = (
    "INSERT INTO log (ts, kind, event_id, feedback_id, body_hash, payload, candidates, user)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class LogRow(NamedTuple):
    """One record as it stands in the log; ``payload`` is JSON text, ``candidates`` those of a decision if asked for."""

    pos: int
    ts: float
    kind: str
    event_id: str | None
    payload: bytes
    candidates: bytes | None = None


class Txn:
    """An open write transaction: the newest state of the log, and its time.

    :ivar now: the ``ts`` of every record this transaction writes; never before that of an earlier record
    :ivar app: whose ids those are that it is given; None: ids are as they stand in the log
    """

    def __init__(self, connection: sqlite3.Connection, now: float, app: str | None = None) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.now = now
        self.app = app

    def of(self, app: str) -> Txn:
        """The same transaction, for ids as an app knows them."""
        return Txn(self._connection, self.now, app)

    def stored(self, own_id: str) -> str:
        """An id as it stands in the log.

        :raises InvalidRequest: it would be another app's
        """
        return own_id if self.app is None else stored_id(self.app, own_id)

    def append(
        self,
        kind: str,
        payload: bytes,
        *,
        event_id: str | None = None,
        feedback_id: str | None = None,
        body_hash: bytes | None = None,
        candidates: bytes | None = None,
        user: str | None = None,
    ) -> int:
        """Position of the new record.

        :param user: whose it is, so that their next feed heeds it at once
        """
        event_id = None if event_id is None else self.stored(event_id)
        feedback_id = None if feedback_id is None else self.stored(feedback_id)
        cursor = self.execute(
            _INSERT, (self.now, kind, event_id, feedback_id, body_hash, payload.decode(), candidates, user)
        )
        position = cursor.lastrowid
        assert position is not None
        return position


class _Entry(Generic[T]):
    __slots__ = ("commit", "done", "error", "result", "write")

    def __init__(self, write: Callable[[Txn], T]) -> None:
        self.write = write
        self.done = False
        self.commit = 0
        self.result: T | None = None
        self.error: Exception | None = None


class EventLog:
    """The log of one data directory, as one process sees it. Safe to share between threads.

    :param directory: the data directory; must exist
    :param durable: fsync before `append` returns
    :param clock: UTC seconds; passed in so that tests can own the time
    """

    def __init__(self, directory: Path, *, durable: bool, clock: Callable[[], float]) -> None:
        self.path = directory / "log.db"
        self._lock_path = directory / "log.lock"
        self._durable = durable
        self._clock = clock
        self._pending: deque[_Entry[Any]] = deque()
        self._writing = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._lock_fd: int | None = None
        self._syncing = threading.Lock()
        self._committed = self._synced = 0
        self._wal_fd: int | None = None
        self._wal_is_stale = False
        self._idle: deque[sqlite3.Connection] = deque()
        self.last_error: str | None = None

    # ------------------------------------------------------------ opening

    def migrate(self) -> None:
        """Bring the schema up to date; harmless when it is.

        :raises LogUnavailable: the directory cannot be written, or the file is no database
        """
        with self._writing, self._unavailable_is_an_error(), self._exclusive():
            connection = self._connect()
            try:
                database = Database(connection)
                migrations.apply(database)
            finally:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise sqlite3.OperationalError(f"journal mode is {mode}, not wal; is the directory on a network?")
            # What FULL adds, one fsync a commit, is done by `_sync`, after the lock is given back.
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint={WAL_BACKSTOP_PAGES}")
            connection.execute("PRAGMA secure_delete=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close every connection of this process; the log can be opened again."""
        with self._writing:
            self._drop_writer()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None
        with self._syncing:
            self._close_wal()
        while self._idle:
            self._idle.pop().close()

    def _drop_writer(self) -> None:
        # Not closed here: another thread may be at its fsync.
        self._wal_is_stale = True
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # ------------------------------------------------------------ writing

    def append(self, write: Callable[[Txn], T]) -> T:
        """Run ``write`` in a transaction and return its result once that is durable.

        Concurrent calls share a commit: whoever gets the lock commits for all that wait. ``write`` may be run
        again, if another one of its commit failed; when it raises, nothing of it is stored.

        :raises BanditError: whatever ``write`` raised; nobody else's record is touched by it
        :raises LogUnavailable: nothing was written
        """
        entry = _Entry(write)
        self._pending.append(entry)
        with self._writing:
            if not entry.done:
                batch = []
                while self._pending:
                    batch.append(self._pending.popleft())
                self._commit(batch)
        if entry.error is not None:
            raise entry.error
        if self._durable:
            self._sync(entry.commit)
        return entry.result  # type: ignore[return-value]

    def sync(self) -> None:
        """Wait until all that can be read now is on disk, whoever wrote it; before it is told again.

        :raises LogUnavailable: the disk failed
        """
        if self._durable:
            self._sync(None)

    def _sync(self, commit: int | None) -> None:
        """The fsync of a commit, outside the lock: meanwhile others write, and one fsync serves all who wait.

        It syncs the whole WAL, so every record before the commit is on disk too, other processes' included. A
        WAL that began again since then did so after a checkpoint, which had synced what it held.
        """
        with self._syncing:
            if commit is not None and self._synced >= commit:
                return
            newest = self._committed
            try:
                if self._wal_fd is None or self._wal_is_stale:
                    self._close_wal()
                    self._wal_fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                os.fdatasync(self._wal_fd)
            except OSError as error:
                self._close_wal()
                self.last_error = f"{type(error).__name__}: {error}"
                raise LogUnavailable(f"the log cannot be made durable ({error}); ask again with the same id") from error
            self._synced = newest

    def _close_wal(self) -> None:
        self._wal_is_stale = False
        if self._wal_fd is not None:
            os.close(self._wal_fd)
            self._wal_fd = None

    def _commit(self, batch: Sequence[_Entry[Any]]) -> None:
        try:
            try:
                self._transact(batch)
            except Exception as first:
                error = self._as_error(first)
                # A locked or full database fails all alike, and each alone would wait as long again.
                if len(batch) == 1 or isinstance(first, sqlite3.OperationalError | OSError):
                    for entry in batch:
                        entry.error = error if entry is batch[0] else self._as_error(first)
                        entry.done = True
                    return
                # One bad row never fails its batch: each alone.
                for entry in batch:
                    try:
                        self._transact([entry])
                    except Exception as own:
                        entry.error = self._as_error(own)
                        entry.done = True
        finally:
            for entry in batch:
                if not entry.done:
                    # This thread was interrupted (by more than an Exception): the others must not believe that
                    # their records stand in the log.
                    entry.error = LogUnavailable("the log was interrupted; nothing was stored, try again")
                    entry.done = True

    def _as_error(self, error: Exception) -> Exception:
        if not isinstance(error, FAILURES):
            return error
        self.last_error = f"{type(error).__name__}: {error}"
        # A connection that has seen a full disk or a corrupt page is not trusted again.
        self._drop_writer()
        return LogUnavailable(f"the log cannot be written ({error}); nothing was stored, try again")

    def _transact(self, batch: Sequence[_Entry[Any]]) -> None:
        with self._exclusive():
            writer = self._writer
            if writer is None:
                writer = self._writer = self._connect()
            writer.execute("BEGIN IMMEDIATE")
            try:
                last = writer.execute("SELECT ts FROM log ORDER BY pos DESC LIMIT 1").fetchone()
                now = self._clock()
                txn = Txn(writer, now if last is None else max(now, last[0]))
                for entry in batch:
                    entry.error = None
                    n_before = writer.total_changes
                    try:
                        entry.result = entry.write(txn)
                    except BanditError as error:
                        if writer.total_changes != n_before:
                            # It wrote before it refused: all is rolled back, and each is tried alone.
                            raise
                        entry.error = error
                writer.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors; then this is a no-op that may complain.
                if writer.in_transaction:
                    with suppress(sqlite3.Error):
                        writer.execute("ROLLBACK")
                raise
        self.last_error = None
        self._committed += 1
        for entry in batch:
            entry.commit = self._committed
            entry.done = True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One writer among all processes, in the order they came.

        SQLite's own lock is polled and unfair: without the flock the worst wait was 2 s, with it 68 ms.
        """
        if self._lock_fd is None:
            self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def checkpoint(self) -> None:
        """Move what the WAL holds into the database, off the request path.

        A passive checkpoint disturbs nobody, but under steady writes the WAL would grow for ever; past 64 MB
        the writers wait, for what little is left, while it starts again from its beginning. It keeps its size:
        to write over blocks that a file has is cheaper to fsync than to make it longer.
        """
        try:
            _, n_pages, _ = self.query("PRAGMA wal_checkpoint(PASSIVE)")[0]
            if n_pages > WAL_RESTART_PAGES:
                with self._writing, self._exclusive():
                    self.query("PRAGMA wal_checkpoint(RESTART)")
        except (LogUnavailable, OSError) as error:
            self.last_error = f"{type(error).__name__}: {error}"

    @contextmanager
    def alone(self) -> Iterator[Txn | None]:
        """A transaction while nobody else can write, over a WAL that is empty: all there is stands in the file.

        Gives None when somebody reads from the WAL right now; nothing has happened then. The result is not synced.

        :raises LogUnavailable: the log cannot be written; nothing was
        """
        with self._writing, self._exclusive(), self._unavailable_is_an_error():
            connection = self._connect()
            try:
                # Whoever writes waits for this.
                connection.execute(f"PRAGMA busy_timeout={SHORT_TIMEOUT_MS}")
                if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    yield None
                    return
                connection.execute("BEGIN IMMEDIATE")
                if os.path.getsize(f"{self.path}-wal"):
                    connection.execute("ROLLBACK")
                    yield None
                    return
                last = connection.execute("SELECT ts FROM log ORDER BY pos DESC LIMIT 1").fetchone()
                now = self._clock()
                yield Txn(connection, now if last is None else max(now, last[0]))
                connection.execute("COMMIT")
            finally:
                # What was not committed is rolled back.
                connection.close()

    # ------------------------------------------------------------ reading

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a read; each sees the newest committed state.

        :raises LogUnavailable: the database is locked, corrupt or gone; the next read opens it afresh
        """
        try:
            # A pool, not thread locals: the server's threads come and go.
            connection = self._idle.pop()
        except IndexError:
            with self._unavailable_is_an_error():
                connection = self._connect()
        try:
            rows = connection.execute(sql, parameters).fetchall()
        except FAILURES as error:
            self.last_error = f"{type(error).__name__}: {error}"
            with suppress(sqlite3.Error):
                connection.close()
            raise LogUnavailable(f"the log cannot be read ({error}); try again") from error
        self._idle.append(connection)
        return rows

    @contextmanager
    def _unavailable_is_an_error(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self.last_error = f"{type(error).__name__}: {error}"
            raise LogUnavailable(f"the log at {self.path.name} cannot be opened ({error})") from error

    def read(self, after: int, limit: int, *, candidates: bool = False) -> list[LogRow]:
        """The next records in order; short, so that the WAL can be recycled."""
        rows = self.query(
            f"SELECT pos, ts, kind, event_id, CAST(payload AS BLOB){', candidates' if candidates else ''}"
            " FROM log WHERE pos > ? ORDER BY pos LIMIT ?",
            (after, limit),
        )
        return list(starmap(LogRow, rows))

    def read_kinds(self, kinds: Sequence[str], *, after: int = 0) -> list[LogRow]:
        """All records of some rare kinds (config, publish, base), in order."""
        marks = ",".join(f"'{kind}'" for kind in kinds)
        rows = self.query(
            "SELECT pos, ts, kind, event_id, CAST(payload AS BLOB) FROM log"
            " WHERE kind IN ('config', 'publish', 'base')"
            f" AND kind IN ({marks}) AND pos > ? ORDER BY pos",
            (after,),
        )
        return list(starmap(LogRow, rows))

    def read_control(self, after: int) -> list[LogRow]:
        """Records that change what is served, in order; 14 microseconds when there are none."""
        rows = self.query(
            "SELECT pos, ts, kind, event_id, CAST(payload AS BLOB) FROM log"
            " WHERE kind IN ('items', 'withdraw', 'config', 'rollback', 'release') AND pos > ? ORDER BY pos",
            (after,),
        )
        return list(starmap(LogRow, rows))

    def last_position(self) -> int:
        """Position of the newest record; 0 for an empty log."""
        return int(self.query("SELECT coalesce(max(pos), 0) FROM log")[0][0])

    def time_at(self, position: int) -> float:
        """``ts`` of the newest record that is not after a position; 0 before the first."""
        rows = self.query("SELECT ts FROM log WHERE pos <= ? ORDER BY pos DESC LIMIT 1", (position,))
        return float(rows[0][0]) if rows else 0.0

    def first_time(self) -> float:
        """``ts`` of the oldest record that is still there; 0 for an empty log."""
        rows = self.query("SELECT ts FROM log ORDER BY pos LIMIT 1")
        return float(rows[0][0]) if rows else 0.0

    def payload_at(self, position: int) -> bytes:
        """Payload of the record at a position that is known to exist."""
        return bytes(self.query("SELECT CAST(payload AS BLOB) FROM log WHERE pos = ?", (position,))[0][0])


class AppLog:
    """The log as an app sees it: reads and writes by ids as the app knows them, and reaches no others.

    :param app: empty for the app without a name
    """

    def __init__(self, log: EventLog, app: str) -> None:
        self.log = log
        self.app = app

    def stored(self, own_id: str) -> str:
        """An id as it stands in the log.

        :raises InvalidRequest: it would be another app's
        """
        return stored_id(self.app, own_id)

    def append(self, write: Callable[[Txn], T]) -> T:
        """`EventLog.append`, with a transaction for this app's ids."""
        return self.log.append(lambda txn: write(txn.of(self.app)))

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """`EventLog.query`; ids in it are as they stand in the log."""
        return self.log.query(sql, parameters)


#: Where an event is looked up by its id: as an app knows it, or, in the log itself, as it stands there.
Source = EventLog | AppLog | Txn


def stored_in(source: Source, event_id: str) -> str:
    """The id as it stands in the log."""
    return event_id if isinstance(source, EventLog) else source.stored(event_id)
