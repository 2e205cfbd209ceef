"""``server.py models``: which models are kept and which one serves; roll back to one; release the newest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from bandit.config import SETTINGS
from bandit.errors import BanditError, InvalidSetting
from bandit.records import ReleaseRequest, RollbackRequest
from bandit.serving import release, roll_back, serving_reply, with_files
from bandit.store.log import EventLog
from bandit.store.models import ModelFiles
from bandit.store.serving import kept_models

NAME: Final = "models"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; nothing changed)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Which models are kept and which one serves; roll back to one of them, release the newest. "
        "Works beside a running service, whose workers all follow from their next request on, and at rest.",
    )
    default = next(setting.default for setting in SETTINGS if setting.name == "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="data directory (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print what serves as JSON")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="the kept models, newest first, and which one serves (the default)")
    back = commands.add_parser("rollback", help="serve an earlier model, until a release")
    back.add_argument("to", metavar="VERSION", help="a kept version, or how it begins")
    free = commands.add_parser("release", help="serve the newest model again")
    for one in (back, free):
        one.add_argument("--reason", default="asked for", help="kept in the log (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        _run(given)
    except BanditError as error:
        print(f"feed-bandit: {error.message}", file=sys.stderr)
        return 2
    return 0


def _run(given: argparse.Namespace) -> None:
    if not (given.data / "log.db").is_file():
        raise InvalidSetting(f"data is {given.data}, which holds no log.db; name the data directory of a service")
    # All that was published and is not deleted may be named: how many are kept is the service's own setting.
    keep = 10_000
    log, files = EventLog(given.data, durable=True, clock=time.time), ModelFiles(given.data)
    try:
        log.migrate()
        if given.command == "rollback":
            body = msgspec.convert({"to": given.to, "reason": given.reason}, RollbackRequest)
            roll_back(log, files, keep, body)
        elif given.command == "release":
            release(log, msgspec.convert({"reason": given.reason}, ReleaseRequest).reason)
        print(_as_json(log, files, keep) if given.json else _table(log, files, keep))
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"models: {error}") from None
    finally:
        log.close()


def _as_json(log: EventLog, files: ModelFiles, keep: int) -> str:
    return msgspec.json.format(msgspec.json.encode(serving_reply(log, files, keep))).decode()


def _table(log: EventLog, files: ModelFiles, keep: int) -> str:
    now = serving_reply(log, files, keep)
    serves = now.pinned or now.newest
    lines = [f"{'version':32}  {'position':>10}  {'learned':>10}  {'published':20}  "]
    for model in with_files(kept_models(log, keep), files):
        at = datetime.fromtimestamp(model.published_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        notes = {"serves": serves, "newest": now.newest, "champion": now.champion}
        said = ", ".join(word for word, digest in notes.items() if digest == model.digest)
        lines.append(f"{model.digest:32}  {model.position:10}  {model.learned:10}  {at:20}  {said}".rstrip())
    if now.pinned is not None:
        lines.append(f"rolled back by the {now.by}: {now.reason}; newer models wait for: server.py {NAME} release")
    if now.holding and now.hold is not None:
        lines.append(f"held: {now.hold.version} up to position {now.hold.position}: {now.hold.reason}")
    return "\n".join(lines)
