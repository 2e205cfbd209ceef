"""Prometheus metrics: counted by every worker, summed over all of them when asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bandit.errors import LogUnavailable
from bandit.service import Service

MEDIA: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5)

REQUESTS = Counter("feed_bandit_requests", "Requests answered, by route and status.", ["route", "status"])
SECONDS = Histogram("feed_bandit_request_seconds", "Time to answer, in seconds, by route.", ["route"], buckets=_SECONDS)
CANDIDATES = Counter("feed_bandit_candidates", "Candidates of all rankings; scored or not.", ["scored"])
FALLBACKS = Counter("feed_bandit_fallbacks", "Rankings that fell back on the caller's order, by reason.", ["reason"])
FEEDBACK = Counter("feed_bandit_feedback", "Feedback taken, by status.", ["status"])


class _Loop:
    """What the log and the trainer say, read when asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        try:
            model, folded = self._service.model(), self._service.fold_counts()
        except LogUnavailable:
            yield GaugeMetricFamily("feed_bandit_log_available", "1 if the log can be read.", value=0)
            return
        yield GaugeMetricFamily("feed_bandit_log_available", "1 if the log can be read.", value=1)
        yield GaugeMetricFamily("feed_bandit_log_position", "Newest record.", value=model.log_position)
        yield GaugeMetricFamily("feed_bandit_trainer_position", "Newest folded record.", value=model.trainer_position)
        yield GaugeMetricFamily(
            "feed_bandit_model_position", "Newest record in the served model.", value=model.position or 0
        )
        yield GaugeMetricFamily(
            "feed_bandit_model_learned_slots", "Slots in the served model.", value=model.learned_slots
        )
        yield GaugeMetricFamily(
            "feed_bandit_model_published_timestamp_seconds",
            "When it was published.",
            value=model.published_at or 0,
        )
        family = CounterMetricFamily(
            "feed_bandit_folded",
            "What the trainer made of records and slots since it started.",
            labels=["what"],
        )
        for what, count in sorted(folded.items()):
            family.add_metric([what], count)
        yield family


def exposition(service: Service) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for metric in (REQUESTS, SECONDS, CANDIDATES, FALLBACKS, FEEDBACK):
            registry.register(metric)
    registry.register(_Loop(service))
    return generate_latest(registry)
