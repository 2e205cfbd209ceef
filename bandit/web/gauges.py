"""Metrics that are read when asked: the log, the model, and how the loop does. One list, which docs and tests go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bandit.errors import LogUnavailable
from bandit.loop.report import LoopComparison, LoopReply
from bandit.records import ModelReply
from bandit.service import Service

PREFIX: Final = "feed_bandit_"
VERDICTS: Final = ("learning", "not_yet", "broken")

#: A value; or, of a metric with a label, one for each of its values. None where it is not known.
Value = float | None | Mapping[str, float | None]


class Told(NamedTuple):
    """All that the gauges are of.

    :ivar folded: what the trainer counted since it started
    :ivar counted: what was counted of the loop since the log began
    """

    model: ModelReply
    folded: Mapping[str, float]
    loop: LoopReply
    counted: Mapping[str, float]


class Gauge(NamedTuple):
    """One metric.

    :ivar name: without the prefix; a counter's without ``_total``
    :ivar label: name of its one label, empty without one
    """

    name: str
    help: str
    value: Callable[[Told], Value]
    label: str = ""
    counter: bool = False


def _compared(value: Callable[[LoopComparison], float | None]) -> Callable[[Told], Value]:
    return lambda told: {one.against: value(one) for one in told.loop.comparisons}


def _said(told: Told) -> Value:
    found: dict[str, float | None] = {}
    for one in told.loop.sentences:
        if one.about != "verdict" and one.state in ("broken", "warning"):
            found[one.about] = 2.0 if one.state == "broken" else max(found.get(one.about) or 0.0, 1.0)
    return found


#: `log_available` stands apart: it alone is told when the log is away.
GAUGES: Final[tuple[Gauge, ...]] = (
    Gauge("log_position", "Newest record of the log.", lambda t: t.model.log_position),
    Gauge("trainer_position", "Newest record that the trainer has folded.", lambda t: t.model.trainer_position),
    Gauge("trainer_lag_records", "Records that the trainer has not folded yet.", lambda t: t.loop.model.lag_records),
    Gauge("trainer_lag_seconds", "Age of the first of them; 0 if there are none.", lambda t: t.loop.model.lag_s),
    Gauge("model_position", "Newest record that the served model has learned from.", lambda t: t.model.position or 0),
    Gauge("model_learned_slots", "Slots that the served model has learned.", lambda t: t.model.learned_slots),
    Gauge("model_published_timestamp_seconds", "When the served model was published; 0 without one.",
          lambda t: t.model.published_at or 0),
    Gauge("model_age_seconds", "Time since then.", lambda t: t.loop.model.age_s),
    Gauge("model_held", "1 if the newest snapshot was held back by the guard.", lambda t: t.loop.model.held),
    Gauge("model_pinned", "1 if an earlier model serves since a rollback.", lambda t: t.loop.model.pinned),
    Gauge("open_feeds", "Feeds whose reward window is open.", lambda t: t.loop.model.open_feeds),
    Gauge("folded", "What the trainer made of records and slots since it started.", lambda t: dict(t.folded), "what",
          counter=True),
    Gauge("counted", "What was counted of the loop since the log began: decisions, feeds whose windows ended, answered "
          "ones, feedback, late, orphans, slots by what became of them, and so on.", lambda t: dict(t.counted), "what",
          counter=True),
    Gauge("loop_verdict", "1 for the verdict of GET /healthz/loop: learning, not_yet or broken.",
          lambda t: {verdict: float(t.loop.verdict == verdict) for verdict in VERDICTS}, "verdict"),
    Gauge("loop_trouble", "What is broken (2) or wants a look (1), as GET /healthz/loop says it; all else is missing.",
          _said, "about"),
    Gauge("reward_per_slot", "Mean reward of a slot lately, unseen ones 0.", lambda t: t.loop.recent.slot_reward),
    Gauge("reward_per_slot_low", "Lower end of its 95 % interval.", lambda t: t.loop.recent.low),
    Gauge("reward_per_slot_high", "Upper end of its 95 % interval.", lambda t: t.loop.recent.high),
    Gauge("reward_per_feed", "Mean reward of a feed lately.", lambda t: t.loop.recent.feed_reward),
    Gauge("join_ratio", "Share of shown feeds of which feedback came in time, lately.", lambda t: t.loop.joins.rate),
    Gauge("late_ratio", "Share of feedback that came after its window, lately.", lambda t: t.loop.joins.late),
    Gauge("orphan_ratio", "Share of feedback for feeds that were never ranked, lately.",
          lambda t: t.loop.joins.orphans),
    Gauge("seen_ratio", "Share of slots that were proven to be seen, lately.", lambda t: t.loop.joins.seen),
    Gauge("not_activated_ratio", "Share of feeds that were fetched early and never shown, lately.",
          lambda t: t.loop.joins.not_activated),
    Gauge("evidence_slots", "Slots learned lately, by what proved that they were seen.",
          lambda t: dict(t.loop.joins.evidence), "evidence"),
    Gauge("propensity_mean_inverse", "Mean of 1/p over what was drawn lately.",
          lambda t: t.loop.propensities.mean_inverse),
    Gauge("propensity_expected_inverse", "What it must be: the mean number of candidates that had a chance.",
          lambda t: t.loop.propensities.expected),
    Gauge("propensity_ratio", "Mean of 1/(p * candidates that had a chance), which must be 1.",
          lambda t: t.loop.propensities.ratio),
    Gauge("propensity_alarm", "1 if propensities are not those of the draw; one false alarm in 1,000 days.",
          lambda t: t.loop.propensities.alarm),
    Gauge("propensity_evidence", "How far the alarm is; 1 raises it.", lambda t: t.loop.propensities.evidence),
    Gauge("comparison_difference", "Served minus chance or the caller's order, reward a slot.",
          _compared(lambda one: one.difference), "against"),
    Gauge("comparison_low", "The difference is surely not below this, at all looks together (95 %).",
          _compared(lambda one: one.low), "against"),
    Gauge("comparison_high", "The difference is surely not above this, at all looks together (95 %).",
          _compared(lambda one: one.high), "against"),
    Gauge("comparison_feeds", "Feeds compared.", _compared(lambda one: one.feeds), "against"),
    Gauge("comparison_feeds_needed", "About so many more feeds would decide; missing where that cannot be said.",
          _compared(lambda one: one.feeds_needed), "against"),
    Gauge("comparison_effective_slots", "Slots of chance's or the caller's own that the log is worth.",
          _compared(lambda one: one.effective), "against"),
    Gauge("exploration_ratio", "Share of slots where another item stands than the best, lately.",
          lambda t: t.loop.exploration.found),
    Gauge("exploration_expected_ratio", "The same as the draws' probabilities say it.",
          lambda t: t.loop.exploration.expected),
    Gauge("exploration_cost", "What a slot would earn more if the best stood there, lately.",
          lambda t: t.loop.exploration.cost),
    Gauge("fallback_ratio", "Share of feeds that fell back on the caller's order, lately.",
          lambda t: t.loop.exploration.fallbacks),
    Gauge("never_seen_ratio", "Share of candidates that no viewer has seen yet, lately.",
          lambda t: t.loop.drift.never_seen),
    Gauge("weights", "Weights that the model has (2 to the -b).", lambda t: 1 << t.loop.drift.bits),
    Gauge("weights_in_use", "Weights that are not 0.", lambda t: t.loop.drift.weights),
    Gauge("new_weights", "Weights that came into use within a day.", lambda t: t.loop.drift.new_weights),
    Gauge("shared_weight_ratio", "Share of features that share a weight with another one, estimated.",
          lambda t: t.loop.drift.shared),
)  # fmt: skip

AVAILABLE: Final = Gauge("log_available", "1 if the log can be read.", lambda t: 1.0)


class LoopGauges:
    """Reads them for one exposition."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service
        try:
            told = Told(service.model(), service.fold_counts(), *service.loop_and_counts())
        except LogUnavailable:
            yield GaugeMetricFamily(PREFIX + AVAILABLE.name, AVAILABLE.help, value=0)
            return
        for gauge in (AVAILABLE, *GAUGES):
            yield family(gauge, told)


def family(gauge: Gauge, told: Told) -> Metric:
    """A metric with its values; what is not known is left out."""
    labels = [gauge.label] if gauge.label else []
    kind = CounterMetricFamily if gauge.counter else GaugeMetricFamily
    found = kind(PREFIX + gauge.name, gauge.help, labels=labels)
    value = gauge.value(told)
    for label, each in sorted(value.items()) if isinstance(value, Mapping) else [(None, value)]:
        if each is not None:
            found.add_metric([] if label is None else [label], float(each))
    return found
