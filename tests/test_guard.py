"""Guarded publishing: what is held, what is rolled back, and that both survive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit.commands.models import main as models_command
from bandit.config import Config, Softmax
from bandit.learning.guard import Guard, alpha_of_release, find_fault, probe_anchor
from bandit.learning.probe import Probe
from bandit.learning.trainer import HalfLearned, Trainer
from bandit.ranking.scorer import _RECORD, dense_indices, read_state
from bandit.records import Candidate, Decision, Feedback, ItemFeedback, RankRequest, ReleaseRequest, User
from bandit.service import Service
from bandit.slate.rules import Seen
from bandit.statistics.columns import NAMES
from bandit.store.models import newest_models
from bandit.store.serving import last_hold, serving, voids
from bandit.web.app import create_app
from replay.rebuild import rebuild
from tests.conftest import Api, Loop
from tests.service import ROOT, RunningService, wait_for

Change = Callable[[np.ndarray], None]


#: Told apart by what is said of them, which a model learns at once.
ITEMS = [Candidate(f"v{k}", msgspec.Raw(b'{"mood":"m%d"}' % k)) for k in (1, 2, 3)]


def teach(loop: Loop, n: int, start: int = 0, watch_s: float = 30.0) -> None:
    """So many rankings of three items, and what was watched of the first."""
    for k in range(start, start + n):
        reply = loop.service.rank(RankRequest(list(ITEMS), event_id=f"e{k}"))
        told = [ItemFeedback(reply.ranking[0].id, {"watch_s": watch_s}, final=True)]
        loop.service.feedback([Feedback(f"e{k}", told)])


def altered(model: bytes, change: Change) -> bytes:
    """A saved model with other weights."""
    at = read_state(model).weights_at
    weights = np.frombuffer(model[at:], _RECORD).copy()
    change(weights)
    return model[:at] + weights.tobytes()


def poison(loop: Loop, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """What the learner holds from here on is spoiled, until it is replaced."""
    learner = loop.trainer._course.learners.main
    save = learner.save
    monkeypatch.setattr(learner, "save", lambda: altered(save(), change))


def a_nan(weights: np.ndarray) -> None:
    weights["weight"][0] = np.nan


def an_infinity(weights: np.ndarray) -> None:
    weights["weight"][-1] = np.inf


def a_bad_step(weights: np.ndarray) -> None:
    weights["adaptive"][0] = np.nan


def exploding(weights: np.ndarray) -> None:
    weights["weight"] *= 1e6


def overflowing(weights: np.ndarray) -> None:
    weights["weight"] = 3e38


SPOILED: dict[str, tuple[Change, str]] = {
    "NaN": (a_nan, "finite"),
    "infinity": (an_infinity, "finite"),
    "NaN step": (a_bad_step, "finite"),
    "exploding": (exploding, "range"),
    "overflowing": (overflowing, "finite"),
}


@pytest.fixture
def taught(loop: Loop) -> Loop:
    """A model that has learned, with a probe of its own decisions."""
    teach(loop, 40)
    loop.learn()
    assert Probe(loop.data.log, probe_anchor(loop.trainer.position), traits=loop.data.args.traits).decisions
    return loop


# ---------------------------------------------------------------- holding


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_model_is_held_and_the_last_good_one_serves_and_learns_on(
    taught: Loop, api: Api, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    change, failed = SPOILED[how]
    good = api.call("GET", "/v1/model").body
    poison(taught, monkeypatch, change)
    teach(taught, 3, 100)
    taught.learn()
    held = api.call("GET", "/v1/model").body
    assert (held["version"], held["learned_slots"]) == (good["version"], good["learned_slots"])
    assert held["serving"]["holding"]
    assert held["serving"]["hold"]["failed"] == failed
    assert held["serving"]["hold"]["lessons"] == 3
    assert held["serving"]["hold"]["reason"] in held["problem"]
    health = api.call("GET", "/healthz").body
    assert health["status"] == "degraded"
    assert held["serving"]["hold"]["reason"] in health["problems"][0]
    reply = api.call("POST", "/v1/rank", {"candidates": ["v1", "v2"]}).body
    assert (reply["model_version"], reply["fallback"]) == (good["version"], None)
    assert api.call("GET", "/v1/events/e100").body["slots"][0]["status"] == "held"
    # The spoiled learner is gone: what comes next is learned from the last good one, and goes live.
    teach(taught, 2, 200)
    taught.learn()
    after = api.call("GET", "/v1/model").body
    assert after["learned_slots"] == good["learned_slots"] + 2
    assert (after["problem"], after["serving"]["holding"], after["serving"]["holds"]) == (None, False, 1)
    assert api.call("GET", "/healthz").body == {"status": "ok"}
    assert rebuild(taught.data.path).ok


def test_a_model_spoiled_in_what_it_makes_of_statistics_is_held(taught: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = dense_indices(NAMES) & np.uint32((1 << taught.data.args.bits) - 1)

    def change(weights: np.ndarray) -> None:
        of_columns = np.isin(weights["index"], columns)
        assert of_columns.sum() > 3
        weights["weight"][of_columns] *= 1e6

    poison(taught, monkeypatch, change)
    teach(taught, 3, 100)
    taught.learn()
    held = last_hold(taught.data.log)
    assert held is not None
    assert held.failed == "range"


def test_the_probe_holds_what_was_drawn_as_it_was_scored(taught: Loop) -> None:
    """The kernel on the probe gives the very scores that the decisions were drawn with."""
    put(taught, Config(rules=[Seen()]))
    for k in range(300, 330):
        taught.service.rank(RankRequest(["v1", "v2", "v3", "v4"], event_id=f"e{k}", user=User(f"u{k % 3}"), slots=2))
    at = taught.data.log.last_position()
    probe = Probe(taught.data.log, at, traits=taught.data.args.traits)
    snapshot = taught.service.ranker.snapshot
    assert snapshot is not None
    rows = taught.data.log.query("SELECT payload FROM log WHERE kind = 'decision' AND user IS NOT NULL")
    logged = [msgspec.json.decode(row[0], type=Decision) for row in rows]
    by_shared = {bytes(one.shared): one for one in logged}
    scores = probe.scores(snapshot.weights, taught.data.args)
    assert any(any(slot.dense) for one in logged for slot in one.slots)
    found = [[slot.score for slot in one.slots] for one in logged]
    matched = sum(any(np.array_equal(given[:2], np.array(one, np.float32)) for one in found) for given in scores)
    assert matched >= len(by_shared)
    # What the viewer had seen could not have stood at the first slot, unless nothing else was left there.
    assert any(one.relaxed.get("seen") for one in logged)
    assert {2, 4} <= {len(one.rows) for one in probe.decisions}


def test_the_log_says_what_was_held(taught: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = newest_models(taught.data.log)[0]
    poison(taught, monkeypatch, a_nan)
    teach(taught, 3, 100)
    taught.learn()
    rows = taught.data.log.query("SELECT payload FROM log WHERE kind = 'hold'")
    assert len(rows) == 1
    hold = json.loads(rows[0][0])
    assert (hold["after"], hold["failed"], hold["lessons"]) == (before.position, "finite", 3)
    assert hold["position"] > before.position
    assert "not finite" in hold["reason"]
    assert voids(taught.data.log) == {None: [(hold["after"], hold["position"])]}
    # People can look at it.
    assert (taught.data.models.folder / f"{hold['digest']}.vw").is_file()


def test_a_hold_survives_a_restart_of_all(taught: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(taught, monkeypatch, a_nan)
    teach(taught, 3, 100)
    taught.learn()
    good = taught.service.model().version
    taught.trainer.close()
    taught.trainer = Trainer(taught.data, clock=taught.clock)
    taught.trainer.step()
    service = Service(taught.data, clock=taught.clock)
    assert service.model().version == good
    assert service.serving().holding
    taught.clock.pass_(2.0)
    taught.trainer.step()
    assert any("is held" in problem for problem in service.problems())
    teach(taught, 2, 200)
    taught.learn()
    statuses = [row[0] for row in taught.data.log.query("SELECT status FROM outcomes")]
    assert (statuses.count("learned"), statuses.count("held")) == (42, 3)
    assert newest_models(taught.data.log)[0].learned == 42
    assert rebuild(taught.data.path).ok


@pytest.mark.parametrize("where", ["before the record", "after the record", "the last good model is damaged"])
def test_a_trainer_that_dies_while_it_holds_folds_to_the_same(
    taught: Loop, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    teach(taught, 2, 50)
    taught.learn()
    teach(taught, 3, 100)
    with monkeypatch.context() as patch:
        poison(taught, patch, a_nan)
        if where == "before the record":
            patch.setattr("bandit.learning.trainer.append_hold", die)
        elif where == "after the record":
            patch.setattr(taught.trainer, "_go_back", die)
        else:
            newest = newest_models(taught.data.log)[0]
            (taught.data.models.folder / f"{newest.digest}.vw").write_bytes(b"damaged")
        with pytest.raises((Killed, HalfLearned)):
            taught.learn()
    taught.trainer.close()
    taught.trainer = Trainer(taught.data, clock=taught.clock)
    teach(taught, 2, 200)
    taught.learn()
    held = 0 if where == "before the record" else 3
    assert len(voids(taught.data.log).get(None, [])) == (1 if held else 0)
    assert newest_models(taught.data.log)[0].learned == 47 - held
    statuses = [row[0] for row in taught.data.log.query("SELECT status FROM outcomes WHERE reward IS NOT NULL")]
    assert statuses.count("held") == held
    result = rebuild(taught.data.path)
    assert result.ok, result.mismatch


def test_nothing_new_is_never_held_and_holds_do_not_repeat(taught: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(taught, monkeypatch, a_nan)
    teach(taught, 3, 100)
    for _ in range(10):
        taught.learn()
    assert len(voids(taught.data.log)[None]) == 1


def put(loop: Loop, config: Config) -> None:
    loop.service.put_config(config, expected=loop.service.config().version)


def test_a_draw_that_collapses_is_held_where_no_floor_keeps_it_open(
    taught: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(taught, Config(floor=0.0, explorer=Softmax(lambda_=1.0), reward_range=(-1e6, 1e6)))
    taught.learn()
    poison(taught, monkeypatch, lambda weights: np.multiply(weights["weight"], 1e4, out=weights["weight"]))
    teach(taught, 3, 100)
    taught.learn()
    held = last_hold(taught.data.log)
    assert held is not None
    assert held.failed == "entropy"


def test_a_jump_of_scores_is_held_until_somebody_accepts_it(taught: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    put(taught, Config(reward_range=(-2.0, 2.0), guard=Guard(drift=0.05, drift_after=10)))
    taught.learn()

    def jump() -> None:
        with monkeypatch.context() as patch:
            poison(taught, patch, lambda weights: np.multiply(weights["weight"], 2.0, out=weights["weight"]))
            teach(taught, 3, 100 + len(voids(taught.data.log)) * 10)
            taught.learn()

    jump()
    held = last_hold(taught.data.log)
    assert held is not None
    assert held.failed == "drift"
    taught.service.release(ReleaseRequest("the new formula is meant"))
    jump()
    assert len(voids(taught.data.log)[None]) == 1


# ---------------------------------------------------------------- the checks themselves


def fault(scores: list[list[float]], before: list[list[float]] | None = None, **more: Any) -> str | None:
    given = [np.array(one, np.float32) for one in scores]
    draws = more.pop("draws", [np.full(len(one), 1 / len(one)) for one in given])
    found = find_fault(
        more.pop("limits", Guard()),
        scores=given,
        before=None if before is None else [np.array(one, np.float32) for one in before],
        draws=draws,
        even=[np.full(len(one), 1 / len(one)) for one in given],
        reward_range=(0.0, 1.0),
        learned_before=more.pop("learned_before", 10_000),
    )
    return None if found is None else found.check


def test_each_check_finds_its_fault_and_nothing_else() -> None:
    sound = [[0.1, 0.2], [0.3, 0.1, 0.2]]
    assert fault(sound, sound) is None
    assert fault([], []) is None
    assert fault([[0.1, np.nan]]) == "finite"
    assert fault([[0.1, 0.2]], draws=[np.array([0.5, 0.5 + 1e-8])]) == "propensities"
    assert fault([[0.1, 0.2]], draws=[np.array([1.5, -0.5])]) == "propensities"
    assert fault([[0.1, 0.2]], draws=[np.array([1.0, 0.0])]) == "entropy"
    assert fault([[0.1, 0.2]], draws=[np.array([1.0, 0.0])], limits=Guard(entropy=0.0)) is None
    assert fault([[5.0, 5.0]]) == "range"
    assert fault([[0.9, 0.9]], [[0.1, 0.1]]) == "drift"
    assert fault([[0.9, 0.9]], [[0.1, 0.1]], learned_before=10) is None
    assert fault([[0.9]], draws=[np.array([1.0])]) is None


def test_the_probe_is_the_same_for_all_positions_of_a_stretch(taught: Loop) -> None:
    anchor = probe_anchor(taught.trainer.position)
    first = Probe(taught.data.log, anchor, traits=taught.data.args.traits)
    teach(taught, 3, 100)
    again = Probe(taught.data.log, anchor, traits=taught.data.args.traits)
    weights = np.arange(1 << taught.data.args.bits, dtype=np.float32)
    for one, other in zip(
        first.scores(weights, taught.data.args), again.scores(weights, taught.data.args), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert all(probe_anchor(at) <= at for at in range(0, 100_000, 77))


def test_alpha_is_spent_over_releases() -> None:
    assert sum(alpha_of_release(0.05, k) for k in range(1, 10_000)) < 0.05
    assert alpha_of_release(0.05, 1) > 0.03


# ---------------------------------------------------------------- rolling back


@pytest.fixture
def three(taught: Loop) -> tuple[Loop, list[str]]:
    """Three versions, oldest first."""
    versions = [newest_models(taught.data.log)[0].digest]
    for start in (100, 200):
        teach(taught, 2, start)
        taught.learn()
        versions.append(newest_models(taught.data.log)[0].digest)
    assert len(set(versions)) == 3
    return taught, versions


def test_a_rollback_holds_in_every_worker_from_the_next_request_on_until_a_release(
    three: tuple[Loop, list[str]], api: Api
) -> None:
    loop, versions = three
    other = Api(create_app(Service(loop.data, clock=loop.clock)).test_client())
    reply = api.call("POST", "/v1/model/rollback", {"to": versions[0][:8], "reason": "it is worse"})
    assert reply.status == 200
    assert (reply.body["serves"], reply.body["pinned"], reply.body["newest"]) == ("pinned", versions[0], versions[2])
    for worker in (api, other):
        ranked = worker.call("POST", "/v1/rank", {"candidates": ["v1", "v2"]}).body
        assert ranked["model_version"] == versions[0]
        assert worker.call("GET", "/v1/model").body["version"] == versions[0]
        assert any("rolled back" in problem for problem in worker.call("GET", "/healthz").body["problems"])
    # Learning goes on, but nothing newer goes live.
    teach(loop, 2, 300)
    loop.learn()
    assert api.call("GET", "/v1/model").body["version"] == versions[0]
    newest = newest_models(loop.data.log)[0].digest
    assert newest not in versions
    reply = other.call("POST", "/v1/model/release", {"reason": "mended"})
    assert (reply.status, reply.body["serves"], reply.body["champion"]) == (200, "newest", versions[0])
    for worker in (api, other):
        assert worker.call("POST", "/v1/rank", {"candidates": ["v1"]}).body["model_version"] == newest
        assert worker.call("GET", "/healthz").body == {"status": "ok"}
    kinds = [row[0] for row in loop.data.log.query("SELECT kind FROM log WHERE kind IN ('rollback', 'release')")]
    assert kinds == ["rollback", "release"]
    assert rebuild(loop.data.path).ok


def test_files_of_a_pinned_model_and_of_the_champion_are_kept(three: tuple[Loop, list[str]]) -> None:
    loop, versions = three
    models_command(["--data", str(loop.data.path), "rollback", versions[0]])
    models_command(["--data", str(loop.data.path), "release"])
    models_command(["--data", str(loop.data.path), "rollback", versions[1]])
    for k in range(25):
        teach(loop, 1, 1_000 + k)
        loop.learn()
    kept = {path.stem for path in loop.data.models.folder.glob("*.vw")}
    assert {versions[0], versions[1]} <= kept
    assert versions[2] not in kept
    assert len(kept) == 22
    started = Service(loop.data, clock=loop.clock)
    assert started.model().version == versions[1]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"to": "f" * 32}, 404, "unknown_model"),
        ({"to": "abc"}, 404, "unknown_model"),
        ({"to": ""}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
        ({"to": "ffff", "x": 1}, 400, "invalid_request"),
        ({"to": 7}, 400, "invalid_request"),
        ({"to": "ffff", "reason": ""}, 400, "invalid_request"),
    ],
)
def test_what_cannot_be_rolled_back_to_is_refused(api: Api, body: Any, status: int, code: str) -> None:
    reply = api.call("POST", "/v1/model/rollback", body)
    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    assert api.call("GET", "/v1/model").body["serving"]["serves"] == "newest"


def test_a_damaged_model_is_not_rolled_back_to(three: tuple[Loop, list[str]], api: Api) -> None:
    loop, versions = three
    (loop.data.models.folder / f"{versions[0]}.vw").write_bytes(b"damaged")
    reply = api.call("POST", "/v1/model/rollback", {"to": versions[0]})
    assert (reply.status, reply.body["error"]["code"]) == (500, "corrupt_model")
    assert serving(loop.data.log).pinned is None


def test_a_pinned_model_that_is_damaged_later_leaves_the_newest_whole_one(three: tuple[Loop, list[str]]) -> None:
    loop, versions = three
    models_command(["--data", str(loop.data.path), "rollback", versions[0]])
    for path in loop.data.models.folder.iterdir():
        if path.stem == versions[0] or path.suffix == ".weights":
            path.write_bytes(b"damaged")
    started = Service(loop.data, clock=loop.clock)
    assert started.model().version == versions[2]
    assert any(versions[0] in problem for problem in started.problems())


def test_the_command_lists_rolls_back_and_releases(
    three: tuple[Loop, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    loop, versions = three
    data = ["--data", str(loop.data.path)]
    assert models_command(data) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[1:4]] == versions[::-1]
    assert "serves, newest" in listed[1]
    assert models_command([*data, "rollback", versions[1], "--reason", "worse"]) == 0
    out = capsys.readouterr().out
    assert next(line for line in out.splitlines() if line.startswith(versions[1])).endswith("serves")
    assert "rolled back by the operator: worse" in out
    loop.service.ranker.sync()
    assert loop.service.model().version == versions[1]
    assert models_command([*data, "--json", "release"]) == 0
    assert json.loads(capsys.readouterr().out)["champion"] == versions[1]
    assert models_command([*data, "rollback", "ffffffff"]) == 2
    assert "no kept model" in capsys.readouterr().err
    assert models_command(["--data", "/nowhere", "list"]) == 2
    assert "holds no log.db" in capsys.readouterr().err
    assert models_command([*data, "release", "--reason", ""]) == 2


def model_of(running: RunningService) -> dict[str, Any]:
    body: dict[str, Any] = running.call("GET", "/v1/model").body
    return body


def version_that_learned(running: RunningService, n_slots: int) -> str:
    """The version that holds so many lessons, from one reply: the next one may come of a worker that is behind."""
    found: list[str] = []

    def learned() -> bool:
        model = model_of(running)
        if model["learned_slots"] == n_slots:
            found.append(model["version"])
        return bool(found)

    wait_for(learned, what="the lesson")
    return found[0]


def test_a_rollback_by_command_reaches_every_worker_of_a_running_service_and_outlives_it(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", workers=2, publish_ms=50) as running:
        versions: list[str] = []
        for k in range(3):
            event = f"e{k}"
            item = running.call("POST", "/v1/rank", {"candidates": ["a", "b"], "event_id": event}).body["ranking"][0]
            told = {"id": item["id"], "signals": {"watch_s": 30}, "final": True}
            running.call("POST", "/v1/feedback", {"event_id": event, "items": [told]})
            versions.append(version_that_learned(running, k + 1))
        asked = [sys.executable, "server.py", "models", "--data", str(running.data), "rollback", versions[0]]
        done = subprocess.run(asked, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        served = {running.call("POST", "/v1/rank", {"candidates": ["a"]}).body["model_version"] for _ in range(20)}
        assert served == {versions[0]}
        running.stop()
        running.start()
        served = {running.call("POST", "/v1/rank", {"candidates": ["a"]}).body["model_version"] for _ in range(20)}
        assert served == {versions[0]}
        running.call("POST", "/v1/model/release", {})
        served = {running.call("POST", "/v1/rank", {"candidates": ["a"]}).body["model_version"] for _ in range(20)}
        assert served == {versions[2]}
