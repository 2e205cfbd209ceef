"""Prometheus metrics: counted by every worker, summed over all of them when asked."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

from bandit.service import Service
from bandit.web.gauges import AVAILABLE, GAUGES, PREFIX, LoopGauges

MEDIA: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5)

REQUESTS = Counter("feed_bandit_requests", "Requests answered, by route and status.", ["route", "status"])
SECONDS = Histogram("feed_bandit_request_seconds", "Time to answer, in seconds, by route.", ["route"], buckets=_SECONDS)
CANDIDATES = Counter("feed_bandit_candidates", "Candidates of all rankings; scored or not.", ["scored"])
FALLBACKS = Counter("feed_bandit_fallbacks", "Rankings that fell back on the caller's order, by reason.", ["reason"])
FEEDBACK = Counter("feed_bandit_feedback", "Feedback taken, by status.", ["status"])


#: What workers count; `bandit.web.gauges` has the rest.
WORKERS: Final = (REQUESTS, SECONDS, CANDIDATES, FALLBACKS, FEEDBACK)


class Described(NamedTuple):
    """A metric as the docs list it; of a histogram the name without its endings."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]


def described() -> list[Described]:
    """Every metric there is."""
    workers = [
        Described(
            one._name + ("_total" if isinstance(one, Counter) else ""), one._type, one._documentation, one._labelnames
        )
        for one in WORKERS
    ]
    read = [
        Described(
            PREFIX + one.name + ("_total" if one.counter else ""),
            "counter" if one.counter else "gauge",
            one.help,
            (one.label,) if one.label else (),
        )
        for one in (AVAILABLE, *GAUGES)
    ]
    return workers + read


def exposition(service: Service) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for metric in WORKERS:
            registry.register(metric)
    registry.register(LoopGauges(service))
    return generate_latest(registry)
