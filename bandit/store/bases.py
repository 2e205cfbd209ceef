"""Bases: records from which a fold can begin, and the digest-named files with the statistics of that moment.

A file is a sequence of frames, each its length (little-endian uint32) and its bytes: a header, the tallies, those of
arms that learn apart, then the viewers in the order of their ids. The model of a base stands with all other models.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from bandit import records
from bandit.errors import CorruptModel
from bandit.records import Base
from bandit.statistics.folding import TALLY_WIDTH, TIMED, Tally
from bandit.store.directory import sync_folder
from bandit.store.log import EventLog, Txn
from bandit.store.statistics import NO_EPOCH, StoredEpoch, StoredViewer, all_tallies, own_tallies

_FILE = re.compile(r"^[0-9a-f]{32}\.base$")
_LENGTH = struct.Struct("<I")
VIEWERS_AT_ONCE: Final = 500


class StoredBase(NamedTuple):
    """A base and the position of its record."""

    base_pos: int
    base: Base


class _Header(Struct, array_like=True):
    format: int
    position: int
    at: float
    digest: str


class _Own(Struct, array_like=True):
    """Of an arm that learns apart."""

    label: str
    tallies: bytes


class _Viewer(Struct, array_like=True):
    user: str
    position: int
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_header = msgspec.msgpack.Decoder(_Header).decode
_own = msgspec.msgpack.Decoder(list[_Own]).decode
_viewer = msgspec.msgpack.Decoder(_Viewer).decode
#: In 1 there is no frame for arms that learn apart, and up to 2 nothing of who stayed in tallies.
_FORMAT: Final = 3


# ---------------------------------------------------------------- records


def bases(log: EventLog) -> list[StoredBase]:
    """All bases of the log, oldest first; a log that was begun has at least one.

    :raises LogUnavailable: the log cannot be read, or one of them is damaged
    """
    return [
        StoredBase(row.pos, records.read_stored(row.payload, Base, what=f"the base at position {row.pos}"))
        for row in log.read_kinds(["base"])
    ]


def base_models(txn: EventLog | Txn) -> list[str]:
    """Digests of the models that bases need."""
    sql = (
        "SELECT CAST(payload AS BLOB) FROM log WHERE kind IN ('config', 'publish', 'base') AND kind = 'base'"
        " ORDER BY pos"
    )
    rows = txn.execute(sql).fetchall() if isinstance(txn, Txn) else txn.query(sql)
    found = [records.read_stored(bytes(row[0]), Base, what="a base") for row in rows]
    return [digest for base in found if base.model for digest in (base.model, *(arm[0] for arm in base.arms.values()))]


def append_base(txn: Txn, base: Base) -> int:
    """Log that a fold may begin here."""
    return txn.append("base", records.encode(base))


# ---------------------------------------------------------------- files


class Snapshot:
    """Statistics as a base's file holds them; viewers are read when they are asked for.

    :ivar epoch: which these statistics are
    :ivar tallies: by key
    :ivar own: those of arms that learn apart, by label and key
    """

    def __init__(
        self,
        epoch: StoredEpoch,
        tallies: Mapping[int, Tally],
        own: Mapping[str, Mapping[int, Tally]] | None = None,
        path: Path | None = None,
        places: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.epoch = epoch
        self.tallies = tallies
        self.own = own or {}
        self._path = path
        self._places = places or {}

    @property
    def users(self) -> Collection[str]:
        """Whose profiles it holds."""
        return self._places.keys()

    def viewer(self, user: str) -> StoredViewer | None:
        """A viewer as of the base."""
        place = self._places.get(user)
        if place is None or self._path is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(place[0])
            found = _viewer(file.read(place[1]))
        return StoredViewer(found.position, found.body)

    def body(self, user: str) -> bytes | None:
        """The same, as `bandit.statistics.folding.Statistics` asks for it."""
        found = self.viewer(user)
        return None if found is None else found.body


#: Before anything was counted.
NOTHING: Final = Snapshot(NO_EPOCH, {})


class BaseFiles:
    """The ``bases`` folder of a data directory."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "bases"

    def write(self, log: EventLog, epoch: StoredEpoch, *, without: Collection[str]) -> str:
        """Digest of the file with the statistics as they are stored now, once it is durable.

        Nobody else may write statistics meanwhile; rows are read in short transactions, and no lock is held.

        :param epoch: the newest one
        :param without: viewers that are left out
        :raises OSError: disk full, or not writable; nothing half-written bears a digest as its name
        """
        self.folder.mkdir(exist_ok=True)
        state = hashlib.blake2b(digest_size=16)
        temporary = self.folder / f"{os.getpid()}.part"
        try:
            with open(temporary, "wb") as file:
                for frame in _frames(log, epoch, frozenset(without)):
                    framed = _LENGTH.pack(len(frame)) + frame
                    state.update(framed)
                    file.write(framed)
                file.flush()
                os.fsync(file.fileno())
            digest = state.hexdigest()
            os.replace(temporary, self.folder / f"{digest}.base")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)
        return digest

    def read(self, digest: str | None) -> Snapshot:
        """The statistics of a base.

        :raises CorruptModel: missing, truncated or altered
        """
        if digest is None:
            return NOTHING
        path = self.folder / f"{digest}.base"
        state = hashlib.blake2b(digest_size=16)
        places: dict[str, tuple[int, int]] = {}
        at = 0
        head: list[bytes] = []
        try:
            with open(path, "rb") as file:
                while True:
                    length = file.read(_LENGTH.size)
                    if not length:
                        break
                    frame = file.read(_LENGTH.unpack(length)[0])
                    state.update(length)
                    state.update(frame)
                    if len(head) < (2 if head and _header(head[0]).format == 1 else 3):
                        head.append(frame)
                    else:
                        places[_viewer(frame).user] = (at + _LENGTH.size, len(frame))
                    at += _LENGTH.size + len(frame)
            if state.hexdigest() != digest:
                raise CorruptModel(f"base {digest} is not what was written: its bytes have changed", digest=digest)
            header = _header(head[0])
            tallies = _unpacked(head[1], header.format)
            own = {one.label: _unpacked(one.tallies, header.format) for one in (_own(head[2]) if len(head) > 2 else [])}
        except (OSError, struct.error, IndexError, msgspec.DecodeError) as error:
            raise CorruptModel(f"base {digest} cannot be read ({error})", digest=digest) from None
        return Snapshot(StoredEpoch(header.position, header.at, header.digest), tallies, own, path, places)

    def keep_only(self, digests: Collection[str | None]) -> None:
        """Delete all other files.

        :raises OSError: one cannot be deleted
        """
        if not self.folder.is_dir():
            return
        wanted = {f"{digest}.base" for digest in digests}
        for path in self.folder.iterdir():
            if (_FILE.match(path.name) or path.suffix == ".part") and path.name not in wanted:
                path.unlink(missing_ok=True)


def _packed(tallies: Mapping[int, Tally]) -> bytes:
    keys = sorted(tallies)
    values = np.array([tallies[key] for key in keys], np.float64).reshape(len(keys), TALLY_WIDTH)
    return np.array(keys, np.int64).tobytes() + values.tobytes()


def _unpacked(data: bytes, made_in: int) -> dict[int, Tally]:
    width = TALLY_WIDTH if made_in > 2 else TALLY_WIDTH - 2
    n = len(data) // (8 * (1 + width))
    keys = np.frombuffer(data, np.int64, n).tolist()
    values = np.frombuffer(data, np.float64, n * width, 8 * n).reshape(n, width)
    if made_in < 3:
        values = np.insert(values, TIMED, np.zeros((2, 1)), axis=1)
    return dict(zip(keys, values.tolist(), strict=True))


def _frames(log: EventLog, epoch: StoredEpoch, without: frozenset[str]) -> Iterator[bytes]:
    yield _encode(_Header(_FORMAT, *epoch))
    yield _packed(all_tallies(log))
    yield _encode([_Own(label, _packed(rows)) for label, rows in sorted(own_tallies(log).items())])
    last = ""
    while True:
        rows = log.query(
            "SELECT user, position, body FROM viewers WHERE user > ? ORDER BY user LIMIT ?", (last, VIEWERS_AT_ONCE)
        )
        if not rows:
            return
        for user, position, body in rows:
            if user not in without:
                yield _encode(_Viewer(user, position, bytes(body)))
        last = rows[-1][0]
