"""``server.py config``: the config in force, earlier versions, what changed between them; put another one in force."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bandit import records
from bandit.commands.shared import DONE, NO, add_data, ended, opened, stamp
from bandit.config import Config, check_config
from bandit.differences import changes, text_of
from bandit.errors import InvalidSetting
from bandit.store.configs import append_config, config_versions
from bandit.store.log import EventLog

NAME: Final = "config"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 1 the versions compared differ, 2 it could not be (the reason is on stderr)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="The config in force and every earlier one. Works beside a running service, whose workers all "
        "follow from their next request on, and at rest.",
        epilog="To change something: config show > config.json, edit it, config put config.json. "
        "To go back: config show 3 > config.json, config put config.json.",
    )
    add_data(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    show = commands.add_parser("show", help="a version, as JSON (default: the one in force)")
    show.add_argument("version", type=int, nargs="?", metavar="VERSION")
    commands.add_parser("history", help="all versions, newest first, with what each changed")
    diff = commands.add_parser("diff", help="what changed between two versions; exit status 1 if anything did")
    diff.add_argument("old", type=int, metavar="OLD")
    diff.add_argument("new", type=int, nargs="?", metavar="NEW", help="default: the one in force")
    put = commands.add_parser("put", help="put a document in force; refused with every fault if it is not sound")
    put.add_argument("file", metavar="FILE", help="JSON; - reads standard input")
    put.add_argument("--expected", type=int, metavar="VERSION", help="refuse if another version is in force by now")
    given = parser.parse_args(arguments)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    with opened(given.data) as log:
        if given.command == "put":
            print(_put(log, given.file, given.expected))
            return DONE
        found = config_versions(log)
        if given.command == "history":
            print("\n".join(_history(found)))
            return DONE
        known = {version: document for version, _, document in found}
        newest = found[-1][0]
        if given.command == "show":
            print(text_of(_named(known, given.version or newest)))
            return DONE
        lines = changes(_named(known, given.old), _named(known, given.new or newest))
        print("\n".join(lines) or "nothing changed")
        return NO if lines else DONE


def _named(known: dict[int, Config], version: int) -> Config:
    if version not in known:
        raise InvalidSetting(f"there is no config version {version}; there are {min(known)} to {max(known)}")
    return known[version]


def _history(found: Sequence[tuple[int, float, Config]]) -> list[str]:
    lines = []
    for place in reversed(range(len(found))):
        version, at, document = found[place]
        when = stamp(at)
        lines.append(f"version {version}, {when}" + (", in force" if place == len(found) - 1 else ""))
        if place:
            lines += [f"    {line}" for line in changes(found[place - 1][2], document)]
    return lines


def _put(log: EventLog, file: str, expected: int | None) -> str:
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    document = records.decode(data, Config, what=file)
    check_config(document)
    follows = config_versions(log)[-1][0] if expected is None else expected
    live = log.append(lambda txn: append_config(txn, document, expected=follows)).version
    warnings = "".join(f"\nwarning: {text}" for text in document.warnings())
    return f"config version {live} is in force{warnings}"

