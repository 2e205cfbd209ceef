"""Nothing is acknowledged before the WAL that holds it has been synced; and one sync serves all who wait."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bandit.errors import LogUnavailable
from bandit.store.log import EventLog, Txn
from tests.conftest import Clock


class Disk:
    """Stands for fdatasync: notes which file, and how long the WAL was, at each call; can fail or wait."""

    def __init__(self) -> None:
        self.synced: list[tuple[str, int]] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._real = os.fdatasync

    def fdatasync(self, descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        size = os.fstat(descriptor).st_size
        self.entered.set()
        self.gate.wait(20)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._real(descriptor)
        self.synced.append((name, size))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    return disk


@pytest.fixture
def durable_log(tmp_path: Path, clock: Clock) -> Iterator[EventLog]:
    log = EventLog(tmp_path, durable=True, clock=clock)
    log.migrate()
    yield log
    log.close()


def tick(txn: Txn) -> int:
    return txn.append("tick", b"{}")


def test_an_append_returns_after_the_wal_that_holds_it_is_synced(durable_log: EventLog, disk: Disk) -> None:
    for n in range(1, 4):
        durable_log.append(tick)
        assert len(disk.synced) == n
        name, size = disk.synced[-1]
        assert name == f"{durable_log.path}-wal"
        assert size == os.path.getsize(name)


def test_it_does_not_return_while_the_disk_is_not_done(durable_log: EventLog, disk: Disk) -> None:
    durable_log.append(tick)
    disk.gate.clear()
    disk.entered.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(durable_log.append, tick)
        assert disk.entered.wait(20)
        assert not waiting.done()
        disk.gate.set()
        assert waiting.result(20) == 2


def test_writers_go_on_during_a_sync_and_share_the_next(durable_log: EventLog, disk: Disk) -> None:
    durable_log.append(tick)
    before = len(disk.synced)
    disk.gate.clear()
    disk.entered.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(durable_log.append, tick)
        assert disk.entered.wait(20)
        others = [pool.submit(durable_log.append, tick) for _ in range(8)]
        while durable_log.last_position() < 10:
            assert not any(one.done() for one in others)
        disk.gate.set()
        assert sorted(one.result(20) for one in (first, *others)) == list(range(2, 11))
    assert len(disk.synced) - before <= 3, "the first one's, and one or two for the eight that came meanwhile"


def test_a_failed_sync_acknowledges_nothing_and_the_log_recovers(durable_log: EventLog, disk: Disk) -> None:
    disk.fails = True
    with pytest.raises(LogUnavailable, match="durable"):
        durable_log.append(tick)
    disk.fails = False
    durable_log.append(tick)
    assert disk.synced


def test_what_another_process_wrote_is_synced_before_it_is_told_again(
    tmp_path: Path, clock: Clock, durable_log: EventLog, disk: Disk
) -> None:
    other = EventLog(tmp_path, durable=False, clock=clock)
    other.append(tick)
    assert disk.synced == []
    durable_log.sync()
    assert [name for name, _ in disk.synced] == [f"{durable_log.path}-wal"]
    other.close()


def test_without_durability_nothing_is_synced(tmp_path: Path, clock: Clock, disk: Disk) -> None:
    log = EventLog(tmp_path, durable=False, clock=clock)
    log.migrate()
    log.append(tick)
    log.sync()
    assert disk.synced == []
    log.close()


def test_a_wal_that_was_begun_again_is_still_the_one_that_is_synced(durable_log: EventLog, disk: Disk) -> None:
    durable_log.append(tick)
    durable_log.query("PRAGMA wal_checkpoint(RESTART)")
    durable_log.append(tick)
    durable_log.close()
    durable_log.append(tick)
    for name, _ in disk.synced:
        assert name == f"{durable_log.path}-wal"
