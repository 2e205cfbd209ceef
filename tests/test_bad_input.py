"""Whatever is sent, the answer is no 500, has the one error shape, and leaves the log whole."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.config import Settings
from bandit.store.data import DataDirectory
from bandit.web.app import create_app
from tests.conftest import Api, Clock, Loop
from tests.service import Reply, RunningService, send

NASTY = [
    "", "\0", "a\0b", "\n", "a\n", "\t", "|", "a|b", ":", "a:1", "a b", '"', "'", "\\", "\x7f", "\x1b[31m", "\u2028",
    "\ufeff", "\u202e", "ä", "😀", "e\u0301", "%", "%00", "../..", "x" * 256, "x" * 257, "ä" * 256, "0", "-1", "1e999",
    "NaN", "null", "true", "_tag", "_label", "U", "C", "I", "F", "S", "id", "__proto__", "constructor", "' OR 1=1 --",
    "$.x",
]  # fmt: skip


class Bench:
    """An API whose log is looked over at the end."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.api = Api(create_app(loop.service).test_client())
        self.call = self.api.call

    def check(self, reply: Reply, *, given: Any = None) -> Reply:
        """No 500; an error has the one shape."""
        assert reply.status < 500, (given, reply)
        if reply.status >= 400:
            assert set(reply.body) == {"error"}, given
            assert {"code", "message"} <= set(reply.body["error"]) <= {"code", "message", "detail"}, given
            assert reply.body["error"]["message"], given
            assert "Traceback" not in reply.body["error"]["message"], given
        return reply

    def n_records(self) -> int:
        return int(self.loop.data.log.query("SELECT count(*) FROM log WHERE kind NOT IN ('publish', 'tick')")[0][0])

    def check_log(self) -> None:
        """Every record can be read, folded and learned from; rankings go on."""
        log = self.loop.data.log
        assert log.query("PRAGMA integrity_check") == [("ok",)]
        for (payload,) in log.query("SELECT payload FROM log"):
            json.loads(payload)
        self.loop.end_windows()
        assert self.call("GET", "/v1/model").body["lag_records"] <= 2
        assert self.call("POST", "/v1/rank", {"candidates": ["still", "here"]}).status == 200


@pytest.fixture
def bench(loop: Loop) -> Iterator[Bench]:
    opened = Bench(loop)
    yield opened
    opened.check_log()


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One for all examples of the property tests; the log is looked over after the last."""
    path = tmp_path_factory.mktemp("bad") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    loop = Loop(data, clock)
    opened = Bench(loop)
    yield opened
    opened.check_log()
    loop.close()
    data.close()


# ---------------------------------------------------------------- bodies

NOT_JSON = [
    b"", b" ", b"{", b"}", b"[", b"nul", b"NaN", b"Infinity", b"{]", b'{"candidates":["a"]}x', b'{"candidates":["a",]}',
    b"\xff\xfe", b"\xef\xbb\xbf{}", '{"candidates":["a"]}'.encode("utf-16"), b"\0" * 100, b'{"candidates":["\xff"]}',
    b'{"candidates":["\xed\xa0\x80"]}', b'{"candidates":["a\\ud800"]}', b'{"candidates":["\\udc00b"]}',
    b'{"candidates":["\\x"]}', b'{"candidates":["a\nb"]}', b"{'candidates':['a']}", b'{"candidates":["a"],"slots":NaN}',
    b'{"candidates":["a"],"slots":01}', b"[" * 100_000, b'{"a":' * 100_000, b'{"context":' + b"[" * 5_000,
    b"candidates=a&slots=1", b"<xml/>", b"\x1f\x8b\x08\x00garbage",
]  # fmt: skip
NOT_A_REQUEST = [
    b"null", b"true", b"0", b'"x"', b"[]", b"{}", b"[{}]", b'{"candidates":null}', b'{"candidates":{}}',
    b'{"candidates":"a"}', b'{"candidates":[null]}', b'{"candidates":[[]]}', b'{"candidates":[1]}',
    b'{"candidates":[{}]}', b'{"candidates":[{"id":null}]}', b'{"candidates":[]}', b'{"events":[]}', b'{"items":[]}',
    b'{"events":null}', b'{"events":[{"event_id":"e","items":[]}]}', b'{"event_id":"e","items":[]}',
]  # fmt: skip
WRITING = [
    ("POST", "/v1/rank"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/events/e/activate"),
    ("PUT", "/v1/items"),
    ("PUT", "/v1/config"),
]


@pytest.mark.parametrize(("method", "path"), WRITING)
def test_a_body_that_is_no_json_is_refused_and_leaves_nothing(bench: Bench, method: str, path: str) -> None:
    before = bench.n_records()
    for body in NOT_JSON:
        if path.endswith("activate") and not body:
            continue
        reply = bench.check(bench.call(method, path, body, headers={"If-Match": '"1"'}), given=body[:50])
        assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request"), body[:50]
    assert bench.n_records() == before


@pytest.mark.parametrize(("method", "path"), WRITING)
def test_a_body_of_another_type_is_refused_and_leaves_nothing(bench: Bench, method: str, path: str) -> None:
    before = bench.n_records()
    for body in NOT_A_REQUEST:
        if body == b"{}" and path.endswith(("activate", "config")):
            continue  # Both have a default for everything.
        reply = bench.check(bench.call(method, path, body, headers={"If-Match": '"1"'}), given=body)
        assert reply.status == 400, body
    assert bench.n_records() == before


def test_unknown_fields_are_named(bench: Bench) -> None:
    rank = {"candidates": ["a"]}
    feedback = {"event_id": "e", "items": [{"id": "a"}]}
    for method, path, body in (
        ("POST", "/v1/rank", rank | {"surprise": 1}),
        ("POST", "/v1/rank", {"candidates": [{"id": "a", "surprise": 1}]}),
        ("POST", "/v1/rank", rank | {"user": {"id": "u", "surprise": 1}}),
        ("POST", "/v1/feedback", feedback | {"surprise": 1}),
        ("POST", "/v1/feedback", {"event_id": "e", "items": [{"id": "a", "surprise": 1}]}),
        ("POST", "/v1/feedback", {"events": [feedback], "surprise": 1}),
        ("POST", "/v1/feedback", {"events": [feedback | {"surprise": 1}]}),
        ("POST", "/v1/events/e/activate", {"surprise": 1}),
        ("PUT", "/v1/items", {"items": [{"id": "a"}], "surprise": 1}),
        ("PUT", "/v1/items", {"items": [{"id": "a", "surprise": 1}]}),
        ("PUT", "/v1/config", {"surprise": 1}),
        ("PUT", "/v1/config", {"explorer": {"kind": "greedy", "surprise": 1}}),
    ):
        reply = bench.check(bench.call(method, path, body, headers={"If-Match": '"1"'}))
        assert reply.status == 400, body
        assert "surprise" in reply.body["error"]["message"], body


def test_numbers_that_cannot_be_learned_from_are_refused(bench: Bench) -> None:
    before = bench.n_records()
    for number in (
        b"1e308", b"-1e308", b"1e999", b"-1e999", b"1e7", b"9" * 400, b"-" + b"9" * 5_000, b"1e-", b"NaN", b"-Infinity",
    ):  # fmt: skip
        for body in (
            b'{"candidates":["a"],"context":{"x":%s}}',
            b'{"candidates":["a"],"user":{"id":"u","features":{"n":{"x":%s}}}}',
            b'{"candidates":[{"id":"a","features":{"x":%s}}]}',
            b'{"candidates":[{"id":"a","features":{"n":{"x":%s}}}]}',
            b'{"candidates":["a"],"slots":%s}',
            b'{"candidates":["a"],"deadline_ms":%s}',
        ):
            reply = bench.check(bench.call("POST", "/v1/rank", body % number), given=(body, number[:20]))
            assert reply.status == 400, (body, number[:20])
        reply = bench.check(bench.call("PUT", "/v1/items", b'{"items":[{"id":"a","features":{"x":%s}}]}' % number))
        assert reply.status == 400
        for item in (b'{"id":"a","signals":{"watch_s":%s}}', b'{"id":"a","reward":%s}'):
            reply = bench.check(bench.call("POST", "/v1/feedback", b'{"event_id":"e","items":[%s]}' % (item % number)))
            assert reply.status == 400
        for config in (b'{"default_reward":%s}', b'{"reward_range":[0,%s]}', b'{"floor":%s}'):
            reply = bench.check(bench.call("PUT", "/v1/config", config % number, headers={"If-Match": '"1"'}))
            assert reply.status == 400, (config, number[:20])
    assert bench.n_records() == before


def test_tiny_and_odd_but_finite_numbers_are_taken(bench: Bench) -> None:
    numbers = [b"0", b"-0", b"-0.0", b"1e-400", b"4.9e-324", b"1e6", b"-1e6", b"0." + b"3" * 3_000, b"0e999"]
    features = b",".join(b'"f%d":%s' % (place, number) for place, number in enumerate(numbers))
    body = b'{"candidates":[{"id":"a","features":{%s}}],"context":{%s}}' % (features, features)
    event_id = bench.call("POST", "/v1/rank", body).body["event_id"]
    items = [{"id": "a", "reward": 1, "seen": True, "final": True}]
    assert bench.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202
    bench.loop.learn()
    assert bench.call("GET", f"/v1/events/{event_id}").body["slots"][0]["status"] == "learned"


def test_deeply_nested_features_are_refused_wherever_they_stand(bench: Bench) -> None:
    for depth in (2, 3, 50, 900, 1_100, 20_000):
        for opening, closing in ((b'{"a":', b"}"), (b"[", b"]")):
            nested = b'{"x":' + opening * depth + b"1" + closing * depth + b"}"
            for path, body in (
                ("/v1/rank", b'{"candidates":["a"],"context":%s}'),
                ("/v1/rank", b'{"candidates":["a"],"user":{"id":"u","features":%s}}'),
                ("/v1/rank", b'{"candidates":[{"id":"a","features":%s}]}'),
                ("/v1/items", b'{"items":[{"id":"a","features":%s}]}'),
            ):
                method = "PUT" if path == "/v1/items" else "POST"
                assert bench.check(bench.call(method, path, body % nested)).status == 400, (depth, opening, body)


def test_features_of_every_odd_kind_are_refused_by_their_place(bench: Bench) -> None:
    for features in (
        b"null", b"1", b'"x"', b"[]", b'{"x":null}', b'{"x":[1]}', b'{"x":[[]]}', b'{"x":{"y":{}}}',
        b'{"x":{"y":null}}',
        b'{"":1}', b'{"_x":1}', b'{"id":"other"}', b'{"I":{"x":1}}', b'{"U":{}}', b'{"\\u0000":1}', b'{"x":"\\u0000"}',
        b'{"x":["\\u0000"]}', b'{"x":1,"x":2}', b'{"x":["a"],"xa":1}', b'{"\xc3\xa4":{"x":1}}', b'{"x":"\xff"}',
        b'{"x":"\xed\xa0\x80"}', b'{"\xff":1}', b'{"%s":1}' % (b"n" * 257), b'{"x":"%s"}' % (b"v" * 257),
        b"{" + b",".join(b'"f%d":1' % k for k in range(513)) + b"}",
    ):  # fmt: skip
        reply = bench.check(bench.call("POST", "/v1/rank", b'{"candidates":["b",{"id":"a","features":%s}]}' % features))
        assert reply.status == 400, features
        assert "candidates[1].features" in reply.body["error"]["message"], features
        items = b'{"items":[{"id":"b"},{"id":"a","features":%s}]}' % features
        reply = bench.check(bench.call("PUT", "/v1/items", items))
        assert reply.status == 400, features
        assert "items[1].features" in reply.body["error"]["message"], features


def test_nasty_text_in_every_place_is_taken_or_refused_but_never_breaks(bench: Bench) -> None:
    for text in NASTY:
        rank: dict[str, Any] = {"candidates": ["a", "b"]}
        body: dict[str, Any]
        for body in (
            {"candidates": [text, text + "2"]},
            {"candidates": [{"id": text, "features": {"x": text}}, "b"]},
            {"candidates": ["a", {"id": "b", "features": {text: text, "ns": {text: text}, "list": [text]}}]},
            {"candidates": ["a", {"id": "b", "features": {text: {"x": 1}}}]},
            rank | {"event_id": text},
            rank | {"user": {"id": text, "features": {text: text}}},
            rank | {"context": {text: [text], "x": text}},
            rank | {"context": {text: {text: text}}},
            rank | {"exclude": [text]},
        ):
            reply = bench.check(bench.call("POST", "/v1/rank", body), given=body)
            if reply.status != 200:
                continue
            event_id = reply.body["event_id"]
            items = [
                {"id": placed["id"], "signals": {"watch_s": 9}, "final": True} for placed in reply.body["ranking"]
            ]
            feedback = {"event_id": event_id, "feedback_id": text, "items": items}
            bench.check(bench.call("POST", "/v1/feedback", feedback), given=feedback)
            assert bench.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202
            path = f"/v1/events/{quote(event_id, safe='')}"
            assert bench.call("GET", path).status == 200, event_id
            bench.check(bench.call("POST", f"{path}/activate", {"shown": [text]}), given=text)
        for body in (
            {"event_id": text, "items": [{"id": text}]},
            {"event_id": "e", "items": [{"id": "a", "signals": {text: 1}}]},
        ):
            bench.check(bench.call("POST", "/v1/feedback", body), given=body)
        for features in ({text: text}, {"x": [text]}, {text: {text: text}}):
            body = {"items": [{"id": text or "x", "features": features}]}
            bench.check(bench.call("PUT", "/v1/items", body), given=body)
        for method, path in (("GET", "/v1/items/"), ("DELETE", "/v1/items/"), ("GET", "/v1/events/")):
            bench.check(bench.call(method, path + quote(text, safe="")), given=(method, text))
        bench.check(bench.call("POST", f"/v1/events/{quote(text, safe='')}/activate"), given=text)
    bench.loop.end_windows()
    assert bench.call("GET", "/v1/model").body["learned_slots"] > 100
    for text in NASTY:
        etag = bench.call("GET", "/v1/config").headers["ETag"]
        config = {"reward": text, "signals": {text: {}}}
        bench.check(bench.call("PUT", "/v1/config", config, headers={"If-Match": etag}), given=config)


def test_ids_keep_their_text_all_the_way(bench: Bench) -> None:
    for text in NASTY:
        if not text or len(text) > 256 or any(ord(c) < 32 or ord(c) == 127 for c in text):
            continue
        ranked = bench.call("POST", "/v1/rank", {"event_id": text, "candidates": [text], "user": {"id": text}})
        assert (ranked.status, ranked.body["event_id"], ranked.body["ranking"][0]["id"]) == (200, text, text)
        story = bench.call("GET", f"/v1/events/{quote(text, safe='')}").body
        assert (story["event_id"], story["user"], story["slots"][0]["id"]) == (text, text, text)


def test_control_characters_in_ids_are_refused(bench: Bench) -> None:
    before = bench.n_records()
    for text in ("a\n", "\n", "a\0", "a\rb", "\x1b[0m", "\x7f"):
        for method, path, body in (
            ("POST", "/v1/rank", {"candidates": [text]}),
            ("POST", "/v1/rank", {"candidates": [{"id": text}]}),
            ("POST", "/v1/rank", {"candidates": ["a"], "event_id": text}),
            ("POST", "/v1/rank", {"candidates": ["a"], "user": {"id": text}}),
            ("POST", "/v1/feedback", {"event_id": text, "items": [{"id": "a"}]}),
            ("POST", "/v1/feedback", {"event_id": "e", "items": [{"id": text}]}),
            ("POST", "/v1/feedback", {"event_id": "e", "feedback_id": text, "items": [{"id": "a"}]}),
            ("POST", "/v1/events/e/activate", {"shown": [text]}),
            ("POST", f"/v1/events/{quote(text)}/activate", {}),
            ("PUT", "/v1/items", {"items": [{"id": text}]}),
        ):
            assert bench.check(bench.call(method, path, body), given=body).status == 400, body
    assert bench.n_records() == before


def test_a_refused_candidate_does_not_stay_behind_to_be_ranked_later(bench: Bench) -> None:
    bad = {"id": "a", "features": {"x": None}}
    for _ in range(2):
        assert bench.check(bench.call("POST", "/v1/rank", {"candidates": [{"id": "ok"}, bad]})).status == 400
    assert bench.call("POST", "/v1/rank", {"candidates": ["a", "ok"]}).status == 200


def test_odd_headers_and_queries_change_nothing(bench: Bench) -> None:
    body = {"candidates": ["a"]}
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "\xff" * 50},
        {"Accept": "text/html"},
        {"Accept-Encoding": "gzip;q=banana"},
        {"If-Match": "x" * 5_000, "If-None-Match": "*", "Range": "bytes=5-"},
        {"Cookie": "=;=;\xff"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"Expect": "100-continue"},
    ):
        assert bench.check(bench.call("POST", "/v1/rank", body, headers=headers), given=headers).status == 200, headers
    assert bench.call("POST", "/v1/rank?a=%00&b[]=%ff&candidates=x", body).status == 200
    for host in ("a b c", "", ":", "[", "]:", "\xff", "127.0.0.1:8080:1", "[::1", "x" * 5_000):
        assert bench.check(bench.call("POST", "/v1/rank", body, headers={"Host": host})).status in (200, 403), host


# ---------------------------------------------------------------- garbage with structure

text = st.one_of(st.sampled_from(NASTY), st.text(max_size=8), st.characters(codec=None).map(str))
number = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([10**400, 1e308, -1e6, 2**64])
)
scalar = st.one_of(text, number, st.booleans(), st.none())
junk = st.recursive(
    scalar, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)), max_leaves=6
)
features = st.dictionaries(
    text,
    st.one_of(scalar, st.lists(text, max_size=3), st.dictionaries(text, scalar, max_size=2), junk),
    max_size=4,
)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is right, and now and then anything."""
    return st.one_of(strategy, strategy, strategy, junk)


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    fixed = st.fixed_dictionaries(
        {name: mostly(value) for name, value in required.items()},
        optional={name: mostly(value) for name, value in optional.items()},
    )
    return mostly(st.one_of(fixed, fixed, st.tuples(fixed, st.dictionaries(text, junk, max_size=1)).map(_merged)))


def _merged(pair: tuple[Any, Any]) -> Any:
    return {**pair[0], **pair[1]}


ids = st.one_of(st.sampled_from(["a", "b", "c", "e1", "e2"]), text)
candidates = st.lists(st.one_of(ids, objects({"id": ids}, {"features": features})), max_size=5)
rank_body = objects(
    {"candidates": candidates},
    {
        "event_id": ids,
        "user": objects({"id": ids}, {"features": features}),
        "context": features,
        "slots": st.integers(-1, 102),
        "exclude": st.lists(ids, max_size=3),
        "deadline_ms": number,
        "defer_activation": st.booleans(),
        "explain": st.booleans(),
    },
)
signals = st.dictionaries(st.one_of(st.sampled_from(["watch_s", "like", "skip", "share"]), text), number, max_size=3)
feedback_item = objects(
    {"id": ids}, {"signals": signals, "seen": st.booleans(), "reward": number, "final": st.booleans()}
)
feedback_one = objects({"event_id": ids, "items": st.lists(feedback_item, max_size=3)}, {"feedback_id": ids})
feedback_body = st.one_of(feedback_one, objects({"events": st.lists(feedback_one, max_size=3)}, {}))
activate_body = objects({}, {"shown": st.lists(ids, max_size=3)})
items_body = objects({"items": st.lists(objects({"id": ids}, {"features": features}), max_size=3)}, {})
config_body = objects(
    {},
    {
        "explorer": objects({"kind": st.sampled_from(["squarecb", "softmax", "greedy"])}, {"lambda": number}),
        "shortlist": number,
        "floor": st.one_of(number, st.lists(number, max_size=3)),
        "slots": number,
        "learning_weight": objects({"kind": st.sampled_from(["constant", "ips"])}, {"weight": number, "clamp": number}),
        "reward": st.one_of(text, st.sampled_from(["like", "watch_s / like", "max(like, skip)", "min", "1/0"])),
        "reward_range": st.lists(number, max_size=3),
        "signals": st.dictionaries(text, objects({}, {"combine": text, "evidence": st.booleans()}), max_size=2),
        "evidence": text,
        "reward_window_s": number,
        "default_reward": number,
    },
)
calls = st.one_of(
    st.tuples(st.just("POST"), st.just("/v1/rank"), rank_body),
    st.tuples(st.just("POST"), st.just("/v1/rank"), rank_body),
    st.tuples(st.just("POST"), st.just("/v1/feedback"), feedback_body),
    st.tuples(st.just("PUT"), st.just("/v1/items"), items_body),
    st.tuples(st.just("PUT"), st.just("/v1/config"), config_body),
    st.tuples(st.just("POST"), ids.map(lambda one: f"/v1/events/{_quoted(one)}/activate"), activate_body),
    st.tuples(st.sampled_from(["GET", "DELETE"]), ids.map(lambda one: f"/v1/items/{_quoted(one)}"), st.none()),
    st.tuples(st.just("GET"), ids.map(lambda one: f"/v1/events/{_quoted(one)}"), st.none()),
)


def _quoted(one: str) -> str:
    return quote(one.encode("utf-8", "surrogatepass"), safe="")


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(calls)
def test_structured_garbage_never_breaks_anything(shared_bench: Bench, call: tuple[str, str, Any]) -> None:
    method, path, body = call
    etag = shared_bench.call("GET", "/v1/config").headers["ETag"]
    # json.dumps writes lone surrogates as escapes, and huge numbers with all their digits.
    data = None if body is None else json.dumps(body).encode()
    reply = shared_bench.check(shared_bench.call(method, path, data, headers={"If-Match": etag}), given=call)
    if path == "/v1/rank" and reply.status == 200:
        ranking = reply.body["ranking"]
        assert ranking
        for placed in ranking:
            assert 0 < placed["propensity"] <= 1
            assert placed["score"] is None or math.isfinite(placed["score"])
        items = [{"id": placed["id"], "signals": {}, "seen": True, "final": True} for placed in ranking]
        answer = shared_bench.call("POST", "/v1/feedback", {"event_id": reply.body["event_id"], "items": items})
        assert answer.status == 202
        shared_bench.loop.trainer.step()


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(WRITING), st.binary(max_size=60), st.integers(0, 60), st.data())
def test_bodies_with_bytes_changed_never_break_anything(
    shared_bench: Bench, route: tuple[str, str], noise: bytes, at: int, data: st.DataObject
) -> None:
    whole = {
        "/v1/rank": b'{"candidates":["a",{"id":"b","features":{"x":1.5,"t":["y"],"n":{"z":true}}}],"context":{"h":3}}',
        "/v1/feedback": b'{"event_id":"e1","items":[{"id":"a","signals":{"watch_s":3.5},"seen":true,"final":true}]}',
        "/v1/items": b'{"items":[{"id":"a","features":{"x":1.5,"t":["y"],"n":{"z":true}}},{"id":"b"}]}',
        "/v1/config": b'{"explorer":{"kind":"greedy"},"floor":[0.5,0.1],"reward":"like","signals":{"like":{}}}',
    }.get(route[1], b'{"shown":["a","b"]}')
    cut = data.draw(st.integers(0, 12))
    body = whole[:at] + noise[: data.draw(st.integers(0, 6))] + whole[at + cut :]
    reply = shared_bench.call(*route, body, headers={"If-Match": '"1"'})
    shared_bench.check(reply, given=(route, body))


# ---------------------------------------------------------------- over a real connection


def test_a_body_over_the_limit_is_refused_without_filling_memory(running: RunningService) -> None:
    limit = 50 * 1024 * 1024
    pids = running.pids().workers
    before = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    for chunked in (False, True):
        for _ in range(3):
            assert _big_post(running, limit, chunked=chunked) in (413, None)
    after = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    assert after - before < 100 * 1024 * 1024, (after - before) >> 20
    assert running.pids().workers == pids
    assert running.call("POST", "/v1/rank", {"candidates": ["a"]}).status == 200


def _big_post(running: RunningService, n_bytes: int, *, chunked: bool) -> int | None:
    """Status; None if the connection was closed while the body was still being sent."""
    part = b" " * 65_536
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % n_bytes
        connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n\r\n" % length)
        try:
            for _ in range(n_bytes // len(part)):
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            if chunked:
                connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass
        try:
            head = connection.recv(65_536)
        except OSError:
            return None
    if not head:
        return None
    assert head.startswith(b"HTTP/1.1 "), head
    status = int(head.split()[1])
    if status == 413 and b"\r\n\r\n{" in head:
        assert msgspec.json.decode(head.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"
    return status


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /v1/items/\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /v1/items/%zz%f HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET http://other/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda head: repr(head[:30]),
)
def test_requests_that_are_no_http_get_no_500_and_stop_nobody(running: RunningService, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=2) as connection:
        connection.sendall(head)
        try:
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)
        except OSError:
            answer = b""
    if answer.startswith(b"HTTP/"):
        assert int(answer.split()[1]) < 500, answer
    assert running.call("GET", "/healthz").status == 200


def test_a_body_that_comes_in_pieces_is_read_whole(running: RunningService) -> None:
    body = json.dumps({"candidates": [f"{'piece' * 20} {k}" for k in range(9_000)]}).encode()
    kept = running.connect()
    try:
        kept.putrequest("POST", "/v1/rank")
        kept.putheader("Content-Length", str(len(body)))
        kept.endheaders()
        for at in range(0, len(body), len(body) // 7 + 1):
            kept.send(body[at : at + len(body) // 7 + 1])
            time.sleep(0.01)
        response = kept.getresponse()
        assert (response.status, len(json.loads(response.read())["ranking"])) == (200, 10)
    finally:
        kept.close()


def test_a_client_that_hangs_up_in_the_middle_stops_nobody(running: RunningService) -> None:
    half = b'POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"cand'
    for sent in (b"POST /v1/rank HTT", half):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
                connection.sendall(sent)
    kept = running.connect()
    try:
        for _ in range(20):
            assert send(kept, "POST", "/v1/rank", {"candidates": ["a"]}).status == 200
    finally:
        kept.close()


def test_nothing_of_all_this_was_a_fault_of_the_service(running: RunningService) -> None:
    log = running.log()
    assert "Traceback" not in log, log[-5_000:]
    assert "ERROR" not in log, log[-5_000:]
