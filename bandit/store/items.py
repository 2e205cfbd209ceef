"""The catalogue: item versions (each distinct feature set once) and which of them is current."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bandit import records
from bandit.store.log import EventLog, Txn


class StoredItem(NamedTuple):
    """The current version of an item."""

    version: int
    features: bytes
    withdrawn: bool
    updated_at: float


def digest_of(item_id: str, features: bytes) -> bytes:
    """BLAKE2b-128 of an item version's id and features text."""
    return hashlib.blake2b(item_id.encode() + b"\x00" + features, digest_size=16).digest()


def intern_versions(txn: Txn, items: Sequence[tuple[str, bytes]]) -> list[int]:
    """Version numbers of these (id, features text) pairs, given now to those that are new."""
    digests = [digest_of(item_id, features) for item_id, features in items]
    txn.executemany(
        "INSERT INTO item_versions (digest, id, features) VALUES (?, ?, ?) ON CONFLICT (digest) DO NOTHING",
        [(digest, item_id, text.decode()) for digest, (item_id, text) in zip(digests, items, strict=True)],
    )
    return [
        txn.execute("SELECT version FROM item_versions WHERE digest = ?", (digest,)).fetchone()[0] for digest in digests
    ]


def upsert_items(txn: Txn, items: Sequence[tuple[str, bytes]]) -> int:
    """Make these versions current; how many differ from what was there.

    Writes one record for all that changed, so that workers and the fold hear of it in order.
    """
    versions = intern_versions(txn, items)
    changed = []
    for (item_id, _), version in zip(items, versions, strict=True):
        row = txn.execute("SELECT version, withdrawn FROM items WHERE id = ?", (item_id,)).fetchone()
        if row is None or row[0] != version or row[1]:
            changed.append((item_id, version))
    if changed:
        txn.executemany(
            "INSERT INTO items (id, version, withdrawn, updated_at) VALUES (?, ?, 0, ?) ON CONFLICT (id)"
            " DO UPDATE SET version = excluded.version, withdrawn = 0, updated_at = excluded.updated_at",
            [(item_id, version, txn.now) for item_id, version in changed],
        )
        txn.append("items", records.encode(records.ItemsRecord(items=changed)))
    return len(changed)


def withdraw_item(txn: Txn, item_id: str) -> bool:
    """Take an item out of every ranking from here on; False if the catalogue does not know it."""
    row = txn.execute("SELECT withdrawn FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        return False
    if not row[0]:
        txn.execute("UPDATE items SET withdrawn = 1, updated_at = ? WHERE id = ?", (txn.now, item_id))
        txn.append("withdraw", records.encode(records.Withdraw(id=item_id)))
    return True


def current_items(log: EventLog, ids: Sequence[str]) -> dict[str, StoredItem]:
    """What the catalogue knows of these ids."""
    rows = log.query(
        "SELECT items.id, items.version, CAST(features AS BLOB), withdrawn, updated_at FROM items"
        " JOIN item_versions USING (version) WHERE items.id IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(list(ids)).decode(),),
    )
    return {row[0]: StoredItem(row[1], bytes(row[2]), bool(row[3]), row[4]) for row in rows}


def versions(log: EventLog, numbers: Sequence[int]) -> dict[int, tuple[str, bytes]]:
    """(id, features text) by version number."""
    rows = log.query(
        "SELECT version, id, CAST(features AS BLOB) FROM item_versions"
        " WHERE version IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(list(numbers)).decode(),),
    )
    return {row[0]: (row[1], bytes(row[2])) for row in rows}
