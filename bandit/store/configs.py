"""Config versions, as records of the log; the newest is in force."""

from __future__ import annotations

from msgspec import Struct

from bandit import records
from bandit.config import Config, LiveConfig, LoggedConfig
from bandit.errors import VersionMismatch
from bandit.store.log import EventLog, LogRow, Txn


class ConfigRecord(Struct):
    """A config version as logged."""

    version: int
    document: Config


class _Logged(Struct):
    version: int
    document: LoggedConfig


def read_config(payload: bytes) -> LiveConfig:
    """The config of a ``config`` record."""
    record = records.read_stored(payload, _Logged, what="a config")
    return LiveConfig(record.version, record.document.whole())


def all_configs(log: EventLog) -> dict[int, LiveConfig]:
    """Every config version of the log."""
    configs = [read_config(row.payload) for row in log.read_kinds(["config"])]
    return {config.version: config for config in configs}


def config_versions(log: EventLog) -> list[tuple[int, float, Config]]:
    """Every config version of the log with when it came into force and its document, oldest first."""
    found = [(read_config(row.payload), row.ts) for row in log.read_kinds(["config"])]
    return [(config.version, ts, config.document) for config, ts in found]


def newest_config(rows: list[LogRow]) -> LiveConfig | None:
    """The last config among some records."""
    configs = [row for row in rows if row.kind == "config"]
    return read_config(configs[-1].payload) if configs else None


def append_config(txn: Txn, document: Config, *, expected: int) -> LiveConfig:
    """Put a config in force.

    :param expected: version that the caller has read and replaces; 0 for the first
    :raises VersionMismatch: another one is in force by now; nothing was written
    """
    row = txn.execute(
        "SELECT json_extract(payload, '$.version') FROM log WHERE kind IN ('config', 'publish', 'base')"
        " AND kind = 'config' ORDER BY pos DESC LIMIT 1"
    ).fetchone()
    current = 0 if row is None else row[0]
    if current != expected:
        raise VersionMismatch(
            f"config version {current} is in force, not {expected}; read it again and apply your change to it",
            current=current,
            expected=expected,
        )
    live = LiveConfig(current + 1, document)
    txn.append("config", records.encode(ConfigRecord(version=live.version, document=document)))
    return live
