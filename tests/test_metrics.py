"""Metrics: one list of them, which the exposition, the docs, the alert rules and the Grafana dashboard keep to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bandit.web.gauges import GAUGES, PREFIX
from bandit.web.metrics import described
from tests.conftest import Api, Loop
from tests.looped import over, ranked
from tests.service import ROOT

NAMES = {one.name: one for one in described()}
#: What prometheus_client writes of itself beside a counter or a histogram.
ENDINGS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {one.name + ending: one for one in NAMES.values() for ending in ENDINGS[one.kind]}


def families(api: Api) -> dict[str, Any]:
    text = api.call("GET", "/metrics").content.decode()
    # When a counter was made is written only where one process counts alone.
    found = text_string_to_metric_families(text)
    return {one.name: one for one in found if not one.name.endswith("_created")}


@pytest.fixture
def played(loop: Loop, api: Api) -> dict[str, Any]:
    """Metrics of a service that has learned something."""
    ranked(loop, 180)
    over(loop)
    return families(api)


def test_what_is_told_is_what_is_listed(played: dict[str, Any]) -> None:
    told = {name + "_total" * (one.type == "counter"): one.type for name, one in played.items()}
    assert told == {one.name: one.kind for one in NAMES.values()}
    for name, one in played.items():
        listed = NAMES.get(name) or NAMES[name + "_total"]
        assert one.documentation == listed.help
        for sample in one.samples:
            assert set(sample.labels) - {"le"} == set(listed.labels)


def test_every_gauge_has_a_value_once_something_was_learned(played: dict[str, Any]) -> None:
    silent = {one.name for one in GAUGES if not played[PREFIX + one.name].samples}
    # Said only where it can be, and where there is trouble.
    assert silent <= {"comparison_feeds_needed", "loop_trouble"}


def test_values_are_those_of_healthz_loop(loop: Loop, api: Api, played: dict[str, Any]) -> None:
    reply = loop.service.loop()

    def value(name: str, **labels: str) -> float:
        (sample,) = [one for one in played[PREFIX + name].samples if one.labels == labels]
        return float(sample.value)

    assert value("loop_verdict", verdict=reply.verdict) == 1.0
    assert value("join_ratio") == reply.joins.rate
    assert value("propensity_mean_inverse") == reply.propensities.mean_inverse
    assert value("comparison_low", against="chance") == reply.comparisons[0].low
    assert value("weights_in_use") == reply.drift.weights
    assert value("counted", what="decisions") == 180
    assert value("open_feeds") == 0


def test_trouble_is_named(loop: Loop, api: Api) -> None:
    ranked(loop, 120, worth=None)
    over(loop)
    told = families(api)["feed_bandit_loop_trouble"].samples
    assert {one.labels["about"]: one.value for one in told} == {"feedback": 2.0}


# ---------------------------------------------------------------- alert rules and the Grafana dashboard


def alerts() -> Iterator[tuple[str, str]]:
    document = yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert set(rule["annotations"]) == {"summary", "description"}
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
            yield rule["alert"], rule["expr"]


def panels() -> Iterator[tuple[str, str]]:
    document = json.loads((ROOT / "docs" / "grafana.json").read_text())
    assert [one["name"] for one in document["templating"]["list"]] == ["datasource"]
    for panel in document["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


EXPRESSIONS = [*alerts(), *panels()]


def test_names_stand_once() -> None:
    names = [name for name, _ in alerts()]
    assert len(set(names)) == len(names) > 10
    document = json.loads((ROOT / "docs" / "grafana.json").read_text())
    ids = [one["id"] for one in document["panels"]]
    assert len(set(ids)) == len(ids) > 10


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS)
def test_expressions_ask_for_metrics_that_exist(name: str, expression: str) -> None:
    asked = re.findall(r"feed_bandit_\w+", expression)
    assert asked
    assert set(asked) <= set(SERIES)
    # And for nothing else: what is no function, keyword, label or number is a metric of ours.
    for series, labels in re.findall(r"(feed_bandit_\w+)\{([^}]*)\}", expression):
        given = set(re.findall(r"(\w+)\s*[=!]", labels))
        assert given <= {*SERIES[series].labels, "le"}


def test_what_is_counted_is_asked_for_by_its_name(played: dict[str, Any]) -> None:
    counted = {one.labels["what"] for one in played["feed_bandit_counted"].samples}
    asked = {what for _, expression in EXPRESSIONS for what in re.findall(r'what="([^"]+)"', expression)}
    # Of slots that were not seen there are none here.
    assert asked <= counted | {"slots unseen"}
    assert asked


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS)
def test_expressions_are_promql(name: str, expression: str) -> None:
    promql_parser.parse(expression)


def test_promql_that_is_none_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (")
