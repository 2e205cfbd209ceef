"""What a decision takes on disk, and whether the processes keep their size."""

from __future__ import annotations

import sqlite3
import statistics
from contextlib import closing
from pathlib import Path

import psutil

from bandit.records import RankRequest
from tests.bench.http import _n_published
from tests.bench.results import Result
from tests.bench.session import Session
from tests.bench.workload import opened
from tests.service import Pids, RunningService, call

# Of the reward window while memory is measured.
WINDOW_S = 5.0


def log_bytes(session: Session) -> list[Result]:
    """Growth of the database by decisions over catalogued candidates, write-ahead log included."""
    n = session.scale.n_logged
    data = session.data()
    with opened(data, durable=False) as service:
        requests: list[RankRequest] = session.workload.requests()
        service.rank(requests[0])
        before = _size(data)
        for number in range(n):
            service.rank(requests[number % len(requests)])
        after = _size(data)
    kilobytes = (after - before) / n / 1000
    return [
        Result(
            name="log_bytes",
            what=f"log bytes per decision, {session.scale.n_candidates:,} catalogued candidates, 10 slots",
            ratios=[kilobytes],
            limit=12.0,
            unit="KB",
            measured={"decisions": n, "candidates": session.scale.n_candidates},
            note="counted, not timed: one repetition",
        )
    ]


def _size(data: Path) -> int:
    """Bytes of the database and what is left of its write-ahead log after a checkpoint."""
    with closing(sqlite3.connect(data / "log.db")) as log:
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in data.glob("log.db*") if path.name != "log.db-shm")


def _shorten_window(service: RunningService) -> None:
    """The trainer remembers every decision whose window is open, some 250 bytes each. With a window far shorter
    than the run their number is the same at every reading; with the default of ten minutes it would still rise."""
    config = call(service.url, "GET", "/v1/config")
    body = {**config.body, "reward_window_s": WINDOW_S}
    reply = call(service.url, "PUT", "/v1/config", body, headers={"If-Match": config.headers["etag"]})
    assert reply.status == 200, reply


def memory(session: Session) -> list[Result]:
    """Resident memory of worker and trainer from after the warm-up to the end of the rankings."""
    scale = session.scale
    # So many parts that each sees some swaps, and that a trend can be told from a step.
    n_parts = 10
    with session.serving(workers=1, durable=0) as service:
        _shorten_window(service)
        warm_up = scale.n_memory // 5
        session.load.run(service.port, session.bodies, connections=8, requests=warm_up, feedback=0.05)
        pids = service.pids()
        published = _n_published(service)
        sizes = [_resident(pids)]
        while len(sizes) <= n_parts or _n_published(service) - published < scale.n_swaps:
            session.load.run(
                service.port, session.bodies, connections=8, requests=scale.n_memory // n_parts, feedback=0.05
            )
            sizes.append(_resident(pids))
        swaps = _n_published(service) - published
        assert service.pids() == pids, "a process was restarted meanwhile"
    results = []
    for name in ("worker", "trainer"):
        first, last = sizes[0][name], statistics.median(one[name] for one in sizes[-3:])
        results.append(
            Result(
                name=f"memory_{name}",
                what=f"growth of the {name}'s resident memory over rankings and model swaps, after warm-up",
                ratios=[100 * (last - first) / first],
                limit=5.0,
                unit="%",
                measured={
                    "rankings": (len(sizes) - 1) * (scale.n_memory // n_parts),
                    "swaps": swaps,
                    "warm_up_rankings": warm_up,
                    "megabytes": [round(one[name] / 1e6, 1) for one in sizes],
                },
                note="counted, not timed: one repetition; the last three readings' median against the first",
            )
        )
    return results


def _resident(pids: Pids) -> dict[str, float]:
    assert pids.trainer is not None
    return {
        "worker": float(sum(psutil.Process(pid).memory_info().rss for pid in pids.workers)),
        "trainer": float(psutil.Process(pids.trainer).memory_info().rss),
    }
