"""Feedback and activation: what is answered, what is joined, and what is learned from it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Api, Loop, watch_worth
from tests.service import RunningService


def rank(api: Api, *ids: str, **more: Any) -> tuple[str, list[str]]:
    """Event id and ranked ids."""
    body = api.call("POST", "/v1/rank", {"candidates": list(ids or ("a", "b", "c")), **more}).body
    return body["event_id"], [placed["id"] for placed in body["ranking"]]


def send(api: Api, event_id: str, *items: dict[str, Any], **more: Any) -> Any:
    """Status and body of one feedback."""
    reply = api.call("POST", "/v1/feedback", {"event_id": event_id, "items": list(items), **more})
    return reply.status, reply.body


def slots_of(api: Api, event_id: str) -> list[dict[str, Any]]:
    slots: list[dict[str, Any]] = api.call("GET", f"/v1/events/{event_id}").body["slots"]
    return slots


def n_records(loop: Loop, kind: str) -> int:
    return int(loop.data.log.query("SELECT count(*) FROM log WHERE kind = ?", (kind,))[0][0])


# ---------------------------------------------------------------- statuses


def test_feedback_in_time_is_accepted(api: Api) -> None:
    event_id, ids = rank(api)
    status, body = send(api, event_id, {"id": ids[0], "signals": {"like": 1}})
    assert (status, body) == (202, {"event_id": event_id, "status": "accepted"})


def test_many_feedbacks_in_one_call_are_answered_each_in_order(api: Api) -> None:
    event_id, ids = rank(api)
    one = {"event_id": event_id, "feedback_id": "f1", "items": [{"id": ids[0], "signals": {"like": 1}}]}
    other = {"event_id": "unheard of", "items": [{"id": "x"}]}
    reply = api.call("POST", "/v1/feedback", {"events": [one, other, one]})
    assert reply.status == 202
    assert [result["status"] for result in reply.body["events"]] == ["accepted", "pending", "duplicate"]
    assert [result["event_id"] for result in reply.body["events"]] == [event_id, "unheard of", event_id]


def test_a_repeated_feedback_id_with_the_same_body_counts_once(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    item = {"id": ids[0], "signals": {"share": 1}, "seen": True}
    first = send(api, event_id, item, feedback_id="f1")[1]
    again = send(api, event_id, item, feedback_id="f1")[1]
    assert (first["status"], again["status"]) == ("accepted", "duplicate")
    assert n_records(loop, "feedback") == 1
    loop.end_windows()
    assert slots_of(api, event_id)[0]["reward"] == 2.0


def test_the_same_feedback_written_in_another_order_is_the_same(api: Api) -> None:
    event_id, ids = rank(api)
    for body in (
        b'{"feedback_id": "f", "event_id": "%s", "items": [{"id": "%s", "signals": {"like": 1, "share": 2}}]}',
        b'{"event_id":"%s","items":[{"signals":{"share":2.0,"like":1},"id":"%s"}],"feedback_id":"f"}',
    ):
        reply = api.call("POST", "/v1/feedback", body % (event_id.encode(), ids[0].encode()))
        assert reply.status == 202
    assert reply.body["status"] == "duplicate"


def test_a_repeated_feedback_id_with_another_body_is_a_conflict_and_nothing_is_stored(
    api: Api, loop: Loop
) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[0], "signals": {"like": 1}}, feedback_id="f1")
    status, body = send(api, event_id, {"id": ids[0], "signals": {"like": 0}}, feedback_id="f1")
    assert (status, body["error"]["code"]) == (409, "id_conflict")
    good = {"event_id": event_id, "feedback_id": "f2", "items": [{"id": ids[1], "signals": {"like": 1}}]}
    bad = {"event_id": event_id, "feedback_id": "f1", "items": [{"id": ids[1], "signals": {"like": 1}}]}
    assert api.call("POST", "/v1/feedback", {"events": [good, bad]}).status == 409
    contradicting = [good | {"feedback_id": "f3"}, good | {"feedback_id": "f3", "event_id": "x"}]
    assert api.call("POST", "/v1/feedback", {"events": contradicting}).status == 409
    assert n_records(loop, "feedback") == 1


def test_late_feedback_is_kept_but_not_joined(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 60}})
    loop.end_windows()
    assert send(api, event_id, {"id": ids[0], "signals": {"share": 1}, "seen": True})[1]["status"] == "late"
    loop.end_windows()
    story = api.call("GET", f"/v1/events/{event_id}").body
    assert story["slots"][0]["reward"] == watch_worth(60)
    assert [one["late"] for one in story["follow_ups"]] == [False, True]


def test_feedback_that_comes_at_the_very_end_of_the_window_is_late(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    loop.clock.pass_(599.0)
    assert send(api, event_id, {"id": ids[0]})[1]["status"] == "accepted"
    loop.clock.pass_(1.0)
    assert send(api, event_id, {"id": ids[0]})[1]["status"] == "late"


def test_feedback_before_its_decision_is_joined_when_that_comes(api: Api, loop: Loop) -> None:
    assert send(api, "e1", {"id": "a", "signals": {"watch_s": 30}, "final": True})[1]["status"] == "pending"
    loop.learn()
    loop.clock.pass_(100)
    rank(api, "a", event_id="e1")
    loop.end_windows()
    slot = slots_of(api, "e1")[0]
    assert (slot["status"], slot["reward"], slot["evidence"]) == ("learned", watch_worth(30), "signal:watch_s")


def test_feedback_whose_decision_comes_after_a_window_is_not_joined(api: Api, loop: Loop) -> None:
    send(api, "e1", {"id": "a", "signals": {"watch_s": 30}})
    loop.clock.pass_(700)
    rank(api, "a", event_id="e1")
    loop.end_windows()
    assert slots_of(api, "e1")[0]["status"] == "unseen"


def test_items_that_were_not_ranked_are_named_and_join_nothing(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, "a", "b", "c", slots=2)
    left_out = ({"a", "b", "c"} - set(ids)).pop()
    body = send(
        api, event_id, {"id": left_out, "reward": 1, "seen": True}, {"id": "never", "reward": 1}, {"id": ids[0]}
    )[1]
    assert (body["status"], body["unknown"]) == ("accepted", [left_out, "never"])
    loop.end_windows()
    assert [slot["status"] for slot in slots_of(api, event_id)] == ["unseen", "unseen"]


# ---------------------------------------------------------------- what a slot is worth


@pytest.mark.parametrize(("combine", "reward"), [("sum", 7.0), ("max", 5.0), ("last", 2.0)])
def test_repeated_signals_combine_as_configured(api: Api, loop: Loop, combine: str, reward: float) -> None:
    config = api.call("GET", "/v1/config").body
    config["signals"] = {"taps": {"combine": combine, "evidence": True}}
    config["reward"] = "taps"
    assert api.call("PUT", "/v1/config", config, headers={"If-Match": '"1"'}).status == 200
    event_id, ids = rank(api)
    for value in (5, 2):
        send(api, event_id, {"id": ids[0], "signals": {"taps": value}})
    # Twice in one call is twice as well.
    send(api, event_id, {"id": ids[1], "signals": {"taps": 5}}, {"id": ids[1], "signals": {"taps": 2}})
    loop.end_windows()
    assert [slot["reward"] for slot in slots_of(api, event_id)[:2]] == [reward, reward]


def test_an_explicit_reward_overrides_the_formula(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 60, "like": 1}, "reward": -0.25})
    send(api, event_id, {"id": ids[1], "reward": 0.7, "seen": True})
    send(api, event_id, {"id": ids[1], "signals": {"share": 1}})
    loop.end_windows()
    assert [slot["reward"] for slot in slots_of(api, event_id)[:2]] == [-0.25, 0.7]


def test_a_reward_outside_the_range_is_refused(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    status, body = send(api, event_id, {"id": ids[0], "reward": 10.5})
    assert (status, body["error"]["detail"]) == (400, {"reward": 10.5, "allowed": [-10.0, 10.0]})
    assert n_records(loop, "feedback") == 0


def test_a_signal_that_the_config_does_not_list_is_refused_by_name(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    good = {"event_id": event_id, "items": [{"id": ids[0], "signals": {"like": 1}}]}
    bad = {"event_id": event_id, "items": [{"id": ids[0], "signals": {"hype": 1}}]}
    reply = api.call("POST", "/v1/feedback", {"events": [good, bad]})
    assert (reply.status, reply.body["error"]["detail"]["signal"]) == (400, "hype")
    assert "events[1]" in reply.body["error"]["message"]
    assert n_records(loop, "feedback") == 0


def test_a_like_alone_proves_nothing_about_what_was_seen(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[1], "signals": {"like": 1, "share": 3}})
    loop.end_windows()
    assert [slot["status"] for slot in slots_of(api, event_id)] == ["unseen"] * 3


def test_a_later_slot_that_was_seen_proves_the_ones_above(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[2], "seen": True}, {"id": ids[0], "seen": False})
    loop.end_windows()
    assert [slot["evidence"] for slot in slots_of(api, event_id)] == [None, "cascade", "impression"]


def test_final_feedback_teaches_at_once_and_only_once(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 60}, "final": True})
    loop.learn()
    assert slots_of(api, event_id)[0]["status"] == "learned"
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 60, "share": 1}, "final": True})
    loop.end_windows()
    assert slots_of(api, event_id)[0]["reward"] == watch_worth(60)
    assert api.call("GET", "/v1/model").body["learned_slots"] == 1


def test_final_without_evidence_teaches_nothing(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api)
    send(api, event_id, {"id": ids[0], "signals": {"like": 1}, "final": True})
    loop.end_windows()
    assert slots_of(api, event_id)[0]["status"] == "unseen"


# ---------------------------------------------------------------- activation


def test_a_deferred_feed_that_was_never_activated_teaches_nothing(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, defer_activation=True)
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 60}, "final": True})
    loop.end_windows()
    assert [slot["status"] for slot in slots_of(api, event_id)] == ["not_activated"] * 3
    silent, _ = rank(api, defer_activation=True)
    loop.end_windows()
    assert [slot["status"] for slot in slots_of(api, silent)] == ["not_activated"] * 3


def test_a_deferred_feed_counts_its_window_from_its_activation(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, defer_activation=True)
    loop.clock.pass_(500)
    reply = api.call("POST", f"/v1/events/{event_id}/activate")
    assert (reply.status, reply.body) == (
        202,
        {"event_id": event_id, "status": "activated", "learns": True},
    )
    loop.clock.pass_(500)
    assert send(api, event_id, {"id": ids[0], "signals": {"watch_s": 60}})[1]["status"] == "accepted"
    loop.end_windows()
    assert slots_of(api, event_id)[0]["status"] == "learned"


def test_an_activation_with_a_prefix_teaches_what_was_shown(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, defer_activation=True)
    reply = api.call("POST", f"/v1/events/{event_id}/activate", {"shown": ids[:2]})
    assert reply.body["learns"] is True
    send(api, event_id, *({"id": one, "seen": True, "reward": 1} for one in ids))
    loop.end_windows()
    assert [slot["status"] for slot in slots_of(api, event_id)] == ["learned", "learned", "not_shown"]


def test_an_altered_feed_is_kept_out_of_learning_and_counted(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, defer_activation=True)
    reply = api.call("POST", f"/v1/events/{event_id}/activate", {"shown": [ids[1], ids[0]]})
    assert (reply.status, reply.body["learns"]) == (202, False)
    send(api, event_id, *({"id": one, "seen": True, "reward": 1, "final": True} for one in ids))
    loop.end_windows()
    assert [slot["status"] for slot in slots_of(api, event_id)] == ["altered"] * 3
    assert loop.service.fold_counts()["altered"] >= 1
    assert b'feed_bandit_folded_total{what="altered"}' in api.call("GET", "/metrics").content
    assert api.call("GET", "/v1/model").body["learned_slots"] == 0


def test_a_list_longer_than_the_ranking_is_an_altered_feed(api: Api) -> None:
    event_id, ids = rank(api)
    assert api.call("POST", f"/v1/events/{event_id}/activate", {"shown": [*ids, "more"]}).body["learns"] is False


def test_a_repeated_activation_counts_once(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, defer_activation=True)
    path = f"/v1/events/{event_id}/activate"
    assert api.call("POST", path, {"shown": ids}).body["status"] == "activated"
    assert api.call("POST", path, {"shown": ids}).body == {
        "event_id": event_id, "status": "duplicate", "learns": True,
    }  # fmt: skip
    conflict = api.call("POST", path, {"shown": ids[:1]})
    assert (conflict.status, conflict.body["error"]["code"]) == (409, "id_conflict")
    assert api.call("POST", path).status == 409
    assert n_records(loop, "activation") == 1


def test_an_activation_without_a_body_or_with_an_empty_one_is_the_same(api: Api) -> None:
    event_id, _ = rank(api, defer_activation=True)
    path = f"/v1/events/{event_id}/activate"
    assert api.call("POST", path).body["status"] == "activated"
    assert api.call("POST", path, {}).body["status"] == "duplicate"
    assert api.call("POST", path, {"shown": None}).body["status"] == "duplicate"


def test_an_activation_after_the_window_is_late_and_teaches_nothing(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, defer_activation=True)
    send(api, event_id, {"id": ids[0], "seen": True, "reward": 1})
    loop.clock.pass_(601)
    reply = api.call("POST", f"/v1/events/{event_id}/activate").body
    assert (reply["status"], reply["learns"]) == ("late", False)
    loop.end_windows()
    assert slots_of(api, event_id)[0]["status"] == "not_activated"


def test_an_activation_before_its_decision_is_joined_when_that_comes(api: Api, loop: Loop) -> None:
    reply = api.call("POST", "/v1/events/e1/activate").body
    assert reply == {"event_id": "e1", "status": "pending", "learns": None}
    loop.clock.pass_(10)
    _, ids = rank(api, event_id="e1", defer_activation=True)
    assert send(api, "e1", {"id": ids[0], "seen": True, "reward": 1})[1]["status"] == "accepted"
    loop.end_windows()
    assert slots_of(api, "e1")[0]["status"] == "learned"


def test_an_activated_slot_counts_as_seen_where_the_config_says_so(api: Api, loop: Loop) -> None:
    config = api.call("GET", "/v1/config").body | {"evidence": "served"}
    api.call("PUT", "/v1/config", config, headers={"If-Match": '"1"'})
    event_id, ids = rank(api, defer_activation=True)
    api.call("POST", f"/v1/events/{event_id}/activate", {"shown": ids[:2]})
    send(api, event_id, {"id": ids[0], "signals": {"like": 1}})
    loop.end_windows()
    slots = slots_of(api, event_id)
    assert [slot["evidence"] for slot in slots] == ["activation", "activation", None]
    assert [slot["reward"] for slot in slots] == [1.0, 0.0, None]


# ---------------------------------------------------------------- the real thing


def test_feedback_changes_the_ranking_of_every_worker_within_seconds(running: RunningService) -> None:
    import time

    ids = [f"film{k}" for k in range(4)]
    user = {"id": "who likes film2"}
    n_fresh, give_up_at = 0, time.monotonic() + 20
    while n_fresh < 10:
        assert time.monotonic() < give_up_at
        ranking = running.call("POST", "/v1/rank", {"candidates": ids, "user": user}).body
        scores = {placed["id"]: placed["score"] for placed in ranking["ranking"]}
        n_fresh = n_fresh + 1 if scores["film2"] > max(scores[one] for one in ids if one != "film2") + 0.2 else 0
        items = [{"id": one, "reward": float(one == "film2"), "seen": True, "final": True} for one in scores]
        feedback = {"event_id": ranking["event_id"], "items": items}
        assert running.call("POST", "/v1/feedback", feedback).body["status"] == "accepted"


def test_a_repeated_feedback_id_is_a_duplicate_at_every_worker(running: RunningService) -> None:
    event_id = running.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
    feedback = {"event_id": event_id, "feedback_id": f"f of {event_id}", "items": [{"id": "a"}]}
    statuses = [running.call("POST", "/v1/feedback", feedback).body["status"] for _ in range(8)]
    assert statuses == ["accepted", *["duplicate"] * 7]
