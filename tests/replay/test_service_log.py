"""The service's own log, read for evaluation: the same joins as the trainer's, whole decisions, nothing written."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import Raw

from bandit.config import Config, EpsilonGreedy, Settings, Signal, SquareCB, Uniform
from bandit.errors import EmptySlate
from bandit.records import (
    ActivateRequest,
    Candidate,
    Feedback,
    Item,
    ItemFeedback,
    ItemsRequest,
    RankReply,
    RankRequest,
    User,
)
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.events import find_decision, outcomes
from replay.errors import BadLog, BadQuestion
from replay.events import Batch, Needs, hash_key, item_key, slot_numbers
from replay.readers import service as reader
from replay.readers import service_fold, service_items
from replay.readers.service import ALTERED, NOT_SHOWN, STILL_OPEN, UNDEFINED, ServiceLog
from tests.conftest import Clock, Loop, watch_worth
from tests.test_rebuild import files_of

SIGNALS = {
    "watch_s": Signal("max", True), "like": Signal("last"), "share": Signal("sum"), "not_interested": Signal("max"),
}  # fmt: skip
EVERYTHING = Needs(fields=("model", "config", "policy", "fallback", "n_candidates"), candidates=True, texts=True)


def put_config(loop: Loop, **changes: Any) -> None:
    live = loop.service.config()
    loop.service.put_config(Config(**{"signals": SIGNALS, "rules": [], **changes}), expected=live.version)


def whole(log: ServiceLog, needs: Needs = EVERYTHING) -> Batch:
    """All of a log in one batch, by plain concatenation."""
    batches = list(log.batches(needs))
    assert batches
    offsets = np.cumsum([0] + [one.n_slots for one in batches])
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in batches])
        for name in ("item", "chosen", "propensity", "reward", "n_candidates", "viewer", "time", "place", "seen")
    }
    return Batch(
        starts=np.concatenate([[0]] + [one.starts[1:] + at for one, at in zip(batches, offsets, strict=False)]),
        fields={name: np.concatenate([one.fields[name] for one in batches]) for name in batches[0].fields},
        columns={name: np.concatenate([one.columns[name] for one in batches]) for name in batches[0].columns},
        **columns,
    )


class Player:
    """Seeded clients of every kind: some report everything, some little, some late, some show another list."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.sent: dict[str, tuple[RankRequest, RankReply]] = {}
        loop.service.put_items(ItemsRequest([Item(f"v{i}", Raw(b'{"len":%d}' % i)) for i in range(12)]))

    def visit(self) -> None:
        rng, service, clock = self.rng, self.loop.service, self.loop.clock
        ids: list[Any] = rng.sample([f"v{i}" for i in range(12)] + ["unknown"], rng.randint(1, 9))
        if rng.random() < 0.3:
            ids[0] = Candidate(f"inline{rng.randint(0, 3)}", Raw(b'{"x":%d}' % rng.randint(0, 2)))
        request = RankRequest(
            ids,
            event_id=f"e{len(self.sent)}",
            user=None if rng.random() < 0.3 else User(f"u{rng.randint(0, 9)}", {"age": rng.choice(["old", "young"])}),
            context={"hour": rng.choice(["8", "20"])},
            slots=rng.randint(1, 5),
            exclude=[f"v{rng.randint(0, 11)}"] if len(ids) > 2 and rng.random() < 0.3 else [],
            defer_activation=rng.random() < 0.3,
        )
        try:
            reply = service.rank(request)
        except EmptySlate:
            return
        self.sent[reply.event_id] = (request, reply)
        ranked = [one.id for one in reply.ranking]
        if rng.random() < (0.7 if request.defer_activation else 0.2):
            shown = rng.choice([None, None, ranked[: rng.randint(1, len(ranked))], ranked[::-1], ["other"]])
            service.activate(reply.event_id, ActivateRequest(shown))
        for _ in range(rng.choice([0, 1, 1, 2])):
            clock.pass_(rng.choice([0.0, 1.0, 5.0, 12.0]))
            told = [self.item(one) for one in rng.sample(ranked, rng.randint(1, len(ranked)))]
            service.feedback([Feedback(reply.event_id, told)])
        clock.pass_(rng.choice([0.0, 1.0, 3.0]))

    def item(self, item_id: str) -> ItemFeedback:
        rng = self.rng
        names = rng.sample(sorted(SIGNALS), rng.choice([0, 1, 1, 2]))
        return ItemFeedback(
            id=item_id,
            signals={name: rng.choice([0.0, 1.0, 30.0]) for name in names},
            seen=rng.choice([None, None, True, False]),
            reward=rng.choice([None, None, None, 0.25, -1.0]),
            final=rng.random() < 0.3,
        )

    def play(self, n: int) -> None:
        """Under one config after the other; some decisions are of no model, some rewards have no value."""
        configs: list[dict[str, Any]] = [
            {"reward": "watch_s / 30 + like", "explorer": EpsilonGreedy(0.3), "floor": 0.1, "reward_window_s": 10.0},
            {"reward": "like / watch_s", "explorer": Uniform(), "floor": [0.3, 0.05], "reward_window_s": 5.0},
            {"reward": "like - 2 * not_interested", "evidence": "served", "default_reward": -0.5,
             "explorer": SquareCB(), "shortlist": 3, "reward_window_s": 10.0, "reward_range": (-1.0, 1.0)},
        ]  # fmt: skip
        for config in configs:
            put_config(self.loop, **config)
            for k in range(n // len(configs)):
                self.visit()
                if k % 20 == 0:
                    self.loop.learn()
            self.loop.service.withdraw(f"v{self.rng.randint(0, 11)}")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    """A live log, in which every window has ended; a test that adds to it lets its own end too."""
    path = tmp_path_factory.mktemp("played") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    player = Player(Loop(data, clock), seed=5)
    player.play(240)
    player.loop.end_windows()
    yield player
    player.loop.close()
    data.close()


# ---------------------------------------------------------------- the same as the trainer


def test_seen_and_reward_agree_with_the_trainers_outcomes_slot_by_slot(played: Player) -> None:
    data = played.loop.data
    log = ServiceLog(data.path)
    batch = whole(log)
    assert batch.seen is not None
    there = {int(place): i for i, place in enumerate(batch.place)}
    statuses: Counter[str] = Counter()
    for event_id, (_, reply) in played.sent.items():
        stored = find_decision(data.log, event_id)
        assert stored is not None
        found = {one.slot: one for one in outcomes(data.log, stored.pos)}
        left_out = {one.status for one in found.values()} & {"altered", "not_activated", "undefined_reward"}
        if stored.pos not in there:
            statuses.update(left_out or {"silent and left out"})
            continue
        assert not left_out
        i = there[stored.pos]
        begin, end = batch.starts[i], batch.starts[i + 1]
        assert end - begin == len(reply.ranking)
        for slot in range(end - begin):
            one = found.get(slot)
            statuses[one.status if one else "silent"] += 1
            learned = one is not None and one.status == "learned"
            assert batch.seen[begin + slot] == learned
            assert batch.reward[begin + slot] == (one.reward if one is not None and learned else 0.0)
    # Everything that can happen did.
    assert {"learned", "unseen", "not_shown", "silent", "altered", "not_activated", "undefined_reward"} <= set(statuses)
    counts = log.problems().counts
    assert set(counts) == {ALTERED, NOT_SHOWN, UNDEFINED}
    assert batch.n + sum(counts.values()) == len(played.sent)
    assert len(log.problems().examples) == reader.MOST_EXAMPLES
    log.close()


def test_what_was_logged_is_what_was_answered(played: Player) -> None:
    log = ServiceLog(played.loop.data.path)
    n = 0
    for batch in log.batches(EVERYTHING):
        assert batch.candidates is not None
        assert batch.texts is not None
        feeds = batch.source
        for i in range(batch.n):
            entry = feeds.entries[i]
            request, reply = played.sent[entry.event_id]
            n += 1
            assert batch.viewer[i] == hash_key(request.user.id if request.user else entry.event_id)
            ids = [one if isinstance(one, str) else one.id for one in request.candidates]
            left = [one for one in ids if one not in request.exclude and one not in withdrawn(entry, ids)]
            for slot, placed in enumerate(reply.ranking):
                s = int(batch.starts[i]) + slot
                assert batch.item[s] == item_key(placed.id)
                assert batch.propensity[s] == min(placed.propensity, 1.0)
                assert batch.n_candidates[s] == len(left)
                assert left[batch.chosen[s]] == placed.id
                listed = slice(batch.candidates.starts[s], batch.candidates.starts[s + 1])
                assert batch.candidates.item[listed].tolist() == [item_key(one) for one in left]
                texts = [msgspec.json.decode(text) for text in batch.texts.candidates[listed]]
                assert [text["I"]["id"] for text in texts] == left
                left.remove(placed.id)
            assert batch.fields["config"][i] == str(reply.config_version)
            assert batch.fields["policy"][i] == reply.policy
            assert batch.fields["model"][i] == reply.model_version
            assert msgspec.json.decode(batch.texts.shared[i])["C"] == request.context
    assert n == whole(log).n
    log.close()


def withdrawn(entry: Any, ids: list[str]) -> set[str]:
    return {ids[place] for place in entry.decision.ineligible.get("withdrawn", [])}


def test_nothing_was_less_likely_than_the_floor_that_is_told(played: Player) -> None:
    log = ServiceLog(played.loop.data.path)
    batch = whole(log, Needs(fields=("config",)))
    least = batch.columns["least_propensity"]
    assert (batch.propensity >= least * (1 - 1e-12)).all()
    assert (least > 0).all()
    of_slot = np.repeat(batch.fields["config"], np.diff(batch.starts))
    # Uniform draws: the bound is the probability itself.
    uniform = of_slot == "3"
    assert uniform.any()
    assert np.allclose(batch.propensity[uniform], least[uniform], rtol=1e-12)
    # Epsilon-greedy: what was not the best had exactly it.
    epsilon = (of_slot == "2") & (batch.n_candidates > 1)
    assert (np.isclose(batch.propensity[epsilon], least[epsilon])).any()
    first = slot_numbers(batch.starts) == 0
    assert (batch.columns["floor"][uniform & first] == 0.3).all()
    assert (batch.columns["floor"][uniform & ~first] == 0.05).all()
    log.close()


def test_fallbacks_are_events_too(data: DataDirectory, clock: Clock) -> None:
    service = Service(data, clock=clock)
    live = service.config()
    service.put_config(msgspec.structs.replace(live.document, floor=0.05), expected=live.version)
    reply = service.rank(RankRequest(["a", "b", "c"], slots=2))
    assert reply.fallback == "no_model"
    service.feedback([Feedback(reply.event_id, [ItemFeedback(reply.ranking[1].id, {"watch_s": 30.0})])])
    clock.pass_(10_000.0)
    service.rank(RankRequest(["a"]))
    log = ServiceLog(data.path)
    batch = whole(log)
    assert batch.fields["fallback"].tolist() == ["no_model"]
    assert batch.fields["policy"].tolist() == ["caller_order"]
    assert batch.reward.tolist() == [0.0, watch_worth(30.0)]
    assert batch.seen is not None
    assert batch.seen.tolist() == [1, 1]
    # Epsilon 0.1 over all, and a floor of 0.05.
    assert batch.columns["least_propensity"] == pytest.approx([(0.05 + 0.95 * 0.1) / 3, (0.05 + 0.95 * 0.1) / 2])
    assert log.problems().counts == {STILL_OPEN: 1}
    log.close()


# ---------------------------------------------------------------- reading


def same(one: Batch, other: Batch) -> bool:
    names = ("starts", "item", "chosen", "propensity", "reward", "n_candidates", "viewer", "time", "place", "seen")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_reading_again_gives_the_same_and_so_do_small_pieces(played: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ServiceLog(played.loop.data.path)
    first = whole(log)
    problems = log.problems()
    assert log.done() == log.size()
    assert same(first, whole(log))
    monkeypatch.setattr(reader, "A_BATCH", 7)
    monkeypatch.setattr(reader, "MOST_LISTED", 20)
    monkeypatch.setattr(reader, "READ_AT_ONCE", 11)
    monkeypatch.setattr(service_fold, "KEPT_BYTES", 1_000)
    monkeypatch.setattr(service_items, "MAX_TEXTS", 3)
    assert same(first, whole(log))
    assert log.problems() == problems
    log.close()


def test_only_what_is_asked_for_is_read(played: Player) -> None:
    log = ServiceLog(played.loop.data.path)
    for batch in log.batches(Needs()):
        assert batch.candidates is None
        assert batch.texts is None
        assert batch.fields == {}
    assert same(whole(log, Needs()), whole(log))
    log.close()


def test_a_live_log_is_read_as_it_stood_and_left_as_it_was(played: Player) -> None:
    path = played.loop.data.path
    before = files_of(path)
    log = ServiceLog(path / "log.db")
    first = whole(log)
    after = files_of(path)
    assert {name for name in before if before[name] != after[name]} <= {"log.db-shm"}
    played.play(30)
    played.loop.end_windows()
    assert same(first, whole(log))
    later = ServiceLog(path)
    assert whole(later).n > first.n
    log.close()
    later.close()


def test_a_log_at_rest_stays_as_it_was(played: Player, tmp_path: Path) -> None:
    copy = tmp_path / "at rest"
    copy.mkdir()
    connection = sqlite3.connect(played.loop.data.path / "log.db")
    connection.execute("VACUUM INTO ?", (str(copy / "log.db"),))
    connection.close()
    before = files_of(copy)
    log = ServiceLog(copy)
    assert whole(log).n
    log.close()
    assert files_of(copy) == before


# ---------------------------------------------------------------- windows


def final(*ids: str) -> list[ItemFeedback]:
    return [ItemFeedback(one, {"watch_s": 60.0}, final=True) for one in ids]


def test_at_the_end_of_the_log_what_is_wholly_reported_counts_up_to_the_first_that_waits(loop: Loop) -> None:
    def rank(event_id: str) -> None:
        loop.service.rank(RankRequest(["a", "b"], event_id=event_id))

    for k in range(5):
        rank(f"e{k}")
    for k in (0, 1, 3, 4):
        loop.service.feedback([Feedback(f"e{k}", final("a", "b"))])
    # The third viewer is still looking: to count the later two, and not this one, would choose by what was done.
    loop.service.feedback([Feedback("e2", final("a"))])
    log = ServiceLog(loop.data.path)
    batch = whole(log)
    assert (batch.n, batch.reward.sum()) == (2, pytest.approx(4 * watch_worth(60.0)))
    assert log.problems().counts == {STILL_OPEN: 3}
    log.close()
    loop.service.feedback([Feedback("e2", final("b"))])
    log = ServiceLog(loop.data.path)
    assert whole(log).n == 5
    log.close()
    loop.end_windows()
    log = ServiceLog(loop.data.path)
    assert whole(log).n == 5
    assert log.problems().counts == {}
    log.close()


def test_another_window_can_be_asked_for(loop: Loop) -> None:
    loop.service.rank(RankRequest(["a"], event_id="e1"))
    loop.clock.pass_(30.0)
    loop.service.feedback([Feedback("e1", [ItemFeedback("a", {"watch_s": 60.0})])])
    loop.end_windows()
    for window_s, reward in ((None, watch_worth(60.0)), (10.0, 0.0), (31.0, watch_worth(60.0))):
        log = ServiceLog(loop.data.path, window_s=window_s)
        assert whole(log).reward.tolist() == [reward]
        log.close()
    with pytest.raises(BadQuestion, match="above 0"):
        ServiceLog(loop.data.path, window_s=0.0)


def test_a_log_without_decisions_has_no_batches(loop: Loop) -> None:
    log = ServiceLog(loop.data.path)
    assert list(log.batches(Needs(fields=("hour",)))) == []
    assert log.problems() == ({}, ())
    log.close()


# ---------------------------------------------------------------- what if on rewards


@pytest.fixture
def told(loop: Loop) -> Loop:
    """Slots with signals, with nothing but an impression, unseen, with an own reward besides signals."""
    put_config(loop, reward="watch_s / 60", slots=4, default_reward=0.125, reward_range=(-1.0, 1.0))
    reply = loop.service.rank(RankRequest(["a", "b", "c", "d"], event_id="e1"))
    ids = [one.id for one in reply.ranking]
    told = [
        ItemFeedback(ids[0], {"watch_s": 30.0, "like": 1.0, "share": 1.0}),
        ItemFeedback(ids[1], seen=True),
        ItemFeedback(ids[2], {"watch_s": 6.0}, reward=0.75),
    ]
    loop.service.feedback([Feedback("e1", told), Feedback("e1", [ItemFeedback(ids[0], {"share": 2.0})])])
    loop.end_windows()
    return loop


@pytest.mark.parametrize(
    ("formula", "rewards"),
    [
        (None, [0.5, 0.125, 0.75, 0.0]),
        ("watch_s + 2 * like", [32.0, 0.0, 6.0, 0.0]),
        ("1 + share", [4.0, 1.0, 1.0, 0.0]),
        ("watch_s / 60 + reward", [0.5, 0.0, 0.1 + 0.75, 0.0]),
        ("like - not_interested * 5", [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_another_formula_is_asked_of_the_raw_signals(told: Loop, formula: str | None, rewards: list[float]) -> None:
    log = ServiceLog(told.data.path, reward=formula)
    batch = whole(log)
    assert batch.reward.tolist() == pytest.approx(rewards)
    assert batch.seen is not None
    assert batch.seen.tolist() == [1, 1, 1, 0]
    assert log.reward_range == ((-4.0, 4.0) if formula is None else None)
    log.close()


def test_a_formula_without_a_value_somewhere_leaves_the_decision_out(told: Loop) -> None:
    log = ServiceLog(told.data.path, reward="like / watch_s")
    assert list(log.batches(Needs())) == []
    assert log.problems().counts == {UNDEFINED: 1}
    log.close()


def test_an_own_reward_without_signals_is_not_guessed_at(told: Loop) -> None:
    told.service.rank(RankRequest(["a"], event_id="e2"))
    told.service.feedback([Feedback("e2", [ItemFeedback("a", seen=True, reward=0.5)])])
    told.end_windows()
    log = ServiceLog(told.data.path, reward="like")
    with pytest.raises(BadQuestion, match=r"like \+ reward"):
        list(log.batches(Needs()))
    log.close()
    for formula, earned in (("like + reward", 0.5), ("like + 0 * reward", 0.0)):
        log = ServiceLog(told.data.path, reward=formula)
        assert whole(log).reward[-1] == earned
        log.close()


@pytest.mark.parametrize(
    ("formula", "said"),
    [("like +", "not an expression"), ("lik * 2", "uses lik.*watch_s"), ("like if share else 0", "IfExp")],
)
def test_a_formula_that_does_not_fit_is_refused(told: Loop, formula: str, said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        ServiceLog(told.data.path, reward=formula)


# ---------------------------------------------------------------- fields


def test_any_feature_of_viewer_or_context_is_a_field(played: Player) -> None:
    log = ServiceLog(played.loop.data.path)
    batch = whole(log, Needs(fields=("hour", "context.hour", "user.age", "age", "deferred")))
    assert set(batch.fields["hour"]) == {"8", "20"}
    assert (batch.fields["hour"] == batch.fields["context.hour"]).all()
    assert set(batch.fields["age"]) == {"old", "young", "(none)"}
    assert (batch.fields["age"] == batch.fields["user.age"]).all()
    assert set(batch.fields["deferred"]) == {"yes", "no"}
    with pytest.raises(BadQuestion, match=r"'hours'.*model.*context\.hour.*user\.age"):
        list(log.batches(Needs(fields=("hours",))))
    with pytest.raises(BadQuestion, match=r"'slot'"):
        list(log.batches(Needs(fields=("slot",))))
    log.close()


# ---------------------------------------------------------------- what is no log, or a broken one


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    garbage, other = tmp_path / "garbage", tmp_path / "other"
    for directory in (garbage, other):
        directory.mkdir()
    (garbage / "log.db").write_bytes(b"no database " * 1_000)
    connection = sqlite3.connect(other / "log.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    for path in (tmp_path / "nowhere", tmp_path, garbage, other, other / "log.db"):
        with pytest.raises(BadLog, match=path.name):
            ServiceLog(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE log SET payload = substr(payload, 1, 100) WHERE kind = 'decision'", "decision at position"),
        ("UPDATE log SET payload = '{' WHERE kind = 'feedback'", "feedback at position"),
        ("DELETE FROM item_versions WHERE id = 'a'", "item versions"),
        ("UPDATE item_versions SET features = '{' WHERE id = 'a'", "features that were checked"),
        ("UPDATE log SET candidates = x'09000000' WHERE kind = 'decision'", "not among its candidates"),
        ("UPDATE log SET payload = json_set(payload, '$.slots[0][2]', 0.0) WHERE kind = 'decision'", "propensity of 0"),
        (
            "UPDATE log SET payload = json_set(payload, '$.slots[0][2]', 1.5) WHERE kind = 'decision'",
            "propensity of 1.5",
        ),
        ("UPDATE log SET payload = json_set(payload, '$.config', 77) WHERE kind = 'decision'", "77"),
        ("UPDATE log SET payload = '{}' WHERE kind = 'config'", "config"),
    ],
)
def test_a_damaged_log_is_said_not_guessed_at(told: Loop, tmp_path: Path, change: str, said: str) -> None:
    told.close()
    told.data.close()
    copy = tmp_path / "damaged"
    shutil.copytree(told.data.path, copy)
    connection = sqlite3.connect(copy / "log.db")
    with connection:
        connection.execute(change)
    connection.close()

    def read() -> None:
        log = ServiceLog(copy)
        try:
            list(log.batches(EVERYTHING))
        finally:
            log.close()

    with pytest.raises(BadLog, match=said):
        read()


def test_the_range_of_rewards_is_the_configs_over_the_longest_feed(loop: Loop) -> None:
    def reward_range() -> tuple[float, float] | None:
        log = ServiceLog(loop.data.path)
        try:
            return log.reward_range
        finally:
            log.close()

    assert reward_range() is None
    put_config(loop, reward="like", reward_range=(0.5, 2.0), default_reward=1.0)
    loop.service.rank(RankRequest(["a", "b", "c"], slots=2))
    # The config that a log begins with is not counted: nothing was ranked under it.
    assert reward_range() == (0.0, 4.0)
    put_config(loop, reward="like", reward_range=(-3.0, 1.0))
    loop.service.rank(RankRequest(["a", "b", "c"]))
    assert reward_range() == (-9.0, 4.0)


def test_settings_of_the_log_are_told(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "other"
    path.mkdir()
    data = DataDirectory(Settings(path, vw="-b 10 -q UI", durable=False), clock=clock)
    log = ServiceLog(path)
    assert log.args.text == "--bit_precision 10 --quadratic UI"
    assert (log.kind, log.marginals, log.name) == ("service", False, str(path))
    log.close()
    data.close()
