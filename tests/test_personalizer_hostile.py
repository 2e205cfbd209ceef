"""Personalizer's routes with every field missing, wrong or huge: refused in the one error shape, and never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Api

V1 = "/personalizer/v1.0"
MULTISLOT = "/personalizer/v1.1-preview.1/multislot"
BODIES: dict[tuple[str, str], Any] = {
    ("POST", f"{V1}/rank"): {
        "eventId": "e1",
        "contextFeatures": [{"user": {"plan": "free"}}],
        "actions": [{"id": "a", "features": [{"topic": "x"}]}, {"id": "b", "features": []}],
        "excludedActions": ["b"],
        "deferActivation": False,
    },
    ("POST", f"{V1}/events/e1/reward"): {"value": 1.0},
    ("PUT", f"{V1}/configurations/service"): {
        "rewardWaitTime": "PT10M",
        "defaultReward": 0.0,
        "rewardAggregation": "earliest",
        "explorationPercentage": 1.0,
        "modelExportFrequency": "PT0.4S",
        "logRetentionDays": -1,
        "learningMode": "Online",
    },
    ("PUT", f"{V1}/configurations/policy"): {"name": "x", "arguments": "-b 18"},
    ("POST", f"{MULTISLOT}/rank"): {
        "eventId": "p1",
        "contextFeatures": [{"hour": "9"}],
        "actions": [{"id": "a", "features": []}, {"id": "b", "features": []}],
        "slots": [{"id": "s", "features": [{"size": 1}], "excludedActions": ["b"], "baselineAction": "a"}],
        "deferActivation": True,
    },
    ("POST", f"{MULTISLOT}/events/p1/reward"): {"reward": [{"slotId": "s", "value": 0.5}]},
}
WRONG: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, 10**400, "", "x", "\x00", "x" * 100_000, [], {}, [None], [[]], [[[]]], {"": {}},
    {"a": None}, ["a", "a"], [{"id": 1}], "PT99999999999999999999S", "P" + "9" * 500 + "D",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a body, the whole of it first."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield from places(inner, (*path, key))


def changed(body: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    if not path:
        return wrong
    found = copy.deepcopy(body)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = wrong
    return found


def without(body: Any, path: tuple[Any, ...]) -> Any:
    found = copy.deepcopy(body)
    at = found
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return found


def answered(api: Api, method: str, path: str, body: Any) -> None:
    """It was done, or refused with words."""
    reply = api.call(method, path, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert reply.status < 500, (method, path, body, reply.content[:500])
    if reply.status >= 400:
        assert reply.body["error"]["code"], reply.content
        assert reply.body["error"]["message"], reply.content


@pytest.mark.parametrize(("route", "body"), BODIES.items(), ids=lambda one: one[1] if isinstance(one, tuple) else "")
def test_whatever_a_field_holds(api: Api, route: tuple[str, str], body: Any) -> None:
    for path in places(body):
        if path:
            answered(api, *route, without(body, path))
        for wrong in WRONG:
            answered(api, *route, changed(body, path, wrong))


@pytest.mark.parametrize("route", BODIES, ids=lambda one: one[1])
def test_what_is_no_json(api: Api, route: tuple[str, str]) -> None:
    for text in (b"", b"{", b"\xff", b"[" * 50_000, b'{"a":' * 50_000, b'{"value":NaN}', b'{"eventId":"\\ud800"}'):
        answered(api, *route, text)


@pytest.mark.parametrize("path", [f"{V1}/events/{{}}/reward", f"{V1}/events/{{}}/activate"])
def test_strange_event_ids(api: Api, path: str) -> None:
    strange = ("x" * 256, "x" * 257, "%00", "%0A", "a/b", "a//b", "%2F", "%23", "..", "%ED%A0%80", "%F0%9F%90%88")
    for event_id in strange:
        answered(api, "POST", path.format(event_id), {"value": 1.0})


def test_thousands_of_actions_are_ranked(api: Api) -> None:
    actions = [{"id": f"a{n}", "features": [{"n": n % 7}]} for n in range(5_000)]
    reply = api.call("POST", f"{V1}/rank", {"actions": actions, "excludedActions": ["a0"]})
    assert reply.status == 201
    ranking = reply.body["ranking"]
    assert len({one["id"] for one in ranking}) == 5_000
    assert ranking[0] == {"id": "a0", "probability": 0.0}
    assert sum(one["probability"] for one in ranking) == pytest.approx(1.0, abs=1e-9)
    assert api.call("POST", f"{V1}/rank", {"actions": actions * 3}).status == 400
