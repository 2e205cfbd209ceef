"""``server.py retrain``: a fresh model from what the log still holds, with the service stopped."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bandit.config import SETTINGS, Settings
from bandit.errors import BanditError, InvalidSetting
from bandit.retraining import Retrained, retrain
from bandit.store.bases import bases
from bandit.store.data import DataDirectory
from bandit.store.erasures import unfinished
from bandit.store.log import EventLog
from bandit.supervisor import hold_directory
from bandit.trainer import Trainer, hold_trainer_lock

NAME: Final = "retrain"
SAY_EVERY_S: Final = 2.0


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; what serves has not changed)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Learn a fresh model from what the log still holds, publish it as the base that the log goes on "
        "from, and delete every other model: after viewers were erased, or records grew too old to be kept, nothing of "
        "them is in any weight. Stop the service first; it takes about as long as `python -m replay rebuild`.",
    )
    default = next(setting.default for setting in SETTINGS if setting.name == "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="data directory (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        done = _run(given.data.resolve())
    except (BanditError, OSError) as error:
        print(f"feed-bandit: {error.message if isinstance(error, BanditError) else error}", file=sys.stderr)
        return 2
    print(
        f"model {done.digest} holds the log up to position {done.position:,}: {done.learned:,} slots learned from "
        f"{done.records:,} records; the model before had learned {done.before:,}"
    )
    return 0


def _run(path: Path) -> Retrained:
    if not (path / "log.db").is_file():
        raise InvalidSetting(f"data is {path}, which holds no log.db; name the data directory of a service")
    locks = [hold_directory(Settings(path))]
    try:
        locks.append(hold_trainer_lock(path))
        data = DataDirectory(Settings(path, vw=_arguments(path)))
        try:
            if unfinished(data.log):
                _carry_out_erasures(data)
            return retrain(data, progress=_Progress())
        finally:
            data.close()
    finally:
        for lock in locks:
            os.close(lock)


def _arguments(path: Path) -> str:
    log = EventLog(path, durable=True, clock=time.time)
    try:
        log.migrate()
        return bases(log)[-1].base.arguments
    finally:
        log.close()


def _carry_out_erasures(data: DataDirectory) -> None:
    trainer = Trainer(data)
    try:
        until = time.monotonic() + 60.0
        while (trainer.step() or unfinished(data.log)) and time.monotonic() < until:
            time.sleep(0.01)
        if unfinished(data.log):
            raise InvalidSetting(
                "an erasure that was asked for cannot be carried out; start the service, and see GET /healthz"
            )
    finally:
        trainer.run(lambda: True)


class _Progress:
    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._told > SAY_EVERY_S:
            self._told = time.monotonic()
            print(f"folded up to position {done:,} of {of:,}", file=sys.stderr)
