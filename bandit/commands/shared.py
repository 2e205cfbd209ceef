"""What commands have in common: the data directory, its log, and how they end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bandit.config import SETTINGS
from bandit.errors import BanditError, InvalidSetting
from bandit.store.log import EventLog

#: Exit statuses of every command.
DONE: Final = 0
NO: Final = 1
FAILED: Final = 2
INTERRUPTED: Final = 130


def add_data(parser: argparse.ArgumentParser) -> None:
    """``--data``, as the service has it."""
    default = next(setting.default for setting in SETTINGS if setting.name == "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="data directory (default: %(default)s)")


def check_data(path: Path) -> None:
    """:raises InvalidSetting: it is no data directory of a service"""
    if not (path / "log.db").is_file():
        raise InvalidSetting(f"data is {path}, which holds no log.db; name the data directory of a service")


@contextmanager
def opened(path: Path) -> Iterator[EventLog]:
    """The log of a service that runs, or is at rest.

    :raises InvalidSetting: it is no data directory of a service
    """
    check_data(path)
    log = EventLog(path, durable=True, clock=time.time)
    try:
        log.migrate()
        yield log
    finally:
        log.close()


def stamp(at: float) -> str:
    """A moment, as commands print it.

    :param at: UTC seconds

    >>> stamp(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(work: Callable[[], int]) -> int:
    """Exit status of a command: its own, or `FAILED` with the reason on stderr."""
    try:
        return work()
    except BanditError as error:
        print(f"feed-bandit: {error.message}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"feed-bandit: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
