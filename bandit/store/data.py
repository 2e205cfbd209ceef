"""A data directory: made, checked and opened the same way by every process."""

from __future__ import annotations

import time
from collections.abc import Callable

from bandit import records
from bandit.config import VW_ARGUMENTS, Config, Settings
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
        self.log = EventLog(self.path, durable=settings.durable, clock=clock)
        self.models = ModelFiles(self.path)
        self.bases = BaseFiles(self.path)
        self.log.migrate()
        self.args = ModelArgs.parse(self.log.append(self._begin))
        self.secret = read_secret(self.path)
        self.keys = KeyRing(self.log, self.path)

    def _begin(self, txn: Txn) -> str:
        """The first records of a new log, nothing in one that has them; the VW arguments that it was begun with."""
        asked = None if self.settings.vw == "auto" else ModelArgs.parse(self.settings.vw).text
        row = txn.execute(
            "SELECT payload FROM log WHERE kind IN ('config', 'publish', 'base') AND kind = 'base' ORDER BY pos LIMIT 1"
        ).fetchone()
        if row is None:
            text = ModelArgs.parse(VW_ARGUMENTS).text if asked is None else asked
            txn.append("base", records.encode(records.Base(arguments=text)))
            append_config(txn, Config(), expected=0)
            return text
        begun: str = records.read_stored(row[0], records.Base, what="the first record").arguments
        if asked not in (None, begun):
            raise InvalidSetting(
                f"vw is {asked!r}, but this data directory was begun with {begun!r}; leave --vw away, or start with "
                "another directory"
            )
        return begun

    def close(self) -> None:
        """Close the log's connections."""
        self.keys.close()
        self.log.close()
