"""Pages: the first view of the dashboard over a long log, and what the counts that it shows cost the trainer."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bandit import records
from bandit.config import Settings
from bandit.learning.fold import Ended
from bandit.learning.learner import Learner
from bandit.learning.lessons import Course
from bandit.learning.trainer import Trainer
from bandit.loop.counts import DAY, HOUR, LoopCounts
from bandit.loop.counts import LoopState as State
from bandit.records import Decision, Feedback, ItemFeedback, Publish, RankRequest
from bandit.service import Service
from bandit.statistics.attributes import key_of
from bandit.statistics.folding import Statistics
from bandit.store.data import DataDirectory
from bandit.store.items import versions
from bandit.store.log import Txn
from bandit.store.loop import stretch_at, write_loop
from bandit.store.models import TrainerState, append_publish, newest_models, write_trainer_state
from bandit.store.statistics import StoredEpoch, all_tallies, append_epoch
from tests.bench.results import Result
from tests.bench.session import Session
from tests.bench.workload import VW, Workload, drain, interleaved, item_id, put_items, quantile
from tests.service import RunningService

BROWSER: Final = {"Accept": "text/html"}
LASTED_S: Final = 30 * DAY
#: Candidates of a feed.
OFFERED: Final = 50
TEMPLATES: Final = 200
AT_ONCE: Final = 20_000
WINDOW_S: Final = 600.0


class Clock:
    """UTC seconds that pass when told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Logged(NamedTuple):
    """A feed as the log has it, to be repeated."""

    decision: Decision
    payload: str
    candidates: bytes
    user: str
    feedback: str
    rewards: dict[int, float]


@contextmanager
def opened_at(path: Path, clock: Clock) -> Iterator[Service]:
    """A service on a data directory that has this time."""
    path.mkdir(parents=True, exist_ok=True)
    data = DataDirectory(Settings(data=path, vw=VW, publish_ms=10, durable=False), clock=clock)
    try:
        yield Service(data, clock=clock)
    finally:
        data.close()


# ---------------------------------------------------------------- the first view


def dashboard(session: Session) -> list[Result]:
    """`GET /` of a service that was just started, over HTTP, its log not in memory; and the one after it."""
    scale = session.scale
    data = session.folder / "long"
    session.say(f"making a log of {scale.n_feeds:,} feeds")
    size = _long_log(data, session.workload, n_feeds=scale.n_feeds, n_items=scale.n_counted_items)
    first, second = [], []
    for _ in range(scale.http_repetitions):
        _forget(data)
        with RunningService(data, vw=VW) as service:
            first.append(_seconds(service))
            second.append(quantile([_seconds(service) for _ in range(5)], 0.5))
    return [
        Result(
            name="dashboard",
            what=f"first view of the dashboard over {scale.n_feeds:,} feeds, service just started",
            ratios=first,
            limit=1.0,
            unit="s",
            measured={
                "next_view_s": quantile(second, 0.5),
                "log_megabytes": size / 1e6,
                "counted_items": scale.n_counted_items,
            },
            note="the log's file is dropped from the page cache before each start",
        )
    ]


def _seconds(service: RunningService) -> float:
    started = time.perf_counter()
    reply = service.call("GET", "/?span=all", headers=BROWSER)
    taken = time.perf_counter() - started
    assert reply.status == 200, reply.content[-500:]
    assert b'id="table-rewards"' in reply.content, "there is nothing to see"
    return taken


def _forget(data: Path) -> None:
    """Have the system read the log from the disk again."""
    for path in data.glob("log.db*"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _long_log(path: Path, workload: Workload, *, n_feeds: int, n_items: int) -> int:
    """A month of feeds, each answered, in a data directory as a trainer that has read all of it leaves it; bytes.

    Some feeds are ranked and answered for real, and repeated. What the trainer counts of them is counted by its own
    code; a model is published at the end that holds all of them.
    """
    clock = Clock(time.time() - LASTED_S - HOUR)
    with opened_at(path, clock) as service:
        data = service.data
        put_items(service, workload)
        trainer = Trainer(data, clock=clock)
        drain(trainer)
        service.ranker.refresh()
        logged = _templates(service, workload)
        clock.now += 1.0
        drain(trainer)
        began = clock.now + WINDOW_S
        with closing(sqlite3.connect(data.log.path, isolation_level=None)) as log:
            _repeat(log, logged, n_feeds, began)
            _count_items(log, n_items)
        clock.now = began + LASTED_S
        _count(service, logged, n_feeds, began)
        _catch_up(service, clock.now)
        data.log.checkpoint()
    return sum(one.stat().st_size for one in path.glob("log.db*"))


def _templates(service: Service, workload: Workload) -> list[Logged]:
    """Feeds, ranked and answered."""
    rng = random.Random(3)
    log = service.data.log
    found = []
    for request in (workload.requests() * TEMPLATES)[:TEMPLATES]:
        before = log.last_position()
        reply = service.rank(RankRequest(request.candidates[:OFFERED], user=request.user, context=request.context))
        seen = [
            ItemFeedback(placed.id, signals={"watch_s": round(60 * rng.random(), 1)}, final=True)
            for placed in reply.ranking
        ]
        service.feedback([Feedback(reply.event_id, seen)])
        row, answer = log.read(before, 2, candidates=True)
        decision: Decision = records.read_stored(row.payload, Decision, what="a decision")
        rewards = {place: rng.random() for place in range(len(reply.ranking))}
        assert row.candidates is not None
        assert decision.user is not None
        found.append(Logged(decision, row.payload.decode(), row.candidates, decision.user, answer.payload.decode(),
                            rewards))  # fmt: skip
    return found


def _at(began: float, number: int, n: int) -> float:
    return began + LASTED_S * number / n


def _repeat(log: sqlite3.Connection, logged: Sequence[Logged], n_feeds: int, began: float) -> None:
    """Each feed and what came back for it, over and over."""
    log.execute("PRAGMA synchronous=OFF")
    insert = "INSERT INTO log (ts, kind, event_id, payload, candidates, user) VALUES (?, ?, ?, ?, ?, ?)"
    for start in range(0, n_feeds, AT_ONCE):
        rows: list[tuple[object, ...]] = []
        for number in range(start, min(start + AT_ONCE, n_feeds)):
            one, at, event_id = logged[number % len(logged)], _at(began, number, n_feeds), f"long-{number:09}"
            rows.append((at, "decision", event_id, one.payload, one.candidates, one.user))
            rows.append((at, "feedback", event_id, one.feedback, None, None))
        log.execute("BEGIN")
        log.executemany(insert, rows)
        log.execute("COMMIT")
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _count_items(log: sqlite3.Connection, n_items: int) -> None:
    """Tallies of many items."""
    rng = random.Random(6)
    ids = [item_id(number) for number in range(n_items)]
    keys = [key_of("item", one) for one in ids]
    log.execute("BEGIN")
    log.executemany(
        "INSERT OR REPLACE INTO tallies VALUES (?, 1, ?, ?, ?, 0, 0, 0, ?, 1)",
        [(key, rng.randrange(1, 100_000), rng.uniform(1, 2_000), rng.uniform(0, 500), time.time()) for key in keys],
    )
    names = [(key, "item", one) for key, one in zip(keys, ids, strict=True)]
    log.executemany("INSERT OR REPLACE INTO attribute_names (key, attribute, value) VALUES (?, ?, ?)", names)
    log.execute("COMMIT")


def _count(service: Service, logged: Sequence[Logged], n_feeds: int, began: float) -> None:
    """What `LoopCounts` makes of the feeds, stored as the trainer stores it."""
    log, config = service.data.log, service.config()
    last = log.last_position()
    first = last - 2 * n_feeds + 1
    counts = LoopCounts(State(), lambda span, start: stretch_at(log, span, start))
    waiting: deque[tuple[float, Ended]] = deque()
    for number in range(n_feeds):
        one, at, pos = logged[number % len(logged)], _at(began, number, n_feeds), first + 2 * number
        counts.begin(pos, at)
        while waiting and waiting[0][0] <= at:
            counts.ended(waiting.popleft()[1])
        event_id = f"long-{number:09}"
        counts.decided(pos, event_id, one.decision, one.candidates, config)
        waiting.append((at + WINDOW_S, Ended(pos, True, True, False, one.rewards)))
        counts.end()
        counts.begin(pos + 1, at)
        counts.reported(event_id, is_open=True)
        counts.end()
        if number % AT_ONCE == AT_ONCE - 1:
            _write(service, counts)
    counts.gauge("weights", 100_000.0)
    _write(service, counts)


def _write(service: Service, counts: LoopCounts) -> None:
    changes = counts.changes(1)
    service.data.log.append(lambda txn: write_loop(txn, changes))
    counts.clean()


def _catch_up(service: Service, at: float) -> None:
    """A trainer that starts here has nothing to read."""
    log = service.data.log
    last, newest = log.last_position(), newest_models(log)[0]
    learned = 10 * last
    publish = Publish(digest=newest.digest, position=last, reads_from=last + 1, learned=learned)
    statistics = Statistics(lambda numbers: versions(log, numbers), tallies=all_tallies(log))

    def write(txn: Txn) -> None:
        append_publish(txn, publish, {newest.digest: newest.weights_digest})
        append_epoch(txn, statistics.changes(), StoredEpoch(last, at, "0" * 32))
        write_trainer_state(txn, TrainerState(last, at, 0, learned, b"{}", None))

    log.append(write)


# ---------------------------------------------------------------- what counting costs


def counting(session: Session) -> list[Result]:
    """Reading, folding and teaching a log with the counts of the loop, against the same without them."""
    scale = session.scale
    folder = session.folder / "counted"
    clock = Clock(time.time() - DAY)
    n = 4 * scale.n_slots
    with opened_at(folder, clock) as service:
        put_items(service, session.workload)
        trainer = Trainer(service.data, clock=clock)
        drain(trainer)
        service.ranker.refresh()
        rng, requests = random.Random(3), session.workload.requests()
        for number in range(n):
            request = requests[number % len(requests)]
            reply = service.rank(RankRequest(request.candidates[:OFFERED], user=request.user, context=request.context))
            seen = [
                ItemFeedback(placed.id, signals={"watch_s": round(60 * rng.random(), 1)}, final=True)
                for placed in reply.ranking
            ]
            service.feedback([Feedback(reply.event_id, seen)])
            clock.now += 2.0
        # All windows end.
        clock.now += WINDOW_S
        service.rank(RankRequest(["last"]))
        log, args = service.data.log, service.data.args

        def fold(loop: LoopCounts | None) -> float:
            statistics = Statistics(lambda numbers: versions(log, numbers))
            with Learner(args, scratch=session.folder) as learner:
                course = Course(log, learner, statistics=statistics, loop=loop)

                # Of the processor: whoever else uses the machine does not count.
                started = time.process_time_ns()
                while rows := log.read(course.position, 500, candidates=True):
                    for row in rows:
                        course.take(row)
                if loop is not None:
                    loop.changes(1)
                return (time.process_time_ns() - started) / 1_000 / n

        pairs = interleaved(
            lambda _: [fold(LoopCounts(State()))], lambda _: [fold(None)], repetitions=scale.http_repetitions
        )
    return [
        Result(
            name="counting",
            what="folding and teaching feeds of 10 slots, with the counts of the loop, against without",
            ratios=[counted / bare for counted, bare in pairs],
            limit=1.1,
            measured={
                "counted_us_a_feed": quantile([counted for counted, _ in pairs], 0.5),
                "bare_us_a_feed": quantile([bare for _, bare in pairs], 0.5),
            },
            note="processor time",
        )
    ]
