"""What stands between a request and the ranker: what it costs, and what it does when too much is asked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.bench.http import CONNECTIONS, FEEDBACK
from tests.bench.results import Result
from tests.bench.session import Session
from tests.bench.workload import VW, quantile
from tests.service import ROOT, RunningService, call, free_port, made_key, wait_for

# ---------------------------------------------------------------- what they cost


def doors(session: Session) -> list[Result]:
    """p50 of one connection with keys, limits, metrics and a line for each request, against none of it."""
    rows: list[dict[str, float]] = []
    with ExitStack() as stack:
        data = session.data()
        key = made_key(data, "rank")
        service = RunningService(data, vw=VW, keys="on", rate_limit=1e6, log_format="json")
        on = stack.enter_context(service).port
        off = stack.enter_context(_bare(session))
        sides = {"on_us": (on, f"Authorization: Bearer {key}"), "off_us": (off, "X-Nothing: here")}

        def measured(name: str) -> float:
            port, header = sides[name]
            n = 2 * session.scale.n_requests
            found = session.load.run(port, session.bodies, requests=n, header=header)
            return float(found["rankings"]["p50"])

        for name in sides:
            measured(name)
        for repetition in range(2 * session.scale.http_repetitions):
            names = list(sides) if repetition % 2 else list(reversed(sides))
            rows.append({name: measured(name) for name in names})
        lines = service.log().count('"route":"/v1/rank"')
    assert lines >= len(rows) * session.scale.n_requests, "the lines of the requests are missing"
    return [
        Result(
            name="doors",
            what="HTTP p50 with keys, limits, metrics and structured logs, against decoding, ranking, encoding alone",
            ratios=[row["on_us"] / row["off_us"] for row in rows],
            limit=1.1,
            measured={name: quantile([row[name] for row in rows], 0.5) for name in sides},
        )
    ]


@contextmanager
def _bare(session: Session) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bare", str(port), str(session.data()), VW]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(lambda: call(f"http://127.0.0.1:{port}", "GET", "/").status == 200, what="the bare service",
                 timeout_s=90)  # fmt: skip
        yield port
    finally:
        process.terminate()
        process.wait(20)


# ---------------------------------------------------------------- too much


class Told(NamedTuple):
    """One line of a trace.

    :ivar kind: R a ranking, F feedback, S refused with 503
    :ivar due: UTC seconds at which a ranking should have been sent
    """

    kind: str
    at: float
    event_id: str
    due: float


def trace_of(path: Path) -> list[Told]:
    """What a load generator heard, in the order in which it heard it."""
    found = []
    for line in path.read_text().splitlines():
        kind, at, *rest = line.split()
        if kind == "R":
            found.append(Told(kind, float(at), rest[1], float(at) - float(rest[2]) / 1e6))
        else:
            found.append(Told(kind, float(at), rest[0] if rest else "", float(at)))
    return found


class Stress(NamedTuple):
    """What an overload did; latencies of accepted rankings in microseconds.

    :ivar lost: events that were acknowledged and are not in the log
    :ivar recovery_s: after it ended, see `recovery_of`
    :ivar growth: resident memory of the worker at its end against that after its first sixth
    :ivar health_s: the longest that health took to answer meanwhile
    """

    saturation: float
    unloaded: dict[str, float]
    loaded: dict[str, float]
    accepted_per_s: float
    refused_share: float
    lost: int
    recovery_s: float
    growth: float
    health_s: float

    @property
    def ratio(self) -> float:
        """p99 of accepted rankings against p99 without load."""
        return self.loaded["p99"] / self.unloaded["p99"]


def stress(session: Session, *, seconds: float, times: float = 4.0, measure_s: float = 6.0) -> Stress:
    """Ask a worker with the settings it comes with so many times what it can answer."""
    load, bodies = session.load, session.bodies
    settings = {"queue": 64, "queue_ms": 100}
    with session.serving(workers=1, **settings) as service:
        for _ in range(2):
            load.run(service.port, bodies, connections=CONNECTIONS, requests=2 * session.scale.n_requests,
                     feedback=FEEDBACK, shed=True)  # fmt: skip
        most = load.run(service.port, bodies, connections=16, seconds=measure_s, feedback=FEEDBACK, shed=True)
        rate = most["rate"]
        calm = load.run(service.port, bodies, connections=64, seconds=measure_s, rate=rate / 4, feedback=FEEDBACK,
                        shed=True)  # fmt: skip
        worker = psutil.Process(service.pids().workers[0])
        traces = [session.folder / "overload", session.folder / "after"]
        with _watched(service, worker, seconds / 6) as seen:
            hard = load.run(service.port, bodies, connections=256, seconds=seconds, rate=times * rate,
                            feedback=FEEDBACK, shed=True, trace=traces[0])  # fmt: skip
        ended = time.time()
        load.run(service.port, bodies, connections=64, seconds=6, rate=rate / 4, feedback=FEEDBACK, shed=True,
                 trace=traces[1])  # fmt: skip
        grown = worker.memory_info().rss
        told = [one for trace in traces for one in trace_of(trace)]
        after = trace_of(traces[1])
        lost = _lost(service, told)
    answered, refused = hard["rankings"]["count"], hard["rankings"]["shed"]
    return Stress(
        saturation=rate,
        unloaded=calm["rankings"],
        loaded=hard["rankings"],
        accepted_per_s=answered / seconds,
        refused_share=refused / (answered + refused),
        lost=lost,
        recovery_s=recovery_of(after, ended, calm["rankings"]["p50"] / 1e6),
        growth=grown / seen["rss"],
        health_s=seen["health_s"],
    )


@contextmanager
def _watched(service: RunningService, worker: psutil.Process, settle_s: float) -> Iterator[dict[str, float]]:
    """Memory after a while, and the longest that health takes to answer."""
    seen: dict[str, float] = {"health_s": 0.0, "rss": float(worker.memory_info().rss)}
    stopping = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        settled = False
        while not stopping.wait(0.25):
            asked = time.monotonic()
            answered = service.call("GET", "/readyz", timeout_s=60.0).status == 200
            seen["health_s"] = max(seen["health_s"], time.monotonic() - asked if answered else float("inf"))
            if not settled and asked - began > settle_s:
                seen["rss"], settled = float(worker.memory_info().rss), True

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stopping.set()
        watcher.join()


def _lost(service: RunningService, told: Sequence[Told]) -> int:
    """Events that were acknowledged and are not in the log."""
    with closing(sqlite3.connect(f"file:{service.data / 'log.db'}?mode=ro", uri=True)) as log:
        stored = {
            kind: {row[0] for row in log.execute("SELECT event_id FROM log WHERE kind = ?", (kind,))}
            for kind in ("decision", "feedback")
        }
    acknowledged = [("decision" if one.kind == "R" else "feedback", one.event_id) for one in told if one.kind != "S"]
    assert acknowledged
    return sum(event_id not in stored[kind] for kind, event_id in acknowledged)


def recovery_of(after: Sequence[Told], ended: float, median_s: float, *, window_s: float = 1.0) -> float:
    """Seconds until a whole second in which nothing was refused and the median was at most twice what it had been.

    Infinite if there was none. What is slow after such a second has other reasons.

    :param after: what was heard since the overload ended, at UTC seconds ``ended``
    """
    for begin in (tenth / 10 for tenth in range(10 * int(max((one.at for one in after), default=ended) - ended))):
        within = [one for one in after if begin <= one.due - ended < begin + window_s]
        took = [one.at - one.due for one in within if one.kind == "R"]
        refused = any(one.kind == "S" for one in within)
        if took and not refused and quantile(took, 0.5) <= 2 * median_s:
            return begin
    return float("inf")


def overload(session: Session) -> list[Result]:
    """Four times what a worker can answer, for a minute."""
    found = stress(session, seconds=session.scale.overload_s, measure_s=session.scale.load_s)
    measured: dict[str, Any] = {
        "saturation_per_s": found.saturation,
        "accepted_per_s": found.accepted_per_s,
        "refused_share": found.refused_share,
        "unloaded_p50_us": found.unloaded["p50"],
        "unloaded_p99_us": found.unloaded["p99"],
        "p50_us": found.loaded["p50"],
        "p99_us": found.loaded["p99"],
        "max_us": found.loaded["max"],
        "health_max_s": found.health_s,
    }
    what = f"4 x saturation for {session.scale.overload_s:g} s: "
    return [
        Result(name="overload", what=f"{what}p99 of accepted rankings, against p99 at a quarter of saturation",
               ratios=[found.ratio], limit=5.0, measured=measured, note="open loop, 256 connections"),
        Result(name="overload_lost", what=f"{what}acknowledged events that are not in the log",
               ratios=[float(found.lost)], limit=0.0, unit="events"),
        Result(name="overload_memory", what=f"{what}resident memory at the end, against that after a sixth",
               ratios=[found.growth], limit=1.05),
        Result(name="overload_recovery", what=f"{what}until a second with no refusal and at most twice the median",
               ratios=[found.recovery_s], limit=2.0, unit="s"),
    ]  # fmt: skip
