"""When all is over: the log, the outcomes and the models against what clients were told."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bandit import records
from bandit.features.model_args import ModelArgs
from bandit.learning.fold import Lesson
from bandit.learning.learner import Learner
from bandit.learning.lessons import READ_AT_ONCE, Course
from bandit.ranking.scorer import read_state
from bandit.records import Decision, LoggedFeedback
from bandit.store.configs import read_config
from bandit.store.items import current_items
from bandit.store.models import ModelFiles, digest_of, newest_models
from bandit.store.reading import ReadOnlyLog
from replay.rebuild import Rebuilt, rebuild
from tests.chaos.ledger import Ledger

SHOWN = 20


class Findings:
    """What was compared, and what was not as promised."""

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.violations: list[str] = []

    def check(self, what: str, holds: bool, fault: str) -> None:
        self.checked[what] += 1
        if not holds:
            self.violations.append(f"{what}: {fault}")


def audit(data: Path, ledger: Ledger) -> tuple[Findings, Rebuilt]:
    """Everything that was promised, looked for in the data directory of a stopped service."""
    findings = Findings()
    findings.violations += ledger.violations
    log = ReadOnlyLog(data)
    try:
        rows = _read_all(log)
        _order(findings, rows)
        _decisions(findings, ledger, rows)
        _feedback(findings, ledger, rows)
        _activations(findings, ledger, rows)
        _configs(findings, ledger, rows)
        _items(findings, ledger, log)
        _learned(findings, log, data)
    finally:
        log.close()
    rebuilt = rebuild(data)
    wrong = rebuilt.mismatch
    findings.checked["models rebuilt byte for byte"] += rebuilt.published
    if wrong is not None:
        n_wrong = rebuilt.published - rebuilt.matched
        findings.violations.append(f"models rebuilt byte for byte: {n_wrong} are not; {wrong}")
    findings.checked["epochs of statistics counted again"] += rebuilt.epochs
    if rebuilt.epoch_mismatch is not None:
        n_wrong = rebuilt.epochs - rebuilt.epochs_matched
        findings.violations.append(f"epochs of statistics counted again: {n_wrong} are not; {rebuilt.epoch_mismatch}")
    return findings, rebuilt


class Row(msgspec.Struct):
    """A record with the columns that identify it."""

    pos: int
    ts: float
    kind: str
    event_id: str | None
    feedback_id: str | None
    payload: bytes


def _read_all(log: ReadOnlyLog) -> list[Row]:
    rows: list[Row] = []
    while True:
        page = log.query(
            "SELECT pos, ts, kind, event_id, feedback_id, CAST(payload AS BLOB) FROM log WHERE pos > ?"
            " ORDER BY pos LIMIT 1000",
            (rows[-1].pos if rows else 0,),
        )
        if not page:
            return rows
        rows += [Row(*row) for row in page]


def _order(findings: Findings, rows: list[Row]) -> None:
    for before, after in pairwise(rows):
        findings.check(
            "positions without a gap, time that never goes back",
            after.pos == before.pos + 1 and after.ts >= before.ts,
            f"record {after.pos} at {after.ts} follows record {before.pos} at {before.ts}",
        )


def _decisions(findings: Findings, ledger: Ledger, rows: list[Row]) -> None:
    what = "acknowledged rankings logged exactly as acknowledged"
    logged: dict[str, list[Decision]] = {}
    published: set[str] = set()
    for row in rows:
        if row.kind == "publish":
            published.add(msgspec.json.decode(row.payload, type=records.Publish).digest)
        if row.kind == "decision" and row.event_id is not None:
            decision = msgspec.json.decode(row.payload, type=Decision)
            logged.setdefault(row.event_id, []).append(decision)
            findings.check(
                "decisions made by a model that was published before them",
                decision.model is None or decision.model in published,
                f"{row.event_id} names {decision.model}",
            )
    for event_id, reply in ledger.decisions.items():
        found = logged.get(event_id, [])
        if len(found) != 1:
            findings.check(what, False, f"{event_id} is {len(found)} times in the log")
            continue
        expected = [[placed["id"], placed["propensity"], placed["score"]] for placed in reply["ranking"]]
        stood = [[slot.id, slot.propensity, slot.score] for slot in found[0].slots]
        same = stood == expected and (
            [found[0].model, found[0].config, found[0].scored, found[0].fallback]
            == [reply["model_version"], reply["config_version"], reply["scored"], reply["fallback"]]
        )
        findings.check(what, same, f"{event_id} was answered {reply}, and logged {found[0]}")


def _feedback(findings: Findings, ledger: Ledger, rows: list[Row]) -> None:
    by_id: Counter[str] = Counter(row.feedback_id for row in rows if row.feedback_id is not None)
    bodies: Counter[bytes] = Counter(
        _canonical(row.payload) for row in rows if row.kind == "feedback" and row.payload is not None
    )
    for told in ledger.feedback:
        times = bodies[_canonical(msgspec.json.encode(told.body))]
        feedback_id = told.body.get("feedback_id")
        if feedback_id is not None:
            times_id = by_id[feedback_id]
            taken = sum(status != "duplicate" for status in told.statuses)
            if told.statuses:
                what = "acknowledged feedback logged once"
                if told.tries > 1:
                    what = "repeated feedback logged once"
                findings.check(what, times == times_id == 1, f"{feedback_id} is {times_id} times in the log")
                findings.check(
                    "feedback taken once, a repetition told to be one",
                    taken <= 1 and (taken == 1 or told.tries > len(told.statuses)),
                    f"{feedback_id} was answered {told.statuses} in {told.tries} tries",
                )
            else:
                findings.check("unanswered feedback logged at most once", times <= 1, f"{feedback_id}: {times}")
        elif told.statuses:
            findings.check("acknowledged feedback logged once", times == 1, f"{told.body} is {times} times in the log")
        else:
            findings.check("unanswered feedback logged at most once", times <= 1, f"{told.body}: {times}")


def _canonical(payload: bytes) -> bytes:
    """What was sent: without what the log adds to it."""
    sent = msgspec.structs.replace(msgspec.json.decode(payload, type=LoggedFeedback), said_by=None, said_of={})
    return msgspec.json.encode(sent, order="sorted")


def _activations(findings: Findings, ledger: Ledger, rows: list[Row]) -> None:
    found: dict[str, list[bytes]] = {}
    for row in rows:
        if row.kind == "activation" and row.event_id is not None:
            found.setdefault(row.event_id, []).append(row.payload)
    for event_id, shown in ledger.activations.items():
        payloads = found.get(event_id, [])
        same = [msgspec.json.decode(one, type=records.ActivateRequest).shown for one in payloads] == [shown]
        findings.check("acknowledged activations logged once", same, f"{event_id}: {payloads}, told {shown}")


def _configs(findings: Findings, ledger: Ledger, rows: list[Row]) -> None:
    found = {}
    for row in rows:
        if row.kind == "config":
            live = read_config(row.payload)
            findings.check("config versions given once", live.version not in found, f"version {live.version}")
            found[live.version] = msgspec.to_builtins(live.document)
    for version, document in ledger.configs.items():
        findings.check(
            "acknowledged configs logged as acknowledged",
            found.get(version) == document or _same_json(found.get(version), document),
            f"version {version}: {found.get(version)}, told {document}",
        )


def _same_json(one: Any, other: Any) -> bool:
    return bool(msgspec.json.decode(msgspec.json.encode(one)) == other)


def _items(findings: Findings, ledger: Ledger, log: ReadOnlyLog) -> None:
    stored = current_items(log, sorted(ledger.items))
    for item_id, features in ledger.items.items():
        found = stored.get(item_id)
        if features is None:
            holds = found is not None and found.withdrawn
        else:
            holds = found is not None and not found.withdrawn and msgspec.json.decode(found.features) == features
        findings.check("catalogue as last acknowledged", holds, f"{item_id}: {found}, told {features}")


def _learned(findings: Findings, log: ReadOnlyLog, data: Path) -> None:
    """Outcomes against a fold of the log, and both against the newest model."""
    newest = newest_models(log)[0]
    lessons, digest, n_learned = _fold_again(log, log.last_position())
    expected = {
        (one.decision_pos, one.slot): (one.status, one.evidence, one.reward, one.weight, one.closed_pos, one.closed_at)
        for one in lessons
    }
    findings.checked["slots decided, each once"] += len(lessons)
    if len(expected) != len(lessons):
        findings.violations.append(f"slots decided, each once: {len(lessons)} times, but there are {len(expected)}")
    stored = {
        (row[0], row[1]): tuple(row[2:])
        for row in log.query(
            "SELECT decision_pos, slot, status, evidence, reward, weight, closed_pos, closed_at FROM outcomes"
        )
    }
    for key in expected.keys() | stored.keys():
        findings.check(
            "outcomes that follow from the log, each once",
            expected.get(key) == stored.get(key),
            f"slot {key}: the log gives {expected.get(key)}, stored is {stored.get(key)}",
        )
    learned = sum(one[0] == "learned" for one in stored.values())
    model = ModelFiles(data).read(newest.digest)
    counts = {
        "learned outcomes": learned,
        "said by the newest publish": newest.learned,
        "counted by the newest model itself": read_state(model).n_learned,
        "learned by folding the log again": n_learned,
    }
    findings.check("learned slots counted the same by all", len(set(counts.values())) == 1, f"{counts}")
    findings.check("newest model", digest == newest.digest, f"is {newest.digest}, the log gives {digest}")
    left = [path.name for path in (data / "models").iterdir() if path.suffix == ".part"]
    left += [path.name for path in (data / "scratch").iterdir()]
    findings.check("nothing half written left behind", not left, f"{left}")


def _fold_again(log: ReadOnlyLog, until: int) -> tuple[list[Lesson], str, int]:
    base = log.read_kinds(["base"])[0]
    args = ModelArgs.parse(msgspec.json.decode(base.payload, type=records.Base).arguments)
    lessons: list[Lesson] = []
    with tempfile.TemporaryDirectory() as scratch, Learner(args, scratch=Path(scratch)) as learner:
        course = Course(log, learner)
        while course.position < until:
            for row in log.read(course.position, min(READ_AT_ONCE, until - course.position)):
                lessons += course.take(row)
        return lessons, digest_of(learner.save()), learner.n_learned
