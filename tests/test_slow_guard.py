"""The slow guard: rolls back what is worse, and leaves alone what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.config import Config, EpsilonGreedy, Settings
from bandit.learning.guard import Guard, SlowGuard, alpha_of_release
from bandit.learning.one_sided import LowerBound
from bandit.learning.trainer import Trainer
from bandit.ranking.scorer import _RECORD, read_state, weights_from_model
from bandit.records import Feedback, ItemFeedback, Publish, RankRequest, ReleaseRequest
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.models import append_publish, newest_models
from bandit.store.serving import serving
from replay.__main__ import main
from replay.guard import Comparing
from replay.guard import SlowGuard as Watcher
from tests.conftest import Clock
from tests.service import RunningService, wait_for

RATES = {"a": 0.9, "b": 0.5, "c": 0.4, "d": 0.2, "e": 0.1}
WINDOW_S = 10.0


class World:
    """A service over five items whose rewards are known, with feeds of two slots."""

    def __init__(self, path: Path, seed: int, **slow: Any) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.clock = Clock()
        self.rng = np.random.default_rng(seed)
        self.data = DataDirectory(Settings(path, durable=False), clock=self.clock)
        self.service = Service(self.data, clock=self.clock)
        self.k = 0
        config = Config(
            explorer=EpsilonGreedy(epsilon=0.1), floor=0.1, slots=2, reward="like", reward_range=(0.0, 1.0),
            reward_window_s=WINDOW_S, guard=Guard(drift_after=1, slow=SlowGuard(**slow)),
        )  # fmt: skip
        self.service.put_config(config, expected=1)

    def feeds(self, n: int) -> float:
        """So many feeds, reported whole; the mean reward of a slot."""
        total = 0.0
        for _ in range(n):
            reply = self.service.rank(RankRequest(list(RATES), event_id=f"e{self.k}"))
            self.k += 1
            likes = [float(self.rng.random() < RATES[one.id]) for one in reply.ranking]
            told = [
                ItemFeedback(one.id, {"like": like}, seen=True) for one, like in zip(reply.ranking, likes, strict=True)
            ]
            self.service.feedback([Feedback(reply.event_id, told)])
            total += sum(likes) / 2
            self.clock.pass_(0.1)
        return total / n

    def train(self) -> str:
        """Learn all that has closed, publish, serve; the version."""
        self.clock.pass_(2 * WINDOW_S)
        trainer = Trainer(self.data, clock=self.clock)
        for _ in range(3):
            while trainer.step():
                pass
            self.clock.pass_(2.0)
        trainer.run(lambda: True)
        self.service.ranker.refresh()
        return newest_models(self.data.log)[0].digest

    def publish(self, factor: float) -> str:
        """Let a model go live whose weights are the newest's, times a factor."""
        newest = newest_models(self.data.log)[0]
        model = self.data.models.read(newest.digest)
        at = read_state(model).weights_at
        weights = np.frombuffer(model[at:], _RECORD).copy()
        weights["weight"] *= factor
        spoiled = model[:at] + weights.tobytes()
        digest, weights_digest = self.data.models.write(spoiled, weights_from_model(spoiled, self.data.args))
        position = self.data.log.last_position()
        row = Publish(digest=digest, position=position, reads_from=newest.reads_from, learned=newest.learned)
        self.data.log.append(lambda txn: append_publish(txn, row, {row.digest: weights_digest}))
        self.service.ranker.refresh()
        return digest

    def end_windows(self) -> None:
        self.clock.pass_(2 * WINDOW_S)
        self.feeds(1)

    def close(self) -> None:
        self.data.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose model knows what is liked."""
    path = tmp_path_factory.mktemp("trained") / "data"
    world = World(path, 1)
    world.train()
    for _ in range(4):
        world.feeds(100)
        world.train()
    assert world.feeds(300) > 0.55
    world.close()
    return path


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copytree(trained, tmp_path / "data")
    made = World.__new__(World)
    made.clock, made.rng, made.k = Clock(1_800_100_000.0), np.random.default_rng(2), 100_000
    made.data = DataDirectory(Settings(tmp_path / "data", durable=False), clock=made.clock)
    made.service = Service(made.data, clock=made.clock)
    yield made
    made.close()


def watcher(world: World, **more: Any) -> Watcher:
    return Watcher(world.data.path, clock=world.clock, **more)


def test_a_sabotaged_model_is_rolled_back_to_the_champion(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    champion = newest_models(world.data.log)[0].digest
    guard = watcher(world)
    found = guard.look()
    assert (found.status, found.release, found.champion, found.feeds) == ("compared", 1, champion, 0)
    before = world.feeds(100)
    world.publish(-1.0)
    after = 0.0
    for _ in range(20):
        after = world.feeds(250)
        world.end_windows()
        found = guard.look()
        if found.status != "compared":
            break
    assert after < before - 0.2
    assert found.status == "rolled_back"
    assert found.upper is not None
    assert found.estimate is not None
    assert found.estimate < found.upper < 0.0
    assert found.feeds < 3_000
    # It serves again at once, and the log says why.
    reply = world.service.rank(RankRequest(list(RATES)))
    assert reply.model_version == champion
    rollback = json.loads(world.data.log.query("SELECT payload FROM log WHERE kind = 'rollback'")[0][0])
    assert (rollback["to"], rollback["by"], rollback["release"]) == (champion, "guard", 1)
    assert rollback["alpha"] == pytest.approx(alpha_of_release(0.05, 1))
    assert rollback["feeds"] == found.feeds
    assert any("earns less than champion" in problem for problem in world.service.problems())
    compared = world.service.serving().compared
    assert compared is not None
    assert (compared.upper, compared.feeds) == (found.upper, found.feeds)
    assert guard.look().status == "pinned"
    guard.close()
    assert main(["guard", str(world.data.path), "--once"]) == 0
    assert "pinned" in capsys.readouterr().out
    # A release begins the next comparison, with the champion that was rolled back to.
    world.service.release(ReleaseRequest("mended"))
    assert (serving(world.data.log).release, serving(world.data.log).champion) == (2, champion)


def test_an_equal_model_and_one_that_learns_on_are_left_alone(world: World) -> None:
    guard = watcher(world)
    for _ in range(4):
        world.feeds(250)
        world.train()
        found = guard.look()
        assert found.status == "compared"
    assert found.feeds >= 740
    assert found.upper is not None
    assert found.upper >= 0.0
    assert serving(world.data.log).pinned is None
    guard.close()


def test_after_its_events_a_release_is_followed_by_the_next(trained: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "data", 3, events=200)
    world.feeds(50)
    world.train()
    first = newest_models(world.data.log)[0].digest
    guard = watcher(world)
    assert guard.look().champion == first
    world.feeds(150)
    world.train()
    world.feeds(150)
    world.end_windows()
    found = guard.look()
    assert (found.status, found.release, found.feeds) == ("released", 1, 200)
    now = serving(world.data.log)
    assert (now.release, now.champion) == (2, newest_models(world.data.log)[0].digest)
    again = guard.look()
    assert (again.release, again.alpha) == (2, alpha_of_release(0.05, 2))
    guard.close()
    world.close()


def test_a_guard_that_starts_anew_comes_to_the_same(world: World) -> None:
    guard = watcher(world)
    guard.look()
    world.publish(0.5)
    world.feeds(300)
    world.end_windows()
    guard.look()
    world.feeds(300)
    world.end_windows()
    found = guard.look()
    guard.close()
    started = watcher(world)
    again = started.look()
    started.close()
    assert (again.feeds, again.release) == (found.feeds, found.release)
    assert again.upper == pytest.approx(found.upper)
    assert again.estimate == pytest.approx(found.estimate)


def test_a_dry_run_writes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = world.data.log.last_position()
    assert main(["guard", str(world.data.path), "--once", "--dry-run"]) == 0
    assert "waiting" in capsys.readouterr().out
    assert world.data.log.last_position() == before
    assert main(["guard", str(world.data.path.parent), "--once"]) == 2
    assert "no log.db" in capsys.readouterr().err


def test_somebody_who_decides_meanwhile_goes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = watcher(world)
    guard.look()
    world.publish(-1.0)
    world.feeds(3_000)
    world.end_windows()
    look = Comparing.look

    def release_first(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        world.service.release(ReleaseRequest("by hand"))
        return look(*args, **kwargs)

    monkeypatch.setattr(Comparing, "look", release_first)
    found = guard.look()
    assert found.upper is not None
    assert found.upper < 0.0
    assert found.status == "compared"
    assert serving(world.data.log).pinned is None
    guard.close()


# ---------------------------------------------------------------- the bound


def logged(rng: np.random.Generator, n: int, advantage: float) -> tuple[Any, Any, Any, Any]:
    """One-slot events: production shows item 0 of ten, the champion item 1, both with a floor of 10 %."""
    often, rare = 0.9 + 0.01, 0.01
    shown = np.where(rng.random(n) < 0.1, rng.integers(0, 10, n), 0)
    logged = np.where(shown == 0, often, rare)
    target = np.where(shown == 1, often, rare)
    g = (rng.random(n) < np.where(shown == 1, 0.3 + advantage, 0.3)).astype(float)
    return target / logged, g, np.full(n, 1 / rare), np.arange(n + 1)


def test_the_bound_is_right_at_all_looks_together() -> None:
    """300 runs of 2,000 events with 20 looks each, alpha .2: more than 80 false alarms have a chance below 2e-3 if
    each run had alpha's full chance."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        bound = LowerBound()
        for _ in range(20):
            bound.add(*logged(rng, 100, 0.0))
            if bound.log_wealth(0.0) >= np.log(1 / 0.2):
                wrong += 1
                break
    assert wrong <= 80


def test_the_bound_finds_a_difference_and_stays_below_it() -> None:
    rng = np.random.default_rng(6)
    bound = LowerBound()
    bound.add(*logged(rng, 30_000, 0.5))
    truth = 0.5 * (0.91 - 0.01)
    assert 0.2 < bound.lower(0.05) < truth
    assert bound.estimate == pytest.approx(truth, abs=0.05)


def test_batches_do_not_matter_and_no_bet_is_ever_lost_whole() -> None:
    rng = np.random.default_rng(7)
    w, g, top, _ = logged(rng, 3_000, 0.1)
    starts = np.arange(0, 3_001, 3)
    whole, parts = LowerBound(), LowerBound()
    whole.add(w, g, top, starts)
    for i in range(0, 1_000, 77):
        part = starts[i : min(i + 77, 1_000) + 1]
        parts.add(w[part[0] : part[-1]], g[part[0] : part[-1]], top[part[0] : part[-1]], part - part[0])
    assert parts.n == whole.n == 1_000
    assert parts.lower(0.05) == pytest.approx(whole.lower(0.05))
    worst = LowerBound(centre=0.5)
    for weight, reward in [(1_000.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 0.5)]:
        worst.add(np.full(50, weight), np.full(50, reward), np.full(50, 1_000.0), np.arange(51))
        assert np.isfinite(worst.log_wealth(0.5))
    assert LowerBound().lower(0.05) == -1.0
    assert LowerBound().estimate is None


# ---------------------------------------------------------------- beside a service


def test_the_service_runs_the_guard_beside_it_and_ends_it(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", workers=1, publish_ms=50, guard="yes") as running:
        reply = running.call("GET", "/v1/config")
        document = reply.body | {"guard": {**reply.body["guard"], "drift_after": 1}}
        assert running.call("PUT", "/v1/config", document, headers={"If-Match": reply.headers["ETag"]}).status == 200
        item = running.call("POST", "/v1/rank", {"candidates": ["a", "b"], "event_id": "e"}).body["ranking"][0]["id"]
        told = {"event_id": "e", "items": [{"id": item, "signals": {"watch_s": 3}, "final": True}]}
        running.call("POST", "/v1/feedback", told)

        def compared() -> Any:
            return running.call("GET", "/v1/model").body["serving"]["compared"]

        wait_for(compared, timeout_s=60.0, what="the guard's first look")
        assert compared()["release"] == 1
        family = running._family()
        guards = [one for one in family if "guard" in one.cmdline()]
        assert len(guards) == 1
        assert guards[0].nice() >= 10
    assert not any(one.is_running() for one in guards)
