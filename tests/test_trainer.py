"""The trainer: what it learned is the same wherever it was stopped, and nothing of a crash stays behind."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit import records
from bandit.config import Config, IpsWeight, Settings
from bandit.errors import DataDirectoryInUse, LogUnavailable
from bandit.learning.trainer import IDLE_PUBLISH_S, HalfLearned, Trainer, hold_trainer_lock
from bandit.ranking.scorer import read_state
from bandit.records import ActivateRequest, Candidate, Feedback, ItemFeedback, ItemsRequest, RankRequest, User
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.models import newest_models, trainer_state
from replay.rebuild import rebuild
from tests.conftest import Clock, Loop


class Killed(BaseException):
    """The trainer ends here, as it does under ``kill -9``: nothing of its own runs any more."""


class World:
    """A service under a made-up load, and a trainer that is stopped and killed."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.rng = rng
        self.clock = Clock()
        path.mkdir(parents=True)
        self.settings = Settings(path, vw="-b 8 -q UI", durable=False, publish_ms=50)
        self.data = DataDirectory(self.settings, clock=self.clock)
        self.service = Service(self.data, clock=self.clock)
        self.trainer: Trainer | None = None
        self.n = 0
        self.open: list[tuple[str, list[str]]] = []

    def act(self) -> None:
        """Something that clients do; time passes."""
        rng = self.rng
        self.clock.pass_(rng.choice([0.0, 0.001, 0.03, 0.4]))
        match rng.choice(["rank", "rank", "feedback", "feedback", "feedback", "activate", "items", "config", "wait"]):
            case "rank":
                self.n += 1
                ids = [f"v{k}" for k in rng.sample(range(30), rng.randint(1, 8))]
                candidates: list[str | Candidate] = list(ids)
                if rng.random() < 0.3:
                    candidates[0] = Candidate(ids[0], msgspec.Raw(b'{"fresh":%d}' % rng.randint(0, 3)))
                request = RankRequest(
                    candidates, event_id=f"e{self.n}", user=User(f"u{rng.randint(0, 5)}"), slots=rng.randint(1, 4),
                    defer_activation=rng.random() < 0.2,
                )  # fmt: skip
                reply = self.service.rank(request)
                self.open.append((f"e{self.n}", [placed.id for placed in reply.ranking]))
            case "feedback":
                event_id, ids = rng.choice(self.open[-6:]) if self.open else ("e1", ["v1"])
                if rng.random() < 0.15:
                    event_id, ids = f"e{self.n + 1}", ["v1", "v2", "v3"]
                told = [
                    ItemFeedback(one, {"watch_s": rng.choice([0.0, 3.5, 70.0])}, final=rng.random() < 0.4)
                    for one in rng.sample(ids, rng.randint(1, len(ids)))
                ]
                self.service.feedback([Feedback(event_id, told)])
            case "activate" if self.open:
                event_id, ids = self.open[-1]
                self.open.pop()
                self.service.activate(event_id, ActivateRequest(rng.choice([None, ids[:1], ids[::-1]])))
            case "items":
                features = msgspec.Raw(b'{"genre":"g%d","length":%d}' % (rng.randint(0, 3), rng.randint(1, 9)))
                self.service.put_items(ItemsRequest([records.Item(f"v{rng.randint(0, 30)}", features)]))
            case "config" if rng.random() < 0.3:
                self.service.put_config(
                    Config(
                        reward_window_s=rng.choice([0.5, 2.0, 5.0]),
                        evidence=rng.choice(["viewport", "served"]),
                        learning_weight=rng.choice([IpsWeight(), Config().learning_weight]),
                    ),
                    expected=self.service.config().version,
                )
            case "wait":
                self.clock.pass_(rng.choice([1.0, 3.0]))

    def step(self) -> None:
        if self.trainer is None:
            self.trainer = Trainer(self.data, clock=self.clock)
        self.trainer.step()

    def stop(self) -> None:
        """As on SIGTERM: it publishes and ends."""
        if self.trainer is not None:
            self.trainer.run(lambda: True)
            self.trainer = None

    def kill(self) -> None:
        """Whatever it had learned and not published is gone."""
        if self.trainer is not None:
            self.trainer.close()
            self.trainer = None

    def finish(self) -> None:
        """All windows end, all is learned and published."""
        for _ in range(6):
            # Longer than the longest window.
            self.clock.pass_(700.0)
            self.step()
        self.stop()
        state = trainer_state(self.data.log)
        assert state is not None
        assert state.open_decisions == 0

    def close(self) -> None:
        self.kill()
        self.data.close()


def outcomes_of(data: DataDirectory) -> list[tuple[Any, ...]]:
    return data.log.query("SELECT * FROM outcomes ORDER BY decision_pos, slot")


def n_learned_in_model(data: DataDirectory) -> int:
    newest = newest_models(data.log)[0]
    return read_state(data.models.read(newest.digest)).n_learned


# ---------------------------------------------------------------- restarts, end to end


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_published_model_is_rebuilt_byte_for_byte_however_the_trainer_was_stopped(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    world = World(tmp_path / f"{seed}-{os.urandom(4).hex()}", rng)
    try:
        for _ in range(150):
            world.act()
            if rng.random() < 0.4:
                world.step()
            if rng.random() < 0.08:
                rng.choice([world.stop, world.kill, world.kill])()
        world.finish()

        result = rebuild(world.data.path)
        assert result.ok, result.mismatch
        assert result.published > 3

        rows = outcomes_of(world.data)
        learned = sum(row[4] == "learned" for row in rows)
        assert learned == result.learned == newest_models(world.data.log)[0].learned == n_learned_in_model(world.data)
        assert result.newest == newest_models(world.data.log)[0].digest
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_trainer_killed_at_any_step_of_publishing_loses_and_repeats_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before, in the middle of and after writing files, the log transaction, and the cleanup."""
    rng = random.Random(seed)
    world = World(tmp_path / "data", rng)
    places: list[tuple[object, str]] = [
        (os, "replace"), (os, "fsync"), (world.data.models, "write"), (world.data.models, "_put"),
        (world.data.models, "keep_only"), (world.data.log, "append"),
    ]  # fmt: skip
    n_killed = 0
    try:
        for _ in range(250):
            world.act()
            with monkeypatch.context() as patch:
                where, name = rng.choice(places)
                patch.setattr(where, name, dying(getattr(where, name), rng.randint(0, 2), before=rng.random() < 0.5))
                try:
                    if rng.random() < 0.5:
                        world.step()
                except Killed:
                    n_killed += 1
                    world.kill()
        assert n_killed > 5
        world.finish()
        result = rebuild(world.data.path)
        assert result.ok, result.mismatch
        learned = sum(row[4] == "learned" for row in outcomes_of(world.data))
        assert learned == n_learned_in_model(world.data) == result.learned
        kept = newest_models(world.data.log, world.settings.keep_models)
        assert {path.name for path in world.data.models.folder.iterdir()} == (
            {f"{one.digest}.vw" for one in kept} | {f"{one.weights_digest}.weights" for one in kept}
        )
        assert list((world.data.path / "scratch").iterdir()) == []
    finally:
        world.close()


def dying(work: Callable[..., Any], calls: int, *, before: bool) -> Callable[..., Any]:
    """``work`` that kills its process at the call after so many, just before or just after it is done."""
    left = calls

    def die(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == -1 and before:
            raise Killed
        result = work(*args, **kwargs)
        if left == -1:
            raise Killed
        return result

    return die


def test_a_restart_keeps_early_feedback_as_long_as_the_first_run_did(loop: Loop) -> None:
    """The window in force when the feedback came counts, though a restart knows of a newer config."""
    loop.service.put_config(Config(reward_window_s=100.0), expected=1)
    rank(loop, "open")
    tell(loop, "e")
    loop.learn()
    # Half a window later it is still kept; a shorter window comes into force only then.
    loop.clock.pass_(50.0)
    rank(loop, "e")
    loop.service.put_config(Config(reward_window_s=1.0), expected=2)
    restart(loop)
    loop.end_windows()
    assert [row[2] for row in outcomes_of(loop.data) if row[4] == "learned"] == ["e"]
    assert rebuild(loop.data.path).ok


def rank(loop: Loop, event_id: str, **more: Any) -> list[str]:
    reply = loop.service.rank(RankRequest(["v1"], event_id=event_id, **more))
    return [placed.id for placed in reply.ranking]


def tell(loop: Loop, event_id: str, *, final: bool = False, watch_s: float = 30.0) -> None:
    loop.service.feedback([Feedback(event_id, [ItemFeedback("v1", {"watch_s": watch_s}, final=final)])])


def restart(loop: Loop) -> None:
    loop.trainer.close()
    loop.trainer = Trainer(loop.data, clock=loop.clock)


# ---------------------------------------------------------------- publishing


def test_a_batch_of_records_is_published_in_the_middle(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(20):
        rank(loop, f"e{n}")
        tell(loop, f"e{n}", final=True)
    # Every look at the clock takes a while, as does learning.
    monkeypatch.setattr(loop.trainer, "_clock", ticking(loop.clock, 0.06))
    loop.trainer.step()
    positions = [model.position for model in newest_models(loop.data.log, 100)]
    assert len(positions) > 5
    assert rebuild(loop.data.path).ok


def ticking(clock: Clock, seconds: float) -> Callable[[], float]:
    def read() -> float:
        clock.pass_(seconds)
        return clock.now

    return read


def test_an_idle_trainer_writes_nothing(loop: Loop) -> None:
    loop.learn()
    loop.end_windows()
    before = loop.data.log.last_position()
    for _ in range(20):
        loop.clock.pass_(IDLE_PUBLISH_S)
        loop.trainer.step()
    assert loop.data.log.last_position() <= before + 1


def test_ticks_come_only_while_a_window_waits_for_its_end(loop: Loop) -> None:
    rank(loop, "e")
    loop.learn()
    for _ in range(50):
        loop.clock.pass_(100.0)
        loop.trainer.step()
        loop.trainer.step()
    kinds = [row[0] for row in loop.data.log.query("SELECT kind FROM log")]
    assert kinds.count("tick") == 1


def test_without_learning_a_publish_moves_the_point_to_read_from(loop: Loop) -> None:
    for n in range(50):
        rank(loop, f"e{n}")
    loop.end_windows(700.0)
    loop.clock.pass_(IDLE_PUBLISH_S + 1)
    loop.trainer.step()
    newest = newest_models(loop.data.log)[0]
    assert newest.reads_from > 50
    assert newest.position >= newest.reads_from - 1


def test_a_clock_that_goes_back_stops_no_windows_that_log_time_has_ended(loop: Loop) -> None:
    rank(loop, "e")
    tell(loop, "e")
    loop.clock.pass_(1_000.0)
    rank(loop, "later")
    loop.clock.pass_(-5_000.0)
    rank(loop, "earlier by the clock")
    loop.learn()
    assert [row[2] for row in outcomes_of(loop.data)] == ["e"]
    assert n_learned_in_model(loop.data) == 1
    times = [row[0] for row in loop.data.log.query("SELECT ts FROM log ORDER BY pos")]
    assert times == sorted(times)


# ---------------------------------------------------------------- faults


def test_a_damaged_newest_model_is_learned_again_and_replaced_at_once(loop: Loop) -> None:
    for n in range(4):
        rank(loop, f"e{n}")
        tell(loop, f"e{n}", final=True)
        loop.learn()
    newest, older = newest_models(loop.data.log, 2)
    assert newest.digest != older.digest
    path = loop.data.models.folder / f"{newest.digest}.vw"
    path.write_bytes(path.read_bytes()[:-20])
    restart(loop)
    loop.trainer.step()
    assert newest_models(loop.data.log)[0].published_pos > newest.published_pos
    loop.learn()
    assert newest_models(loop.data.log)[0].digest == newest.digest
    assert n_learned_in_model(loop.data) == 4
    assert rebuild(loop.data.path).ok


def test_without_any_model_file_all_is_learned_again_from_the_base(loop: Loop) -> None:
    for n in range(3):
        rank(loop, f"e{n}")
        tell(loop, f"e{n}", final=True)
        loop.learn()
    expected = newest_models(loop.data.log)[0].digest
    for path in loop.data.models.folder.iterdir():
        path.unlink()
    restart(loop)
    loop.learn()
    assert newest_models(loop.data.log)[0].digest == expected
    assert rebuild(loop.data.path).ok


def test_a_model_that_cannot_be_written_is_said_and_written_later(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank(loop, "e")
    tell(loop, "e", final=True)
    n_before = len(newest_models(loop.data.log, 100))
    with monkeypatch.context() as patch:
        patch.setattr(loop.data.models, "write", failing(OSError("no space left on device")))
        loop.learn()
        loop.clock.pass_(2.0)
        loop.trainer.step()
        assert len(newest_models(loop.data.log, 100)) == n_before
        assert any("no space left" in problem for problem in loop.service.problems())
    loop.learn()
    assert n_learned_in_model(loop.data) == 1
    assert loop.service.problems() == []


def test_a_model_that_cannot_be_saved_is_said_and_saved_later(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    rank(loop, "e")
    tell(loop, "e", final=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop.trainer._course.learners.main, "save", failing(RuntimeError("Failed to write example")))
        loop.learn()
        assert any("Failed to write" in problem for problem in loop.service.problems())
    loop.learn()
    assert n_learned_in_model(loop.data) == 1
    assert loop.service.problems() == []


def test_old_models_that_cannot_be_deleted_are_said_and_stop_nothing(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.data.models, "keep_only", failing(PermissionError("not permitted")))
    for n in range(2):
        rank(loop, f"e{n}")
        tell(loop, f"e{n}", final=True)
        loop.learn()
    assert n_learned_in_model(loop.data) == 2
    loop.clock.pass_(2.0)
    loop.trainer.step()
    assert any("cannot be deleted" in problem for problem in loop.service.problems())


def test_what_became_of_slots_is_written_at_the_end_though_nothing_was_learned(loop: Loop) -> None:
    rank(loop, "e")
    loop.service.feedback([Feedback("e", [ItemFeedback("v1", seen=False)])])
    loop.clock.pass_(700.0)
    rank(loop, "later")
    # A step within the second after the last state: the next is due only later.
    loop.trainer._last_state = loop.clock.now
    loop.trainer.step()
    loop.trainer.run(lambda: True)
    assert [row[4] for row in outcomes_of(loop.data)] == ["unseen"]
    loop.trainer = Trainer(loop.data, clock=loop.clock)


def test_a_log_that_cannot_be_written_delays_a_publish_and_loses_no_outcome(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank(loop, "e")
    tell(loop, "e", final=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop.data.log, "append", failing(LogUnavailable("disk full")))
        loop.clock.pass_(1.0)
        with pytest.raises(LogUnavailable):
            loop.trainer.step()
    loop.learn()
    assert [row[4] for row in outcomes_of(loop.data)] == ["learned"]
    assert rebuild(loop.data.path).ok


def test_a_record_that_was_half_learned_ends_the_trainer(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    rank(loop, "e")
    tell(loop, "e", final=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop.data.log, "query", failing_after(loop.data.log.query, 1, LogUnavailable("gone")))
        with pytest.raises(HalfLearned):
            loop.trainer.step()
    restart(loop)
    loop.learn()
    assert n_learned_in_model(loop.data) == 1
    assert rebuild(loop.data.path).ok


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def failing_after(work: Callable[..., Any], calls: int, error: Exception) -> Callable[..., Any]:
    left = calls

    def maybe(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        return work(*args, **kwargs)

    return maybe


def test_two_trainers_of_one_directory_are_refused(tmp_path: Path) -> None:
    first = hold_trainer_lock(tmp_path)
    try:
        with pytest.raises(DataDirectoryInUse):
            hold_trainer_lock(tmp_path)
    finally:
        os.close(first)
    os.close(hold_trainer_lock(tmp_path))


@pytest.fixture(autouse=True)
def no_files_left_open() -> Iterator[None]:
    """Fails a test after which this process holds more files open than before."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    # Fixtures of the test itself are closed later; two connections and a lock are theirs.
    assert len(os.listdir("/proc/self/fd")) < before + 20
