"""API keys: what each may do, on every route; and that a key which may not do something does nothing."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from bandit.access.keys import Scope, digest_of, new_key
from bandit.config import Settings, read_settings
from bandit.errors import InvalidSetting, NoKeys, RateLimited
from bandit.store.data import DataDirectory
from bandit.store.keys import all_keys, changing, revoke_key
from bandit.supervisor import check_keys
from bandit.web.app import create_app
from bandit.web.gate import Gate
from bandit.web.routes import ROUTES
from bandit.web.routing import Route
from tests.conftest import Api, Clock, Loop, make_key
from tests.service import ROOT, Reply, RunningService, free_port, own_environ, send

SCOPES = get_args(Scope)
SENT = ("Authorization", "X-API-Key", "Ocp-Apim-Subscription-Key")


class World(NamedTuple):
    """A service that asks for keys, and keys."""

    api: Api
    loop: Loop
    keys: dict[str, str]

    def call(self, route: Route, key: str | None) -> Reply:
        """A request that would do something, for whoever may."""
        path = re.sub(r"<path:\w+>", "v1", route.path)
        body = BODIES.get((route.method, route.path), {}) if route.request is not None else None
        headers = {"If-Match": '"1"'} | ({} if key is None else {"X-API-Key": key})
        return self.api.call(route.method, path, body, headers=headers)


BODIES: Mapping[tuple[str, str], Any] = {
    ("POST", "/v1/rank"): {"candidates": ["v1", "v2"]},
    ("POST", "/v1/feedback"): {"event_id": "v1", "items": [{"id": "v1", "signals": {"like": 1}}]},
    ("PUT", "/v1/items"): {"items": [{"id": "v9", "features": {"a": 1}}]},
    ("PUT", "/v1/users/<path:user_id>"): {"interests": ["cats"]},
    ("PUT", "/v1/config"): {"slots": 3},
    ("POST", "/v1/model/rollback"): {"to": "0000"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("keys") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False, keys="on"), clock=clock)
    loop = Loop(data, clock)
    keys = {scope: make_key(data, scope, now=clock.now) for scope in SCOPES}
    keys["revoked"] = make_key(data, *SCOPES, now=clock.now, revoked_at=clock.now)
    keys["expired"] = make_key(data, *SCOPES, now=clock.now, expires_at=1.0)
    keys["unknown"] = new_key(bytes(38))[1]
    keys["nearly"] = keys["admin"][:-1] + ("0" if keys["admin"][-1] != "0" else "1")
    keys["other's id"] = f"fb_{keys['admin'].split('_')[1]}_{keys['rank'].split('_')[2]}"
    keys["no key"] = "ключ".encode().decode("latin-1")
    yield World(Api(create_app(loop.service).test_client()), loop, keys)
    loop.close()
    data.close()


@pytest.fixture
def unchanged(world: World) -> Iterator[None]:
    """Fails a test in which anything is written to the database."""
    with sqlite3.connect(f"file:{world.loop.data.log.path}?mode=ro", uri=True) as watch:
        before = watch.execute("PRAGMA data_version").fetchone()
        yield
        assert watch.execute("PRAGMA data_version").fetchone() == before
    watch.close()


def told(route: Route) -> str:
    return f"{route.method} {route.path}"


KEYED = [pytest.param(route, id=told(route)) for route in ROUTES if route.scope is not None]
WRONG = ("revoked", "expired", "unknown", "nearly", "other's id", "no key")


@pytest.mark.parametrize("route", KEYED)
def test_without_a_key_nothing_is_told_and_nothing_happens(world: World, route: Route, unchanged: None) -> None:
    reply = world.call(route, None)
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert reply.body["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("route", KEYED)
def test_keys_that_are_not_accepted_all_get_the_same_and_nothing_happens(
    world: World, route: Route, unchanged: None
) -> None:
    replies = {name: world.call(route, world.keys[name]) for name in WRONG}
    assert {reply.status for reply in replies.values()} == {401}
    assert len({reply.content for reply in replies.values()}) == 1
    assert len({tuple(reply.headers) for reply in replies.values()}) == 1
    assert not any(key in reply.content.decode() for reply in replies.values() for key in world.keys.values())


@pytest.mark.parametrize("route", KEYED)
def test_a_key_for_something_else_gets_nothing_and_does_nothing(world: World, route: Route, unchanged: None) -> None:
    for scope in sorted({*SCOPES} - {route.scope, "admin"}):
        reply = world.call(route, world.keys[scope])
        assert (reply.status, reply.body["error"]["code"]) == (403, "forbidden"), scope
        assert reply.body["error"]["detail"]["needed"] == route.scope


@pytest.mark.parametrize("route", KEYED)
def test_a_key_for_it_and_an_admins_are_let_in(world: World, route: Route) -> None:
    assert route.scope is not None
    for scope in {route.scope, "admin"}:
        assert world.call(route, world.keys[scope]).status not in (401, 403), scope


#: What anybody may ask. Nothing here tells of viewers, events or what was learned, and nothing changes the log.
OPEN = {
    "GET /healthz", "GET /readyz", "GET /openapi.json", "GET /static/<path:name>", "GET /signin", "POST /signin",
    "POST /signout",
}  # fmt: skip


def test_only_this_is_open() -> None:
    assert {told(route) for route in ROUTES if route.scope is None} == OPEN


@pytest.mark.parametrize("route", [pytest.param(r, id=told(r)) for r in ROUTES if r.scope is None])
def test_what_is_open_needs_no_key_and_changes_nothing(world: World, route: Route, unchanged: None) -> None:
    assert world.call(route, None).status in (200, 303, 404, 503)


@pytest.mark.parametrize("name", SENT)
def test_a_key_may_come_in_any_of_these_headers(world: World, name: str) -> None:
    value = f"Bearer {world.keys['read']}" if name == "Authorization" else world.keys["read"]
    assert world.api.call("GET", "/v1/model", headers={name: value}).status == 200
    assert world.api.call("GET", "/v1/model", headers={name: value + "0"}).status == 401


def test_only_hashes_are_kept(world: World) -> None:
    stored = b"".join(path.read_bytes() for path in world.loop.data.path.iterdir() if path.is_file())
    for key in (world.keys[scope] for scope in SCOPES):
        assert key.encode() not in stored
        assert key.split("_")[2].encode() not in stored
        assert bytes.fromhex(key.split("_")[2]) not in stored
        assert digest_of(key) in stored


def test_a_change_holds_from_the_next_request_on(world: World) -> None:
    data, clock = world.loop.data, world.loop.clock
    key = make_key(data, "read", now=clock.now)
    assert world.api.call("GET", "/v1/model", headers={"X-API-Key": key}).status == 200
    with changing(data.path):
        data.log.append(lambda txn: revoke_key(txn, key.split("_")[1], txn.now))
    assert world.api.call("GET", "/v1/model", headers={"X-API-Key": key}).status == 401


def test_a_change_whose_author_died_before_he_told_is_heard_of_too(world: World) -> None:
    data, clock = world.loop.data, world.loop.clock
    key = make_key(data, "read", now=clock.now)
    assert world.api.call("GET", "/v1/model", headers={"X-API-Key": key}).status == 200
    data.log.append(lambda txn: revoke_key(txn, key.split("_")[1], txn.now))
    assert world.api.call("GET", "/v1/model", headers={"X-API-Key": key}).status == 200
    data.keys.refresh()
    assert world.api.call("GET", "/v1/model", headers={"X-API-Key": key}).status == 401


def test_the_document_tells_of_keys_where_they_are_needed(world: World) -> None:
    paths = world.api.call("GET", "/openapi.json").body["paths"]
    assert {"401", "403", "429"} <= set(paths["/v1/rank"]["post"]["responses"])
    assert paths["/v1/rank"]["post"]["security"]
    assert "security" not in paths["/healthz"]["get"]


# ---------------------------------------------------------------- rates


def test_a_key_that_asks_too_often_is_told_when_to_come_again(tmp_path: Path, clock: Clock) -> None:
    data = DataDirectory(Settings(tmp_path, durable=False, keys="on", rate_limit=2.0), clock=clock)
    route = next(route for route in ROUTES if route.path == "/v1/model")
    common, own, free = (make_key(data, "read", now=clock.now, rate=rate) for rate in (None, 0.25, 0.0))
    now = 100.0
    gate = Gate(data, clock=clock, monotonic=lambda: now)

    def ask(key: str) -> int:
        try:
            gate.admit({"HTTP_X_API_KEY": key}, route)
        except RateLimited as error:
            return error.retry_after_s or -1
        return 0

    assert [ask(common) for _ in range(4)] == [0, 0, 1, 1]
    assert [ask(own) for _ in range(2)] == [0, 4]
    assert not any(ask(free) for _ in range(100))
    now += 0.5
    assert [ask(common) for _ in range(2)] == [0, 1]
    now += 3.5
    assert [ask(own) for _ in range(2)] == [0, 4]
    data.close()


def test_the_reply_is_429_with_retry_after(world: World) -> None:
    key = make_key(world.loop.data, "read", now=world.loop.clock.now, rate=0.001)
    replies = [world.api.call("GET", "/v1/model", headers={"X-API-Key": key}) for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 429]
    assert 900 < int(replies[1].headers["Retry-After"]) <= 1000
    assert replies[1].body["error"]["code"] == "rate_limited"


# ---------------------------------------------------------------- without keys


def test_without_keys_only_this_machine_is_answered_by_its_own_name(api: Api) -> None:
    for good in ("localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"):
        assert api.call("GET", "/healthz", headers={"Host": good}).status == 200, good
    for bad in ("feed.example", "feed.example:8080", "127.0.0.1.evil.example", "10.0.0.1:80", "localhost.evil.example"):
        reply = api.call("POST", "/v1/rank", {"candidates": ["a"]}, headers={"Host": bad})
        assert (reply.status, reply.body["error"]["code"]) == (403, "forbidden"), bad


def test_without_keys_pages_of_others_are_refused(api: Api) -> None:
    body = {"candidates": ["a"]}
    assert api.call("POST", "/v1/rank", body, headers={"Origin": "http://localhost"}).status == 200
    for origin in ("http://evil.example", "null", "http://localhost:3000", "http://localhost.evil.example"):
        assert api.call("POST", "/v1/rank", body, headers={"Origin": origin}).status == 403, origin


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"keys": "on"}, True),
        ({"host": "0.0.0.0"}, True),
        ({"host": "feed.example"}, True),
    ],
)
def test_keys_are_needed_unless_only_this_machine_can_ask(given: dict[str, str], needed: bool) -> None:
    assert read_settings(given, {}).needs_keys == needed


@pytest.mark.parametrize("given", [{"host": "0.0.0.0", "keys": "off"}, {"rate_limit": "5"}])
def test_settings_that_contradict_each_other_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting):
        read_settings(given, {})


def test_it_does_not_listen_elsewhere_until_somebody_holds_a_key(tmp_path: Path, clock: Clock) -> None:
    settings = read_settings({"host": "0.0.0.0", "data": str(tmp_path)}, {})
    data = DataDirectory(settings, clock=clock)
    make_key(data, "rank", now=clock.now, revoked_at=clock.now)
    with pytest.raises(NoKeys, match=r"server\.py keys create"):
        check_keys(settings, data.keys, clock.now)
    make_key(data, "rank", now=clock.now)
    check_keys(settings, data.keys, clock.now)
    data.close()


def test_the_real_server_says_so_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, "server.py", "--host", "0.0.0.0", "--port", str(free_port()), "--data", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, env=own_environ(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "server.py keys create" in ended.stderr
    assert "Traceback" not in ended.stderr


# ---------------------------------------------------------------- the command, beside a running service


def keys_command(*arguments: str, data: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "server.py", "keys", *arguments, "--data", str(data)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == status, ended
    assert "Traceback" not in ended.stderr
    return ended


def test_keys_are_made_and_revoked_beside_a_running_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = keys_command("create", "--scopes", "rank", "--app", "web", data=data).stdout.strip()
    with RunningService(data, workers=2, keys="on") as service:
        connections = [service.connect() for _ in range(12)]

        def statuses(key: str) -> set[int]:
            headers = {"Authorization": f"Bearer {key}"}
            body = {"candidates": ["a", "b"]}
            return {send(one, "POST", "/v1/rank", body, headers=headers).status for one in connections}

        assert statuses(before) == {200}
        made = keys_command("create", "--scopes", "rank,read", "--days", "1", data=data).stdout.strip()
        assert statuses(made) == {200}
        assert statuses("") == {401}
        keys_command("revoke", made.split("_")[1], data=data)
        assert statuses(made) == {401}
        assert statuses(before) == {200}
        for one in connections:
            one.close()
        rows = json.loads(keys_command("list", "--json", data=data).stdout)
        assert [(row["app"], row["scopes"], row["state"]) for row in rows] == [
            ("web", ["rank"], "active"), ("", ["rank", "read"], "revoked"),
        ]  # fmt: skip
        assert made.split("_")[2] not in service.log()


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--scopes", "everything"),
        ("create", "--scopes", ""),
        ("create", "--scopes", "rank", "--app", "Über App"),
        ("create", "--scopes", "rank", "--days", "-1"),
        ("create", "--scopes", "rank", "--days", "nan"),
        ("create", "--scopes", "rank", "--rate-limit", "-1"),
        ("revoke", "000000000000"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from bandit.commands.keys import main

    assert main([*arguments, "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("feed-bandit: ")
    data = DataDirectory(Settings(tmp_path, durable=False))
    assert all_keys(data.log) == []
    data.close()
