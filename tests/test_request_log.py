"""A line for every request: what it tells, what it never tells, and that nobody waits for its reader."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bandit.config import Settings
from bandit.logs import JsonFormatter
from bandit.store.data import DataDirectory
from bandit.web import request_log
from bandit.web.app import create_app
from bandit.web.gate import ANYBODY
from bandit.web.request_log import MOST, WHOLE, RequestLog
from bandit.web.routes import ROUTES
from tests.conftest import Api, Clock, Loop, make_key
from tests.service import RunningService


class Told(NamedTuple):
    api: Api
    log: RequestLog
    chunks: list[bytes]
    keys: dict[str, str]

    def lines(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [json.loads(line) for line in b"".join(self.chunks).splitlines()]


@pytest.fixture
def told(data: DataDirectory, clock: Clock) -> Iterator[Told]:
    keyed = DataDirectory(Settings(data.path, durable=False, keys="on"), clock=clock)
    loop = Loop(keyed, clock)
    chunks: list[bytes] = []
    log = RequestLog(chunks.append, clock=clock)
    keys = {"feed": make_key(keyed, "rank", "feedback", "read", now=clock.now, app="web")}
    yield Told(Api(create_app(loop.service, requests=log).test_client()), log, chunks, keys)
    loop.close()
    keyed.close()


def test_each_request_has_one_line_with_what_it_came_to(told: Told) -> None:
    key, headers = told.keys["feed"], {"X-API-Key": told.keys["feed"]}
    body = {"event_id": "e", "candidates": ["v1", "v2", "v3"], "user": {"id": "ann"}}
    assert told.api.call("POST", "/v1/rank", body, headers=headers).status == 200
    items = [{"id": "v1", "seen": True}]
    told.api.call("POST", "/v1/feedback", {"event_id": "e", "items": items}, headers=headers)
    told.api.call("POST", "/v1/feedback", {"events": [{"event_id": "e", "items": items}] * 2}, headers=headers)
    told.api.call("GET", "/v1/events/e", headers=headers)
    told.api.call("GET", "/v1/users/ann", headers=headers)
    told.api.call("GET", "/v1/users/nobody", headers=headers)
    told.api.call("DELETE", "/v1/users/ann", headers=headers)
    told.api.call("GET", "/v1/model")
    told.api.call("GET", "/healthz")
    rank, one, two, event, user, nobody, forbidden, unauthorized, health = told.lines()
    own = {"key": key.split("_")[1], "app": "web"}
    assert rank.items() >= {
        "time": "2027-01-15T08:00:00.000Z", "level": "INFO", "method": "POST", "route": "/v1/rank", "status": 200,
        "event_id": "e", "n_candidates": 3, "fallback": None, **own,
    }.items()  # fmt: skip
    assert isinstance(rank["worker"], int)
    assert 0 < rank["duration_ms"] < 60_000
    assert (one["event_id"], one["status"]) == ("e", 202)
    assert two["n_events"] == 2
    assert (event["route"], event["event_id"]) == ("/v1/events/{event_id}", "e")
    assert (user["route"], user["status"]) == ("/v1/users/{user_id}", 200)
    assert (nobody["status"], nobody["error"], nobody["level"]) == (404, "unknown_user", "WARNING")
    assert (forbidden["status"], forbidden["error"]) == (403, "forbidden")
    assert (unauthorized["status"], unauthorized["error"]) == (401, "unauthorized")
    assert not {"key", "app"} & (unauthorized.keys() | health.keys())
    for line in (user, nobody, forbidden):
        assert "ann" not in json.dumps(line)


def test_no_line_tells_a_key_a_body_or_a_viewer(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    secret = "zq" * 8
    caplog.set_level(logging.DEBUG)
    for route in ROUTES:
        path = route.path.replace("<path:event_id>", "e").replace("<path:user_id>", secret).replace("<path:", "x<")
        for body in ({"candidates": [secret], "user": {"id": secret}, "a": secret}, secret.encode()):
            for headers in ({"X-API-Key": told.keys["feed"]}, {"X-API-Key": secret}, {"Cookie": f"a={secret}"}):
                told.api.call(route.method, f"{path}?q={secret}", body, headers={**headers, "X-Other": secret})
    assert len(told.lines()) >= 6 * len(ROUTES)
    everything = b"".join(told.chunks).decode() + caplog.text
    assert secret not in everything
    assert told.keys["feed"].split("_")[2] not in everything


def test_a_reader_who_is_slow_misses_lines_and_holds_nobody_up(clock: Clock) -> None:
    chunks: list[bytes] = []
    log = RequestLog(chunks.append, clock=clock)
    for _ in range(MOST + 7):
        log.add(ROUTES[0], 200, 0.001, ANYBODY, None, None)
    assert chunks == []
    log.flush()
    assert sum(chunk.count(b"\n") for chunk in chunks) == MOST + 1
    assert "7 lines" in json.loads(chunks[-2] if b"left out" in chunks[-2] else chunks[-1])["message"]
    assert max(map(len, chunks)) <= WHOLE
    assert all(chunk.endswith(b"\n") for chunk in chunks)


def test_a_reader_who_has_gone_stops_nobody(clock: Clock) -> None:
    def gone(chunk: bytes) -> None:
        raise BrokenPipeError

    log = RequestLog(gone, clock=clock)
    log.add(ROUTES[0], 200, 0.001, ANYBODY, None, None)
    log.flush()
    log.flush()


def test_lines_are_written_while_it_runs_and_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "EVERY_S", 0.01)
    chunks: list[bytes] = []
    log = RequestLog(chunks.append).start()
    for _ in range(20):
        log.add(ROUTES[0], 200, 0.001, ANYBODY, None, None)
    log.stop()
    assert sum(chunk.count(b"\n") for chunk in chunks) == 20


def test_messages_are_json_too() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.LogRecord("feed_bandit", logging.ERROR, "f", 1, "%s: a fault", ("/v1\n",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["message"]) == ("ERROR", "/v1\n: a fault")
    assert "ValueError" in found["exception"]


def test_all_that_the_real_service_writes_is_json(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", log_format="json", workers=2) as service:
        for k in range(20):
            assert service.call("POST", "/v1/rank", {"event_id": f"e{k}", "candidates": ["a", "b"]}).status == 200
    lines = [json.loads(line) for line in service.log().splitlines()]
    assert {f"e{k}" for k in range(20)} == {line["event_id"] for line in lines if line.get("route") == "/v1/rank"}
    assert any(line.get("message", "").startswith("worker ready") for line in lines)
    assert any(line.get("message", "").startswith("trainer started") for line in lines)
