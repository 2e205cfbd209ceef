"""Feed rules over HTTP: replies, stories, explanations, and what replay makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bandit.learning.trainer import Trainer
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.web.app import create_app
from replay.errors import BadPolicy, Unsupported
from replay.events import Assignment, Batch
from replay.policies import parse_policy
from replay.readers.service import ServiceLog
from replay.rebuild import rebuild
from tests.conftest import Api, Loop


def put(api: Api, **items: dict[str, Any]) -> None:
    body = {"items": [{"id": name, "features": features} for name, features in items.items()]}
    assert api.call("PUT", "/v1/items", body).status == 200


def configure(api: Api, **change: Any) -> None:
    read = api.call("GET", "/v1/config")
    reply = api.call("PUT", "/v1/config", read.body | change, headers={"If-Match": read.headers["ETag"]})
    assert reply.status == 200, reply.body


def rank(api: Api, candidates: list[str], **request: Any) -> dict[str, Any]:
    reply = api.call("POST", "/v1/rank", {"candidates": candidates, **request})
    assert reply.status == 200, reply.body
    body: dict[str, Any] = reply.body
    return body


def ids_of(ranked: dict[str, Any]) -> list[str]:
    return [placed["id"] for placed in ranked["ranking"]]


def story(api: Api, ranked: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = api.call("GET", f"/v1/events/{ranked['event_id']}").body
    return body


CREATORS = {f"v{i}": {"creator": "ab"[i % 2]} for i in range(6)}


def test_no_two_in_a_row_by_the_same_creator(api: Api) -> None:
    put(api, **CREATORS)
    for _ in range(20):
        ranked = rank(api, list(CREATORS))
        creators = [CREATORS[one]["creator"] for one in ids_of(ranked)]
        assert all(creators[k] != creators[k + 1] for k in range(5))
        assert ranked["relaxed"] == {}


def test_a_rule_that_leaves_nothing_gives_way_and_the_reply_says_where(api: Api) -> None:
    put(api, v1={"creator": "a"}, v2={"creator": "a"}, v3={"creator": "a"})
    ranked = rank(api, ["v1", "v2", "v3"])
    assert len(ids_of(ranked)) == 3
    assert ranked["relaxed"] == {"spacing:creator": [1, 2]}
    assert story(api, ranked)["relaxed"] == {"spacing:creator": [1, 2]}


def test_a_rule_can_be_switched_off_and_given_parameters(api: Api) -> None:
    put(api, **{name: {"creator": "a", "tags": ["cats"]} for name in CREATORS})
    configure(api, rules=[])
    assert rank(api, list(CREATORS))["relaxed"] == {}
    configure(api, rules=[{"rule": "cap", "of": "tag", "most": 2}])
    assert rank(api, list(CREATORS), slots=4)["relaxed"] == {"cap:tag": [2, 3]}


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([{"rule": "spacing", "of": "tag"}], "of"),
        ([{"rule": "spacing", "of": "creator", "slots": 0}], "slots"),
        ([{"rule": "cap", "of": "creator"}], "most"),
        ([{"rule": "quota", "of": "new", "share": 1.5}], "share"),
        ([{"rule": "seen", "window_s": -1}], "window_s"),
        ([{"rule": "seen"}, {"rule": "seen"}], "twice"),
        ([{"rule": "quota", "of": "new", "share": 0.7}, {"rule": "quota", "of": "off_interest", "share": 0.7}], "1.4"),
        ([{"rule": "luck"}], "luck"),
        ({"rule": "seen"}, "rules"),
    ],
)
def test_rules_that_make_no_sense_are_refused(api: Api, rules: Any, told: str) -> None:
    read = api.call("GET", "/v1/config")
    reply = api.call("PUT", "/v1/config", read.body | {"rules": rules}, headers={"If-Match": read.headers["ETag"]})
    assert reply.status == 400
    assert told in reply.body["error"]["message"]


# ---------------------------------------------------------------- the viewer


def test_what_was_shown_comes_last_in_the_next_feed(api: Api) -> None:
    put(api, **{f"v{i}": {} for i in range(6)})
    candidates = [f"v{i}" for i in range(6)]
    first = rank(api, candidates, user={"id": "u1"}, slots=3)
    second = rank(api, candidates, user={"id": "u1"}, slots=4)
    assert not set(ids_of(first)) & set(ids_of(second)[:3])
    assert second["relaxed"] == {"seen": [3]}
    third = rank(api, [*candidates, "v6"], user={"id": "u1"}, slots=1, explain=True)
    assert ids_of(third) == ["v6"]
    assert {one["id"] for one in third["kept_out"]} == set(candidates)
    assert third["kept_out"][0]["rules"] == ["shown to the viewer within the last 30 days"]
    # Another viewer has not seen them, and nobody at all has seen nothing.
    assert rank(api, candidates, user={"id": "u2"}, slots=6)["relaxed"] == {}
    assert rank(api, candidates, slots=6)["relaxed"] == {}


def test_a_copy_of_what_was_shown_has_been_seen_too(api: Api) -> None:
    put(api, v1={"group": "g"}, v2={"group": "g"}, v3={})
    shown = rank(api, ["v1"], user={"id": "u1"})
    assert ids_of(shown) == ["v1"]
    assert ids_of(rank(api, ["v2", "v3"], user={"id": "u1"})) == ["v3", "v2"]


def test_one_group_stands_once_in_a_feed(api: Api) -> None:
    put(api, v1={"group": "g"}, v2={"group": "g"}, v3={})
    ranked = rank(api, ["v1", "v2", "v3"])
    assert len(ids_of(ranked)) == 2
    assert "v3" in ids_of(ranked)
    assert ranked["relaxed"] == {}


def test_not_interested_holds_from_the_next_request_on(api: Api) -> None:
    put(api, v1={"creator": "a"}, v2={"creator": "a"}, v3={"creator": "b"})
    ranked = rank(api, ["v1"], user={"id": "u1"})
    said = {
        "event_id": ranked["event_id"],
        "items": [{"id": "v1", "signals": {"not_interested": 1}, "about": ["creator"]}],
    }
    assert api.call("POST", "/v1/feedback", said).status == 202
    after = rank(api, ["v1", "v2", "v3"], user={"id": "u1"}, explain=True)
    assert ids_of(after) == ["v3"]
    assert {one["id"]: one["rules"] for one in after["kept_out"]} == {
        "v1": ["the viewer is not interested in this item"],
        "v2": ["the viewer is not interested in this creator"],
    }
    assert story(api, after)["ineligible"] == {"not_interested:item": 1, "not_interested:creator": 1}
    refused = api.call("POST", "/v1/rank", {"candidates": ["v1", "v2"], "user": {"id": "u1"}})
    assert (refused.status, refused.body["error"]["code"]) == (400, "empty_slate")


def test_quotas_set_slots_aside_for_new_items(api: Api, loop: Loop) -> None:
    put(api, **{f"v{i}": {} for i in range(8)})
    old = [f"v{i}" for i in range(6)]
    for _ in range(3):
        rank(api, old, slots=6)
    loop.learn()
    configure(api, rules=[{"rule": "quota", "of": "new", "share": 0.5, "shown_below": 2}])
    for _ in range(10):
        ranked = rank(api, [f"v{i}" for i in range(8)], slots=4)
        slots = story(api, ranked)["reserved"]["quota:new"]
        assert len(slots) == 2
        for slot in slots:
            # New ones may have been drawn above too, and then the quota gives way.
            assert ids_of(ranked)[slot] in ("v6", "v7") or slot in ranked["relaxed"]["quota:new"]


# ---------------------------------------------------------------- pins


def test_a_pinned_item_stands_where_the_caller_wants_it_and_does_not_teach(api: Api, loop: Loop) -> None:
    candidates = [f"v{i}" for i in range(5)]
    ranked = rank(api, candidates, pins={"2": "v4"}, explain=True, user={"id": "u1"})
    assert ids_of(ranked)[2] == "v4"
    assert ranked["ranking"][2]["propensity"] == 1.0
    assert ranked["explanation"][2]["rules"] == ["pinned by the caller"]
    items = [{"id": one, "signals": {"watch_s": 10}} for one in candidates]
    api.call("POST", "/v1/feedback", {"event_id": ranked["event_id"], "items": items})
    loop.end_windows()
    slots = story(api, ranked)["slots"]
    assert [slot["status"] for slot in slots] == ["learned", "learned", "pinned", "learned", "learned"]
    assert slots[2]["reward"] is not None


def test_a_pin_that_may_not_be_shown_is_dropped_and_told(api: Api) -> None:
    ranked = rank(api, ["v1", "v2", "v3"], pins={"0": "v1", "1": "v2"}, exclude=["v1"])
    assert ids_of(ranked)[1] == "v2"
    assert ranked["relaxed"] == {"pins": [0]}


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        ({"0": "v9"}, "no candidate"),
        ({"10": "v1"}, "slot 10 is not drawn"),
        ({"0": "v1", "1": "v1"}, "two slots"),
        ({"-1": "v1"}, "pins"),
        ({"100": "v1"}, "pins"),
        ({"first": "v1"}, "pins"),
        (["v1"], "pins"),
        ({"0": 1}, "pins"),
    ],
)
def test_pins_that_make_no_sense_are_refused(api: Api, pins: Any, told: str) -> None:
    reply = api.call("POST", "/v1/rank", {"candidates": ["v1", "v2"], "pins": pins})
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")
    assert told in reply.body["error"]["message"]


# ---------------------------------------------------------------- explanations


def test_an_explanation_says_which_rule_moved_what(api: Api) -> None:
    put(api, v1={"creator": "a"}, v2={"creator": "a"}, v3={"creator": "b"}, v4={"creator": "b"})
    configure(api, mode="serve", explorer={"kind": "greedy"}, floor=0.0)
    # An empty model: all scores are equal, so the caller's order decides, and nothing is better than what stands.
    ranked = rank(api, ["v1", "v2", "v3", "v4"], explain=True)
    assert ids_of(ranked) == ["v1", "v3", "v2", "v4"]
    assert story(api, ranked)["passed"] == {"spacing:creator": [[1, "v2"]]}


def test_without_a_model_rules_hold_too(data: DataDirectory) -> None:
    api = Api(create_app(Service(data)).test_client())
    put(api, **CREATORS)
    ranked = rank(api, list(CREATORS), explain=True)
    assert ranked["fallback"] == "no_model"
    creators = [CREATORS[one]["creator"] for one in ids_of(ranked)]
    assert all(creators[k] != creators[k + 1] for k in range(5))
    ordered = rank(api, ["v0", "v2", "v1"], explain=True)
    moved = {told["id"]: told["rules"] for told in ordered["explanation"]}
    if ids_of(ordered) == ["v0", "v1", "v2"]:
        assert moved["v2"] == ["kept apart from slot 0: same creator"]


# ---------------------------------------------------------------- replay


def visit(api: Api, times: int, **request: Any) -> None:
    """Feeds of two viewers with creators, sounds, groups, things seen before and pins; all slots are rated."""
    put(api, **{f"v{i}": {"creator": "abc"[i % 3], "sound": "xy"[i % 2], "group": f"g{i // 2}"} for i in range(12)})
    for number in range(times):
        pins = {"1": "v5"} if number % 3 == 0 else {}
        ranked = rank(api, [f"v{i}" for i in range(12)], slots=5, pins=pins, **request)
        items = [{"id": one, "signals": {"watch_s": 3.0 * k}} for k, one in enumerate(ids_of(ranked))]
        api.call("POST", "/v1/feedback", {"event_id": ranked["event_id"], "items": items})


def assigned(loop: Loop, spec: str) -> Iterator[tuple[Batch, Assignment]]:
    """What a policy gives to everything that is in the log."""
    loop.end_windows()
    log, policy = ServiceLog(loop.data.settings.data), parse_policy(spec)
    policy.prepare(log)
    for batch in log.batches(policy.needs(True)):
        full, plain = policy.assign(batch, True), policy.assign(batch, False)
        assert full.propensity == pytest.approx(plain.propensity)
        assert full.pmf is not None
        starts = np.concatenate([[0], np.cumsum(batch.n_candidates)])
        assert np.add.reduceat(full.pmf, starts[:-1]) == pytest.approx(np.ones(batch.n_slots))
        assert full.pmf[starts[:-1] + batch.chosen] == pytest.approx(full.propensity)
        yield batch, full
    log.close()


def test_replay_draws_again_under_the_rules_of_the_log(api: Api, loop: Loop) -> None:
    visit(api, 12, user={"id": "u1"})
    for spec in ("config:1", "feed:logged", "uniform", "caller,epsilon=0.3,floor=0.1"):
        for batch, given in assigned(loop, spec):
            assert batch.n == 12
            # Pins have no alternative, and rules leave fewer than there are candidates.
            assert (batch.n_candidates == 1).sum() >= 4
            assert (batch.n_candidates[batch.starts[:-1] + 2] < 6).all()
            if spec in ("config:1", "feed:logged"):
                assert given.propensity.tobytes() == batch.propensity.tobytes()


def test_rules_that_allow_no_more_than_those_of_the_log_can_be_asked_for(api: Api, loop: Loop) -> None:
    configure(api, rules=[{"rule": "spacing", "of": "creator"}])
    configure(api, rules=[])
    visit(api, 8)
    assert sum(batch.n for batch, _ in assigned(loop, "config:2")) == 8
    configure(api, rules=[{"rule": "quota", "of": "new"}])
    with pytest.raises(BadPolicy, match="quota:new"):
        list(assigned(loop, "config:4"))


def test_rules_that_would_show_what_those_of_the_log_kept_out_are_refused(api: Api, loop: Loop) -> None:
    configure(api, rules=[])
    configure(api, rules=[{"rule": "spacing", "of": "creator", "slots": 2}])
    visit(api, 8)
    with pytest.raises(Unsupported, match="kept out at slot"):
        list(assigned(loop, "config:2"))


def test_what_the_viewer_had_seen_cannot_be_asked_of_a_log_that_did_not_look(api: Api, loop: Loop) -> None:
    configure(api, rules=[])
    visit(api, 2, user={"id": "u1"})
    with pytest.raises(BadPolicy, match="not_interested"):
        list(assigned(loop, "config:1"))
    configure(api, rules=[{"rule": "seen", "window_s": 60.0}])
    with pytest.raises(BadPolicy, match="seen"):
        list(assigned(loop, "config:3"))


# ---------------------------------------------------------------- not interested, too late to teach


def late(api: Api, loop: Loop, user: str, item: str, **said: Any) -> None:
    """A feed of one item, whose viewer says something of it when its window is over."""
    ranked = rank(api, [item], user={"id": user})
    loop.end_windows()
    body = {"event_id": ranked["event_id"], "items": [{"id": item, **said}]}
    assert api.call("POST", "/v1/feedback", body).body["status"] == "late"


def test_what_is_said_after_the_window_holds_beyond_the_next_profile(api: Api, loop: Loop) -> None:
    configure(api, rules=[{"rule": "not_interested"}])
    put(api, **CREATORS)
    late(api, loop, "u1", "v0", signals={"not_interested": 1}, about=["creator"])
    # From the viewer's own records, then from the profile, then from the profile that a restart reads.
    for turn in range(3):
        left = {one for _ in range(5) for one in ids_of(rank(api, list(CREATORS), user={"id": "u1"}))}
        assert left == {"v1", "v3", "v5"}, turn
        loop.end_windows()
        loop.trainer.close()
        loop.trainer = Trainer(loop.data, clock=loop.clock)
    assert len(ids_of(rank(api, list(CREATORS), user={"id": "u2"}))) == 6
    # The slot itself stays as it was when its window ended.
    counts = loop.service.fold_counts()
    assert counts.get("learned", 0) == 0
    late(api, loop, "u1", "v1", signals={"not_interested": 0})
    late(api, loop, "u1", "v3", signals={"not_interested": 1})
    loop.learn()
    assert set(ids_of(rank(api, list(CREATORS), user={"id": "u1"}))) == {"v1", "v5"}
    result = rebuild(loop.data.path)
    assert result.ok, result.epoch_mismatch


def test_an_older_log_forgets_no_more_than_it_did(api: Api, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of earlier releases do not say whose they are; they fold as they did."""
    configure(api, rules=[{"rule": "not_interested"}])
    put(api, **CREATORS)
    monkeypatch.setattr("bandit.store.events._signed", lambda txn, feedback, *_: feedback)
    late(api, loop, "u1", "v0", signals={"not_interested": 1})
    loop.end_windows()
    rank(api, ["v1"], user={"id": "u1"})
    loop.end_windows()
    assert "v0" in ids_of(rank(api, list(CREATORS), user={"id": "u1"}))
    assert rebuild(loop.data.path).ok


def test_nobody_who_is_being_erased_is_named_again(api: Api, loop: Loop) -> None:
    put(api, **CREATORS)
    ranked = rank(api, ["v0"], user={"id": "u1"})
    loop.end_windows()
    loop.service.erase("u1", wait_s=0.0)
    body = {"event_id": ranked["event_id"], "items": [{"id": "v0", "signals": {"not_interested": 1}}]}
    api.call("POST", "/v1/feedback", body)
    loop.end_windows()
    assert api.call("DELETE", "/v1/users/u1").body["status"] == "erased"
    payloads = loop.data.log.query("SELECT payload FROM log WHERE kind = 'feedback'")
    assert len(payloads) == 1
    assert "u1" not in payloads[0][0]
    assert api.call("GET", "/v1/users/u1").status == 404
    assert rebuild(loop.data.path).ok
