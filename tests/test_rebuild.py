"""``python -m replay rebuild``: the published models, from the log alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from bandit.config import VW_ARGUMENTS, Settings
from bandit.errors import EmptySlate, LogUnavailable
from bandit.learning.trainer import Trainer
from bandit.progress import Progress
from bandit.records import (
    ActivateRequest,
    Candidate,
    Feedback,
    Item,
    ItemFeedback,
    ItemsRequest,
    RankRequest,
    User,
    UserRecord,
)
from bandit.reward.signals import Counted
from bandit.statistics.attributes import attributes_of_item
from bandit.statistics.profiles import Viewer
from bandit.store.data import DataDirectory
from bandit.store.log import EventLog
from bandit.store.reading import ReadOnlyLog
from bandit.store.statistics import put_user
from bandit.store.tallies import settle
from replay.__main__ import main
from replay.rebuild import NotALog, rebuild
from tests.conftest import Clock, Loop
from tests.service import ROOT

Files = dict[str, tuple[int, int]]


def files_of(directory: Path) -> Files:
    """Size and time of change of every file, by name."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            stat = path.stat()
            found[str(path.relative_to(directory))] = (stat.st_size, stat.st_mtime_ns)
    return found


def teach(loop: Loop, n: int, *, start: int = 0) -> None:
    """Feedback on so many decisions; a model is published after each."""
    for k in range(start, start + n):
        reply = loop.service.rank(RankRequest(["v1", "v2", "v3"], event_id=f"e{k}"))
        told = [ItemFeedback(one.id, {"watch_s": 7.0 * one.slot}, final=True) for one in reply.ranking]
        loop.service.feedback([Feedback(f"e{k}", told)])
        loop.learn()


@pytest.fixture
def taught(loop: Loop) -> Loop:
    teach(loop, 5)
    return loop


@pytest.mark.parametrize(
    ("vw", "namespace"), [(VW_ARGUMENTS, "F."), ("-b 18 -q CI --ignore_linear C -l 0.2", "I.")], ids=["now", "before"]
)
def test_the_arguments_say_where_features_of_items_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vw: str, namespace: str
) -> None:
    """The trainer, the kernel that scores, explanations and rebuild agree, also in directories begun before."""
    monkeypatch.setattr("bandit.ranking.ranker.EXPLAINED", 1_000)
    clock = Clock()
    loop = Loop(DataDirectory(Settings(tmp_path, durable=False, vw=vw), clock=clock), clock)
    loop.service.put_items(ItemsRequest([Item("v1", Raw(b'{"mood":"calm","creator":"a"}')), Item("v2")]))
    inline = Candidate("v3", Raw(b'{"mood":"loud","tags":["x"]}'))
    for k in range(5):
        request = RankRequest(["v1", "v2", inline], event_id=f"e{k}", context={"hour": "9"}, explain=True)
        reply = loop.service.rank(request)
        told = [ItemFeedback(one.id, {"watch_s": 9.0 * (one.id == "v1")}, final=True) for one in reply.ranking]
        loop.service.feedback([Feedback(f"e{k}", told)])
        loop.learn()
    result = rebuild(tmp_path)
    assert result.ok, result.mismatch
    assert isinstance(reply.explanation, list)
    for slot, why in zip(reply.ranking, reply.explanation, strict=True):
        assert sum(part for _, part in why.features) == pytest.approx(slot.score, rel=1e-3)
        named = any(name.startswith(f"{namespace}mood") for name, _ in why.features)
        assert named == (slot.id != "v2")
    loop.close()
    loop.data.close()


@pytest.fixture
def at_rest(taught: Loop, tmp_path: Path) -> Path:
    """The data directory of a service that was stopped: no WAL beside it."""
    taught.close()
    taught.data.close()
    copy = tmp_path / "at rest"
    shutil.copytree(taught.data.path, copy)
    assert not (copy / "log.db-wal").exists()
    return copy


def alter(data: Path, sql: str) -> None:
    connection = sqlite3.connect(data / "log.db")
    with connection:
        connection.execute(sql)
    connection.close()


# ---------------------------------------------------------------- what it finds


def test_all_published_models_are_matched(at_rest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rebuild", str(at_rest)]) == 0
    said = capsys.readouterr().out
    assert "published  6 models" in said
    assert "matched    6" in said
    assert "15 slots learned" in said


def test_the_result_comes_as_json(at_rest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rebuild", str(at_rest), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["published"], result["matched"], result["learned"], result["mismatch"]) == (6, 6, 15, None)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET payload = replace(payload, '\"watch_s\":14', '\"watch_s\":15') WHERE kind = 'feedback'",
        "UPDATE log SET event_id = 'e0' WHERE kind = 'feedback' AND event_id = 'e1'",
        "DELETE FROM log WHERE kind = 'feedback' AND event_id = 'e2'",
        "UPDATE item_versions SET features = '{\"x\":1}' WHERE id = 'v3'",
        "UPDATE log SET payload = replace(payload, 'watch + like', 'watch / 2 + like') WHERE kind = 'config'",
    ],
    ids=["a signal", "whose feedback", "a feedback less", "an item's features", "the reward"],
)
def test_another_log_gives_other_models(at_rest: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = rebuild(at_rest)
    alter(at_rest, change)
    assert main(["rebuild", str(at_rest)]) == 1
    said = capsys.readouterr().out
    assert "NOT MATCHED" in said
    wrong = rebuild(at_rest).mismatch
    assert wrong is not None
    assert str(wrong.position) in said
    assert wrong.published in said
    assert wrong.rebuilt in said
    assert wrong.published != wrong.rebuilt
    assert before.ok


def test_the_first_mismatch_is_named(at_rest: Path) -> None:
    alter(
        at_rest,
        "UPDATE log SET payload = replace(payload, 'watch_s', 'like') WHERE kind = 'feedback' AND event_id = 'e3'",
    )
    result = rebuild(at_rest)
    assert (result.published, result.matched) == (6, 4)
    wrong = result.mismatch
    assert wrong is not None
    connection = sqlite3.connect(at_rest / "log.db")
    rows = connection.execute("SELECT pos FROM log WHERE kind = 'feedback' AND event_id = 'e3'").fetchall()
    connection.close()
    assert wrong.position >= rows[0][0]
    # A like proves nothing seen, so it teaches nothing.
    assert (wrong.published_learned, wrong.rebuilt_learned) == (12, 9)


def test_neither_model_files_nor_derived_tables_are_looked_at(at_rest: Path) -> None:
    shutil.rmtree(at_rest / "models")
    (at_rest / "secret").unlink()
    for table in ("models", "outcomes", "trainer", "items", "epochs", "tallies", "viewers", "attribute_names"):
        alter(at_rest, f"DELETE FROM {table}")
    result = rebuild(at_rest)
    assert result.ok
    assert result.epochs > 4


def test_a_log_without_a_published_model_has_nothing_to_match(data: DataDirectory) -> None:
    result = rebuild(data.path)
    assert result.ok
    assert (result.published, result.newest, result.records) == (0, None, 0)


def test_progress_is_told(at_rest: Path) -> None:
    told: list[tuple[int, int]] = []
    result = rebuild(at_rest, progress=lambda done, of: told.append((done, of)))
    assert told
    assert told[-1] == (result.records, result.records)
    assert told == sorted(told)


# ---------------------------------------------------------------- it only reads


def test_a_log_at_rest_stays_as_it_was(at_rest: Path) -> None:
    before = files_of(at_rest)
    assert rebuild(at_rest).ok
    assert files_of(at_rest) == before


def test_a_live_log_is_read_beside_its_writers(taught: Loop) -> None:
    before = files_of(taught.data.path)
    assert rebuild(taught.data.path).published == 6
    after = files_of(taught.data.path)
    # The index of the WAL is shared memory: readers mark in it how far they read.
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {"log.db-shm"}
    teach(taught, 2, start=5)
    assert rebuild(taught.data.path).published == 8


def test_a_log_whose_writers_were_killed_is_read_with_its_wal(taught: Loop, tmp_path: Path) -> None:
    copy = tmp_path / "killed"
    shutil.copytree(taught.data.path, copy)
    assert (copy / "log.db-wal").stat().st_size > 0
    assert rebuild(copy).published == 6


def test_a_service_that_starts_meanwhile_is_noticed(at_rest: Path, clock: Clock) -> None:
    reader = ReadOnlyLog(at_rest)
    last = reader.last_position()
    writer = EventLog(at_rest, durable=False, clock=clock)
    try:
        position = writer.append(lambda txn: txn.append("tick", b"{}"))
        assert position == last + 1
        assert reader.last_position() == position
        assert [row.kind for row in reader.read(last, 10)] == ["tick"]
    finally:
        reader.close()
        writer.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda log: log.append(lambda txn: txn.append("tick", b"{}")),
        lambda log: log.migrate(),
        lambda log: log.query("DELETE FROM log"),
    ],
    ids=["append", "migrate", "delete"],
)
def test_what_is_opened_for_reading_cannot_be_written(
    taught: Loop, write: Callable[[ReadOnlyLog], object]
) -> None:
    before = taught.data.log.last_position()
    log = ReadOnlyLog(taught.data.path)
    try:
        with pytest.raises(LogUnavailable):
            write(log)
    finally:
        log.close()
    assert taught.data.log.last_position() == before


# ---------------------------------------------------------------- what it is given


def test_what_is_no_log_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    garbage = tmp_path / "garbage"
    other = tmp_path / "other"
    for directory in (empty, garbage, other):
        directory.mkdir()
    (garbage / "log.db").write_bytes(b"no database " * 1_000)
    alter(other, "CREATE TABLE t (x)")
    for data, message in (
        (tmp_path / "nowhere", "is no directory"),
        (empty, "holds no log.db"),
        (garbage, "is no log of this service"),
        (other, "is no log of this service"),
    ):
        before = files_of(tmp_path)
        assert main(["rebuild", str(data)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert message in said.err
        assert str(data) in said.err
        assert said.err.count("\n") == 1
        assert files_of(tmp_path) == before


def test_arguments_that_this_release_does_not_take_are_named(
    at_rest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter(at_rest, "UPDATE log SET payload = '{\"arguments\":\"--boosting 5\"}' WHERE kind = 'base'")
    assert main(["rebuild", str(at_rest)]) == 2
    assert "boosting" in capsys.readouterr().err


def test_a_log_without_a_base_is_refused_rather_than_guessed_at(at_rest: Path) -> None:
    alter(at_rest, "DELETE FROM log WHERE kind = 'base'")
    with pytest.raises(NotALog, match="no base"):
        rebuild(at_rest)


def test_a_damaged_database_is_said_not_guessed_at(at_rest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = at_rest / "log.db"
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    assert main(["rebuild", str(at_rest)]) == 2
    assert "the log cannot be read" in capsys.readouterr().err


def test_other_arguments_than_the_default_are_taken_from_the_log(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "other"
    path.mkdir()
    loop = Loop(DataDirectory(Settings(path, vw="-b 10 -q UI -l 0.1", durable=False), clock=clock), clock)
    teach(loop, 3)
    loop.close()
    loop.data.close()
    result = rebuild(path)
    assert result.ok
    assert result.arguments == "--bit_precision 10 --quadratic UI --learning_rate 0.1"


# ---------------------------------------------------------------- the command line


def test_the_command_runs_as_a_module(at_rest: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replay", "rebuild", str(at_rest)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_names_every_command_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert "rebuild" in said
    assert "demo" in said


def test_a_missing_optional_dependency_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("replay.demo")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("matplotlib", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.import_module", _lacking)
    assert main(["demo"]) == 2
    said = capsys.readouterr().err
    assert said == "replay: demo needs pyarrow, which is not installed; pip install 'feed-bandit[replay]' brings it\n"


def _lacking(name: str) -> object:
    raise ModuleNotFoundError(f"import of pyarrow.parquet, wanted by {name}", name="pyarrow.parquet")


class Terminal:
    """A stream that somebody looks at."""

    def __init__(self) -> None:
        self.written = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None:
        pass


def test_progress_is_drawn_for_long_work_and_wiped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    now = [100.0]
    monkeypatch.setattr("bandit.progress.time.monotonic", lambda: now[0])
    with Progress("records", terminal) as progress:  # type: ignore[arg-type]
        progress(1, 100)
        assert terminal.written == ""
        now[0] += 5.0
        progress(50, 100)
        assert "50 %" in terminal.written
        assert "50 of 100 records, 5 s left" in terminal.written
    assert terminal.written.endswith("\r\x1b[K")


# ---------------------------------------------------------------- statistics


FEATURES = [
    msgspec.json.encode(
        {
            "creator": f"c{k % 3}",
            "sound": f"s{k % 4}",
            "language": "no",
            "length_s": 10 + 9 * k,
            "tags": [f"t{k % 5}", f"t{5 + k % 2}"],
        }
    )
    for k in range(12)
]


class Crowd:
    """Seeded viewers who sign up, look, like, and say what they do not want, over items with all attributes."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.services = [loop.service]
        loop.service.put_items(ItemsRequest([Item(f"v{k}", Raw(text)) for k, text in enumerate(FEATURES)]))

    def visit(self) -> None:
        rng, service = self.rng, self.rng.choice(self.services)
        user = f"u{rng.randint(0, 7)}"
        if rng.random() < 0.2:
            log = self.loop.data.log
            record = UserRecord(user, rng.sample([f"t{k}" for k in range(7)], 2))
            log.append(lambda txn: put_user(txn, record))
        request = RankRequest(
            rng.sample([f"v{k}" for k in range(12)], 9),
            user=None if rng.random() < 0.2 else User(user),
            slots=4,
            defer_activation=rng.random() < 0.2,
        )
        try:
            reply = service.rank(request)
        except EmptySlate:
            # There is nothing left that this viewer has not refused.
            return
        told = []
        for placed in reply.ranking[: rng.randint(0, 4)]:
            signals = {"watch_s": rng.choice([0.0, 8.0, 40.0])}
            about = []
            if reply.ranking and rng.random() < 0.1:
                signals["not_interested"] = 1.0
                about = ["creator", "tag:t6"]
            told.append(ItemFeedback(placed.id, signals, about=about, final=rng.random() < 0.3))
        if rng.random() < 0.5:
            service.activate(reply.event_id, ActivateRequest(None))
        if told:
            service.feedback([Feedback(reply.event_id, told)])
        if told and rng.random() < 0.2:
            service.feedback([Feedback(reply.event_id, [ItemFeedback(told[0].id, {"watch_s": 55.0})])])
        self.loop.clock.pass_(rng.choice([0.0, 0.7, 3.0]))

    def play(self, n: int) -> None:
        for k in range(n):
            self.visit()
            if k % 5 == 0:
                self.loop.learn()
                self.rng.choice(self.services).ranker.refresh()


def short_windows(loop: Loop, **other: Any) -> None:
    live = loop.service.config()
    document = msgspec.structs.replace(live.document, reward_window_s=20.0, **other)
    loop.service.put_config(document, expected=live.version)


def test_every_epoch_of_statistics_is_matched(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    short_windows(loop)
    Crowd(loop, seed=1).play(60)
    loop.end_windows()
    result = rebuild(loop.data.path)
    assert result.ok
    assert result.epochs == result.epochs_matched > 12
    assert main(["rebuild", str(loop.data.path)]) == 0
    assert f"statistics {result.epochs:,} epochs, {result.epochs:,} matched" in capsys.readouterr().out


def test_a_trainer_that_was_killed_goes_on_with_the_same_statistics(loop: Loop) -> None:
    short_windows(loop)
    crowd = Crowd(loop, seed=2)
    for _ in range(6):
        crowd.play(9)
        crowd.visit()
        # What it had read beyond its last epoch is lost with it.
        loop.trainer.step()
        loop.trainer.close()
        loop.trainer = Trainer(loop.data, clock=loop.clock)
    loop.end_windows()
    result = rebuild(loop.data.path)
    assert (result.epoch_mismatch, result.mismatch) == (None, None)
    assert result.epochs > 15


def test_viewers_that_were_let_go_from_memory_come_back_as_they_were(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_windows(loop)
    Crowd(loop, seed=3).play(40)
    loop.end_windows()
    monkeypatch.setattr("bandit.statistics.folding.MAX_KEPT_VIEWERS", 2)
    monkeypatch.setattr("replay.spill.WORTH_IT", 1_000)
    assert rebuild(loop.data.path).ok


def test_a_log_from_before_statistics_is_counted_from_its_beginning(loop: Loop) -> None:
    """As a release without them left it: no viewers beside the records, no epochs, a model that is far on."""
    short_windows(loop)
    crowd = Crowd(loop, seed=4)
    crowd.play(30)
    loop.end_windows()
    loop.trainer.close()
    path = loop.data.path
    for sql in (
        "UPDATE log SET user = NULL",
        "UPDATE log SET kind = 'tick', payload = '{}' WHERE kind IN ('epoch', 'user')",
        "UPDATE log SET payload = json_remove(payload, '$.statistics') WHERE kind = 'decision'",
        *(f"DELETE FROM {table}" for table in ("epochs", "tallies", "unsettled_tallies", "viewers", "attribute_names")),
    ):
        alter(path, sql)
    loop.trainer = Trainer(loop.data, clock=loop.clock)
    crowd.play(20)
    loop.end_windows()
    result = rebuild(path)
    assert (result.epoch_mismatch, result.mismatch) == (None, None)
    assert result.epochs > 3
    settle(loop.data.log)
    rows = loop.data.log.query("SELECT shown FROM tallies")
    # Four of each of fifty feeds, of before and after.
    connection = sqlite3.connect(path / "log.db")
    (n_drawn,) = connection.execute(
        "SELECT sum(json_array_length(payload, '$.slots')) FROM log WHERE kind = 'decision'"
    ).fetchone()
    connection.close()
    assert sum(shown for (shown,) in rows) == n_drawn


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET payload = replace(payload, 'tag:t6', 'tag:t5') WHERE kind = 'feedback'",
        "UPDATE log SET payload = '{\"id\":\"u1\",\"interests\":[\"other\"]}' WHERE kind = 'user'",
        "UPDATE log SET candidates = substr(candidates, 5) WHERE kind = 'decision'",
        "UPDATE log SET payload = replace(payload, '\"digest\":\"', '\"digest\":\"0') WHERE kind = 'epoch'",
    ],
    ids=["what was not wanted", "interests", "what was offered", "an epoch's digest"],
)
def test_another_log_gives_other_statistics_though_the_models_are_the_same(
    loop: Loop, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short_windows(loop)
    Crowd(loop, seed=5).play(40)
    loop.end_windows()
    alter(loop.data.path, change)
    result = rebuild(loop.data.path)
    assert result.matched == result.published
    wrong = result.epoch_mismatch
    assert wrong is not None
    assert not result.ok
    assert main(["rebuild", str(loop.data.path)]) == 1
    said = capsys.readouterr().out
    assert "STATISTICS NOT MATCHED" in said
    assert str(wrong.position) in said
    assert wrong.published in said


def test_a_viewer_who_was_stored_and_read_forgets_the_same_tastes() -> None:
    """Tastes of the same weight are many, and their order in memory is not what was stored."""
    kept, stored = Viewer(), Viewer()
    for k in range(80):
        item = attributes_of_item(f"v{k}", msgspec.json.encode({"tags": [f"{letter}{k}" for letter in "gfedcba"]}))
        for viewer in (kept, stored):
            viewer.observe(item, Counted(0.5, None))
        stored = Viewer.decode(stored.encode())
    assert stored.encode() == kept.encode()
