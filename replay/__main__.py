"""``python -m replay``: what can be asked of a log."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

#: Commands by name, with what their modules offer: ``add_parser(subparsers)`` and ``run(arguments) -> int``.
COMMANDS = {
    "evaluate": "what would another policy have earned on this log?",
    "doctor": "is this log sound? propensities, joins, duplicates, by day and release",
    "convert": "write a log in another format",
    "guard": "compare what serves with a frozen champion, and roll back if it is worse",
    "rebuild": "build every published model again from the log, and compare byte for byte",
    "watch-table": "how long do viewers watch videos of each length? prints it for the config",
    "demo": "play MovieLens viewers against a service, and draw the learning curve",
    "simulate": "play simulated viewers, whose taste is known, against the service and simpler policies",
}


def main(arguments: Sequence[str]) -> int:
    """Exit status of the command; 2 if it could not start."""
    parser = argparse.ArgumentParser(prog="python -m replay", description="Ask of the log what it knows.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    command = None
    for name, summary in COMMANDS.items():
        if name != wanted:
            # Known by name alone: what one command needs is not loaded, or missed, for the sake of another.
            subparsers.add_parser(name, help=summary)
            continue
        try:
            command = importlib.import_module(f"replay.{name.replace('-', '_')}")
        except ImportError as error:
            print(_missing(name, error), file=sys.stderr)
            return 2
        command.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    assert command is not None
    status: int = _run(command, parsed)
    return status


def _run(command: Any, parsed: argparse.Namespace) -> int:
    try:
        return int(command.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except ModuleNotFoundError as error:
        print(_missing(parsed.command, error), file=sys.stderr)
        return 2


def _missing(name: str, error: ImportError) -> str:
    missing = (error.name or str(error)).partition(".")[0]
    if missing in ("bandit", "replay"):
        return f"replay: the command {name} is not part of this installation ({error})"
    return f"replay: {name} needs {missing}, which is not installed; pip install 'feed-bandit[replay]' brings it"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
