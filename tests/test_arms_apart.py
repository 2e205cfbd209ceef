"""Experiments whose arms learn apart: whose feeds teach whom, what serves, and that the log gives all of it again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.cli import main as server
from bandit.commands.models import main as models_command
from bandit.config import own_label, own_labels
from bandit.errors import CorruptModel
from bandit.experiments import Apart
from bandit.features.model_args import ModelArgs
from bandit.learning.fold import Lesson
from bandit.learning.learner import Learner
from bandit.learning.learners import Learners
from bandit.learning.trainer import HalfLearned, Trainer
from bandit.records import Slot
from bandit.reward.signals import Counted
from bandit.service import Service
from bandit.statistics.attributes import key_of
from bandit.statistics.columns import NAMES
from bandit.statistics.folding import REWARD, SEEN, Statistics
from bandit.store.bases import bases
from bandit.store.models import PublishedModel, arm_models, newest_models
from bandit.store.serving import last_hold
from bandit.web.app import create_app
from replay import evaluate
from replay.events import Needs
from replay.policies.feed import parse_feed
from replay.policies.feed_models import History
from replay.policies.feed_support import logged_draw
from replay.readers.service import ServiceLog
from replay.rebuild import rebuild
from tests.conftest import Api, Loop
from tests.test_experiments import CANDIDATES, EPSILON, as_json, put, stored
from tests.test_guard import altered

ARMS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("plain", 0.4, {}),
    ("bold", 0.3, EPSILON),
    ("likes", 0.3, {"reward": "like"}),
)
APART = as_json(*ARMS, learn_from="own")

# ---------------------------------------------------------------- which models there are


@pytest.fixture
def main(tmp_path: Path) -> Learner:
    learner = Learner(ModelArgs.parse("-b 8"), scratch=tmp_path)
    learn(learner)
    return learner


def learn(learner: Learner) -> None:
    learner.learn(b'{"S":{"slot":"0"}}', b'{"I":{"id":"v1"}}', reward=1.0)


def lesson(experiment: str | None, arm: str | None) -> Lesson:
    return Lesson(1, 0, "e", "v", 1, "learned", None, 1.0, 1.0, 2, 0.0, b"{}", (), experiment, arm)


def counts(learners: Learners) -> dict[str | None, int]:
    return {name: learner.n_learned for name, learner in learners}


def test_arms_begin_as_the_champion_is_and_the_champion_goes_on(main: Learner) -> None:
    learners = Learners(main)
    learners.become(Apart("x", "a", ("b", "c")))
    assert counts(learners) == {"a": 1, "b": 1, "c": 1}
    assert learners.main is main
    assert learners["b"].save() == main.save()
    learn(learners["b"])
    assert counts(learners) == {"a": 1, "b": 2, "c": 1}
    assert learners["b"].save() != main.save()
    # Another share, an arm more and one less: who stays keeps what they learned.
    learners.become(Apart("x", "a", ("b", "d")))
    assert counts(learners) == {"a": 1, "b": 2, "d": 1}
    # Another champion is another name for what goes on.
    b = learners["b"]
    learners.become(Apart("x", "b", ("a", "d")))
    assert learners.main is b
    assert learners["a"] is main
    # One who was no arm before begins as the champion is, even as the champion.
    learners.become(Apart("x", "e", ("a", "b")))
    assert learners.main is b
    assert counts(learners) == {"e": 2, "a": 1, "b": 2}
    learners.become(None)
    assert counts(learners) == {None: 2}
    assert learners.main is b
    learners.close()


def test_another_experiment_begins_with_the_champion_alone(main: Learner) -> None:
    learners = Learners(main)
    learners.become(Apart("x", "a", ("b",)))
    learn(learners["b"])
    learners.become(Apart("y", "b", ("a",)))
    assert counts(learners) == {"b": 1, "a": 1}
    assert learners.main is main
    learners.close()


def test_a_lesson_of_the_experiment_is_for_its_arm_and_any_other_for_all(main: Learner) -> None:
    learners = Learners(main)
    assert learners.taught(lesson("x", "b")) == learners.taught(lesson(None, None)) == [None]
    learners.become(Apart("x", "a", ("b", "c")))
    assert learners.taught(lesson("x", "b")) == ["b"]
    assert learners.taught(lesson("x", "a")) == ["a"]
    for other in (lesson(None, None), lesson("y", "b"), lesson("x", "gone")):
        assert learners.taught(other) == ["a", "b", "c"]
    learners.close()


def test_an_arm_without_its_model_is_refused(main: Learner) -> None:
    with pytest.raises(CorruptModel, match="arms b"):
        Learners(main, {"c": main}, Apart("x", "a", ("b", "c")))
    main.close()


# ---------------------------------------------------------------- what each knows of items


def test_an_arm_knows_what_was_known_when_it_began_and_what_its_own_feeds_showed() -> None:
    statistics = Statistics(lambda numbers: {number: (f"v{number}", b'{"creator":"c"}') for number in numbers})

    def see(label: str | None, version: int, reward: float) -> None:
        slot = Slot(f"v{version}", version, 1.0, None, False)
        statistics.seen(None, slot, 5.0, Counted(reward, None), None, {}, label)

    def known(label: str, version: int) -> list[float]:
        key = key_of("item", f"v{version}")
        tally = statistics.own_tally(label, key) if key in statistics.own[label] else statistics.tally(key)
        return tally[SEEN : REWARD + 1]

    see(None, 1, 1.0)
    statistics.apart(["x/a/2", "x/b/2"])
    before = statistics.changes().digest("")
    assert known("x/a/2", 1) == known("x/b/2", 1) == [1.0, 1.0]
    # From before the experiment, heard of late: all know it.
    see(None, 2, 1.0)
    assert known("x/a/2", 2) == known("x/b/2", 2) == [1.0, 1.0]
    see("x/a/2", 1, 0.5)
    see("x/b/2", 2, 0.25)
    assert known("x/a/2", 1) == pytest.approx([2.0, 1.5], rel=1e-3)
    assert known("x/b/2", 1) == [1.0, 1.0]
    assert known("x/a/2", 2) == [1.0, 1.0]
    assert known("x/b/2", 2) == pytest.approx([2.0, 1.25], rel=1e-3)
    # Of their creator, each its own; of all, all.
    creator = key_of("creator", "c")
    assert statistics.own_tally("x/a/2", creator)[REWARD] == pytest.approx(2.5, rel=1e-2)
    assert statistics.tally(creator)[REWARD] == pytest.approx(2.75, rel=1e-2)
    # Late news still reach both, what each has of its own too.
    see(None, 1, 1.0)
    assert known("x/a/2", 1)[0] == pytest.approx(3.0, rel=1e-3)
    assert known("x/b/2", 1)[0] == pytest.approx(2.0, rel=1e-3)
    # Who comes later knows what is known by all; who goes is forgotten.
    statistics.apart(["x/a/2", "x/c/3"])
    assert known("x/c/3", 2) == pytest.approx([2.0, 1.25], rel=1e-3)
    see("x/a/2", 2, 0.0)
    assert known("x/c/3", 2) == pytest.approx([2.0, 1.25], rel=1e-3)
    assert {label for label, _ in statistics.changed_own()} == {"x/a/2", "x/c/3"}
    assert statistics.changes().digest("") != before


def test_an_arm_that_begins_again_is_another(api: Api, loop: Loop) -> None:
    trial = as_json(("a", 0.5, {}), ("b", 0.5, {}), learn_from="own")
    for change in (
        trial,
        {"slots": 5},
        {"experiment": None},
        trial,
        as_json(("b", 0.5, {}), ("c", 0.5, {}), learn_from="own"),
    ):
        assert put(api, change).status == 200
    configs = loop.service.ranker.configs
    assert own_labels({1: configs[1]}) == []
    assert [own_label(configs, version, "b") for version in range(1, 7)] == [
        None, "trial/b/2", "trial/b/2", None, "trial/b/5", "trial/b/5"
    ]  # fmt: skip
    assert own_labels(configs) == ["trial/b/5", "trial/c/6"]


# ---------------------------------------------------------------- through the service


def visit(api: Api, viewer: str, *, event_id: str | None = None, final: bool = True) -> dict[str, Any]:
    """A ranking, and what the viewer made of its top; every odd video is liked."""
    request: dict[str, Any] = {"candidates": CANDIDATES, "slots": 3, "user": {"id": viewer}}
    body: dict[str, Any] = api.call("POST", "/v1/rank", request | ({"event_id": event_id} if event_id else {})).body
    items = [
        {"id": one["id"], "signals": {"watch_s": int(one["id"][1:]), "like": int(one["id"][1:]) % 2}, "final": final}
        for one in body["ranking"][:2]
    ]
    assert api.call("POST", "/v1/feedback", {"event_id": body["event_id"], "items": items}).status == 202
    return body


def visits(api: Api, loop: Loop, n: int, *, start: int = 0, every: int = 10) -> list[dict[str, Any]]:
    made = []
    for k in range(start, start + n):
        made.append(visit(api, f"u{k % 30}", final=k % 3 != 0))
        loop.clock.pass_(0.5)
        if k % every == every - 1:
            loop.learn()
    loop.learn()
    return made


def by_arm(made: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [body for body in made if body["arm"] == name] for name, _, _ in ARMS}


def published(loop: Loop) -> dict[str, PublishedModel]:
    newest = newest_models(loop.data.log)[0]
    return {"plain": newest, **arm_models(loop.data.log, newest.published_pos)}


def learned_slots(loop: Loop, made: list[dict[str, Any]]) -> int:
    events = {body["event_id"] for body in made}
    rows = loop.data.log.query("SELECT event_id FROM outcomes WHERE status = 'learned'")
    return sum(row[0] in events for row in rows)


@pytest.fixture
def apart(api: Api, loop: Loop) -> Loop:
    """A model that has learned, and an experiment whose arms have each learned some more."""
    visits(api, loop, 20)
    loop.end_windows()
    assert put(api, APART).status == 200
    loop.learn()
    return loop


def test_each_arm_learns_from_its_own_feeds_alone_and_is_served_what_it_learned(api: Api, apart: Loop) -> None:
    before = newest_models(apart.data.log)[0]
    assert {one.digest for one in published(apart).values()} == {before.digest}
    made = by_arm(visits(api, apart, 60))
    apart.end_windows()
    models = published(apart)
    assert {name: one.learned - before.learned for name, one in models.items()} == {
        name: learned_slots(apart, each) for name, each in made.items()
    }
    assert all(learned_slots(apart, each) for each in made.values())
    assert len({one.digest for one in models.values()}) == 3
    arms = {one["name"]: one for one in api.call("GET", "/v1/experiment").body["arms"]}
    assert {name: arm["model_version"] for name, arm in arms.items()} == {
        name: one.digest for name, one in models.items()
    }
    for body in visits(api, apart, 12, start=60, every=100):
        own = models[body["arm"]]
        decision = stored(apart, body["event_id"])
        assert body["model_version"] == decision.model == own.digest
        assert decision.n_learned == own.learned
    # Two arms learn the same slots by another reward: what is earned is by each one's own formula.
    for name, each in made.items():
        slot = api.call("GET", f"/v1/events/{each[0]['event_id']}").body["slots"][0]
        assert (slot["reward"] in (0.0, 1.0)) == (name == "likes")
        assert slot["model"] in history_of(apart, name)
    result = rebuild(apart.data.path)
    assert result.ok, result.mismatch
    assert result.published > 3 * 6


def test_what_one_arm_finds_is_unknown_to_the_other(api: Api, loop: Loop) -> None:
    put(api, as_json(("a", 0.5, {}), ("b", 0.5, {}), learn_from="own"))
    loop.learn()
    reward = NAMES.index("item_reward")
    viewers: dict[str, str] = {}
    for k in range(20):
        viewers[api.call("POST", "/v1/rank", {"candidates": ["v0"], "user": {"id": f"u{k}"}}).body["arm"]] = f"u{k}"

    def ask(arm: str) -> float:
        body = api.call("POST", "/v1/rank", {"candidates": ["v0"], "user": {"id": viewers[arm]}}).body
        return stored(loop, body["event_id"]).slots[0].dense[reward]

    assert ask("a") == ask("b") == 0.0
    for _ in range(6):
        # Something else earns nothing, so that v0 is better than the mean.
        for item, earned in (("v0", 1.0), ("v1", 0.0)):
            body = api.call("POST", "/v1/rank", {"candidates": [item], "user": {"id": viewers["a"]}}).body
            told = [{"id": item, "reward": earned, "seen": True, "final": True}]
            api.call("POST", "/v1/feedback", {"event_id": body["event_id"], "items": told})
    loop.learn()
    assert ask("a") > 0.1
    assert ask("b") == 0.0
    # A worker that starts now reads the same.
    api = Api(create_app(Service(loop.data, clock=loop.clock)).test_client())
    assert ask("b") == 0.0
    assert ask("a") > 0.1
    put(api, {"experiment": None})
    loop.end_windows()
    assert ask("b") > 0.1
    loop.end_windows()
    assert loop.data.log.query("SELECT count(*) FROM arm_tallies") == [(0,)]


def history_of(loop: Loop, arm: str) -> set[str]:
    table = "models" if arm == "plain" else f"arm_models WHERE arm = '{arm}'"
    return {row[0] for row in loop.data.log.query(f"SELECT digest FROM {table}")}


def test_feeds_from_before_the_experiment_teach_every_arm_alike(api: Api, loop: Loop) -> None:
    visits(api, loop, 5)
    visit(api, "u1", event_id="early", final=False)
    put(api, APART)
    loop.learn()
    before = published(loop)
    loop.end_windows()
    after = published(loop)
    assert after["plain"].learned > before["plain"].learned
    assert len({one.digest for one in after.values()}) == 1
    assert rebuild(loop.data.path).ok


def test_a_promoted_arm_goes_on_when_the_experiment_ends(api: Api, apart: Loop) -> None:
    visits(api, apart, 40)
    apart.end_windows()
    bold = published(apart)["bold"]
    promoted = as_json(*ARMS, learn_from="own")
    promoted["experiment"]["champion"] = "bold"
    assert put(api, promoted).status == 200
    apart.learn()
    assert newest_models(apart.data.log)[0].digest == bold.digest
    assert set(published(apart)) - {"plain"} == {"plain", "likes"} - {"plain"}
    put(api, {"experiment": None})
    apart.learn()
    newest = newest_models(apart.data.log)[0]
    assert newest.digest == bold.digest
    assert arm_models(apart.data.log, newest.published_pos) == {}
    body = visit(api, "u1")
    assert body["model_version"] == bold.digest
    apart.end_windows()
    assert newest_models(apart.data.log)[0].learned == bold.learned + 2
    assert rebuild(apart.data.path).ok


def test_the_end_of_an_experiment_leaves_the_champion(api: Api, apart: Loop) -> None:
    visits(api, apart, 30)
    apart.end_windows()
    plain = published(apart)["plain"]
    put(api, {"experiment": None})
    apart.learn()
    assert newest_models(apart.data.log)[0].digest == plain.digest
    assert rebuild(apart.data.path).ok


def test_a_rollback_serves_every_arm_until_a_release(api: Api, apart: Loop) -> None:
    visits(api, apart, 30)
    apart.end_windows()
    models = published(apart)
    # Of what is newest too, and of an arm's: one model, whoever it was.
    for to in (models["plain"].digest, models["likes"].digest):
        assert api.call("POST", "/v1/model/rollback", {"to": to}).status == 200
        assert {visit(api, f"u{k}")["model_version"] for k in range(12)} == {to}
        assert api.call("POST", "/v1/model/release", {}).status == 200
    assert {visit(api, f"u{k}")["model_version"] for k in range(12)} == {one.digest for one in models.values()}


def test_a_spoiled_arm_is_held_alone(api: Api, apart: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    visits(api, apart, 20)
    apart.end_windows()
    before = published(apart)
    learner = apart.trainer._course.learners["bold"]
    save = learner.save

    def spoiled() -> bytes:
        return altered(save(), lambda weights: np.copyto(weights["weight"], np.nan))

    monkeypatch.setattr(learner, "save", spoiled)
    made = by_arm(visits(api, apart, 40, start=20, every=100))
    held = last_hold(apart.data.log)
    assert held is not None
    assert (held.arm, held.failed) == ("bold", "finite")
    problem = api.call("GET", "/v1/model").body
    assert problem["serving"]["hold"]["arm"] == "bold"
    apart.end_windows()
    after = published(apart)
    lost = sum(
        slot["status"] == "held"
        for body in made["bold"]
        for slot in api.call("GET", f"/v1/events/{body['event_id']}").body["slots"]
    )
    assert held.lessons == lost > 0
    for name in ("plain", "likes"):
        assert after[name].learned == before[name].learned + learned_slots(apart, made[name])
    assert after["bold"].learned == before["bold"].learned + learned_slots(apart, made["bold"])
    assert rebuild(apart.data.path).ok


def test_where_arms_have_just_begun_nothing_is_published_of_a_spoiled_champion(
    api: Api, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits(api, loop, 10)
    good = newest_models(loop.data.log)[0]
    learner = loop.trainer._course.learners.main
    save = learner.save
    monkeypatch.setattr(learner, "save", lambda: altered(save(), lambda weights: np.copyto(weights["weight"], np.nan)))
    # Not published before the arms begin.
    loop.trainer._last_publish = loop.clock.now
    visits_before = visit(api, "u1")
    put(api, APART)
    with pytest.raises(HalfLearned):
        loop.learn()
    loop.trainer.close()
    loop.trainer = Trainer(loop.data, clock=loop.clock)
    loop.learn()
    assert {one.digest for one in published(loop).values()} == {good.digest}
    assert api.call("GET", f"/v1/events/{visits_before['event_id']}").body["slots"][0]["status"] == "held"
    visits(api, loop, 20)
    loop.end_windows()
    assert rebuild(loop.data.path).ok


@pytest.mark.parametrize("seed", range(2))
def test_all_of_it_is_rebuilt_however_the_trainer_was_stopped(api: Api, loop: Loop, seed: int) -> None:
    rng = random.Random(seed)
    documents = [
        APART,
        as_json(ARMS[0], ("bold", 0.6, EPSILON), learn_from="own"),
        as_json(("bold", 0.5, EPSILON), ("plain", 0.5, {}), learn_from="own"),
        as_json(("plain", 0.5, {}), ("bold", 0.5, EPSILON)),
        {"experiment": None},
        {"experiment": APART["experiment"] | {"name": "other"}},
    ]
    for k in range(120):
        visit(api, f"u{k % 20}", final=rng.random() < 0.5)
        loop.clock.pass_(rng.choice([0.01, 0.6, 30.0]))
        if rng.random() < 0.1:
            assert put(api, rng.choice(documents)).status == 200
        if rng.random() < 0.4:
            loop.trainer.step()
        if rng.random() < 0.1:
            rng.choice([loop.trainer.close, lambda: loop.trainer.run(lambda: True)])()
            loop.trainer = Trainer(loop.data, clock=loop.clock)
        loop.service.ranker.refresh()
    loop.end_windows()
    result = rebuild(loop.data.path)
    assert result.ok, (result.mismatch, result.epoch_mismatch)
    assert result.learned == loop.data.log.query("SELECT count(*) FROM outcomes WHERE status = 'learned'")[0][0]


def test_bases_hold_every_arm_and_a_fresh_start_goes_on(api: Api, apart: Loop) -> None:
    visits(api, apart, 30)
    assert apart.service.erase("u3", wait_s=0.0).status == "erasing"
    apart.learn()
    apart.end_windows()
    base = bases(apart.data.log)[-1].base
    assert base.cause == "erasure"
    assert (base.experiment, set(base.arms)) == ("trial", {"bold", "likes"})
    visits(api, apart, 20)
    apart.end_windows()
    assert rebuild(apart.data.path).ok
    apart.close()
    assert server(["retrain", "--data", str(apart.data.path)]) == 0
    fresh = bases(apart.data.log)[-1].base
    assert set(fresh.arms) == {"bold", "likes"}
    kept = {fresh.model, *(digest for digest, _ in fresh.arms.values())}
    assert {path.stem for path in apart.data.models.folder.glob("*.vw")} == kept
    apart.trainer = Trainer(apart.data, clock=apart.clock)
    apart.service = Service(apart.data, clock=apart.clock)
    apart.learn()
    assert rebuild(apart.data.path).ok


def test_files_of_arms_are_kept_and_listed(api: Api, apart: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    visits(api, apart, 30)
    assert models_command(["--data", str(apart.data.path)]) == 0
    listed = capsys.readouterr().out
    for name in ("bold", "likes"):
        line = next(line for line in listed.splitlines() if line.startswith(published(apart)[name].digest))
        assert line.endswith(f"arm {name} of trial")


def test_replay_draws_every_arm_again_with_the_model_it_had(api: Api, apart: Loop) -> None:
    made = visits(api, apart, 60)
    apart.end_windows()
    for path in apart.data.models.folder.glob("*.vw"):
        # Even where no file is kept any more.
        path.rename(path.with_suffix(".gone"))
    log = ServiceLog(apart.data.path)
    history = History(log)
    n = 0
    for batch in log.batches(Needs()):
        for i in range(batch.n):
            slots = slice(batch.starts[i], batch.starts[i + 1])
            assert logged_draw(batch.source, i, history).propensity() == pytest.approx(
                batch.propensity[slots], rel=1e-9
            )
            n += 1
    assert n >= len(made)
    # An arm is asked for with the model that it had then, on the feeds of the others too.
    models = published(apart)
    body = visit(api, "u1", event_id="last")
    apart.end_windows()
    (last,) = [
        row[0] for row in apart.data.log.query("SELECT pos FROM log WHERE event_id = 'last' AND kind = 'decision'")
    ]
    history.close()
    log.close()
    log = ServiceLog(apart.data.path)
    history = History(log)
    decision = stored(apart, "last")
    for name, own in models.items():
        found = history.of_arm(name, decision, last)
        assert (body["model_version"] if found is None else found.digest) == own.digest
    policy = parse_feed("likes", "config:2/likes")
    policy.prepare(log)
    checked = alike = 0
    for batch in log.batches(Needs()):
        propensity = policy.assign(batch, False).propensity
        for i, entry in enumerate(batch.source.entries):
            slots = slice(batch.starts[i], batch.starts[i + 1])
            dense, own = batch.source.dense(i, "likes"), batch.source.dense(i)
            alike += bool((dense == own).all())
            if entry.decision.arm == "likes":
                np.testing.assert_array_equal(dense, own)
                assert propensity[slots] == pytest.approx(batch.propensity[slots], rel=1e-9)
                checked += 1
    assert 0 < checked < alike < n
    policy.close()
    history.close()
    log.close()
    answer = evaluate(str(apart.data.path), {"same": "feed:logged"}, slices=("arm",))
    assert answer.policies[0].slices.keys() == {"arm"}
