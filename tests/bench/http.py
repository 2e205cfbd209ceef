"""Over HTTP: one durable worker against the sum of its parts, under load, and two workers against one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.bench.engine import Engine
from tests.bench.ranking import warm_service
from tests.bench.results import Result
from tests.bench.session import Session
from tests.bench.workload import each_us, quantile
from tests.service import ROOT, Pids, RunningService, call, free_port, wait_for

CONNECTIONS = 32
FEEDBACK = 0.1


# ---------------------------------------------------------------- latency, one worker


def latency(session: Session) -> list[Result]:
    """p50 of one connection, and all that it is made of, measured in turn."""
    scale = session.scale
    rows: list[dict[str, float]] = []
    with ExitStack() as stack:
        service = stack.enter_context(session.serving(workers=1))
        empty_port = stack.enter_context(_empty_route())
        ranker = stack.enter_context(warm_service(session)).ranker
        commits = stack.enter_context(_commits(session, service))
        engine = Engine(session.model, session.workload)
        stack.callback(engine.close)
        requests = session.workload.requests()

        def over_http(port: int) -> float:
            measured = session.load.run(port, session.bodies, requests=len(requests))
            return float(measured["rankings"]["p50"])

        sides = {
            "http_us": lambda: over_http(service.port),
            "rank_us": lambda: quantile(each_us(ranker.rank, requests), 0.5),
            "empty_route_us": lambda: over_http(empty_port),
            "commit_us": lambda: quantile(each_us(commits, requests), 0.5),
            "floor_us": lambda: quantile(each_us(engine.predict_multi, engine.events), 0.5),
        }
        for name in ("http_us", "empty_route_us"):
            sides[name]()
        for repetition in range(scale.http_repetitions):
            names = list(sides) if repetition % 2 else list(reversed(sides))
            rows.append({name: sides[name]() for name in names})
    measured = {name: quantile([row[name] for row in rows], 0.5) for name in sides}
    return [
        Result(
            name="http_parts",
            what="HTTP p50, one worker, durable, against rank in process + an empty route + one FULL commit",
            ratios=[row["http_us"] / (row["rank_us"] + row["empty_route_us"] + row["commit_us"]) for row in rows],
            limit=1.3,
            measured=measured,
        ),
        Result(
            name="http_floor",
            what="the same against VW's bare predict_multi",
            ratios=[row["http_us"] / row["floor_us"] for row in rows],
            limit=1.2,
            measured=measured,
        ),
    ]


@contextmanager
def _empty_route() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.empty", str(port)], cwd=ROOT)
    try:
        wait_for(lambda: call(f"http://127.0.0.1:{port}", "POST", "/v1/rank", b"{}").status == 200, what="the route")
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def _commits(session: Session, service: RunningService) -> Iterator[Any]:
    """A function that commits one row as large as a decision's, durably, to a bare table of its own."""
    session.load.run(service.port, session.bodies, requests=2)
    with closing(sqlite3.connect(f"file:{service.data / 'log.db'}?mode=ro", uri=True)) as log:
        payload, candidates = log.execute(
            "SELECT payload, candidates FROM log WHERE kind = 'decision' ORDER BY pos DESC LIMIT 1"
        ).fetchone()
    with closing(sqlite3.connect(session.folder / "commits.db", isolation_level=None)) as bare:
        bare.execute("PRAGMA journal_mode=WAL")
        bare.execute("PRAGMA synchronous=FULL")
        bare.execute("PRAGMA wal_autocheckpoint=50000")
        bare.execute("CREATE TABLE IF NOT EXISTS rows (pos INTEGER PRIMARY KEY, payload TEXT, candidates BLOB)")
        # Outside a transaction each statement is a commit of its own.
        yield lambda _: bare.execute("INSERT INTO rows (payload, candidates) VALUES (?, ?)", (payload, candidates))


# ---------------------------------------------------------------- under load


def tail(session: Session) -> list[Result]:
    """p99 at half of saturation, while the trainer publishes what feedback teaches it."""
    scale = session.scale
    rows: list[dict[str, float]] = []
    with session.serving(workers=1) as service:
        _warm(session, service)
        for _ in range(scale.load_repetitions):
            alone = session.load.run(service.port, session.bodies, requests=scale.n_requests)
            most = session.load.run(
                service.port, session.bodies, connections=CONNECTIONS, seconds=scale.load_s, feedback=FEEDBACK
            )
            before = _n_published(service)
            half = session.load.run(
                service.port,
                session.bodies,
                connections=CONNECTIONS,
                seconds=2 * scale.load_s,
                rate=most["rate"] / 2,
                feedback=FEEDBACK,
            )
            rows.append(
                {
                    "saturation_per_s": most["rate"],
                    "p50_us": half["rankings"]["p50"],
                    "p99_us": half["rankings"]["p99"],
                    "max_us": half["rankings"]["max"],
                    "p50_alone_us": alone["rankings"]["p50"],
                    "feedback_p99_us": half["feedback"].get("p99", 0),
                    "swaps": _n_published(service) - before,
                }
            )
    measured: dict[str, Any] = {name: quantile([row[name] for row in rows], 0.5) for name in rows[0]}
    measured["p99_to_p50_alone"] = quantile([row["p99_us"] / row["p50_alone_us"] for row in rows], 0.5)
    return [
        Result(
            name="http_p99",
            what="HTTP p99 at half of saturation, models being swapped, against p50 of the same",
            ratios=[row["p99_us"] / row["p50_us"] for row in rows],
            limit=3.0,
            measured=measured,
            note="open loop, latency from the scheduled time; p50_alone_us is that of one connection",
        )
    ]


def _warm(session: Session, service: RunningService) -> None:
    """Every worker has seen every item, over connections enough to reach them all."""
    n = 2 * session.scale.n_requests
    session.load.run(service.port, session.bodies, connections=CONNECTIONS, requests=n, feedback=FEEDBACK)


def _n_published(service: RunningService) -> int:
    with closing(sqlite3.connect(f"file:{service.data / 'log.db'}?mode=ro", uri=True)) as log:
        n: int = log.execute("SELECT count(*) FROM models").fetchone()[0]
        return n


def workers(session: Session) -> list[Result]:
    """Saturation of two workers against one, in turn; trainers running, feedback on a tenth."""
    scale = session.scale
    rates: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with ExitStack() as stack:
        services = {n: stack.enter_context(session.serving(workers=n)) for n in rates}
        for service in services.values():
            _warm(session, service)
        for repetition in range(scale.load_repetitions):
            for n in (1, 2) if repetition % 2 else (2, 1):
                pids = services[n].pids()
                before = _cpu_s(pids)
                measured = session.load.run(
                    services[n].port, session.bodies, connections=CONNECTIONS, seconds=scale.load_s, feedback=FEEDBACK
                )
                after = _cpu_s(pids)
                rates[n].append(measured["rate"])
                per_request = {name: 1e3 * (after[name] - before[name]) for name in after}
                per_request["load"] = 1e3 * measured["cpu_s"]
                count = measured["rankings"]["count"]
                cpu[n].append({name: spent / count for name, spent in per_request.items()})
                # The trainer catches up before the other's turn.
                time.sleep(1.0)
    measured = {f"rate_{n}_per_s": quantile(rates[n], 0.5) for n in rates}
    for n, rows in cpu.items():
        for name in rows[0]:
            measured[f"cpu_ms_a_request_{n}_{name}"] = quantile([row[name] for row in rows], 0.5)
    return [
        Result(
            name="two_workers",
            what="two rank workers against one, trainer running, feedback on 10 %",
            ratios=[two / one for one, two in zip(rates[1], rates[2], strict=True)],
            limit=1.5,
            side="at least",
            measured=measured,
            note=f"{psutil.cpu_count()} cores, which load generator and trainer share; {CONNECTIONS} connections",
        )
    ]


def _cpu_s(pids: Pids) -> dict[str, float]:
    """Seconds of CPU so far, by process."""

    def spent(process: int) -> float:
        times = psutil.Process(process).cpu_times()
        return float(times.user + times.system)

    assert pids.trainer is not None
    found = {f"worker{place}": spent(pid) for place, pid in enumerate(sorted(pids.workers))}
    return {"parent": spent(pids.parent), **found, "trainer": spent(pids.trainer)}


# ---------------------------------------------------------------- how fresh


def freshness(session: Session) -> list[Result]:
    """Seconds from a feedback's 202 until a ranking comes from a model that learned it."""
    scale = session.scale
    rounds: list[list[float]] = []
    with session.serving(workers=1) as service:
        _warm(session, service)
        for repetition in range(max(1, scale.load_repetitions // 2)):
            trace = session.folder / f"trace-{repetition}"
            session.load.run(
                service.port, session.bodies, trace=trace, connections=CONNECTIONS, seconds=scale.freshness_s,
                rate=200, feedback=FEEDBACK,
            )  # fmt: skip
            rounds.append(_seconds_until_served(trace, service.data / "log.db"))
    everything = [seconds for one in rounds for seconds in one]
    return [
        Result(
            name="freshness",
            what="feedback acknowledged until a ranking served by a model that learned it: p99 at 200 requests/s",
            ratios=[quantile(one, 0.99) for one in rounds],
            limit=1.0,
            unit="s",
            measured={
                "p50_s": quantile(everything, 0.5),
                "p99_s": quantile(everything, 0.99),
                "max_s": max(everything),
                "n_feedback": float(len(everything)),
            },
        )
    ]


def _seconds_until_served(trace: Path, log_path: Path, *, tail_s: float = 3.0) -> list[float]:
    """For each feedback of a trace; that of the last seconds is left out, for nobody asked long enough after it.

    One that no model served learned in time counts as infinite.
    """
    with closing(sqlite3.connect(f"file:{log_path}?mode=ro", uri=True)) as log:
        position_of = dict(
            log.execute("SELECT event_id, min(pos) FROM log WHERE kind = 'feedback' GROUP BY event_id").fetchall()
        )
        # A model can be published again for a later position; what was served may have been the first.
        holds = dict(log.execute("SELECT digest, min(position) FROM models GROUP BY digest").fetchall())
    lines = [line.split() for line in trace.read_text().splitlines()]
    served = [(float(at), holds.get(digest, 0)) for kind, at, digest, *_ in lines if kind == "R"]
    acknowledged = [(float(at), position_of[event_id]) for kind, at, event_id, *_ in lines if kind == "F"]
    ends = served[-1][0] - tail_s
    return [_wait(at, position, served) for at, position in acknowledged if at < ends]


def _wait(at: float, position: int, served: Sequence[tuple[float, int]]) -> float:
    return next((when - at for when, held in served if when >= at and held >= position), float("inf"))
