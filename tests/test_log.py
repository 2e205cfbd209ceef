"""The event log: what was acknowledged is there, once, in order; and an engineer can read it."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from bandit.errors import IdConflict, LogUnavailable
from bandit.records import (
    ActivateRequest,
    Candidate,
    Feedback,
    Item,
    ItemFeedback,
    ItemsRequest,
    RankRequest,
    User,
    body_hash,
)
from bandit.store import log as log_module
from bandit.store.log import EventLog, Txn
from tests.conftest import Clock, Loop, watch_worth


@pytest.fixture
def fresh_log(tmp_path: Path, clock: Clock) -> Iterator[EventLog]:
    # Not fsynced: a test cannot cut the power, and can be slow.
    log = EventLog(tmp_path, durable=False, clock=clock)
    log.migrate()
    yield log
    log.close()


def append(log: EventLog, event_id: str | None = None, *, feedback_id: str | None = None, kind: str = "tick") -> int:
    return log.append(lambda txn: txn.append(kind, b"{}", event_id=event_id, feedback_id=feedback_id))


def kinds_and_ids(log: EventLog) -> list[tuple[str, str | None]]:
    return [(row.kind, row.event_id) for row in log.read(0, 100_000)]


# ---------------------------------------------------------------- order and time


def test_positions_rise_by_one_and_are_never_given_twice(fresh_log: EventLog) -> None:
    assert [append(fresh_log) for _ in range(5)] == [1, 2, 3, 4, 5]
    fresh_log.append(lambda txn: txn.execute("DELETE FROM log WHERE pos >= 4"))
    assert append(fresh_log) == 6


def test_time_never_goes_back_though_the_clock_is_set_back(fresh_log: EventLog, clock: Clock) -> None:
    for seconds in (0.0, 5.0, -3_600.0, 1.0, 3_700.0):
        clock.pass_(seconds)
        append(fresh_log)
    times = [row.ts - 1_800_000_000.0 for row in fresh_log.read(0, 10)]
    assert times == [0.0, 5.0, 5.0, 5.0, 106.0]


def test_time_never_goes_back_for_a_process_whose_clock_is_behind(tmp_path: Path) -> None:
    ahead = EventLog(tmp_path, durable=False, clock=lambda: 2_000.0)
    behind = EventLog(tmp_path, durable=False, clock=lambda: 1_000.0)
    try:
        ahead.migrate()
        for log in (ahead, behind, ahead, behind):
            append(log)
        assert [row.ts for row in behind.read(0, 10)] == [2_000.0] * 4
    finally:
        ahead.close()
        behind.close()


def test_one_transaction_has_one_time(fresh_log: EventLog, clock: Clock) -> None:
    def write(txn: Txn) -> None:
        for _ in range(3):
            txn.append("tick", b"{}")
            clock.pass_(1.0)

    fresh_log.append(write)
    assert len({row.ts for row in fresh_log.read(0, 10)}) == 1


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text() | st.integers(-(2**53), 2**53)))
def test_any_text_survives(fresh_log: EventLog, event_id: str, payload: dict[str, Any]) -> None:
    text = msgspec.json.encode(payload)
    position = fresh_log.append(lambda txn: txn.append("feedback", text, event_id=event_id))
    row = fresh_log.read(position - 1, 1)[0]
    assert (row.pos, row.event_id, row.payload) == (position, event_id, text)
    assert fresh_log.payload_at(position) == text


def test_reading_pages_through_all_in_order(fresh_log: EventLog) -> None:
    for n in range(25):
        append(fresh_log, f"e{n}")
    read: list[int] = []
    while rows := fresh_log.read(read[-1] if read else 0, 7):
        read += [row.pos for row in rows]
    assert read == list(range(1, 26))


def test_time_at_a_position_is_that_of_the_record_there_or_before(fresh_log: EventLog, clock: Clock) -> None:
    assert fresh_log.time_at(7) == 0.0
    append(fresh_log)
    clock.pass_(10.0)
    append(fresh_log)
    assert [fresh_log.time_at(position) - 1_800_000_000.0 for position in (1, 2, 99)] == [0.0, 10.0, 10.0]


# ---------------------------------------------------------------- group commit


class Commits:
    """Counts the transactions that a log commits."""

    def __init__(self, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        transact = log._transact

        def counted(batch: Any) -> None:
            transact(batch)
            self.sizes.append(len(batch))

        monkeypatch.setattr(log, "_transact", counted)


def together(log: EventLog, writes: Sequence[Callable[[Txn], Any]]) -> list[Any]:
    """Results or errors of writes that wait for the log at the same time, in the order of ``writes``."""
    results: list[Any] = [None] * len(writes)

    def run(place: int) -> None:
        try:
            results[place] = log.append(writes[place])
        except BaseException as error:
            results[place] = error

    threads = []
    # One writer holds the log until all the others wait for it.
    log._writing.acquire()
    try:
        for place in range(len(writes)):
            thread = threading.Thread(target=run, args=(place,))
            thread.start()
            threads.append(thread)
            while len(log._pending) <= place:
                time.sleep(0.0005)
    finally:
        log._writing.release()
    for thread in threads:
        thread.join(10.0)
    return results


def test_writes_that_wait_share_a_commit(fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(fresh_log, monkeypatch)
    results = together(fresh_log, [lambda txn: txn.append("tick", b"{}")] * 20)
    assert sorted(results) == list(range(1, 21))
    assert commits.sizes == [20]


def test_a_refused_write_fails_none_of_its_batch(fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(fresh_log, monkeypatch)
    refused = IdConflict("used before")

    def refuse(txn: Txn) -> None:
        raise refused

    results = together(fresh_log, [tick, refuse, tick, refuse, tick])
    assert results == [1, refused, 2, refused, 3]
    assert commits.sizes == [5]


def test_a_write_that_refuses_after_it_wrote_leaves_nothing(fresh_log: EventLog) -> None:
    refused = IdConflict("found out too late")

    def write_then_refuse(txn: Txn) -> None:
        txn.append("decision", b"{}", event_id="half")
        raise refused

    assert together(fresh_log, [write_then_refuse]) == [refused]
    results = together(fresh_log, [tick, write_then_refuse, tick])
    assert results[1] is refused
    assert [kind for kind, _ in kinds_and_ids(fresh_log)] == ["tick", "tick"]


def tick(txn: Txn) -> int:
    return txn.append("tick", b"{}")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda txn: txn.append("decision", b"{}", event_id="taken"), LogUnavailable),
        (lambda txn: txn.append("tick", b"{}", event_id=2**80), OverflowError),
        (lambda txn: txn.append("tick", b"{}", event_id="\ud800"), UnicodeEncodeError),
        (lambda txn: 1 / 0, ZeroDivisionError),
    ],
    ids=["a constraint", "an integer too large", "a lone surrogate", "a bug"],
)
def test_one_bad_row_never_fails_its_batch(fresh_log: EventLog, bad: Any, error: type[Exception]) -> None:
    append(fresh_log, "taken", kind="decision")
    before = fresh_log.last_position()
    results = together(fresh_log, [tick, lambda txn: [tick(txn), bad(txn)], tick, tick])
    assert results[0] == before + 1
    assert type(results[1]) is error
    assert results[2:] == [before + 2, before + 3]
    assert fresh_log.last_position() == before + 3
    # And the log goes on.
    assert append(fresh_log) == before + 4


def test_an_interrupted_writer_acknowledges_nothing_for_the_others(fresh_log: EventLog) -> None:
    class Interrupt(BaseException):
        pass

    def interrupted(txn: Txn) -> None:
        raise Interrupt

    results = together(fresh_log, [tick, interrupted, tick, tick])
    assert any(isinstance(result, Interrupt) for result in results)
    acknowledged = [result for result in results if isinstance(result, int)]
    assert sorted(row.pos for row in fresh_log.read(0, 10)) == sorted(acknowledged)
    assert all(isinstance(result, int | LogUnavailable | Interrupt) for result in results)
    assert append(fresh_log) == len(acknowledged) + 1


def test_threads_append_each_record_once(fresh_log: EventLog) -> None:
    with ThreadPoolExecutor(16) as pool:
        positions = list(pool.map(lambda n: append(fresh_log, f"e{n}"), range(400)))
    assert sorted(positions) == list(range(1, 401))
    by_position = {row.pos: row.event_id for row in fresh_log.read(0, 1_000)}
    assert all(by_position[position] == f"e{n}" for n, position in enumerate(positions))


def _append_many(directory: str, name: str, n: int, go: Any, done: Any) -> None:
    log = EventLog(Path(directory), durable=False, clock=time.time)
    go.wait(30)
    positions = []
    with ThreadPoolExecutor(3) as pool:
        positions = list(pool.map(lambda k: append(log, f"{name}-{k}"), range(n)))
    log.close()
    done.put((name, positions))


def test_processes_append_each_record_once_in_one_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path, durable=False, clock=time.time)
    log.migrate()
    context = multiprocessing.get_context("spawn")
    go, done = context.Event(), context.Queue()
    workers = [
        context.Process(target=_append_many, args=(str(tmp_path), f"p{k}", 150, go, done)) for k in range(3)
    ]
    try:
        for worker in workers:
            worker.start()
        go.set()
        acknowledged = dict(done.get(timeout=60) for _ in workers)
        for worker in workers:
            worker.join(30)
        rows = log.read(0, 10_000)
        assert [row.pos for row in rows] == list(range(1, 451))
        assert [row.ts for row in rows] == sorted(row.ts for row in rows)
        by_position = {row.pos: row.event_id for row in rows}
        for name, positions in acknowledged.items():
            assert all(by_position[position] == f"{name}-{k}" for k, position in enumerate(positions))
    finally:
        log.close()
        done.close()
        done.join_thread()


def _append_until_killed(directory: str, acknowledged: str) -> None:
    log = EventLog(Path(directory), durable=True, clock=time.time)
    with open(acknowledged, "ab", buffering=0) as file:
        for n in range(1_000_000):
            position = append(log, f"e{n}")
            file.write(f"{position} e{n}\n".encode())


def test_what_was_acknowledged_outlives_the_process(tmp_path: Path) -> None:
    log = EventLog(tmp_path, durable=True, clock=time.time)
    log.migrate()
    context = multiprocessing.get_context("spawn")
    acknowledged = tmp_path / "acknowledged"
    rng = random.Random(5)
    try:
        for _ in range(2):
            acknowledged.write_bytes(b"")
            worker = context.Process(target=_append_until_killed, args=(str(tmp_path), str(acknowledged)))
            worker.start()
            give_up_at = time.monotonic() + 30
            while acknowledged.stat().st_size < 200 and time.monotonic() < give_up_at:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.1))
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join(10)
            # The lock of the killed writer is gone with it, and its half transaction too.
            last = append(log)
            by_position = {row.pos: row.event_id for row in log.read(0, 1_000_000)}
            told = [line.split() for line in acknowledged.read_text().splitlines() if line.count(" ") == 1]
            assert len(told) > 10
            assert all(by_position[int(position)] == event_id for position, event_id in told[:-1])
            assert sorted(by_position) == list(range(1, last + 1))
    finally:
        log.close()


# ---------------------------------------------------------------- faults


class Breaking:
    """A connection whose statements fail when told to."""

    def __init__(self, connection: sqlite3.Connection, fails: dict[str, Exception]) -> None:
        self._connection = connection
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *more: Any) -> Any:
        for prefix, error in self._fails.items():
            if sql.startswith(prefix):
                raise error
        return self._connection.execute(sql, *more)


FULL = sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT ts", "INSERT", "COMMIT"])
def test_a_write_that_fails_midway_stores_nothing_and_the_log_recovers(
    fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    append(fresh_log, "before")
    fails: dict[str, Exception] = {}
    connect = fresh_log._connect
    monkeypatch.setattr(fresh_log, "_connect", lambda: Breaking(connect(), fails))
    with fresh_log._writing:
        fresh_log._drop_writer()

    fails[statement] = FULL
    with pytest.raises(LogUnavailable, match="disk is full") as raised:
        append(fresh_log, "lost")
    assert raised.value.status == 503
    assert raised.value.retry_after_s is not None
    assert together(fresh_log, [tick, tick])[0].args[0].startswith("the log cannot be written")
    assert fresh_log.last_error is not None

    fails.clear()
    append(fresh_log, "after")
    assert fresh_log.last_error is None
    assert [event_id for _, event_id in kinds_and_ids(fresh_log)] == ["before", "after"]


def test_a_log_locked_by_another_program_says_so_and_recovers(
    fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "BUSY_TIMEOUT_MS", 50)
    other = sqlite3.connect(fresh_log.path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            append(fresh_log, "lost")
        assert fresh_log.last_position() == 0
        other.execute("ROLLBACK")
        assert append(fresh_log, "kept") == 1
    finally:
        other.close()


def test_the_time_of_a_failed_write_is_not_used_up(fresh_log: EventLog, clock: Clock) -> None:
    clock.pass_(500.0)
    with pytest.raises(ZeroDivisionError):
        fresh_log.append(lambda txn: [tick(txn), 1 / 0])
    clock.pass_(-400.0)
    append(fresh_log)
    assert fresh_log.read(0, 1)[0].ts == 1_800_000_100.0


def test_a_closed_log_can_be_used_again(fresh_log: EventLog) -> None:
    append(fresh_log)
    fresh_log.close()
    assert append(fresh_log) == 2
    assert fresh_log.last_position() == 2


def test_migrating_again_changes_nothing(fresh_log: EventLog) -> None:
    append(fresh_log)
    schema = fresh_log.query("SELECT sql FROM sqlite_master ORDER BY name")
    fresh_log.migrate()
    assert fresh_log.query("SELECT sql FROM sqlite_master ORDER BY name") == schema
    assert fresh_log.last_position() == 1


# ---------------------------------------------------------------- the WAL


def test_the_wal_starts_again_when_it_has_grown_large(
    fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "WAL_RESTART_PAGES", 50)
    for n in range(60):
        fresh_log.append(lambda txn: txn.append("tick", b'"' + b"x" * 20_000 + b'"'))
        if n % 3 == 2:
            fresh_log.checkpoint()
    # All that was written is some 1.5 MB.
    assert Path(f"{fresh_log.path}-wal").stat().st_size < 500_000
    assert fresh_log.last_position() == 60


def test_a_checkpoint_under_load_loses_nothing_and_fails_nobody(
    fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "WAL_RESTART_PAGES", 10)
    stop = threading.Event()

    def checkpoints() -> None:
        while not stop.wait(0.005):
            fresh_log.checkpoint()

    def reads() -> int:
        seen = 0
        while not stop.is_set():
            last = fresh_log.last_position()
            assert last >= seen
            seen = last
        return seen

    with ThreadPoolExecutor(8) as pool:
        background: list[Future[Any]] = [pool.submit(checkpoints), pool.submit(reads)]
        positions = list(pool.map(lambda n: append(fresh_log, f"e{n}"), range(300)))
        stop.set()
        for one in background:
            one.result()
    assert sorted(positions) == list(range(1, 301))


def test_a_reader_that_lingers_keeps_the_wal_but_stops_nobody(
    fresh_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "WAL_RESTART_PAGES", 0)
    monkeypatch.setattr(log_module, "BUSY_TIMEOUT_MS", 50)
    append(fresh_log)
    other = sqlite3.connect(fresh_log.path, isolation_level=None)
    try:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM log").fetchone() == (1,)
        append(fresh_log)
        fresh_log.checkpoint()
        assert append(fresh_log) == 3
        assert other.execute("SELECT count(*) FROM log").fetchone() == (1,)
    finally:
        other.close()
    fresh_log.checkpoint()
    assert append(fresh_log) == 4
    assert fresh_log.last_error is None


# ---------------------------------------------------------------- repeated ids


def test_a_repeated_feedback_id_in_one_batch_is_stored_once(loop: Loop) -> None:
    loop.service.rank(RankRequest(["v1"], event_id="e"))
    feedback = Feedback("e", [ItemFeedback("v1", {"like": 1.0})], feedback_id="f1")
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: loop.service.feedback([feedback])[0].status, range(40)))
    assert sorted(replies) == ["accepted"] + ["duplicate"] * 39
    assert loop.data.log.query("SELECT count(*) FROM log WHERE feedback_id = 'f1'") == [(1,)]


def test_a_repeated_event_id_gets_one_decision_and_one_reply(loop: Loop) -> None:
    ids: list[str | Candidate] = [f"v{k}" for k in range(30)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: loop.service.rank(RankRequest(ids, event_id="e")), range(40)))
    assert all(reply == replies[0] for reply in replies)
    assert loop.data.log.query("SELECT count(*) FROM log WHERE kind = 'decision'") == [(1,)]
    with pytest.raises(IdConflict):
        loop.service.rank(RankRequest(ids[:5], event_id="e"))


def test_the_hash_of_a_body_is_part_of_the_format() -> None:
    """It stands in the log: were it worked out differently, a retry across an upgrade would be refused."""
    feedback = Feedback("e", [ItemFeedback("v1", {"watch_s": 1.5, "like": 1.0})], feedback_id="f1")
    assert body_hash(feedback).hex() == "38c8b0f9097d71129f2d16139757377c"
    other_order = Feedback("e", [ItemFeedback("v1", {"like": 1.0, "watch_s": 1.5})], feedback_id="f1")
    assert body_hash(other_order) == body_hash(feedback)


# ---------------------------------------------------------------- for human eyes


@pytest.fixture
def told(loop: Loop) -> Loop:
    """A day's work in small: a catalogue, decisions, feedback, an activation, a model."""
    features = msgspec.Raw(b'{"genre":"noir"}')
    loop.service.put_items(ItemsRequest([Item("v1", features), Item("v2", features)]))
    loop.service.rank(RankRequest(["v1", "v2", "v3"], event_id="e1", user=User("ann"), slots=2))
    loop.service.rank(RankRequest(["v1"], event_id="e2", defer_activation=True))
    shown = [row["id"] for row in Database(loop.data.log.path).query("SELECT id FROM slots WHERE event_id = 'e1'")]
    loop.service.feedback(
        [Feedback("e1", [ItemFeedback(shown[0], {"watch_s": 30.0, "like": 1.0}, final=True)], feedback_id="f1")]
    )
    loop.service.feedback([Feedback("e1", [ItemFeedback(shown[1], seen=False)])])
    loop.service.activate("e2", ActivateRequest())
    loop.learn()
    loop.end_windows()
    return loop


def rows_of(loop: Loop, view: str) -> list[dict[str, Any]]:
    database = Database(loop.data.log.path)
    try:
        return list(database.query(f"SELECT * FROM {view}"))
    finally:
        database.close()


def test_the_log_names_its_views_and_tables(told: Loop) -> None:
    database = Database(told.data.log.path)
    try:
        assert {"decisions", "slots", "feedback"} <= set(database.view_names())
        assert {"log", "items", "item_versions", "outcomes", "models", "trainer"} <= set(database.table_names())
    finally:
        database.close()


def test_decisions_read_as_they_were_made(told: Loop) -> None:
    first, second = rows_of(told, "decisions")
    assert first["event_id"] == "e1"
    assert first["at"] == "2027-01-15T08:00:00.000Z"
    assert (first["user"], first["n_candidates"], first["scored"], first["n_slots"]) == ("ann", 3, 3, 2)
    assert (first["config"], first["fallback"], first["deferred"]) == (1, None, 0)
    assert first["model"] is not None
    assert msgspec.json.decode(first["shared"])["U"]["id"] == "ann"
    assert (second["event_id"], second["user"], second["n_candidates"], second["deferred"]) == ("e2", None, 1, 1)


def test_slots_read_with_what_became_of_them(told: Loop) -> None:
    rows = [row for row in rows_of(told, "slots") if row["event_id"] == "e1"]
    assert [row["slot"] for row in rows] == [0, 1]
    assert rows[0]["propensity"] == pytest.approx(1 / 3)
    assert rows[1]["propensity"] == pytest.approx(1 / 2)
    assert [row["score"] for row in rows] == [0.0, 0.0]
    assert (rows[0]["status"], rows[0]["evidence"], rows[0]["reward"]) == (
        "learned", "signal:watch_s", 1 + watch_worth(30),
    )  # fmt: skip
    assert (rows[1]["status"], rows[1]["reward"]) == ("unseen", None)


def test_feedback_reads_item_by_item(told: Loop) -> None:
    rows = rows_of(told, "feedback")
    assert [(row["event_id"], row["feedback_id"], row["final"], row["seen"]) for row in rows] == [
        ("e1", "f1", 1, None), ("e1", None, None, 0),
    ]  # fmt: skip
    assert msgspec.json.decode(rows[0]["signals"]) == {"watch_s": 30.0, "like": 1.0}
    assert rows[0]["at"] == "2027-01-15T08:00:00.000Z"


def test_outcomes_and_models_read_as_tables(told: Loop) -> None:
    outcomes = rows_of(told, "outcomes")
    assert {(row["event_id"], row["slot"], row["status"]) for row in outcomes} == {
        ("e1", 0, "learned"), ("e1", 1, "unseen"),
    }  # fmt: skip
    models = rows_of(told, "models")
    assert models[0]["learned"] == 0
    assert models[-1]["learned"] == 1
    assert models[-1]["position"] < models[-1]["published_pos"]


def test_every_distinct_feature_set_is_stored_once(told: Loop) -> None:
    features = msgspec.Raw(b'{"genre":"noir"}')
    before = rows_of(told, "item_versions")
    told.service.put_items(ItemsRequest([Item("v1", features), Item("v2", msgspec.Raw(b'{"genre":"farce"}'))]))
    told.service.put_items(ItemsRequest([Item("v2", features)]))
    after = rows_of(told, "item_versions")
    assert len(after) == len(before) + 1
    assert [row["version"] for row in rows_of(told, "items")] == [row["version"] for row in before[:2]]
