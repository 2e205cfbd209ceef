"""The same thing asked at the same moment, of two workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest

from bandit.errors import LogUnavailable
from bandit.records import RankRequest
from bandit.service import Service
from tests.conftest import Loop
from tests.service import Reply, RunningService

N = 8


def at_once(ask: Callable[[int], Reply]) -> list[Reply]:
    """Replies to ``ask(0)`` ... ``ask(N - 1)``, all sent at the same moment."""
    barrier = Barrier(N)

    def one(k: int) -> Reply:
        barrier.wait()
        return ask(k)

    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(one, range(N)))


def test_one_event_id_asked_at_once_gets_one_ranking(running: RunningService) -> None:
    for _ in range(5):
        body = {"event_id": uuid4().hex, "candidates": [f"new {uuid4().hex}" for _ in range(30)]}
        replies = at_once(lambda _: running.call("POST", "/v1/rank", body))  # noqa: B023
        assert [reply.status for reply in replies] == [200] * N
        assert all(reply.body == replies[0].body for reply in replies)


def test_one_event_id_with_different_bodies_at_once_goes_to_one_of_them(running: RunningService) -> None:
    for _ in range(5):
        body: dict[str, Any] = {"event_id": uuid4().hex, "candidates": ["a", "b"]}
        replies = at_once(lambda k: running.call("POST", "/v1/rank", body | {"slots": 1 + k % 2}))  # noqa: B023
        won = {len(reply.body["ranking"]) for reply in replies if reply.status == 200}
        assert len(won) == 1
        assert Counter(reply.status for reply in replies) == {200: N // 2, 409: N // 2}


def test_one_feedback_id_sent_at_once_is_accepted_once(running: RunningService) -> None:
    for _ in range(5):
        event_id = running.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
        body = {"event_id": event_id, "feedback_id": uuid4().hex, "items": [{"id": "a", "signals": {"share": 1}}]}
        replies = at_once(lambda _: running.call("POST", "/v1/feedback", body))  # noqa: B023
        assert Counter(reply.body["status"] for reply in replies) == {"accepted": 1, "duplicate": N - 1}
        assert len(running.call("GET", f"/v1/events/{event_id}").body["follow_ups"]) == 1


def test_one_activation_sent_at_once_counts_once(running: RunningService) -> None:
    event_id = running.call("POST", "/v1/rank", {"candidates": ["a"], "defer_activation": True}).body["event_id"]
    replies = at_once(lambda _: running.call("POST", f"/v1/events/{event_id}/activate"))
    assert Counter(reply.body["status"] for reply in replies) == {"activated": 1, "duplicate": N - 1}


def test_of_many_who_replace_the_same_config_at_once_one_wins(running: RunningService) -> None:
    config = running.call("GET", "/v1/config")
    read = {"If-Match": config.headers["ETag"]}
    replies = at_once(lambda _: running.call("PUT", "/v1/config", config.body, headers=read))
    assert Counter(reply.status for reply in replies) == {200: 1, 412: N - 1}


def test_one_item_put_and_withdrawn_at_once_is_one_or_the_other_everywhere(running: RunningService) -> None:
    item_id = uuid4().hex
    item = {"id": item_id, "features": {"x": 1}}
    running.call("PUT", "/v1/items", {"items": [item]})

    def ask(k: int) -> Reply:
        if k % 2:
            return running.call("DELETE", f"/v1/items/{item_id}")
        return running.call("PUT", "/v1/items", {"items": [item]})

    assert {reply.status for reply in at_once(ask)} == {200, 204}
    withdrawn = running.call("GET", f"/v1/items/{item_id}").body["withdrawn"]
    for _ in range(8):
        ranking = running.call("POST", "/v1/rank", {"candidates": [item_id, "other"]}).body["ranking"]
        assert len(ranking) == (1 if withdrawn else 2)


def test_a_decision_under_a_config_not_heard_of_yet_is_understood(loop: Loop) -> None:
    other = Service(loop.data, clock=loop.clock)
    live = other.put_config(other.config().document, expected=1)
    reply = other.rank(RankRequest(candidates=["a"], event_id="e"))
    assert reply.config_version == live.version == 2
    assert 2 not in loop.service.ranker.configs
    assert loop.service.ranker.config_of(2).document == live.document
    with pytest.raises(LogUnavailable):
        loop.service.ranker.config_of(3)
