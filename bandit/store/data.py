"""A data directory: made, checked and opened the same way by every process."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable

from bandit import records
from bandit.config import Config, Settings
from bandit.errors import InvalidSetting
from bandit.model_args import ModelArgs
from bandit.store.bases import BaseFiles
from bandit.store.configs import append_config
from bandit.store.directory import sync_folder
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
        self.secret = self._read_secret()

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

    def _read_secret(self) -> bytes:
        """The key of every draw: 32 random bytes, made once, readable by the owner only."""
        path = self.path / "secret"
        try:
            return bytes.fromhex(path.read_text().strip())
        except FileNotFoundError:
            pass
        temporary = self.path / f"secret.{os.getpid()}.part"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # link, not rename: whoever comes second must read the first one's.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        sync_folder(self.path)
        return bytes.fromhex(path.read_text().strip())

    def close(self) -> None:
        """Close the log's connections."""
        self.log.close()
