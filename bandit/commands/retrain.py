"""``server.py retrain``: a fresh model from what the log still holds, with the service stopped."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bandit.commands.shared import DONE, add_data, check_data, ended
from bandit.config import Settings
from bandit.errors import InvalidSetting
from bandit.learning.retraining import retrain
from bandit.learning.trainer import Trainer, hold_trainer_lock
from bandit.progress import Progress
from bandit.store.data import DataDirectory
from bandit.store.erasures import unfinished
from bandit.supervisor import hold_directory

NAME: Final = "retrain"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; what serves has not changed)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Learn a fresh model from what the log still holds, publish it as the base that the log goes on "
        "from, and delete every other model: after viewers were erased, or records grew too old to be kept, nothing of "
        "them is in any weight. Stop the service first; it takes about as long as `python -m replay rebuild`.",
    )
    add_data(parser)
    given = parser.parse_args(arguments)
    return ended(lambda: _retrain(given.data.resolve()))


def _retrain(path: Path) -> int:
    with alone(path) as data, Progress("records", sys.stderr) as progress:
        done = retrain(data, progress=progress)
    print(
        f"model {done.digest} holds the log up to position {done.position:,}: {done.learned:,} slots learned from "
        f"{done.records:,} records; the model before had learned {done.before:,}"
    )
    return DONE


@contextmanager
def alone(path: Path, vw: str = "auto") -> Iterator[DataDirectory]:
    """A data directory that no service uses meanwhile, with all erasures carried out.

    :param vw: as the setting
    :raises InvalidSetting: it is no data directory of a service, or was begun with other VW arguments
    :raises DataDirectoryInUse: a service or a trainer holds it
    """
    check_data(path)
    locks = [hold_directory(Settings(path))]
    try:
        locks.append(hold_trainer_lock(path))
        data = DataDirectory(Settings(path, vw=vw))
        try:
            if unfinished(data.log):
                _carry_out_erasures(data)
            yield data
        finally:
            data.close()
    finally:
        for lock in locks:
            os.close(lock)


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

