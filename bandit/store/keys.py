"""API keys in the database, and what a process knows of them: looked up in memory, read again when they change."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bandit.access.keys import Key
from bandit.errors import UnknownKey
from bandit.store.log import EventLog, Txn

#: Counts changes of the keys. Mapped by every process: looking at it costs less than any query would.
CHANGES: Final = "keys.changes"
_COLUMNS = "id, app, scopes, digest, created_at, expires_at, revoked_at, rate"


def all_keys(log: EventLog) -> list[Key]:
    """Every key that was ever made, oldest first."""
    rows = log.query(f"SELECT {_COLUMNS} FROM keys ORDER BY created_at, id")
    return [Key(row[0], row[1], frozenset(row[2].split()), bytes(row[3]), *row[4:]) for row in rows]


def add_key(txn: Txn, key: Key) -> None:
    """Keep a new key."""
    scopes = " ".join(sorted(key.scopes))
    txn.execute(
        f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (key.id, key.app, scopes, key.digest, key.created_at, key.expires_at, key.revoked_at, key.rate),
    )


def revoke_key(txn: Txn, key_id: str, now: float) -> None:
    """Have a key refused from here on; one that was revoked before stays so since then.

    :raises UnknownKey: there is none with this id
    """
    if txn.execute("SELECT 1 FROM keys WHERE id = ?", (key_id,)).fetchone() is None:
        raise UnknownKey(f"no key has the id {key_id!r}; `server.py keys list` tells the ids", id=key_id)
    txn.execute("UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (now, key_id))


@contextmanager
def changing(directory: Path) -> Iterator[None]:
    """Tell every process that the keys have changed, once the block has changed them."""
    yield
    descriptor = _open(directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with mmap.mmap(descriptor, 8) as mapped:
            count = int.from_bytes(mapped[:], "little") + 1
            mapped[:] = count.to_bytes(8, "little")
    finally:
        os.close(descriptor)


def _open(directory: Path) -> int:
    descriptor = os.open(directory / CHANGES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if os.fstat(descriptor).st_size < 8:
        os.ftruncate(descriptor, 8)
    return descriptor


class KeyRing:
    """The keys as this process knows them; safe to share between threads.

    A change holds from the next `find` on, in every process.
    """

    def __init__(self, log: EventLog, directory: Path) -> None:
        self._log = log
        self._reading = threading.Lock()
        descriptor = _open(directory)
        try:
            self._mapped = mmap.mmap(descriptor, 8, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self._known: Mapping[str, Key] = {}
        self._count = b""
        self.refresh()

    def find(self, key_id: str) -> Key | None:
        """The key with an id, whatever its state.

        :raises LogUnavailable: keys have changed, and cannot be read
        """
        return self._now().get(key_id)

    def usable(self, now: float) -> bool:
        """Whether any key is accepted at a time."""
        return any(key.state(now) == "active" for key in self._now().values())

    def apps(self) -> list[str]:
        """Every app that ever had a key."""
        return sorted({key.app for key in self._now().values()})

    def _now(self) -> Mapping[str, Key]:
        if self._mapped[:] != self._count:
            self.refresh()
        return self._known

    def refresh(self) -> None:
        """Read them again; called now and then for a change whose author died before he could tell.

        :raises LogUnavailable: the log cannot be read; what was known stays
        """
        with self._reading:
            # Counted first: a change while they are read is seen at the next look.
            count = self._mapped[:]
            self._known = {key.id: key for key in all_keys(self._log)}
            self._count = count

    def close(self) -> None:
        """Let go of the file."""
        self._mapped.close()
