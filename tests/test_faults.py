"""Disks that are full, databases that are locked or corrupt, files that are torn, and a trainer that is dead."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import random
import resource
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bandit.config import Settings
from bandit.errors import CorruptModel
from bandit.learning.trainer import Trainer
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.models import newest_models
from bandit.web.app import create_app
from tests.conftest import Api, Clock, Loop
from tests.service import Reply, RunningService, wait_for

PAGE = 4096


def teach(api: Api | RunningService, n: int = 1) -> str:
    """Rank and reward ``n`` times; the last event's id."""
    for _ in range(n):
        event_id: str = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
        items = [{"id": "a", "reward": 1, "seen": True, "final": True}]
        assert api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202
    return event_id


def refused_for_now(reply: Reply) -> bool:
    """Whether it is the one answer that is right while the log is away; anything else but a success is wrong."""
    if reply.status < 300:
        return False
    assert (reply.status, reply.body["error"]["code"]) == (503, "log_unavailable"), reply
    assert int(reply.headers["Retry-After"]) >= 1
    return True


# ---------------------------------------------------------------- torn model files, in this process


def spoil(path: Path, how: str) -> None:
    """Damage a file as power cuts and bad disks do."""
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "altered":
        path.write_bytes(data[:-7] + bytes([data[-7] ^ 0x40]) + data[-6:])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


HOW = ["truncated", "altered", "empty", "missing"]


def files_of_newest(loop: Loop) -> tuple[Path, Path]:
    """Regressor and weights."""
    newest, folder = newest_models(loop.data.log)[0], loop.data.path / "models"
    return folder / f"{newest.digest}.vw", folder / f"{newest.weights_digest}.weights"


def publish_unseen(api: Api, loop: Loop) -> None:
    """Let the trainer publish something new that the service has not looked at yet."""
    teach(api)
    loop.clock.pass_(1)
    while loop.trainer.step():
        pass


@pytest.mark.parametrize("how", HOW)
def test_damaged_weights_are_read_from_the_model_instead(api: Api, loop: Loop, how: str) -> None:
    publish_unseen(api, loop)
    spoil(files_of_newest(loop)[1], how)
    assert loop.service.ranker.refresh()
    assert api.call("GET", "/v1/model").body["learned_slots"] == 1
    assert api.call("GET", "/healthz").body == {"status": "ok"}
    assert api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["ranking"][0]["score"] > 0


@pytest.mark.parametrize("how", HOW)
def test_the_last_good_model_serves_while_the_newest_is_damaged(api: Api, loop: Loop, how: str) -> None:
    before = api.call("GET", "/v1/model").body["version"]
    publish_unseen(api, loop)
    for path in files_of_newest(loop):
        spoil(path, how)
    assert not loop.service.ranker.refresh()
    health = api.call("GET", "/healthz").body
    assert health["status"] == "degraded"
    assert files_of_newest(loop)[0].stem in health["problems"][0]
    body = api.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).body
    assert (body["model_version"], body["fallback"]) == (before, None)
    # The next good one ends it.
    loop.learn()
    teach(api)
    loop.learn()
    assert api.call("GET", "/healthz").body == {"status": "ok"}
    assert api.call("GET", "/v1/model").body["learned_slots"] == 2


def test_a_worker_that_starts_serves_the_newest_model_that_is_whole(api: Api, loop: Loop) -> None:
    teach(api)
    loop.learn()
    good = api.call("GET", "/v1/model").body["version"]
    publish_unseen(api, loop)
    for path in files_of_newest(loop):
        spoil(path, "altered")
    started = Api(create_app(Service(loop.data, clock=loop.clock)).test_client())
    assert started.call("GET", "/v1/model").body["version"] == good
    assert "older" in started.call("GET", "/healthz").body["problems"][0]


@pytest.mark.parametrize("how", HOW)
def test_a_trainer_that_starts_resumes_from_an_older_model_to_the_same_bytes(
    api: Api, loop: Loop, how: str
) -> None:
    teach(api, 3)
    loop.learn()
    teach(api, 3)
    loop.learn()
    loop.trainer.run(lambda: True)
    newest = api.call("GET", "/v1/model").body
    spoil(files_of_newest(loop)[0], how)
    loop.trainer = Trainer(loop.data, clock=loop.clock)
    loop.learn()
    again = api.call("GET", "/v1/model").body
    assert (again["version"], again["learned_slots"]) == (newest["version"], 6)
    assert loop.data.models.read(newest["version"])


def test_a_deleted_folder_of_models_is_made_again(api: Api, loop: Loop) -> None:
    shutil.rmtree(loop.data.path / "models")
    body = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body
    assert body["fallback"] is None
    teach(api)
    loop.learn()
    assert api.call("GET", "/v1/model").body["learned_slots"] == 1
    assert api.call("GET", "/healthz").body == {"status": "ok"}
    newest = newest_models(loop.data.log)[0]
    loop.data.models.map_weights(newest.weights_digest, 1 << loop.data.args.bits)
    for older in newest_models(loop.data.log, 20)[1:]:
        with pytest.raises(CorruptModel):
            loop.data.models.read(older.digest)


# ---------------------------------------------------------------- a corrupt database, in this process


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with items, decisions, feedback and models."""
    path = tmp_path_factory.mktemp("filled") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    loop = Loop(data, clock)
    api = Api(create_app(loop.service).test_client())
    ids = [f"v{k}" for k in range(60)]
    api.call("PUT", "/v1/items", {"items": [{"id": one, "features": {"pad": "x" * 200}} for one in ids]})
    for event in range(40):
        body = {"event_id": f"e{event}", "candidates": ids, "context": {"pad": "y" * 200}}
        first = api.call("POST", "/v1/rank", body).body["ranking"][0]["id"]
        items = [{"id": first, "signals": {"watch_s": 3}, "final": True}]
        api.call("POST", "/v1/feedback", {"event_id": f"e{event}", "feedback_id": f"f{event}", "items": items})
        if event % 10 == 0:
            loop.learn()
    loop.close()
    data.log.query("PRAGMA wal_checkpoint(TRUNCATE)")
    data.close()
    return path


def overwrite(path: Path, rng: random.Random, how: str) -> None:
    """Garbage in a database file, in place; its first page stays."""
    n_pages = path.stat().st_size // PAGE
    with open(path, "r+b") as file:
        for _ in range(rng.randint(1, 12)):
            page = rng.randrange(1, n_pages)
            at = page * PAGE + (0 if how == "pages" else rng.randrange(PAGE - 64))
            file.seek(at)
            file.write(rng.randbytes(PAGE if how == "pages" else 64))
        if how == "tail":
            file.seek(rng.randrange(1, n_pages) * PAGE)
            file.write(rng.randbytes(file.seek(0, os.SEEK_END) - PAGE))


@pytest.mark.parametrize("seed", range(12))
def test_garbage_in_the_database_is_answered_with_503_and_never_a_wrong_propensity(
    filled: Path, tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    path = tmp_path / "data"
    shutil.copytree(filled, path)
    clock = Clock(1_900_000_000)
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    api = Api(create_app(Service(data, clock=clock)).test_client())
    data.log.close()  # What is cached in connections would hide the damage.
    overwrite(path / "log.db", random.Random(seed), ["pages", "bytes", "tail"][seed % 3])
    ids = [f"v{k}" for k in range(60)]
    pages = ("/healthz", "/readyz", "/metrics", "/v1/model")
    calls: list[tuple[str, str, Any]] = [("GET", page, None) for page in pages]
    for k in range(0, 40, 4):
        calls += [
            ("GET", f"/v1/events/e{k}", None),
            ("POST", "/v1/rank", {"event_id": f"e{k}", "candidates": ids, "context": {"pad": "y" * 200}}),
            ("POST", "/v1/rank", {"candidates": ids[: k + 1]}),
            ("POST", "/v1/feedback", {"event_id": f"e{k}", "items": [{"id": "v1"}]}),
            ("POST", f"/v1/events/e{k}/activate", None),
            ("GET", f"/v1/items/v{k}", None),
            ("DELETE", f"/v1/items/v{k}", None),
            ("PUT", "/v1/items", {"items": [{"id": f"v{k}", "features": {"x": k}}]}),
        ]
    calls += [("GET", "/v1/config", None), ("PUT", "/v1/config", {})]
    for method, target, body in calls:
        reply = api.call(method, target, body, headers={"If-Match": '"1"'})
        assert reply.status != 500, (target, reply, caplog.text)
        if reply.status == 503 and target != "/readyz":
            assert refused_for_now(reply)
        if target == "/v1/rank":
            assert reply.status in (200, 503, 409), reply
        if target == "/v1/rank" and reply.status == 200:
            for placed in reply.body["ranking"]:
                assert 0 < placed["propensity"] <= 1
    data.close()


# ---------------------------------------------------------------- the real service


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One worker and a trainer, that the tests below do bad things to; each leaves it well."""
    with RunningService(tmp_path_factory.mktemp("faults") / "data", workers=1, threads=8) as started:
        yield started


def recovers(faulty: RunningService) -> bool:
    """Whether it ranks from a model, and what it is taught is learned."""

    def ranks() -> bool:
        reply = faulty.call("POST", "/v1/rank", {"candidates": ["a", "b"]})
        return reply.status == 200 and reply.body["fallback"] is None

    wait_for(ranks, timeout_s=60, what="a ranking")
    event_id = teach(faulty)
    path = f"/v1/events/{event_id}"
    wait_for(lambda: faulty.call("GET", path).body["slots"][0]["status"] == "learned", what="a lesson", timeout_s=60)
    wait_for(lambda: faulty.call("GET", "/healthz").body == {"status": "ok"}, what="health")
    return True


@contextmanager
def full_disk(*pids: int | None) -> Iterator[None]:
    """No file of these processes can grow; writes beyond the first kilobyte fail as on a full disk."""
    found = [pid for pid in pids if pid is not None]
    before = [psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE) for pid in found]
    try:
        for pid, (_, hard) in zip(found, before, strict=True):
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (1_024, hard))
        yield
    finally:
        for pid, limits in zip(found, before, strict=True):
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, limits)


def test_a_full_disk_refuses_what_must_be_logged_and_nothing_is_made_up(faulty: RunningService) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    body = {"event_id": "full", "candidates": [f"v{k}" for k in range(20)]}
    pids = faulty.pids()
    with full_disk(*pids.workers):
        for _ in range(5):
            assert refused_for_now(faulty.call("POST", "/v1/rank", body))
        assert refused_for_now(faulty.call("POST", "/v1/rank", {"candidates": ["a"]}))
        assert refused_for_now(faulty.call("POST", "/v1/feedback", {"event_id": "x", "items": [{"id": "a"}]}))
        assert refused_for_now(faulty.call("PUT", "/v1/items", {"items": [{"id": "a"}]}))
        config = faulty.call("GET", "/v1/config")
        put = {"If-Match": config.headers["ETag"]}
        assert refused_for_now(faulty.call("PUT", "/v1/config", config.body, headers=put))
        assert faulty.call("GET", "/v1/events/full").status == 404
        assert faulty.call("GET", "/v1/model").status == 200
        assert faulty.call("GET", "/healthz").body["status"] == "degraded"
    reply = faulty.call("POST", "/v1/rank", body)
    assert reply.status == 200
    story = faulty.call("GET", "/v1/events/full").body
    assert [slot["propensity"] for slot in story["slots"]] == [one["propensity"] for one in reply.body["ranking"]]
    assert recovers(faulty)
    assert faulty.pids() == pids


def test_a_disk_that_is_full_for_the_trainer_leaves_rankings_alone(faulty: RunningService) -> None:
    pids = faulty.pids()
    with full_disk(pids.trainer):
        event_id = teach(faulty, 5)
        time.sleep(1.0)
        assert faulty.call("POST", "/v1/rank", {"candidates": ["a"]}).body["fallback"] is None
        assert faulty.call("GET", f"/v1/events/{event_id}").body["slots"][0]["status"] == "open"
    path = f"/v1/events/{event_id}"
    wait_for(lambda: faulty.call("GET", path).body["slots"][0]["status"] == "learned", timeout_s=60, what="a lesson")
    assert recovers(faulty)


def test_a_database_that_another_process_locks_is_waited_for_then_refused(faulty: RunningService) -> None:
    assert recovers(faulty)
    other = sqlite3.connect(faulty.data / "log.db", isolation_level=None)
    replies: list[tuple[float, Reply]] = []

    def rank() -> None:
        began = time.monotonic()
        reply = faulty.call("POST", "/v1/rank", {"candidates": ["a", "b"]})
        replies.append((time.monotonic() - began, reply))

    try:
        other.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=rank) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Each waits at most for the batch before it and then for its own.
        assert all(refused_for_now(reply) for _, reply in replies)
        assert max(seconds for seconds, _ in replies) < 8
        # Reading goes on.
        assert faulty.call("GET", "/v1/model").status == 200
        replies.clear()
        thread = threading.Thread(target=rank)
        thread.start()
        time.sleep(0.5)
        other.execute("COMMIT")
        thread.join()
        assert [reply.status for _, reply in replies] == [200]
    finally:
        other.close()
    assert recovers(faulty)


def test_rankings_go_on_while_the_trainer_is_stopped(faulty: RunningService) -> None:
    trainer = faulty.pids().trainer
    assert trainer is not None
    # Not while it writes: whoever is stopped there holds the lock of all writers.
    with open(faulty.data / "log.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.kill(trainer, signal.SIGSTOP)
        fcntl.flock(lock, fcntl.LOCK_UN)
    try:
        statuses = Counter(faulty.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).status for _ in range(30))
        assert statuses == {200: 30}
        event_id = teach(faulty)
        assert faulty.call("GET", f"/v1/events/{event_id}").body["slots"][0]["status"] == "open"
    finally:
        os.kill(trainer, signal.SIGCONT)
    assert recovers(faulty)
    assert faulty.pids().trainer == trainer


def test_rankings_go_on_while_the_trainer_is_killed_again_and_again(faulty: RunningService) -> None:
    for _ in range(3):
        trainer = wait_for(lambda: faulty.pids().trainer, timeout_s=60, what="a trainer")
        os.kill(trainer, signal.SIGKILL)
        wait_for(lambda dead=trainer: faulty.pids().trainer != dead, what="its end")  # type: ignore[misc]
        for _ in range(10):
            body = faulty.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).body
            assert body["fallback"] is None
            assert math.prod(placed["propensity"] for placed in body["ranking"]) > 0
    assert recovers(faulty)


def test_a_folder_of_models_that_vanishes_is_survived(faulty: RunningService) -> None:
    pids = faulty.pids()
    shutil.rmtree(faulty.data / "models")
    assert faulty.call("POST", "/v1/rank", {"candidates": ["a"]}).body["fallback"] is None
    assert recovers(faulty)
    assert faulty.pids().workers == pids.workers


def test_weights_cut_short_under_a_worker_cost_no_more_than_its_restart(faulty: RunningService) -> None:
    assert recovers(faulty)
    for path in (faulty.data / "models").glob("*.weights"):
        os.truncate(path, 0)
    candidates = [f"v{k}" for k in range(200)]

    def ranks() -> bool:
        reply = faulty.call("POST", "/v1/rank", {"candidates": candidates})
        return reply.status == 200 and reply.body["fallback"] is None

    wait_for(ranks, timeout_s=60, what="a ranking")
    assert recovers(faulty)


def test_garbage_in_the_live_database_is_no_500(faulty: RunningService) -> None:
    """The last one: it spoils the log for good."""
    faulty.call("PUT", "/v1/items", {"items": [{"id": f"v{k}", "features": {"pad": "x" * 200}} for k in range(500)]})
    teach(faulty, 30)
    time.sleep(1.0)
    overwrite(faulty.data / "log.db", random.Random(5), "tail")
    statuses: Counter[int] = Counter()
    for k in range(60):
        for method, path, body in (
            ("POST", "/v1/rank", {"candidates": ["a", f"v{k}"]}),
            ("POST", "/v1/rank", {"event_id": f"e{k}", "candidates": [f"v{k + 9}", f"v{k}"]}),
            ("POST", "/v1/feedback", {"event_id": f"e{k}", "items": [{"id": "a"}]}),
            ("GET", "/v1/model", None),
            ("GET", "/healthz", None),
        ):
            statuses[faulty.call(method, path, body).status] += 1
    assert statuses[500] == 0, faulty.log()[-5_000:]
    assert set(statuses) <= {200, 202, 404, 503}
