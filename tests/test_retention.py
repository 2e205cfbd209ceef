"""The log reaches back so far and no further; it goes on from a base."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandit.config import Settings
from bandit.learning import housekeeping
from bandit.records import Feedback, ItemFeedback, RankRequest, User
from bandit.store.bases import bases
from bandit.store.data import DataDirectory
from bandit.store.models import newest_models
from bandit.store.retention import KEPT, cut_of, first_since, used_bytes
from bandit.store.statistics import stored_viewer
from replay.doctor import diagnose, report
from replay.readers.service import ServiceLog
from replay.rebuild import rebuild
from tests.conftest import Clock, Loop
from tests.service import ROOT
from tests.test_erasure import GONE, erase, holds

DAY_S = 86_400.0


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "FEWEST_RECORDS", 20)
    monkeypatch.setattr(housekeeping, "SCRUB_EVERY_S", 0.0)


def opened(path: Path, clock: Clock, **settings: float) -> Loop:
    path.mkdir(exist_ok=True)
    return Loop(DataDirectory(Settings(path, durable=False, **settings), clock=clock), clock)  # type: ignore[arg-type]


def closed(loop: Loop) -> None:
    loop.close()
    loop.data.close()


@pytest.fixture
def ten_days(tmp_path: Path, clock: Clock, often: None) -> Iterator[Loop]:
    loop = opened(tmp_path / "data", clock, retain_days=10.0)
    yield loop
    closed(loop)


def live(loop: Loop, days: int, *, user: str = "grace", n: int = 6, start: int = 0, final: bool = True) -> None:
    """So many days of so many feeds."""
    for day in range(start, start + days):
        for k in range(n):
            event_id = f"event-{user}-{day}-{k}"
            reply = loop.service.rank(
                RankRequest(["v1", "v2", "v3"], event_id=event_id, user=User(f"{user}-{day % 3}"))
            )
            told = [ItemFeedback(one.id, {"watch_s": 5.0 * one.slot + day}, final=final) for one in reply.ranking]
            loop.service.feedback([Feedback(event_id, told)])
        loop.clock.pass_(DAY_S - 10.0)
        loop.learn()
        for _ in range(5):
            loop.clock.pass_(2.0)
            loop.trainer.step()


def oldest_decision(loop: Loop) -> tuple[int, float]:
    return loop.data.log.query("SELECT pos, ts FROM log WHERE kind = 'decision' ORDER BY pos LIMIT 1")[0]


# ---------------------------------------------------------------- by age


def test_what_is_too_old_goes_and_what_is_not_stays(ten_days: Loop) -> None:
    live(ten_days, 40)
    position, ts = oldest_decision(ten_days)
    age = (ten_days.clock.now - ts) / DAY_S
    assert 9.5 <= age <= 10.5
    assert 1 < cut_of(ten_days.data.log) <= position
    (n_outcomes,) = ten_days.data.log.query("SELECT min(decision_pos) FROM outcomes")[0]
    assert n_outcomes >= cut_of(ten_days.data.log)
    kinds = {row[0] for row in ten_days.data.log.query("SELECT kind FROM log WHERE pos < ?", (position,))}
    assert kinds <= {*KEPT, "publish", "epoch", "tick"}
    assert holds(ten_days.data.path, "event-grace-0-0", "event-grace-20-5") == []
    assert holds(ten_days.data.path, "event-grace-39-0")


def test_models_and_statistics_are_built_again_from_the_oldest_base(ten_days: Loop) -> None:
    live(ten_days, 25)
    live(ten_days, 3, start=25, final=False)
    found = bases(ten_days.data.log)
    assert 1 < len(found) <= 12
    assert [one.base.cause for one in found] == ["retention"] * len(found)
    result = rebuild(ten_days.data.path)
    assert result.ok
    assert result.base == found[0].base.position
    assert result.matched >= 10
    assert result.epochs >= 10


def test_files_of_bases_and_their_models_are_bounded(ten_days: Loop) -> None:
    live(ten_days, 30)
    found = [one.base for one in bases(ten_days.data.log)]
    files = {path.stem for path in ten_days.data.bases.folder.iterdir()}
    assert files == {one.statistics for one in found}
    for one in found:
        assert one.model is not None
        ten_days.data.models.read(one.model)


def test_profiles_and_the_catalogue_stay(ten_days: Loop) -> None:
    live(ten_days, 2, user="early")
    live(ten_days, 30, start=2)
    assert stored_viewer(ten_days.data.log, "early-0") is not None
    reply = ten_days.service.rank(RankRequest(["v1", "v2"], user=User("early-0")))
    assert len(reply.ranking) == 2


def test_a_start_goes_on_from_what_is_left(ten_days: Loop, clock: Clock) -> None:
    live(ten_days, 25, final=False)
    ten_days.close()
    again = Loop(ten_days.data, clock)
    live(again, 5, start=25, final=False)
    again.close()
    assert rebuild(ten_days.data.path).ok


def test_positions_are_not_given_twice(ten_days: Loop) -> None:
    live(ten_days, 15)
    last = ten_days.data.log.last_position()
    ten_days.data.log.append(lambda txn: txn.execute("DELETE FROM log WHERE pos > 10").rowcount)
    assert ten_days.data.log.append(lambda txn: txn.append("tick", b"{}")) == last + 1


def test_an_erasure_does_not_stop_the_log_from_rotating(ten_days: Loop) -> None:
    live(ten_days, 12)
    live(ten_days, 1, user=GONE, start=12)
    erase(ten_days, f"{GONE}-0")
    live(ten_days, 5, start=13)
    age = (ten_days.clock.now - oldest_decision(ten_days)[1]) / DAY_S
    assert age <= 12.5
    assert rebuild(ten_days.data.path).ok


def test_the_doctor_and_the_reader_say_where_the_log_begins(ten_days: Loop) -> None:
    live(ten_days, 25)
    log = ServiceLog(ten_days.data.path)
    diagnosis = diagnose(log)
    log.close()
    assert diagnosis.deleted_before == cut_of(ten_days.data.log) > 1
    assert f"begins at position {diagnosis.deleted_before:,}" in report(diagnosis)
    assert 50 < diagnosis.events < 100


def test_a_kill_between_two_deletions_is_gone_on_from(tmp_path: Path, clock: Clock, often: None) -> None:
    loop = opened(tmp_path / "data", clock, retain_days=1000.0)
    live(loop, 12)
    # A base from then, as a shorter reach would have had.
    loop.trainer._rebase("retention")
    live(loop, 12, start=12)
    closed(loop)
    code = f"""
    import os, signal, sys
    from pathlib import Path
    from bandit.learning import housekeeping
    from bandit.config import Settings
    from bandit.store.data import DataDirectory
    from bandit.learning.trainer import Trainer
    housekeeping.FEWEST_RECORDS = 20
    calls = []
    real = housekeeping.delete_before
    def killed(txn, cut, target, at_once):
        calls.append(1)
        if len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(txn, cut, target, 10)
    housekeeping.delete_before = killed
    data = DataDirectory(Settings(Path(sys.argv[1]), durable=False, retain_days=5.0), clock=lambda: {clock.now!r})
    trainer = Trainer(data, clock=lambda: {clock.now!r})
    for _ in range(100):
        trainer.step()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "data")],
        cwd=ROOT, capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    again = opened(tmp_path / "data", clock, retain_days=5.0)
    assert 1 < cut_of(again.data.log) < 100
    assert rebuild(again.data.path).ok
    live(again, 2, start=24)
    assert cut_of(again.data.log) > 100
    assert rebuild(again.data.path).ok
    closed(again)


# ---------------------------------------------------------------- by size


def test_the_file_stays_near_what_is_allowed(tmp_path: Path, clock: Clock, often: None) -> None:
    loop = opened(tmp_path / "data", clock, retain_gb=0.0012)
    sizes = []
    for day in range(40):
        live(loop, 1, start=day, n=25)
        sizes.append(used_bytes(loop.data.log))
    assert cut_of(loop.data.log) > 1
    assert max(sizes) < 1.15 * 1.2e6
    assert rebuild(loop.data.path).ok
    closed(loop)


def test_the_newest_hour_stays_whatever_its_size(tmp_path: Path, clock: Clock, often: None) -> None:
    loop = opened(tmp_path / "data", clock, retain_gb=0.0001)
    for k in range(200):
        loop.service.rank(RankRequest(["v1", "v2", "v3"], event_id=f"e{k}"))
    loop.learn()
    loop.clock.pass_(120.0)
    loop.learn()
    assert loop.data.log.query("SELECT count(*) FROM log WHERE kind = 'decision'") == [(200,)]
    closed(loop)


def test_nothing_is_deleted_unless_asked(loop: Loop, often: None) -> None:
    live(loop, 8)
    assert cut_of(loop.data.log) == 1
    assert [one.base.cause for one in bases(loop.data.log)] == ["begin"]
    assert newest_models(loop.data.log)


def test_the_first_record_since_a_time_is_found(loop: Loop) -> None:
    times = {}
    for _ in range(20):
        loop.clock.pass_(10.0)
        times[loop.data.log.append(lambda txn: txn.append("tick", b"{}"))] = loop.clock.now
    last = loop.data.log.last_position()
    for position, ts in times.items():
        assert first_since(loop.data.log, ts, low=1, high=last) == position
        assert first_since(loop.data.log, ts + 1.0, low=1, high=last) == position + 1
    assert first_since(loop.data.log, 0.0, low=1, high=last) == 1
