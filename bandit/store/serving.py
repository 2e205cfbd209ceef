"""Which model serves: held snapshots, rollbacks and releases, as records of the log and as rows that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bandit import records
from bandit.errors import UnknownModel
from bandit.records import Hold, Release, Rollback
from bandit.store.bases import base_models
from bandit.store.log import EventLog, Txn
from bandit.store.models import PublishedModel, arm_models_since, newest_models, published_as

#: Kinds of records that change what serves. The text is that of the index.
KINDS = "kind IN ('hold', 'rollback', 'release')"
SHORTEST_PREFIX = 4


class Serving(NamedTuple):
    """The row of ``serving``.

    :ivar pinned: digest of the model that a rollback named; None: the newest one serves
    :ivar by: ``operator`` or ``guard``; of the last rollback or release, as are ``reason``, ``at`` and ``since_pos``
    :ivar release: how many releases there were; 0 before the first
    :ivar champion: the model that this release began with; None before the first
    """

    pinned: str | None = None
    by: str | None = None
    reason: str | None = None
    at: float | None = None
    since_pos: int = 0
    release: int = 0
    champion: str | None = None
    champion_position: int = 0
    release_pos: int = 0


class Held(NamedTuple):
    """A row of ``holds``; see `records.Hold`."""

    hold_pos: int
    digest: str | None
    position: int
    after: int
    failed: str
    reason: str
    lessons: int
    held_at: float
    arm: str | None


class Comparison(NamedTuple):
    """The row of ``comparison``: what the slow guard found at its last look."""

    release: int
    champion: str
    feeds: int
    estimate: float | None
    upper: float | None
    alpha: float | None
    at: float = 0.0


_SERVING = "pinned, by, reason, at, since_pos, release, champion, champion_position, release_pos"
_COMPARISON = "release, champion, feeds, estimate, upper, alpha, at"
_HOLDS = "hold_pos, digest, position, after, failed, reason, lessons, held_at, arm"


def serving(source: EventLog | Txn) -> Serving:
    """What serves now."""
    sql = f"SELECT {_SERVING} FROM serving"
    rows = source.execute(sql).fetchall() if isinstance(source, Txn) else source.query(sql)
    return Serving._make(rows[0]) if rows else Serving()


def _write(txn: Txn, row: Serving) -> None:
    marks = ", ".join("?" * len(row))
    txn.execute(f"INSERT OR REPLACE INTO serving (one, {_SERVING}) VALUES (1, {marks})", row)


def write_comparison(txn: Txn, found: Comparison) -> None:
    """Replace what the slow guard found; its time is the log's."""
    txn.execute(
        f"INSERT OR REPLACE INTO comparison (one, {_COMPARISON}) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
        found._replace(at=txn.now),
    )


def comparison(log: EventLog) -> Comparison | None:
    """What the slow guard found at its last look; None if it never looked."""
    rows = log.query(f"SELECT {_COMPARISON} FROM comparison")
    return Comparison._make(rows[0]) if rows else None


def last_hold(log: EventLog) -> Held | None:
    """The newest snapshot that was held."""
    rows = log.query(f"SELECT {_HOLDS} FROM holds ORDER BY hold_pos DESC LIMIT 1")
    return Held._make(rows[0]) if rows else None


def n_holds(log: EventLog) -> int:
    """How many snapshots were ever held."""
    return int(log.query("SELECT count(*) FROM holds")[0][0])


def voids(log: EventLog) -> dict[str | None, list[tuple[int, int]]]:
    """Stretches (after, until] of the log whose lessons a model does not hold, in order, by the arm whose it is; under
    None those that no model holds. See `records.Hold`."""
    rows = log.query(f"SELECT CAST(payload AS BLOB) FROM log WHERE {KINDS} AND kind = 'hold' ORDER BY pos")
    found: dict[str | None, list[tuple[int, int]]] = {}
    for row in rows:
        hold: Hold = records.read_stored(bytes(row[0]), Hold, what="a hold")
        found.setdefault(hold.arm, []).append((hold.after, hold.position))
    return found


def append_hold(txn: Txn, hold: Hold, taught: Sequence[tuple[int, int]]) -> int:
    """Log that a snapshot is held.

    :param taught: decision position and slot of the lessons that no model will hold
    """
    position = txn.append("hold", records.encode(hold))
    txn.execute(
        f"INSERT INTO holds ({_HOLDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (position, hold.digest, hold.position, hold.after, hold.failed, hold.reason, hold.lessons, txn.now, hold.arm),
    )
    txn.executemany("UPDATE outcomes SET status = 'held' WHERE decision_pos = ? AND slot = ?", taught)
    return position


def append_rollback(txn: Txn, rollback: Rollback) -> int:
    """Log that an earlier model serves from here on, whatever is published, until a release."""
    position = txn.append("rollback", records.encode(rollback))
    row = serving(txn)._replace(
        pinned=rollback.to, by=rollback.by, reason=rollback.reason, at=txn.now, since_pos=position
    )
    _write(txn, row)
    return position


def append_release(txn: Txn, release: Release) -> int:
    """Log that the newest model serves again, and with which champion it is compared from here on."""
    position = txn.append("release", records.encode(release))
    row = Serving(
        by=release.by, reason=release.reason, at=txn.now, since_pos=position, release=release.number,
        champion=release.champion, champion_position=release.position, release_pos=position,
    )  # fmt: skip
    _write(txn, row)
    return position


def kept_models(source: EventLog | Txn, n: int) -> list[PublishedModel]:
    """Models whose files are kept: the newest ``n``, newest first, and then those of arms that were published with
    them, what a rollback names, the champion, and bases."""
    found = newest_models(source, n)
    found += arm_models_since(source, found[-1].published_pos) if found else []
    now = serving(source)
    for digest in (now.pinned, now.champion, *base_models(source)):
        if digest is not None and all(one.digest != digest for one in found):
            named = published_as(source, digest)
            found += [] if named is None else [named]
    return found


def find_kept(kept: Sequence[PublishedModel], text: str) -> PublishedModel:
    """The kept model whose digest is, or begins with, a text.

    :param kept: newest first

    :raises UnknownModel: none does, or several do
    """
    by_name = {one.digest: one for one in reversed(kept)}
    found = [one for digest, one in by_name.items() if digest.startswith(text)]
    if len(found) == 1 and len(text) >= SHORTEST_PREFIX:
        return found[0]
    names = list(reversed(by_name))
    why = f"{len(found)} kept models begin with {text!r}" if len(found) > 1 else f"no kept model is {text!r}"
    if len(text) < SHORTEST_PREFIX:
        why = f"{text!r} is too short to name a model; give at least {SHORTEST_PREFIX} characters"
    raise UnknownModel(f"{why}; kept are {', '.join(names[:20]) or 'none yet'}", given=text, kept=names)
