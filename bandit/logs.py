"""What the processes of the service write to stderr: lines for people, or JSON for programs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec


def time_of(at: float) -> str:
    """UTC seconds as RFC 3339.

    >>> time_of(1800000000.25)
    '2027-01-15T08:00:00.250Z'
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time_of(record.created),
            "level": record.levelname,
            "process": record.processName,
            "worker": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logging(kind: str = "text") -> None:
    """One line a message, on stderr, with the process that wrote it.

    :param kind: ``text`` or ``json``
    """
    handler = logging.StreamHandler()
    text = "%(asctime)s %(levelname)s %(processName)s[%(process)d] %(message)s"
    handler.setFormatter(JsonFormatter() if kind == "json" else logging.Formatter(text))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
