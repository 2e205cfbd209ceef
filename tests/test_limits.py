"""The limits of docs/operations.md: what is at one is taken, what is over it is refused with the number."""

from __future__ import annotations

from typing import Any

import pytest

from bandit.features.hashing import MAX_FEATURES, MAX_TEXT_CHARS
from bandit.records import (
    MAX_CANDIDATES,
    MAX_EVENTS_A_CALL,
    MAX_INTERESTS,
    MAX_ITEMS_A_CALL,
    MAX_SLOTS,
    RankRequest,
)
from bandit.service import Service
from tests.conftest import Api


def some(n: int) -> list[str]:
    return [f"v{k}" for k in range(n)]


def features(n: int) -> dict[str, Any]:
    return {f"f{k}": 1 for k in range(n)}


def told(n: int) -> list[dict[str, Any]]:
    return [{"id": each, "seen": True} for each in some(n)]


LIMITS = {
    "candidates": ("POST", "/v1/rank", MAX_CANDIDATES, lambda n: {"candidates": some(n)}),
    "excluded": ("POST", "/v1/rank", MAX_CANDIDATES, lambda n: {"candidates": ["a"], "exclude": some(n)}),
    "slots": ("POST", "/v1/rank", MAX_SLOTS, lambda n: {"candidates": ["a"], "slots": n}),
    "features": ("POST", "/v1/rank", MAX_FEATURES, lambda n: {"candidates": [{"id": "a", "features": features(n)}]}),
    "context": ("POST", "/v1/rank", MAX_FEATURES, lambda n: {"candidates": ["a"], "context": features(n)}),
    "text": ("POST", "/v1/rank", MAX_TEXT_CHARS, lambda n: {"candidates": ["a"], "context": {"x": "y" * n}}),
    "event id": ("POST", "/v1/rank", 256, lambda n: {"candidates": ["a"], "event_id": "e" * n}),
    "candidate id": ("POST", "/v1/rank", 256, lambda n: {"candidates": ["e" * n]}),
    "user id": ("POST", "/v1/rank", 256, lambda n: {"candidates": ["a"], "user": {"id": "e" * n}}),
    "items told of": ("POST", "/v1/feedback", MAX_SLOTS, lambda n: {"event_id": "e", "items": told(n)}),
    "feedback": ("POST", "/v1/feedback", MAX_EVENTS_A_CALL,
                 lambda n: {"events": [{"event_id": f"e{k}", "items": told(1)} for k in range(n)]}),
    "shown": ("POST", "/v1/events/e/activate", MAX_SLOTS, lambda n: {"shown": some(n)}),
    "items": ("PUT", "/v1/items", MAX_ITEMS_A_CALL, lambda n: {"items": [{"id": each} for each in some(n)]}),
    "interests": ("PUT", "/v1/users/ann", MAX_INTERESTS, lambda n: {"interests": some(n)}),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_at_the_limit_it_is_taken_and_over_it_refused(api: Api, service: Service, name: str) -> None:
    method, path, most, body = LIMITS[name]
    reply = api.call(method, path, body(most + 1))
    assert (reply.status, reply.body["error"]["code"] in ("invalid_request", "invalid_features")) == (400, True)
    assert str(most) in reply.body["error"]["message"]
    assert api.call(method, path, body(most)).status in (200, 202)
    # Whoever comes next is answered as before.
    assert service.rank(RankRequest(["a"])).ranking


def test_a_body_over_the_limit_is_refused_with_the_limit(api: Api) -> None:
    reply = api.call("POST", "/v1/rank", b" " * (16 * 1024 * 1024 + 1))
    assert (reply.status, reply.body["error"]["detail"]) == (413, {"limit_mb": 16})
