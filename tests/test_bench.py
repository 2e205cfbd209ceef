"""The benchmarks run and say something sane; how fast anything is, is for `make bench` to say."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.bench.__main__ import GROUPS, main, run
from tests.bench.load import LoadGenerator, compiler, write_bodies
from tests.bench.results import Result, table
from tests.bench.session import QUICK, Session

TINY = QUICK._replace(
    n_items=300,
    n_requests=6,
    n_candidates=60,
    n_events=4,
    repetitions=1,
    http_repetitions=1,
    load_s=0.3,
    freshness_s=4.0,
    n_memory=200,
    n_swaps=1,
    n_logged=20,
    n_slots=10,
)
IN_PROCESS = ["warm", "cold", "rules", "slot", "width", "log"]

needs_compiler = pytest.mark.skipif(compiler() is None, reason="the load generator is compiled, and there is no cc")


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_group_measures_both_sides_of_its_ratios(name: str, tmp_path: Path) -> None:
    results = run(Session(tmp_path, TINY), [name])

    assert results
    for result in results:
        _check(result)


@needs_compiler
@pytest.mark.parametrize("name", ["latency", "freshness"])
def test_a_group_measures_the_real_service(name: str, tmp_path: Path) -> None:
    for result in run(Session(tmp_path, TINY), [name]):
        _check(result)
        assert result.measured.get("n_feedback", 1) > 0


def _check(result: Result) -> None:
    assert result.ratios
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in result.ratios)
    assert result.name in table([result])
    summary = json.loads(json.dumps(result.summary()))
    assert summary["p10"] <= summary["median"] <= summary["p90"]


def test_the_verdict_follows_from_the_median_and_the_side_of_the_target() -> None:
    most = Result(name="a", what="b", ratios=[0.1, 0.6, 0.4], limit=0.5)
    least = Result(name="a", what="b", ratios=[0.1, 0.6, 0.4], limit=0.5, side="at least")

    assert most.met
    assert not least.met


def test_the_command_writes_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(GROUPS, "log", lambda session: [Result(name="one", what="x", ratios=[2.0], limit=1.0)])

    status = main(["--quick", "--only", "log", "--json", str(tmp_path / "out.json")])

    assert status == 1
    assert "MISSED" in capsys.readouterr().out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["quick"] is True
    assert document["machine"]["cores"] >= 1
    assert [one["met"] for one in document["results"]] == [False]


# ---------------------------------------------------------------- the load generator


class _Stub(ThreadingHTTPServer):
    """Answers as the service would, and remembers what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, Any]] = []
        self.connections = 0
        self.stall_at: int | None = None
        self.fail_at: int | None = None
        self.go_on = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Stub

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = len(self.server.seen)
        self.server.seen.append((self.path, body))
        if number == self.server.stall_at:
            self.server.go_on.wait(0.5)
        status = 500 if number == self.server.fail_at else 202 if self.path == "/v1/feedback" else 200
        ranking = [{"slot": 0, "id": f"item{number}"}]
        answer = json.dumps({"event_id": f"e{number}", "ranking": ranking, "model_version": "m1"})
        # The generator reads JSON as the service writes it: without spaces.
        data = answer.replace(": ", ":").encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def stub() -> Iterator[_Stub]:
    server = _Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> LoadGenerator:
    return LoadGenerator(tmp_path_factory.mktemp("load"))


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    path = tmp_path / "bodies"
    write_bodies(path, [json.dumps({"number": number}).encode() for number in range(7)])
    return path


@needs_compiler
def test_the_closed_loop_sends_the_bodies_in_turn(generator: LoadGenerator, stub: _Stub, bodies: Path) -> None:
    measured = generator.run(stub.server_port, bodies, requests=20, connections=1)

    assert measured["rankings"]["count"] == 20
    assert [body["number"] for _, body in stub.seen] == [number % 7 for number in range(20)]
    assert stub.connections == 1
    assert 0 < measured["rankings"]["p50"] <= measured["rankings"]["p99"] <= measured["rankings"]["max"]
    assert measured["cpu_s"] > 0


@needs_compiler
def test_feedback_follows_for_its_share_of_the_rankings(
    generator: LoadGenerator, stub: _Stub, bodies: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"

    measured = generator.run(stub.server_port, bodies, requests=40, connections=4, feedback=0.25, trace=trace)

    told = [body for path, body in stub.seen if path == "/v1/feedback"]
    assert measured["rankings"]["count"] == 40
    assert measured["feedback"]["count"] == len(told) == 10
    for body in told:
        (item,) = body["items"]
        # The first item of the ranking that it answers.
        assert item["id"] == "item" + body["event_id"].removeprefix("e")
        assert item["final"] is True
        assert 0 <= item["signals"]["watch_s"] < 60
    lines = [line.split() for line in trace.read_text().splitlines()]
    assert sum(kind == "R" and version == "m1" for kind, _, version, *_ in lines) == 40
    assert {event_id for kind, _, event_id, *_ in lines if kind == "F"} == {body["event_id"] for body in told}


@needs_compiler
def test_the_open_loop_charges_a_stall_to_every_request_that_it_held_up(
    generator: LoadGenerator, stub: _Stub, bodies: Path
) -> None:
    stub.stall_at = 5

    measured = generator.run(stub.server_port, bodies, seconds=1.0, rate=100, connections=1)

    assert measured["rankings"]["count"] == 100
    # One request took half a second, and the fifty behind it waited for it. A closed loop would count one.
    assert measured["rankings"]["max"] >= 500_000
    assert measured["rankings"]["mean"] >= 100_000
    assert measured["max_behind"] >= 40


@needs_compiler
def test_a_failed_request_fails_the_measurement(generator: LoadGenerator, stub: _Stub, bodies: Path) -> None:
    stub.fail_at = 3

    with pytest.raises(RuntimeError, match="1 requests failed"):
        generator.run(stub.server_port, bodies, requests=10, connections=2)


@needs_compiler
def test_nobody_listening_is_an_error(generator: LoadGenerator, stub: _Stub, bodies: Path) -> None:
    stub.shutdown()
    stub.server_close()

    with pytest.raises(RuntimeError, match="cannot connect"):
        generator.run(stub.server_port, bodies, requests=1)
