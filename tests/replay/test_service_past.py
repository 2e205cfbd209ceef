"""What was known at decisions of the past: the same columns from the log alone, however they are asked for."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bandit.config import Settings
from bandit.features.hashing import with_dense
from bandit.ranking.explain import contributions
from bandit.records import Decision, RankRequest, User, UserRecord
from bandit.service import Service
from bandit.statistics.columns import NAMES
from bandit.store.data import DataDirectory
from bandit.store.statistics import put_user
from replay.__main__ import main
from replay.errors import BadLog
from replay.events import Needs
from replay.policies import parse_policy
from replay.policies.feed_models import find_model, scores_of
from replay.readers import service_past
from replay.readers.service import ServiceLog
from replay.readers.service_texts import whole_texts
from tests.conftest import Clock, Loop
from tests.test_rebuild import Crowd, alter, short_windows


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """A live log of two workers, one of which sees epochs late; items and viewers with all that is counted."""
    path = tmp_path_factory.mktemp("crowded") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    loop = Loop(data, clock)
    short_windows(loop, rules=[])
    crowd = Crowd(loop, seed=7)
    crowd.services.append(Service(data, clock=clock))
    crowd.play(120)
    for service in crowd.services:
        service.ranker.refresh()
    crowd.play(60)
    loop.end_windows()
    yield crowd
    loop.close()
    data.close()


def copy_of(crowd: Crowd, target: Path) -> Path:
    """The log at rest, and none of the tables that the trainer keeps beside it."""
    target.mkdir()
    connection = sqlite3.connect(crowd.loop.data.path / "log.db")
    connection.execute("VACUUM INTO ?", (str(target / "log.db"),))
    connection.close()
    shutil.copytree(crowd.loop.data.path / "models", target / "models")
    for table in ("epochs", "tallies", "viewers", "attribute_names"):
        alter(target, f"DELETE FROM {table}")
    return target


def redrawn(path: Path, spec: str = "feed:logged") -> int:
    """How many decisions there were; each is drawn again with exactly the logged probabilities."""
    log = ServiceLog(path)
    policy = parse_policy(spec)
    policy.prepare(log)
    n = 0
    try:
        for batch in log.batches(policy.needs(False)):
            n += batch.n
            assert policy.assign(batch, False).propensity.tobytes() == batch.propensity.tobytes()
    finally:
        log.close()
    return n


def test_the_logged_policy_gives_the_logged_probabilities_though_statistics_went_on(
    crowded: Crowd, tmp_path: Path
) -> None:
    log = ServiceLog(crowded.loop.data.path)
    stamps = [entry.decision.statistics for batch in log.batches(Needs()) for entry in batch.source.entries]
    log.close()
    assert None not in stamps
    epochs = [stamp.epoch for stamp in stamps if stamp is not None]
    # What the test is about did happen: many epochs, not in order, viewers published before and after them.
    assert len(set(epochs)) > 15
    assert epochs != sorted(epochs)
    assert {np.sign(stamp.viewer_pos - stamp.epoch) for stamp in stamps if stamp is not None} == {-1, 0, 1}
    assert any(stamp.read_to > stamp.viewer_pos for stamp in stamps if stamp is not None)
    assert redrawn(crowded.loop.data.path) > 100
    assert redrawn(copy_of(crowded, tmp_path / "at rest")) > 100


def test_the_drawn_items_columns_are_those_that_the_decision_kept(crowded: Crowd) -> None:
    log = ServiceLog(crowded.loop.data.path)
    moved = 0.0
    for batch in log.batches(Needs()):
        feeds = batch.source
        for i, entry in enumerate(feeds.entries):
            dense = feeds.dense(i)
            assert dense is not None
            at = feeds.at[feeds.starts[i] : feeds.starts[i + 1]]
            assert np.array_equal(dense[at], np.array([slot.dense for slot in entry.decision.slots], np.float32))
            moved += float(np.abs(dense[:, 11:]).sum())
    assert moved > 10.0
    log.close()


def test_any_order_gives_the_same_though_little_is_kept(crowded: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ServiceLog(crowded.loop.data.path)
    entries = [entry for batch in log.batches(Needs()) for entry in batch.source.entries]

    def columns(some: list[int]) -> list[bytes]:
        found = []
        for i in some:
            (dense,) = log.past.columns([entries[i].decision], [entries[i].versions], [entries[i].pos])
            assert isinstance(dense, np.ndarray)
            found.append(dense.tobytes())
        return found

    forward = columns(list(range(len(entries))))
    assert columns(list(range(len(entries)))[::-1]) == forward[::-1]
    monkeypatch.setattr(service_past, "KEPT_BYTES", 1)
    monkeypatch.setattr("bandit.statistics.folding.MAX_KEPT_VIEWERS", 2)
    log.past.close()
    assert columns(list(range(len(entries)))) == forward
    assert columns(list(range(0, len(entries), 20))[::-1]) == forward[::20][::-1]
    log.close()


def test_interests_told_a_moment_ago_hold(crowded: Crowd) -> None:
    """Said after what was published of the viewer, and before the ranking."""
    loop = crowded.loop
    loop.data.log.append(lambda txn: put_user(txn, UserRecord("u1", ["t6"])))
    loop.service.rank(RankRequest([f"v{k}" for k in range(12)], user=User("u1"), event_id="moment"))
    loop.end_windows()
    log = ServiceLog(loop.data.path)
    (entry,) = [e for b in log.batches(Needs()) for e in b.source.entries if e.event_id == "moment"]
    (dense,) = log.past.columns([entry.decision], [entry.versions], [entry.pos])
    assert isinstance(dense, np.ndarray)
    assert sorted(set(dense[:, 18].tolist())) == [0.0, 0.5]
    log.close()


def test_a_log_that_gives_other_statistics_is_refused_with_the_place(crowded: Crowd, tmp_path: Path) -> None:
    path = copy_of(crowded, tmp_path / "altered")
    # Interests alone: they change columns, and no lesson, which learns from what its decision kept.
    alter(path, "UPDATE log SET payload = replace(payload, '\"t', '\"x') WHERE kind = 'user'")
    with pytest.raises(BadLog, match=r"other statistics at position \d+ than the decision there saw; `replay rebuild`"):
        redrawn(path)
    # Who does not score need not know.
    assert redrawn_by_caller(path)


def redrawn_by_caller(path: Path) -> int:
    log, policy = ServiceLog(path), parse_policy("caller,floor=.1")
    policy.prepare(log)
    n = sum(len(policy.assign(batch, False).propensity) for batch in log.batches(Needs()))
    log.close()
    return n


def test_an_epoch_that_the_log_does_not_have_is_refused(crowded: Crowd, tmp_path: Path) -> None:
    path = copy_of(crowded, tmp_path / "altered")
    alter(path, "DELETE FROM log WHERE kind = 'epoch' AND pos % 3 = 0")
    with pytest.raises(BadLog, match="saw statistics of position"):
        redrawn(path)


def test_decisions_from_before_there_were_statistics_score_without(loop: Loop) -> None:
    """The model that served them had not learned any."""
    short_windows(loop, rules=[])
    crowd = Crowd(loop, seed=8)
    loop.service.rank(RankRequest(["v0", "v1", "v2"], event_id="old"))
    stored = loop.data.log.query("SELECT CAST(payload AS BLOB) FROM log WHERE event_id = 'old'")[0][0]
    decision = msgspec.json.decode(bytes(stored), type=Decision)
    decision.statistics = None
    for slot in decision.slots:
        slot.dense = []
    connection = sqlite3.connect(loop.data.path / "log.db")
    with connection:
        connection.execute("UPDATE log SET payload = ? WHERE event_id = 'old'", (msgspec.json.encode(decision),))
    connection.close()
    crowd.play(20)
    loop.end_windows()
    log = ServiceLog(loop.data.path)
    (batch,) = log.batches(Needs())
    known = [batch.source.dense(i) for i in range(batch.n)]
    assert [dense is None for dense in known] == [entry.event_id == "old" for entry in batch.source.entries]
    log.close()
    assert redrawn(loop.data.path) > 5


def test_after_an_erasure_what_the_log_still_tells_is_told(loop: Loop) -> None:
    short_windows(loop, rules=[])
    crowd = Crowd(loop, seed=9)
    crowd.play(40)
    loop.end_windows()
    assert loop.service.erase("u3", wait_s=0.0).status == "erasing"
    loop.learn()
    assert loop.service.erase("u3", wait_s=0.0).status == "erased"
    loop.service.ranker.refresh()
    begins = loop.data.log.last_position()
    crowd.play(40)
    loop.end_windows()
    log = ServiceLog(loop.data.path)
    first = next(iter(log.batches(Needs())))
    with pytest.raises(BadLog, match="and the log begins at position"):
        first.source.dense(0)
    log.close()
    log = ServiceLog(loop.data.path, after=begins)
    policy = parse_policy("feed:logged")
    policy.prepare(log)
    n = 0
    for batch in log.batches(Needs()):
        n += batch.n
        assert policy.assign(batch, False).propensity.tobytes() == batch.propensity.tobytes()
    assert n > 20
    log.close()


# ---------------------------------------------------------------- where texts are wanted


def test_what_is_converted_has_the_columns_that_were_learned_from_and_those_of_all_others(
    crowded: Crowd, tmp_path: Path
) -> None:
    assert main(["convert", str(crowded.loop.data.path), str(tmp_path / "out.json")]) == 0
    lines = [msgspec.json.decode(line) for line in (tmp_path / "out.json").read_bytes().splitlines()]
    log = ServiceLog(crowded.loop.data.path)
    at = 0
    for batch in log.batches(Needs()):
        feeds = batch.source
        for i, entry in enumerate(feeds.entries):
            line = lines[at]
            at += 1
            multi = {one["I"]["id"]: one for one in line["c"]["_multi"]}
            dense = feeds.dense(i)
            assert dense is not None
            texts = feeds.items.texts(entry.versions.tolist())
            slots = slice(feeds.starts[i], feeds.starts[i + 1])
            shown = dict(zip(feeds.at[slots].tolist(), entry.decision.slots, strict=True))
            for place, (text, values) in enumerate(zip(texts, dense.tolist(), strict=True)):
                learned = with_dense(text, NAMES, shown[place].dense if place in shown else values)
                written = multi[msgspec.json.decode(text)["I"]["id"]]
                written.pop("_tag", None)
                assert written == msgspec.json.decode(learned)
                assert "D" in written
    assert at == len(lines) > 100
    log.close()


def test_texts_with_columns_score_as_the_kernel_does(crowded: Crowd) -> None:
    log = ServiceLog(crowded.loop.data.path)
    model = find_model("newest", log)
    batch = next(iter(log.batches(Needs(candidates=True, texts=True))))
    texts = whole_texts(batch)
    assert batch.candidates is not None
    assert batch.texts is not None
    starts, event = batch.candidates.starts, np.repeat(np.arange(batch.n), np.diff(batch.starts))
    scored = np.concatenate([scores_of(model, batch.source, i) for i in range(batch.n)])
    for slot in range(0, batch.n_slots, 7):
        i = int(event[slot])
        chosen = int(starts[slot] + batch.chosen[slot])
        parts = contributions(batch.texts.shared[i], texts[chosen], model.weights, model.args)
        place = int(batch.source.of[i] + batch.source.at[slot])
        assert sum(part for _, part in parts) == pytest.approx(float(scored[place]), abs=1e-5)
    log.close()


def test_a_model_file_ranks_with_the_columns_too(crowded: Crowd) -> None:
    log = ServiceLog(crowded.loop.data.path)
    newest = next(iter(log.published())).digest
    path = crowded.loop.data.path / "models" / f"{newest}.vw"
    ours, plain = (
        parse_policy("feed:newest,explorer=greedy,shortlist=none,floor=.1"),
        parse_policy(f"greedy:{path},floor=.1"),
    )
    n = 0
    for policy in (ours, plain):
        policy.prepare(log)
    for batch in log.batches(plain.needs(False)):
        n += batch.n
        assert plain.assign(batch, False).propensity == pytest.approx(ours.assign(batch, False).propensity)
    assert n > 100
    log.close()
