"""The client: rankings in time or the caller's own order, and feedback that is neither doubled nor lost unsaid."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandit import client as module
from bandit.client import Client, RequestRefused
from tests.service import ROOT, RunningService, wait_for

Handler = Callable[[httpx.Request], httpx.Response]
FEED = ["v1", "v2", "v3"]
SEEN = [{"id": "v1", "signals": {"watch_s": 9.0}, "final": True}]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(module, "PAUSES_S", (0.005, 0.02))
    monkeypatch.setattr(module, "LINGER_S", 0.02)


class Stub:
    """A service in this process, that answers as it is told to and remembers what it took."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], httpx.Headers]] = []
        self.taken: dict[str, dict[str, Any]] = {}
        self.activated: dict[str, dict[str, Any]] = {}
        #: What to do with each coming request, before the usual.
        self.moods: list[Callable[[], httpx.Response | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content)
        self.asked.append((path, body, request.headers))
        given = self.moods.pop(0)() if self.moods else None
        if given is not None:
            return given
        if path == "/v1/rank":
            ranking = [{"slot": k, "id": f"v{3 - k}", "propensity": 0.5, "score": 0.0} for k in range(3)]
            return httpx.Response(200, json={"event_id": body["event_id"], "ranking": ranking})
        if path == "/v1/feedback":
            if any(item["id"] == "wrong" for event in body["events"] for item in event["items"]):
                return httpx.Response(400, json={"error": {"code": "invalid_request", "message": "wrong"}})
            for event in body["events"]:
                self.taken.setdefault(event["feedback_id"], event)
            return httpx.Response(202, json={"events": []})
        self.activated.setdefault(path.split("/")[3], body)
        return httpx.Response(202, json={"status": "activated"})

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


def refuse(status: int, **headers: str) -> Callable[[], httpx.Response]:
    body = {"error": {"code": "a_code", "message": "no"}}
    return lambda: httpx.Response(status, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})


def fail(error: type[httpx.TransportError]) -> Callable[[], httpx.Response]:
    def mood() -> httpx.Response:
        raise error("away")

    return mood


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def client(stub: Stub) -> Iterator[Client]:
    with Client("http://stub", key="fb_k_s", transport=httpx.MockTransport(stub), deadline_s=0.5) as made:
        yield made


# ---------------------------------------------------------------- rankings


def test_a_ranking_is_the_services(client: Client, stub: Stub) -> None:
    ranking = client.rank(FEED, user="ada", context={"hour": "7"}, slots=3, exclude=["v9"], explain=True)
    assert (ranking.ids, ranking.served, ranking.reason) == (["v3", "v2", "v1"], True, None)
    assert ranking.propensities == [0.5] * 3
    assert ranking.reply["event_id"] == ranking.event_id
    path, body, headers = stub.asked[0]
    assert (path, headers["Authorization"]) == ("/v1/rank", "Bearer fb_k_s")
    assert body == {
        "event_id": ranking.event_id, "candidates": FEED, "user": {"id": "ada"}, "context": {"hour": "7"}, "slots": 3,
        "exclude": ["v9"], "explain": True,
    }  # fmt: skip


def test_event_ids_cannot_be_guessed_and_are_the_callers_if_given(client: Client) -> None:
    made = {client.rank(FEED).event_id for _ in range(50)}
    assert len(made) == 50
    assert all(len(one) == 32 for one in made)
    assert client.rank(FEED, event_id="mine").event_id == "mine"


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_service_that_refuses_for_longer_than_there_is_time_leaves_the_callers_order(
    client: Client, stub: Stub, status: int
) -> None:
    stub.moods = [refuse(status, Retry_After="1")]
    began = time.monotonic()
    ranking = client.rank([*FEED, {"id": "v4", "features": {"a": 1}}], exclude=["v2"], slots=2)
    assert time.monotonic() - began < 0.4, "no use in waiting"
    assert (ranking.ids, ranking.served, ranking.propensities) == (["v1", "v3"], False, [])
    assert str(status) in (ranking.reason or "")
    assert client.counts.unserved == 1


@pytest.mark.parametrize("mood", [refuse(503, Retry_After="0"), fail(httpx.ConnectError), fail(httpx.ReadError)])
def test_it_asks_again_with_the_same_id_while_there_is_time(
    client: Client, stub: Stub, mood: Callable[[], httpx.Response]
) -> None:
    stub.moods = [mood, mood]
    assert client.rank(FEED).served
    assert len({body["event_id"] for _, body, _ in stub.asked}) == 1
    assert stub.asked[0][1] == stub.asked[1][1] == stub.asked[2][1]
    assert client.counts.retried == 2


def test_a_service_that_is_away_all_the_time_costs_the_deadline_and_no_more(client: Client, stub: Stub) -> None:
    stub.moods = [fail(httpx.ConnectError)] * 10_000
    began = time.monotonic()
    assert not client.rank(FEED, deadline_s=0.1).served
    assert time.monotonic() - began < 1.0
    stub.moods = []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413])
def test_a_request_that_is_wrong_is_the_callers_to_mend(client: Client, stub: Stub, status: int) -> None:
    stub.moods = [refuse(status)]
    with pytest.raises(RequestRefused, match="a_code") as caught:
        client.rank(FEED)
    assert (caught.value.status, caught.value.code) == (status, "a_code")
    assert client.counts.unserved == 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff"])
def test_whatever_is_no_answer_of_the_service_leaves_the_callers_order(
    client: Client, stub: Stub, body: bytes
) -> None:
    stub.moods = [lambda: httpx.Response(200, content=body)] * 10_000
    assert not client.rank(FEED, deadline_s=0.05).served
    stub.moods = []


def test_of_the_callers_own_order_the_service_hears_before_what_became_of_it(client: Client, stub: Stub) -> None:
    stub.moods = [refuse(503, Retry_After="9")]
    ranking = client.rank(FEED, slots=2)
    client.feedback(ranking.event_id, SEEN)
    assert client.flush()
    assert stub.paths() == ["/v1/rank", f"/v1/events/{ranking.event_id}/activate", "/v1/feedback"]
    assert stub.activated[ranking.event_id] == {"shown": ["v1", "v2"]}


def test_feedback_that_would_be_misread_is_dropped(stub: Stub) -> None:
    with Client("http://stub", transport=httpx.MockTransport(stub), queue=1) as client:
        stub.moods = [refuse(503, Retry_After="0.6")] * 2
        client.activate("fills the queue")
        ranking = client.rank(FEED)
        assert not ranking.served
        stub.moods = []
        assert client.flush()
        assert not client.feedback(ranking.event_id, SEEN), "the service cannot know that it was another list"
        assert client.feedback("another", SEEN)
        assert client.counts.dropped == 2
    assert len(stub.taken) == 1


# ---------------------------------------------------------------- feedback


def test_feedback_goes_in_batches_each_with_an_id(client: Client, stub: Stub) -> None:
    for k in range(250):
        assert client.feedback(f"e{k}", SEEN)
    assert client.flush()
    batches = [len(body["events"]) for path, body, _ in stub.asked if path == "/v1/feedback"]
    assert sum(batches) == 250
    assert max(batches) <= module.BATCH
    assert len(batches) <= 10
    assert {event["event_id"] for event in stub.taken.values()} == {f"e{k}" for k in range(250)}
    assert (client.counts.sent, client.counts.pending, client.counts.dropped) == (250, 0, 0)


@pytest.mark.parametrize("mood", [refuse(503), refuse(429), fail(httpx.ReadError), fail(httpx.ReadTimeout)])
def test_what_was_not_taken_is_sent_again_with_the_same_ids(
    client: Client, stub: Stub, mood: Callable[[], httpx.Response]
) -> None:
    stub.moods = [mood] * 4
    for k in range(10):
        client.feedback(f"e{k}", SEEN)
    assert client.flush()
    assert len(stub.asked) >= 5
    assert len(stub.taken) == 10
    assert client.counts.retried == 4


def test_what_was_taken_and_not_acknowledged_is_taken_once(client: Client, stub: Stub) -> None:
    usual = httpx.MockTransport(stub)

    def taken_then_lost(request: httpx.Request) -> httpx.Response:
        usual.handle_request(request)
        raise httpx.ReadError("the reply was lost")

    lost = Client("http://stub", transport=httpx.MockTransport(_first_then(taken_then_lost, stub, times=3)))
    with lost:
        for k in range(5):
            lost.feedback("e", SEEN, feedback_id=f"f{k}")
        assert lost.flush()
    assert sorted(stub.taken) == [f"f{k}" for k in range(5)]


def _first_then(first: Handler, then: Handler, *, times: int) -> Handler:
    left = [times]

    def handle(request: httpx.Request) -> httpx.Response:
        left[0] -= 1
        return first(request) if left[0] >= 0 else then(request)

    return handle


def test_it_leaves_a_busy_service_alone_for_as_long_as_it_asks(client: Client, stub: Stub) -> None:
    at: list[float] = []

    def busy() -> httpx.Response:
        at.append(time.monotonic())
        return refuse(503, Retry_After="0.3")()

    def fine() -> None:
        at.append(time.monotonic())

    stub.moods = [busy, fine]
    client.feedback("e", SEEN)
    assert client.flush()
    assert at[1] - at[0] >= 0.3


def test_one_that_is_wrong_does_not_take_the_others_with_it(
    client: Client, stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(10):
        client.feedback(f"e{k}", [{"id": "wrong" if k == 4 else "v1", "seen": True}])
    assert client.flush()
    assert {event["event_id"] for event in stub.taken.values()} == {f"e{k}" for k in range(10)} - {"e4"}
    assert (client.counts.sent, client.counts.refused) == (9, 1)
    assert "'e4'" in caplog.text


def test_while_the_key_is_refused_feedback_waits(client: Client, stub: Stub) -> None:
    stub.moods = [refuse(401), refuse(403)]
    client.feedback("e", SEEN)
    assert client.flush()
    assert len(stub.taken) == 1


def test_a_full_queue_drops_and_counts(stub: Stub) -> None:
    gate = threading.Event()

    def held(request: httpx.Request) -> httpx.Response:
        gate.wait(10)
        return stub(request)

    client = Client("http://stub", transport=httpx.MockTransport(held), queue=20)
    put = [client.feedback(f"e{k}", SEEN) for k in range(50)]
    assert put == [True] * 20 + [False] * 30
    assert (client.counts.pending, client.counts.dropped) == (20, 30)
    gate.set()
    assert client.close() == 0
    assert len(stub.taken) == 20


def test_what_cannot_be_sent_is_counted_and_said_when_it_is_closed(
    stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.moods = [fail(httpx.ConnectError)] * 100_000
    client = Client("http://stub", transport=httpx.MockTransport(stub))
    for k in range(7):
        client.feedback(f"e{k}", SEEN)
    began = time.monotonic()
    assert client.close(0.2) == 7
    assert time.monotonic() - began < 5
    assert (client.counts.dropped, client.counts.pending) == (7, 0)
    assert "7 feedbacks" in caplog.text
    assert client.close() == 0
    with pytest.raises(RuntimeError, match="closed"):
        client.feedback("e", SEEN)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_say_is_said_at_once(client: Client, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        client.feedback("e", [{"id": "v1", "reward": value}])
    assert client.counts.pending == 0


def test_many_threads_may_share_it(client: Client, stub: Stub) -> None:
    def work(name: int) -> None:
        for k in range(40):
            client.feedback(client.rank(FEED, event_id=f"{name}-{k}", deadline_s=30.0).event_id, SEEN)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert client.flush()
    assert len({event["event_id"] for event in stub.taken.values()}) == 320
    assert (client.counts.served, client.counts.sent) == (320, 320)


# ---------------------------------------------------------------- over real sockets


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Somebody who accepts connections and does with each what he wants."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stopping = threading.Event()
        threads: list[threading.Thread] = []

        def accept() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stopping.set()
            acceptor.join()
            for one in threads:
                one.join()


def stall(connection: socket.socket) -> None:
    with connection:
        connection.settimeout(3)
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass


def trickle(connection: socket.socket) -> None:
    with connection:
        try:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(40):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            pass


def hang_up(connection: socket.socket) -> None:
    with connection:
        connection.recv(100)


@pytest.mark.parametrize("serve", [stall, trickle, hang_up])
def test_however_it_fails_the_callers_order_comes_in_time(serve: Callable[[socket.socket], None]) -> None:
    with listening(serve) as url:
        client = Client(url, deadline_s=0.2)
        began = time.monotonic()
        ranking = client.rank(FEED)
        took = time.monotonic() - began
        client.close(0.0)
    assert (ranking.ids, ranking.served) == (FEED, False)
    assert took < 1.0


def test_nobody_listening_is_no_reason_to_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", deadline_s=0.2)
    assert not client.rank(FEED).served
    assert client.close(0.0) == 1


# ---------------------------------------------------------------- against the service


def test_a_service_that_dies_in_the_middle_has_everything_once_in_the_end(tmp_path: Path) -> None:
    service = RunningService(tmp_path / "data").start()
    try:
        with Client(service.url, deadline_s=5.0) as client:
            told = []
            for k in range(60):
                ranking = client.rank(FEED, event_id=f"e{k}", deadline_s=5.0 if k != 20 else 0.05)
                told.append(ranking)
                client.feedback(ranking.event_id, SEEN, feedback_id=f"f{k}")
                if k == 19:
                    service.kill()
                if k == 20:
                    assert not ranking.served
                    service.start()
            assert client.flush(30.0)
            assert client.counts.dropped == client.counts.refused == 0
        assert sum(one.served for one in told) == 59
        for k in range(60):
            reply = service.call("GET", f"/v1/events/e{k}")
            if told[k].served:
                assert [one["kind"] for one in reply.body["follow_ups"]] == ["feedback"], k
        wait_for(lambda: service.call("GET", "/v1/model").body["learned_slots"] >= 59, what="what it was told")
        assert service.call("GET", "/v1/model").body["learned_slots"] == 59
    finally:
        service.kill()


def test_a_ranking_that_came_too_late_teaches_nothing_of_what_was_not_shown(running: RunningService) -> None:
    with Client(running.url, deadline_s=5.0) as client:
        # Ranked by the service, which was too late to tell: what was shown is the caller's own order.
        served = client.rank(FEED, event_id="too late")
        own = list(reversed(served.ids))
        client.activate("too late", own)
        client.feedback("too late", [{"id": own[0], "signals": {"watch_s": 9.0}, "final": True}])
        assert client.flush()
    wait_for(
        lambda: running.call("GET", "/v1/model").body["lag_records"] <= 1, what="the trainer", timeout_s=30
    )
    statuses = {slot["status"] for slot in running.call("GET", "/v1/events/too%20late").body["slots"]}
    assert "learned" not in statuses


def test_a_process_that_ends_without_closing_sends_what_waits(running: RunningService) -> None:
    program = (
        "import sys\nfrom bandit.client import Client\n"
        "client = Client(sys.argv[1], deadline_s=5.0)\n"
        "ranking = client.rank(['v1', 'v2'], event_id='left open')\n"
        "client.feedback('left open', [{'id': 'v1', 'seen': True}])\n"
    )
    subprocess.run([sys.executable, "-c", program, running.url], cwd=ROOT, check=True, timeout=60)
    assert len(running.call("GET", "/v1/events/left%20open").body["follow_ups"]) == 1


def test_what_the_guide_shows_works(running: RunningService) -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Client\n")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.S)
    program = program.replace("http://127.0.0.1:8080", running.url).replace("deadline_s=0.2", "deadline_s=5.0")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['v\d', 'v\d'\] served\n", done.stdout)
    assert done.stderr == ""


def test_it_brings_nothing_of_the_service_with_it() -> None:
    program = (
        "import sys\nimport bandit.client\n"
        "heavy = {'numpy', 'numba', 'flask', 'granian', 'msgspec', 'vowpalwabbit', 'sqlite_utils'}\n"
        "print(sorted(heavy & set(sys.modules)),\n"
        "      sorted(name for name in sys.modules if name.startswith('bandit.') and name != 'bandit.client'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
