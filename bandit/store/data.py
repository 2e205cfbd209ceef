"""A data directory: made, checked and opened the same way by every process."""

from __future__ import annotations

import time
from collections.abc import Callable

from bandit import records
from bandit.config import Config, Settings
from bandit.errors import InvalidSetting
from bandit.features.model_args import ModelArgs
from bandit.store.bases import BaseFiles
from bandit.store.configs import append_config
from bandit.store.directory import read_secret
from bandit.store.keys import KeyRing
from bandit.store.log import EventLog, Txn
from bandit.store.models import ModelFiles


class DataDirectory:
    """The log, the models and the secret of one deployment.

    :raises LogUnavailable: the directory or the database cannot be used
    :raises InvalidSetting: it was begun with other VW arguments
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.path = settings.data
        self.args = ModelArgs.parse(settings.vw)
        self.log = EventLog(self.path, durable=settings.durable, clock=clock)
        self.models = ModelFiles(self.path)
        self.bases = BaseFiles(self.path)
        self.log.migrate()
        self.log.append(self._begin)
        self.secret = read_secret(self.path)
        self.keys = KeyRing(self.log, self.path)

    def _begin(self, txn: Txn) -> None:
        """The first records of a new log; nothing in one that has them."""
        row = txn.execute(
            "SELECT payload FROM log WHERE kind IN ('config', 'publish', 'base') AND kind = 'base' ORDER BY pos LIMIT 1"
        ).fetchone()
        if row is None:
            txn.append("base", records.encode(records.Base(arguments=self.args.text)))
            append_config(txn, Config(), expected=0)
            return
        begun = records.read_stored(row[0], records.Base, what="the first record").arguments
        if begun != self.args.text:
            raise InvalidSetting(
                f"vw is {self.args.text!r}, but this data directory was begun with {begun!r}; start with those, "
                "or with another directory"
            )

    def close(self) -> None:
        """Close the log's connections."""
        self.keys.close()
        self.log.close()
