"""Statistics from the log: the same wherever the trainer stopped, and what every decision says it knew."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit import records
from bandit.config import Config
from bandit.learning.learner import Learner
from bandit.learning.lessons import Course
from bandit.learning.trainer import Trainer
from bandit.records import Decision, Slot
from bandit.reward.signals import Counted
from bandit.statistics.attribute_table import attributes_of
from bandit.statistics.attributes import key_of
from bandit.statistics.columns import NAMES, Places, dense_columns, digest_of
from bandit.statistics.folding import NEGATIVE, OFFERED, REWARD, SEEN, SHOWN, STAYED, TIMED, TOTAL, Statistics
from bandit.statistics.offered import Offered
from bandit.statistics.profiles import Tastes
from bandit.store.bases import BaseFiles
from bandit.store.configs import read_config
from bandit.store.data import DataDirectory
from bandit.store.events import find_decision
from bandit.store.items import versions
from bandit.store.statistics import all_tallies, newest_epoch, stored_viewer
from tests.conftest import Api, Clock, Loop
from tests.test_rules_api import configure

# ---------------------------------------------------------------- approximate counts


def ids_of(versions: Sequence[int]) -> Mapping[int, str]:
    return {version: f"v{version}" for version in versions}


def test_counts_are_right_on_average_and_change_seldom() -> None:
    """400 items, 1,000 decisions each: the mean is within 4.5 standard errors (false alarm 7e-6, one fixed stream)."""
    offered = Offered(ids_of)
    numbers = np.arange(1, 401, dtype=np.uint32)
    changes = 0
    for position in range(1, 1_001):
        offered.clean()
        offered.count(numbers, position)
        changes += len(offered.changed())
    counts = np.array([offered[key_of("item", f"v{k}")] for k in range(1, 401)])
    # Of a counter with steps of n/32: variance n * n / 64.
    assert abs(counts.mean() - 1_000) < 4.5 * 1_000 / 8 / 20
    assert 0.5 < counts.std() / (1_000 / 8) < 1.5
    assert changes / 400 < 200


def test_the_same_records_give_the_same_counts_whenever_they_were_stored() -> None:
    rng = np.random.default_rng(4)
    stretches = [rng.choice(np.arange(1, 300, dtype=np.uint32), 40, replace=False) for _ in range(200)]
    whole = Offered(ids_of)
    for position, numbers in enumerate(stretches):
        whole.count(numbers, position)
    keys = {key_of("item", f"v{k}"): 0.0 for k in range(1, 300)}
    resumed = Offered(ids_of)
    for position, numbers in enumerate(stretches):
        if position % 37 == 0:
            resumed = Offered(ids_of, {key: resumed[key] for key in keys if resumed[key]})
        resumed.count(numbers, position)
    assert [whole[key] for key in keys] == [resumed[key] for key in keys]


# ---------------------------------------------------------------- through the service


def put(api: Api, n: int = 12) -> list[str]:
    ids = [f"v{k}" for k in range(n)]
    items = [
        {"id": one, "features": {"creator": f"c{k % 4}", "tags": [f"t{k % 3}", "all"], "length_s": 20}}
        for k, one in enumerate(ids)
    ]
    assert api.call("PUT", "/v1/items", {"items": items}).status == 200
    return ids


def rank(api: Api, candidates: list[str], user: str = "u1", slots: int = 4) -> dict:
    reply = api.call("POST", "/v1/rank", {"candidates": candidates, "user": {"id": user}, "slots": slots})
    assert reply.status == 200, reply.body
    return reply.body


def tell(api: Api, ranking: dict, **signals: Mapping[str, float]) -> None:
    items = [
        {"id": placed["id"], "signals": signals.get(placed["id"], {"watch_s": 1})} for placed in ranking["ranking"]
    ]
    reply = api.call("POST", "/v1/feedback", {"event_id": ranking["event_id"], "items": items})
    assert reply.status == 202, reply.body


def decision_of(data: DataDirectory, event_id: str) -> Decision:
    found = find_decision(data.log, event_id)
    assert found is not None
    return records.decode(found.payload, Decision)


def folded(data: DataDirectory, position: int, tmp_path: object) -> Statistics:
    """Statistics of the log up to a position, from its beginning."""
    statistics = Statistics(lambda numbers: versions(data.log, numbers))
    with Learner(data.args, scratch=tmp_path) as learner:  # type: ignore[arg-type]
        course = Course(data.log, learner, statistics=statistics)
        for row in data.log.read(0, 100_000, candidates=True):
            if row.pos <= position:
                course.take(row)
    return statistics


def test_feedback_counts_at_once_and_once(api: Api, loop: Loop) -> None:
    ids = put(api)
    ranking = rank(api, ids)
    first = ranking["ranking"][0]["id"]
    for _ in range(3):
        tell(api, ranking, **{first: {"watch_s": 20, "like": 1, "not_interested": 0}})
    loop.learn()
    tallies = all_tallies(loop.data.log)
    assert tallies[TOTAL][SEEN] == pytest.approx(4, rel=1e-3)
    tally = tallies[key_of("item", first)]
    assert (tally[SHOWN], tally[SEEN]) == (1.0, 1.0)
    assert tally[REWARD] > 1
    assert tallies[key_of("tag", "all")][SEEN] == pytest.approx(4, rel=1e-2)
    assert tallies[key_of("item", ids[-1])][OFFERED] == 1.0
    before = tally[REWARD]
    tell(api, ranking, **{first: {"watch_s": 20, "report": 1}})
    loop.end_windows()
    tally = all_tallies(loop.data.log)[key_of("item", first)]
    assert tally[SEEN] == 1.0
    assert tally[REWARD] < before - 1
    # At its first report it was nothing bad; what a tally counts as negative it counts when first seen.
    assert tally[NEGATIVE] == 0.0


def test_a_decision_says_what_it_knew_and_the_log_gives_it_again(api: Api, loop: Loop, tmp_path: object) -> None:
    ids = put(api)
    rng = random.Random(5)
    made = []
    for round_ in range(30):
        user = f"u{rng.randrange(3)}"
        ranking = rank(api, rng.sample(ids, 9), user)
        made.append((ranking["event_id"], user))
        if rng.random() < 0.8:
            tell(api, ranking, **{rng.choice(ranking["ranking"])["id"]: {"watch_s": 20, "like": 1}})
        loop.clock.pass_(rng.choice([0.1, 30.0, 400.0]))
        if round_ % 3 == 0:
            loop.learn()
    epochs = set()
    for event_id, user in made[::3]:
        decision = decision_of(loop.data, event_id)
        stamp = decision.statistics
        assert stamp is not None
        epochs.add(stamp.epoch)
        statistics = folded(loop.data, stamp.epoch, tmp_path)
        found = find_decision(loop.data.log, event_id)
        assert found is not None
        numbers = np.frombuffer(found.candidates, np.uint32).tolist()
        known = versions(loop.data.log, numbers)
        attributes = attributes_of([known[number] for number in numbers])
        keys = [TOTAL, -1, *attributes.item.tolist(), *attributes.creator.tolist(), *attributes.tags.tolist()]
        tallies = np.array([statistics.tally(key) for key in keys])
        n = len(numbers)
        places = Places(
            np.arange(2, 2 + n), np.arange(2 + n, 2 + 2 * n), np.arange(2 + 2 * n, 2 + 2 * n + len(attributes.tags))
        )
        viewer = folded(loop.data, stamp.viewer_pos, tmp_path).viewer(user)
        dense = dense_columns(attributes, places, tallies, Tastes.of(viewer), stamp.at)
        assert digest_of(dense) == stamp.digest
        for slot in decision.slots:
            assert slot.dense == dense[numbers.index(slot.version)].tolist()
            assert len(slot.dense) == len(NAMES)
    assert len(epochs) > 3


def test_a_trainer_that_was_stopped_anywhere_gives_the_same_chain(api: Api, loop: Loop, tmp_path: object) -> None:
    """Killed between any two steps, and started again from its tables: tallies and viewers as if it had never been."""
    ids = put(api)
    rng = random.Random(8)
    trainer = loop.trainer
    for _ in range(40):
        ranking = rank(api, rng.sample(ids, 8), f"u{rng.randrange(4)}")
        if rng.random() < 0.7:
            tell(api, ranking)
        loop.clock.pass_(rng.choice([0.0, 0.5, 300.0]))
        trainer.step()
        if rng.random() < 0.3:
            # As after kill -9: nothing is published on the way out.
            trainer.close()
            trainer = Trainer(loop.data, clock=loop.clock)
    loop.clock.pass_(2_000)
    for _ in range(10):
        trainer.step()
        loop.clock.pass_(2)
    epoch = newest_epoch(loop.data.log)
    whole = folded(loop.data, epoch.position, tmp_path)
    stored = all_tallies(loop.data.log)
    assert stored.keys() == set(whole.changed_tallies())
    assert {key: whole.tally(key) for key in stored} == stored
    for k in range(4):
        body = stored_viewer(loop.data.log, f"u{k}")
        assert (None if body is None else body.body) == whole.viewer(f"u{k}").encode()
    loop.trainer = trainer


# ---------------------------------------------------------------- a viewer over HTTP


class Looked(dict):
    """What is looked up in, and never walked through."""

    def keys(self) -> Any:
        raise AssertionError("all that is kept was looked at, for one record")

    __iter__ = items = values = keys


def test_what_a_record_costs_does_not_grow_with_what_is_kept(api: Api, loop: Loop, tmp_path: Path) -> None:
    ids = put(api)
    for _ in range(3):
        tell(api, rank(api, ids))
    loop.end_windows()
    statistics = Statistics(lambda numbers: versions(loop.data.log, numbers))
    with Learner(loop.data.args, scratch=tmp_path) as learner:
        course = Course(loop.data.log, learner, statistics=statistics)
        course._teacher._texts, statistics._items = Looked(), Looked()
        for row in loop.data.log.read(0, 100_000, candidates=True):
            course.take(row)
        assert course.n_taught == 12
        assert len(course._teacher._texts) >= 4
        assert len(statistics._items) >= 4


def test_what_is_believed_of_a_viewer_is_told(api: Api, loop: Loop) -> None:
    ids = put(api)
    assert api.call("GET", "/v1/users/u1").body["error"]["code"] == "unknown_user"
    reply = api.call("PUT", "/v1/users/u1", {"interests": ["t1", "t1", "cats"]})
    assert (reply.status, reply.body["interests"]) == (200, ["t1", "cats"])
    for _ in range(12):
        ranking = rank(api, ids)
        likes = {one: {"watch_s": 20, "like": 1} for one in ids if int(one[1:]) % 4 == 1}
        tell(api, ranking, **likes)
        loop.clock.pass_(1)
        loop.learn()
    told = api.call("GET", "/v1/users/u1").body
    assert told["interests"] == ["t1", "cats"]
    assert told["seen_slots"] == 48
    tastes = {(one["attribute"], one["value"]): one for one in told["tastes"]}
    assert tastes["creator", "c1"]["long"] > 0.2
    assert tastes["creator", "c1"]["long"] > max(tastes["creator", f"c{k}"]["long"] for k in (0, 2, 3)) + 0.2
    assert ("length_s", "15 to 30 s") in tastes


def test_what_is_not_wanted_is_kept_whatever_list_was_shown(api: Api, loop: Loop) -> None:
    ids = put(api)
    for user, shown in (("never", None), ("other", ["v11", "v0"])):
        body = {"candidates": ids[:4], "user": {"id": user}, "defer_activation": True, "event_id": user}
        refused = api.call("POST", "/v1/rank", body).body["ranking"][0]["id"]
        if shown is not None:
            assert api.call("POST", f"/v1/events/{user}/activate", {"shown": shown}).status == 202
        items = [{"id": refused, "signals": {"not_interested": 1}}]
        assert api.call("POST", "/v1/feedback", {"event_id": user, "items": items}).status == 202
        for _ in range(2):
            # First by their own records, then by what was published of them.
            assert api.call("GET", f"/v1/users/{user}").body["not_interested"] == 1
            assert refused not in [placed["id"] for placed in rank(api, ids, user, slots=12)["ranking"]]
            loop.end_windows()


@pytest.mark.parametrize(
    "body", [{}, {"interests": "cats"}, {"interests": [""]}, {"interests": ["x"] * 65}, {"interests": [], "age": 3}]
)
def test_a_bad_sign_up_is_refused(api: Api, body: dict) -> None:
    reply = api.call("PUT", "/v1/users/u1", body)
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")
    assert api.call("GET", "/v1/users/u1").status == 404


def test_tastes_move_a_viewers_own_feed(api: Api, loop: Loop, clock: Clock) -> None:
    """Two viewers who like opposite creators: after some feeds each sees more of their own."""
    ids = put(api, 40)
    share = {"left": 0, "right": 0}
    for round_ in range(60):
        for user, wanted in (("left", (0, 1)), ("right", (2, 3))):
            ranking = rank(api, ids, user, slots=5)
            liked = {
                placed["id"]: {"watch_s": 20, "like": 1}
                for placed in ranking["ranking"]
                if int(placed["id"][1:]) % 4 in wanted
            }
            if round_ >= 45:
                share[user] += len(liked)
            items = [
                {"id": placed["id"], "signals": liked.get(placed["id"], {"watch_s": 0.5}), "final": True}
                for placed in ranking["ranking"]
            ]
            api.call("POST", "/v1/feedback", {"event_id": ranking["event_id"], "items": items})
        clock.pass_(1)
        loop.learn()
    # By chance half of 75.
    assert min(share.values()) > 50


# ---------------------------------------------------------------- who stayed


def test_whether_a_viewer_stayed_is_what_the_last_report_says(api: Api, loop: Loop) -> None:
    configure(api, stayed_s=7)
    ids = put(api)
    ranking = rank(api, ids)
    first, second = (slot["id"] for slot in ranking["ranking"][:2])
    tell(api, ranking, **{first: {"watch_s": 2}, second: {"watch_s": 30}})
    loop.learn()

    def counted(item: str) -> tuple[float, float]:
        tally = all_tallies(loop.data.log)[key_of("item", item)]
        return tally[TIMED], tally[STAYED]

    assert (counted(first), counted(second)) == ((1.0, 0.0), (1.0, 1.0))
    tell(api, ranking, **{first: {"watch_s": 12}})
    loop.learn()
    assert counted(first) == (1.0, 1.0)


def test_where_nothing_is_known_of_who_stayed_digests_are_those_of_before_it_was_counted() -> None:
    """The digest is what the release before said of the same."""
    text = b'{"creator":"c","tags":["t"],"length_s":20}'
    statistics = Statistics(lambda numbers: {number: (f"v{number}", text) for number in numbers})
    one, other = (Slot(f"v{number}", number, 1.0, None, False) for number in (1, 2))
    statistics.apart(["x/a/1"])
    statistics.seen("u", one, 5.0, Counted(1.0, None), None, {"watch_s": 9.0}, "x/a/1")
    statistics.seen("u", other, 6.0, Counted(0.25, None), None, {}, None)
    statistics.seen("u", other, 7.0, Counted(0.5, None), Counted(0.25, None), {}, None)
    assert statistics.changes().digest("before") == "faf0f98aaa338025c3fc31174db527a7"


def test_a_config_of_before_counts_nobody_as_staying(api: Api, loop: Loop) -> None:
    logged = msgspec.json.decode(records.encode(Config()))
    del logged["stayed_s"]
    payload = msgspec.json.encode({"version": 1, "document": logged})
    assert read_config(payload).document.stayed_s == 0.0
    configure(api, stayed_s=0)
    ids = put(api)
    ranking = rank(api, ids)
    first = ranking["ranking"][0]["id"]
    tell(api, ranking, **{first: {"watch_s": 30}})
    loop.learn()
    tally = all_tallies(loop.data.log)[key_of("item", first)]
    assert (tally[SEEN], tally[TIMED], tally[STAYED]) == (1.0, 0.0, 0.0)


def test_a_base_of_before_says_nothing_of_who_stayed(tmp_path: Path) -> None:
    tallies = np.array([7], np.int64).tobytes() + np.arange(1.0, 9.0).tobytes()
    frames = [msgspec.msgpack.encode([2, 3, 4.0, "epoch"]), tallies, msgspec.msgpack.encode([["x/a/1", tallies]])]
    data = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
    files = BaseFiles(tmp_path)
    files.folder.mkdir()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    (files.folder / f"{digest}.base").write_bytes(data)
    base = files.read(digest)
    assert base.tallies == base.own["x/a/1"] == {7: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 0.0, 8.0]}
