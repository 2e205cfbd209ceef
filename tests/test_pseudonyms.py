"""Ids of viewers that are hashed at the door: what is stored and learned knows no other name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bandit.access.privacy import pseudonym_of
from bandit.config import Settings
from bandit.store.data import DataDirectory
from bandit.web.app import create_app
from replay.rebuild import rebuild
from tests.conftest import Api, Clock, Loop
from tests.service import RunningService
from tests.test_erasure import holds

USER = "ada-lovelace-1815"


@pytest.fixture
def hidden(tmp_path: Path, clock: Clock) -> Iterator[Loop]:
    path = tmp_path / "data"
    path.mkdir()
    data = DataDirectory(Settings(path, durable=False, pseudonymise=True), clock=clock)
    loop = Loop(data, clock)
    yield loop
    loop.close()
    data.close()


@pytest.fixture
def door(hidden: Loop) -> Api:
    return Api(create_app(hidden.service).test_client())


def ask(door: Api, event_id: str) -> str:
    body = {"candidates": ["v1", "v2", "v3"], "event_id": event_id, "user": {"id": USER, "features": {"age": 30}}}
    reply = door.call("POST", "/v1/rank", body)
    assert reply.status == 200, reply.body
    items = [{"id": one["id"], "signals": {"watch_s": 9.0}, "final": True} for one in reply.body["ranking"]]
    assert door.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202
    return reply.content.decode()


def test_the_id_is_in_no_file_and_everything_works_with_it(door: Api, hidden: Loop) -> None:
    first = ask(door, "e1")
    assert ask(door, "e1") == first
    assert door.call("PUT", f"/v1/users/{USER}", {"interests": ["chess"]}).status == 200
    for k in range(2, 6):
        ask(door, f"e{k}")
    hidden.learn()
    name = pseudonym_of(USER, hidden.data.secret)
    assert holds(hidden.data.path, USER) == []
    assert holds(hidden.data.path, name)
    reply = door.call("GET", f"/v1/users/{USER}").body
    assert (reply["id"], reply["interests"], reply["seen_slots"]) == (USER, ["chess"], 15)
    assert door.call("GET", "/v1/events/e1").body["user"] == name
    assert rebuild(hidden.data.path).ok


def test_features_hash_the_pseudonym(door: Api) -> None:
    ask(door, "e1")
    shared = door.call("GET", "/v1/events/e1").body
    assert USER not in str(shared)
    assert shared["user"] in str(shared["shared"])


def test_the_plain_id_erases(door: Api, hidden: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(hidden.service).erase, "__kwdefaults__", {"wait_s": 0.0})
    name = pseudonym_of(USER, hidden.data.secret)
    ask(door, "e1")
    assert door.call("DELETE", f"/v1/users/{USER}").status == 202
    hidden.learn()
    assert door.call("DELETE", f"/v1/users/{USER}").body["decisions"] == 1
    assert holds(hidden.data.path, USER, name) == []


def test_the_pseudonym_erases_too(door: Api, hidden: Loop) -> None:
    ask(door, "e1")
    hidden.service.erase(pseudonym_of(USER, hidden.data.secret), wait_s=0.0)
    hidden.learn()
    assert holds(hidden.data.path, pseudonym_of(USER, hidden.data.secret)) == []


def test_what_was_stored_before_the_setting_changed_is_erased_by_the_same_id(door: Api, hidden: Loop) -> None:
    ask(door, "e1")
    plain = Loop(DataDirectory(Settings(hidden.data.path, durable=False), clock=hidden.clock), hidden.clock)
    ask(Api(create_app(plain.service).test_client()), "e2")
    plain.service.erase(USER, wait_s=0.0)
    hidden.learn()
    assert hidden.service.erase(USER, wait_s=0.0).decisions == 2
    plain.trainer.close()
    plain.data.close()


def test_another_secret_gives_another_name() -> None:
    assert pseudonym_of(USER, b"one") != pseudonym_of(USER, b"two")


def test_it_is_a_setting_of_a_start(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", pseudonymise="yes") as service:
        body = {"candidates": ["a", "b"], "user": {"id": USER}}
        event_id = service.call("POST", "/v1/rank", body).body["event_id"]
        assert len(service.call("GET", f"/v1/events/{event_id}").body["user"]) == 32
        assert holds(service.data, USER) == []
