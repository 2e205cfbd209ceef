"""``server.py keys``: make, list and revoke API keys, beside a running service or before its first start."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from bandit.access.keys import ID_BYTES, SECRET_BYTES, Key, checked_app, checked_scopes, digest_of, new_key
from bandit.commands.shared import DONE, add_data, ended
from bandit.errors import InvalidKey
from bandit.store.directory import make_directory
from bandit.store.keys import add_key, all_keys, changing, revoke_key
from bandit.store.log import EventLog

NAME: Final = "keys"
DAY_S: Final = 86_400.0


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; nothing changed)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Make, list and revoke API keys. What is done here holds in a running service from its next "
        "request on. Only hashes of keys are kept: a key is told once, when it is made.",
        epilog="Rotating a key: make another one for the same app, let its clients take it, revoke the first.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    create = commands.add_parser("create", help="make a key, and tell it")
    create.add_argument("--scopes", required=True, metavar="LIST",
                        help="what it is for: rank, feedback, read, or admin, which includes the others")  # fmt: skip
    create.add_argument("--app", default="", metavar="NAME",
                        help="keys of one app reach each other's decisions, and no other app's; default: the app "
                        "without a name, which also has what was decided without keys")  # fmt: skip
    create.add_argument("--days", type=float, metavar="N", help="until it expires (default: never)")
    create.add_argument("--rate-limit", type=float, metavar="N",
                        help="requests a second that each worker grants it, 0 for no limit (default: the service's "
                        "--rate-limit)")  # fmt: skip
    tell = commands.add_parser("list", help="all keys, without what is secret of them")
    tell.add_argument("--json", action="store_true", help="as JSON")
    revoke = commands.add_parser("revoke", help="have a key refused from now on")
    revoke.add_argument("id", metavar="ID", help="as listed; it is the middle part of the key")
    for one in (create, tell, revoke):
        add_data(one)
    given = parser.parse_args(arguments)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    # A key is needed before the first start where others can reach the service.
    make_directory(given.data)
    log = EventLog(given.data, durable=True, clock=time.time)
    try:
        log.migrate()
        if given.command == "create":
            _create(log, given)
        elif given.command == "revoke":
            with changing(given.data):
                log.append(lambda txn: revoke_key(txn, given.id, txn.now))
            print(f"revoked: {given.id}")
        else:
            rows = [_told(key, time.time()) for key in all_keys(log)]
            print(msgspec.json.format(msgspec.json.encode(rows)).decode() if given.json else _table(rows))
        return DONE
    finally:
        log.close()


def _create(log: EventLog, given: argparse.Namespace) -> None:
    if given.days is not None and not 0 < given.days <= 36_500:
        raise InvalidKey(f"days is {given.days}; it must be above 0, and at most 36500")
    if given.rate_limit is not None and not 0 <= given.rate_limit <= 1_000_000:
        raise InvalidKey(f"rate_limit is {given.rate_limit}; it must be from 0 to 1000000 requests a second")
    scopes, app, now = checked_scopes(given.scopes), checked_app(given.app), time.time()
    key_id, key = new_key(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
    expires_at = None if given.days is None else now + given.days * DAY_S
    kept = Key(key_id, app, scopes, digest_of(key), now, expires_at, rate=given.rate_limit)
    with changing(given.data):
        log.append(lambda txn: add_key(txn, kept))
    print("This is the only time that the key is told:", file=sys.stderr)
    print(key)


def _told(key: Key, now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "app": key.app,
        "scopes": sorted(key.scopes),
        "state": key.state(now),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "rate_limit": key.rate,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [("id", "app", "scopes", "state", "created", "expires", "requests/s")]
    for row in rows:
        rate = row["rate_limit"]
        lines.append(
            (
                row["id"],
                row["app"] or "-",
                ",".join(row["scopes"]),
                row["state"],
                _day(row["created_at"]),
                _day(row["expires_at"]),
                "-" if rate is None else f"{rate:g}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _day(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
