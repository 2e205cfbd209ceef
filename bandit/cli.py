"""The command line: which command, and serving, which is the one without a name."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from bandit.config import SETTINGS, read_settings
from bandit.errors import BanditError
from bandit.store.directory import make_directory
from bandit.supervisor import serve

Main = Callable[[Sequence[str]], int]


class Command(NamedTuple):
    """One command.

    :ivar main: ``module:function``, loaded when it is asked for
    :ivar words: what it is told before the arguments: a command of another program
    """

    summary: str
    main: str
    words: tuple[str, ...] = ()


#: All commands of the service itself; ``server.py`` adds those that ask of logs.
COMMANDS: Final = {
    "serve": Command("rank, learn, and answer over HTTP (the default)", "bandit.cli:serve_main"),
    "keys": Command("make, list and revoke API keys", "bandit.commands.keys:main"),
    "models": Command("list, show, roll back, release or export models", "bandit.commands.models:main"),
    "config": Command("show, compare or replace the config", "bandit.commands.config:main"),
    "erase": Command("delete all that is known of a viewer", "bandit.commands.erase:main"),
    "retrain": Command("learn a fresh model from what the log still holds", "bandit.commands.retrain:main"),
    "backup": Command("copy the data directory while it is served", "bandit.commands.backup:main"),
    "restore": Command("make a data directory of a backup", "bandit.commands.backup:restore_main"),
}
STATUSES: Final = (
    "exit status: 0 done; 1 the answer is no (configs differ, a log is not sound, an erasure is not carried out yet); "
    "2 it could not be done, the reason is on stderr and nothing changed; 3 refused to answer rather than guess; "
    "130 interrupted"
)


def main(arguments: Sequence[str], more: Mapping[str, Command] | None = None) -> int:
    """Exit status of the command that the first word names, or of serving.

    :param more: further commands, by name
    """
    commands = {**COMMANDS, **(more or {})}
    if arguments and arguments[0] in commands:
        command = commands[arguments[0]]
        return _load(command.main)([*command.words, *arguments[1:]])
    if arguments and arguments[0] in ("help", "--help", "-h"):
        print(_help(commands))
        return 0
    if arguments and not arguments[0].startswith("-"):
        print(
            f"feed-bandit: there is no command {arguments[0]!r}; there are {', '.join(commands)} (server.py help)",
            file=sys.stderr,
        )
        return 2
    return serve_main(arguments)


def _load(name: str) -> Main:
    module, _, function = name.partition(":")
    found: Main = getattr(importlib.import_module(module), function)
    return found


def _help(commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [
        "usage: server.py [COMMAND] [OPTIONS]",
        "",
        "Rank candidate short videos with a contextual bandit that learns online.",
        "",
        *(f"  {name:{width}}  {command.summary}" for name, command in commands.items()),
        "",
        "Begin with `server.py`, which serves on 127.0.0.1:8080 with its data in ./data, and open that address.",
        "`server.py COMMAND --help` tells of one command. Settings of serving are also read from the environment,",
        "as FEED_BANDIT_NAME.",
        "",
        STATUSES,
    ]
    return "\n".join(lines)


def serve_main(arguments: Sequence[str]) -> int:
    """Exit status: 0 stopped as asked, 2 could not start (the reason is on stderr)."""
    parser = argparse.ArgumentParser(
        prog="server.py serve",
        description="Rank candidate short videos with a contextual bandit that learns online.",
        epilog="Each setting can also come from the environment, as FEED_BANDIT_NAME. `server.py help`: more commands.",
    )
    for setting in SETTINGS:
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            dest=setting.name,
            metavar=setting.unit.split()[0].upper(),
            help=f"{setting.help} ({setting.unit}; default: {setting.default})",
        )
    given = {name: text for name, text in vars(parser.parse_args(arguments)).items() if text is not None}
    try:
        settings = read_settings(given, os.environ)
        make_directory(settings.data)
        serve(settings)
    except BanditError as error:
        print(f"feed-bandit: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0
