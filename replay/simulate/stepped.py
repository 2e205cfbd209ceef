"""Service and trainer in one process, stepped by hand, in a time of their own: the same numbers for the same seed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bandit.config import Config, Settings
from bandit.errors import InvalidConfig
from bandit.learning.trainer import Trainer
from bandit.service import Service
from bandit.store.data import DataDirectory


class Clock:
    """UTC seconds that pass only when told to, and never fall."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def reach(self, now: float) -> None:
        """Let time pass until then."""
        self.now = max(self.now, now)


class Stepped:
    """One data directory, its trainer, and one worker's service.

    :param directory: the data directory; must exist and be empty
    :param draws: the directory's secret is made of it: every draw follows from it and the event ids
    :param begins: UTC seconds
    :param changes: parts of the config that are to be others than the shipped ones
    :param vw: the learner's arguments; None for the shipped ones
    :ivar clock: the time of the service, and so of the log
    :ivar pace: the time by which the trainer finds that a publish is due
    :raises InvalidConfig: the config cannot be in force
    """

    def __init__(
        self,
        directory: Path,
        *,
        draws: bytes,
        begins: float,
        changes: Mapping[str, Any] | None = None,
        vw: str | None = None,
    ) -> None:
        (directory / "secret").write_text(hashlib.blake2b(draws, digest_size=32).hexdigest() + "\n")
        settings = Settings(directory, durable=False, publish_ms=10)
        if vw is not None:
            settings = dataclasses.replace(settings, vw=vw)
        self.clock, self.pace = Clock(begins), Clock(begins)
        self.data = DataDirectory(settings, clock=self.clock)
        self.trainer = Trainer(self.data, clock=self.pace)
        self.trainer.step()
        self.service = Service(self.data, clock=self.clock)
        if changes:
            self.service.put_config(changed(Config(), changes), expected=self.service.config().version)

    def work(self) -> None:
        """Have the trainer fold all there is, and the service see what was published."""
        while self.trainer.step():
            pass
        self.service.ranker.refresh()

    def close(self) -> None:
        """Give back what is held."""
        self.trainer.close()
        self.data.close()


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A config with some parts changed.

    :raises InvalidConfig: there is no such part, or it cannot be so
    """
    try:
        made: Config = msgspec.convert({**msgspec.to_builtins(config), **changes}, Config)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"this config cannot be used: {error}") from None
    return made
