"""What clients were told: the promises that must have been kept when all is over."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Told:
    """A feedback as it was sent, and what came back.

    :ivar statuses: of every reply; empty if none came
    :ivar tries: how often it was sent
    """

    body: dict[str, Any]
    tries: int = 0
    statuses: list[str] = field(default_factory=list)


class Ledger:
    """All promises of one campaign; shared by its clients.

    :ivar decisions: reply by event id
    :ivar feedback: all that was sent, answered or not
    :ivar activations: what was told to be shown, by event id, of those that were acknowledged
    :ivar configs: document by version, of those that were acknowledged
    :ivar items: features by id as last acknowledged; None for withdrawn
    :ivar violations: promises seen broken while the campaign ran
    """

    def __init__(self) -> None:
        self.decisions: dict[str, dict[str, Any]] = {}
        self.feedback: list[Told] = []
        self.activations: dict[str, list[str] | None] = {}
        self.configs: dict[int, dict[str, Any]] = {}
        self.items: dict[str, dict[str, Any] | None] = {}
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._lock = threading.Lock()

    def count(self, what: str, n: int = 1) -> None:
        with self._lock:
            self.counts[what] += n

    def broken(self, what: str) -> None:
        with self._lock:
            self.violations.append(what)

    def ranked(self, reply: dict[str, Any]) -> None:
        """A ranking was acknowledged, perhaps once more."""
        with self._lock:
            before = self.decisions.setdefault(reply["event_id"], reply)
        if before != reply:
            self.broken(f"event {reply['event_id']} was answered with two different rankings: {before} and {reply}")

    def sent(self, body: dict[str, Any]) -> Told:
        told = Told(body)
        with self._lock:
            self.feedback.append(told)
        return told
