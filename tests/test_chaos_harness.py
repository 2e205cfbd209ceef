"""The crash campaign's own eyes: a promise that was broken is seen, and one that was kept is not blamed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit import records
from bandit.config import Settings
from bandit.learning.trainer import Trainer
from bandit.records import ActivateRequest, Feedback, Item, ItemsRequest, RankRequest
from bandit.store.data import DataDirectory
from tests.chaos.__main__ import main
from tests.chaos.audit import audit
from tests.chaos.ledger import Ledger
from tests.conftest import Clock, Loop


class Told:
    """A small service at rest, and what its clients were told."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        directory.mkdir()
        loop = Loop(DataDirectory(Settings(directory, durable=False, vw="-b 10 -q UI"), clock=clock), clock)
        self.data = directory
        self.ledger = Ledger()
        self.rank(loop, "e1", "v1", "v2", "v3")
        self.rank(loop, "e2", "v1", "v2", defer=True)
        shown = [placed["id"] for placed in self.ledger.decisions["e1"]["ranking"]]
        self.tell(loop, "e1", shown[0], 30.0, feedback_id="f1", times=2)
        self.tell(loop, "e1", shown[1], 3.0, final=True)
        loop.service.activate("e2", ActivateRequest())
        self.ledger.activations["e2"] = None
        loop.service.put_items(ItemsRequest([Item("v1", msgspec.Raw(b'{"genre":"noir"}')), Item("v2")]))
        loop.service.withdraw("v2")
        self.ledger.items = {"v1": {"genre": "noir"}, "v2": None}
        live = loop.service.put_config(loop.service.config().document, expected=1)
        self.ledger.configs[live.version] = msgspec.json.decode(msgspec.json.encode(live.document))
        loop.end_windows()
        loop.close()
        loop.data.close()

    def rank(self, loop: Loop, event_id: str, *ids: str, defer: bool = False) -> None:
        reply = loop.service.rank(RankRequest(list(ids), event_id=event_id, defer_activation=defer))
        self.ledger.ranked(msgspec.json.decode(records.encode(reply)))

    def tell(self, loop: Loop, event_id: str, item: str, watch_s: float, *, times: int = 1, **more: Any) -> None:
        final = {"final": True} if more.pop("final", False) else {}
        body = {"event_id": event_id, "items": [{"id": item, "signals": {"watch_s": watch_s}, **final}], **more}
        told = self.ledger.sent(body)
        for _ in range(times):
            told.tries += 1
            sent = msgspec.json.decode(msgspec.json.encode(body), type=Feedback)
            told.statuses.append(loop.service.feedback([sent])[0].status)

    def violations(self) -> list[str]:
        return audit(self.data, self.ledger)[0].violations

    def alter(self, sql: str) -> None:
        connection = sqlite3.connect(self.data / "log.db")
        with connection:
            assert connection.execute(sql).rowcount > 0
        connection.close()


@pytest.fixture
def told(tmp_path: Path, clock: Clock) -> Told:
    return Told(tmp_path / "data", clock)


def test_kept_promises_are_not_blamed(told: Told) -> None:
    findings, rebuilt = audit(told.data, told.ledger)
    assert findings.violations == []
    assert rebuilt.ok
    assert findings.checked["acknowledged rankings logged exactly as acknowledged"] == 2
    assert findings.checked["repeated feedback logged once"] == 1
    assert findings.checked["outcomes that follow from the log, each once"] >= 3
    assert all(findings.checked.values())


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ("DELETE FROM log WHERE kind = 'decision' AND event_id = 'e2'", "rankings logged"),
        ("UPDATE log SET payload = replace(payload, '0.333333', '0.333334') WHERE event_id = 'e1'", "rankings logged"),
        ("DELETE FROM log WHERE feedback_id = 'f1'", "repeated feedback logged once"),
        ("DELETE FROM log WHERE kind = 'feedback' AND feedback_id IS NULL", "acknowledged feedback logged once"),
        (
            "INSERT INTO log (ts, kind, event_id, payload) SELECT ts + 1e6, kind, event_id, payload FROM log"
            " WHERE kind = 'feedback' AND feedback_id IS NULL",
            "acknowledged feedback logged once",
        ),
        ("UPDATE log SET payload = replace(payload, '30', '31') WHERE feedback_id = 'f1'", "repeated feedback"),
        ("DELETE FROM log WHERE kind = 'activation'", "activations"),
        ("DELETE FROM log WHERE kind = 'config' AND payload LIKE '{\"version\":2%'", "configs"),
        ("UPDATE items SET withdrawn = 0 WHERE id = 'v2'", "catalogue"),
        ("UPDATE items SET withdrawn = 1 WHERE id = 'v1'", "catalogue"),
        ("UPDATE log SET ts = ts - 5000 WHERE pos = 5", "time that never goes back"),
        ("DELETE FROM outcomes WHERE status = 'learned'", "outcomes that follow"),
        ("UPDATE outcomes SET reward = reward + 1 WHERE status = 'learned'", "outcomes that follow"),
        (
            "INSERT INTO outcomes SELECT decision_pos, slot + 7, event_id, id, status, evidence, reward, weight,"
            " closed_pos, closed_at FROM outcomes WHERE status = 'learned'",
            "counted the same",
        ),
        (
            "UPDATE log SET payload = replace(payload, 'digest\":\"', 'digest\":\"f') WHERE kind = 'publish'",
            "byte for byte",
        ),
    ],
)
def test_a_broken_promise_is_seen(told: Told, sql: str, seen: str) -> None:
    told.alter(sql)
    found = told.violations()
    assert any(seen in violation for violation in found), found


def test_a_slot_learned_twice_is_seen(told: Told, clock: Clock) -> None:
    """The very fault that a careless restart makes: lessons of before are given again."""
    data = DataDirectory(Settings(told.data, durable=False, vw="-b 10 -q UI"), clock=clock)
    trainer = Trainer(data, clock=clock)
    trainer._course.learners.main.learn(b'{"S":{"slot":"0"}}', b'{"I":{"id":"v1"}}', reward=1.0)
    trainer.run(lambda: True)
    data.close()
    found = told.violations()
    assert any("counted the same" in violation for violation in found)
    assert any("byte for byte" in violation for violation in found)


def test_files_left_half_written_are_seen(told: Told) -> None:
    (told.data / "models" / "x.part").touch()
    assert any("half written" in violation for violation in told.violations())


def test_two_rankings_of_one_event_are_seen() -> None:
    ledger = Ledger()
    ledger.ranked({"event_id": "e", "ranking": [1]})
    ledger.ranked({"event_id": "e", "ranking": [1]})
    assert ledger.violations == []
    ledger.ranked({"event_id": "e", "ranking": [2]})
    assert len(ledger.violations) == 1


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_a_campaign_runs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(
        ["--kills", "2", "--seed", "4", "--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]
    )
    said = capsys.readouterr().out
    assert status == 0, said
    assert "KEPT" in said
    report = msgspec.json.decode((tmp_path / "r.json").read_bytes())
    assert (report["kills"], report["seed"], report["violations"]) == (2, 4, [])
    assert report["matched"] == report["published"] > 0
    assert "KEPT" in (tmp_path / "r.md").read_text()
