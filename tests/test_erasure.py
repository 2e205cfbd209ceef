"""Erasing a viewer: from the log, the statistics, the fold and every file; and the log goes on from a base."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bandit.access.privacy import names_of, pseudonym_of, who_of
from bandit.config import Settings
from bandit.learning.trainer import Trainer
from bandit.records import ActivateRequest, Base, Feedback, ItemFeedback, RankRequest, User
from bandit.service import Service
from bandit.store.bases import bases
from bandit.store.data import DataDirectory
from bandit.store.erasures import unfinished
from bandit.store.models import newest_models
from bandit.store.scrub import scrub
from bandit.store.statistics import newest_epoch, stored_viewer
from replay.rebuild import rebuild
from tests.conftest import Api, Clock, Loop
from tests.service import ROOT, RunningService, wait_for

GONE, STAYS = "ada-lovelace-1815", "grace-hopper-1906"


def play(loop: Loop, user: str, n: int, *, start: int = 0, final: bool = True, tell: bool = True) -> list[str]:
    """So many feeds of one viewer, told of; their event ids."""
    events = []
    for k in range(start, start + n):
        event_id = f"event-of-{user}-{k}"
        reply = loop.service.rank(
            RankRequest(["v1", "v2", "v3"], event_id=event_id, user=User(user), defer_activation=k % 2 == 0)
        )
        if k % 2 == 0:
            loop.service.activate(event_id, ActivateRequest())
        if tell:
            told = [ItemFeedback(one.id, {"watch_s": 7.0 * one.slot + k}, final=final) for one in reply.ranking]
            loop.service.feedback([Feedback(event_id, told, feedback_id=f"told-of-{user}-{k}")])
        events.append(event_id)
        loop.clock.pass_(0.3)
    return events


def erase(loop: Loop, user: str = GONE) -> Any:
    """Ask, let the trainer work, and ask how it went."""
    assert loop.service.erase(user, wait_s=0.0).status == "erasing"
    loop.learn()
    return loop.service.erase(user, wait_s=0.0)


def holds(directory: Path, *needles: str) -> list[str]:
    """Names of files that hold any of these texts.

    In a process of its own: closing a database's file here would drop the locks that SQLite holds in this process.
    """
    code = (
        "import sys, pathlib\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).rglob('*')):\n"
        "    data = path.read_bytes() if path.is_file() else b''\n"
        "    for needle in sys.argv[2:]:\n"
        "        if needle.encode() in data: print(path.name, needle)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(directory), *needles], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def count(loop: Loop, what: str) -> int:
    return int(loop.data.log.query(f"SELECT count(*) FROM {what}")[0][0])


@pytest.fixture
def lived(loop: Loop) -> Loop:
    """Two viewers, some windows over and some open."""
    for turn in range(3):
        play(loop, GONE, 3, start=3 * turn, final=turn != 1)
        play(loop, STAYS, 4, start=4 * turn, final=turn != 1)
        loop.learn()
    return loop


# ---------------------------------------------------------------- what goes


def test_nothing_of_a_viewer_is_left_in_any_file(lived: Loop) -> None:
    events = [f"event-of-{GONE}-{k}" for k in range(9)]
    assert holds(lived.data.path, GONE, *events)
    reply = erase(lived)
    assert (reply.status, reply.decisions, reply.feedback, reply.activations) == ("erased", 9, 9, 5)
    assert reply.profile
    assert reply.outcomes > 0
    assert any("retrain" in said for said in reply.remains)
    assert holds(lived.data.path, GONE) == []
    assert holds(lived.data.path, *events) == []
    assert holds(lived.data.path, f"event-of-{STAYS}-0")


def test_the_record_holds_a_keyed_hash_alone(lived: Loop) -> None:
    erase(lived)
    (row,) = lived.data.log.query("SELECT payload FROM log WHERE kind = 'erase'")
    assert row[0] == f'{{"who":"{who_of(GONE, lived.data.secret)}"}}'
    assert who_of(GONE, lived.data.secret) != pseudonym_of(GONE, lived.data.secret)
    assert who_of(GONE, b"another secret") != who_of(GONE, lived.data.secret)


def test_profile_and_open_decisions_go_and_others_stay(lived: Loop) -> None:
    play(lived, GONE, 2, start=20, final=False)
    play(lived, STAYS, 2, start=20, final=False)
    lived.learn()
    n_open = lived.trainer._course.fold.n_open
    others = stored_viewer(lived.data.log, STAYS)
    assert stored_viewer(lived.data.log, GONE) is not None
    reply = erase(lived)
    assert stored_viewer(lived.data.log, GONE) is None
    assert stored_viewer(lived.data.log, STAYS) == others
    assert lived.trainer._course.fold.n_open == n_open - reply.decisions
    assert count(lived, f"log WHERE user = '{STAYS}' AND kind = 'decision'") == 14
    lived.end_windows()
    assert count(lived, "outcomes WHERE event_id LIKE 'event-of-grace%'") >= 14
    assert count(lived, "outcomes WHERE event_id LIKE 'event-of-ada%'") == 0


def test_feedback_that_comes_later_is_unmatched(lived: Loop) -> None:
    erase(lived)
    told = Feedback(f"event-of-{GONE}-0", [ItemFeedback("v1", {"like": 1.0})])
    assert lived.service.feedback([told])[0].status == "pending"
    lived.end_windows()
    assert rebuild(lived.data.path).ok


def test_who_comes_back_begins_anew_and_can_be_erased_again(lived: Loop) -> None:
    erase(lived)
    play(lived, GONE, 2, start=50)
    lived.learn()
    assert stored_viewer(lived.data.log, GONE) is not None
    reply = erase(lived)
    assert (reply.status, reply.decisions) == ("erased", 2)
    assert holds(lived.data.path, GONE) == []


def test_what_comes_after_the_request_stays(lived: Loop) -> None:
    lived.service.erase(GONE, wait_s=0.0)
    play(lived, GONE, 2, start=50, final=False)
    lived.learn()
    assert count(lived, f"log WHERE user = '{GONE}' AND kind = 'decision'") == 2
    lived.end_windows()
    assert count(lived, "outcomes WHERE event_id LIKE 'event-of-ada%'") == 6
    assert rebuild(lived.data.path).ok


def test_two_erasures_share_a_base(lived: Loop) -> None:
    lived.service.erase(GONE, wait_s=0.0)
    lived.service.erase(STAYS, wait_s=0.0)
    lived.learn()
    (base,) = bases(lived.data.log)
    assert len(base.base.erased) == 2
    assert holds(lived.data.path, GONE, STAYS) == []


def test_an_unknown_viewer_needs_no_record(lived: Loop) -> None:
    before = lived.data.log.last_position()
    reply = lived.service.erase("nobody", wait_s=0.0)
    assert (reply.status, reply.position, reply.decisions) == ("erased", None, 0)
    assert lived.data.log.last_position() == before


def test_asking_again_tells_the_same_and_writes_nothing(lived: Loop) -> None:
    first = erase(lived)
    before = lived.data.log.last_position()
    assert lived.service.erase(GONE, wait_s=0.0) == first
    assert lived.data.log.last_position() == before


def test_decisions_that_were_logged_before_rows_had_users_go_too(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "old"
    path.mkdir()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    loop = Loop(data, clock)
    play(loop, GONE, 3)
    loop.close()
    data.close()
    connection = sqlite3.connect(path / "log.db")
    connection.execute("UPDATE log SET user = NULL")
    connection.execute("DROP TABLE erasures")
    connection.execute("DROP TABLE retention")
    connection.execute("DROP INDEX arm_decisions_pos")
    connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'm009_erasures'")
    connection.commit()
    connection.close()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    loop = Loop(data, clock)
    assert erase(loop).decisions == 3
    assert holds(path, GONE) == []
    loop.close()
    data.close()


# ---------------------------------------------------------------- the log goes on from the base


def test_models_and_statistics_are_built_again_from_the_base(lived: Loop) -> None:
    play(lived, GONE, 2, start=20, final=False)
    play(lived, STAYS, 3, start=20, final=False)
    lived.learn()
    erase(lived)
    play(lived, STAYS, 5, start=30)
    play(lived, "another", 5)
    lived.learn()
    lived.end_windows()
    play(lived, STAYS, 5, start=40)
    lived.learn()
    result = rebuild(lived.data.path)
    assert result.ok
    assert result.base > 0
    assert result.before > 0
    assert result.matched >= 2
    assert result.epochs >= 2


def test_a_base_says_what_it_holds(lived: Loop) -> None:
    erase(lived)
    (found,) = bases(lived.data.log)
    base = found.base
    newest = newest_models(lived.data.log)[0]
    epoch = newest_epoch(lived.data.log)
    assert base == Base(
        arguments=lived.data.args.text, cause="erasure", position=newest.position, reads_from=base.reads_from,
        model=newest.digest, learned=newest.learned, statistics=base.statistics, epoch=epoch.position,
        epoch_digest=epoch.digest, erased=base.erased,
    )  # fmt: skip
    snapshot = lived.data.bases.read(base.statistics)
    assert snapshot.users == {STAYS}
    assert snapshot.viewer(STAYS) == stored_viewer(lived.data.log, STAYS)
    assert [path.name for path in lived.data.bases.folder.iterdir()] == [f"{base.statistics}.base"]


def test_older_models_are_deleted_and_the_one_that_is_needed_stays(lived: Loop) -> None:
    assert len(list(lived.data.models.folder.glob("*.vw"))) > 1
    erase(lived)
    newest = newest_models(lived.data.log)[0]
    assert [path.stem for path in lived.data.models.folder.glob("*.vw")] == [newest.digest]


def test_a_trainer_that_starts_again_goes_on_alike(lived: Loop, tmp_path: Path) -> None:
    play(lived, STAYS, 3, start=20, final=False)
    lived.learn()
    erase(lived)
    copy = tmp_path / "copy"
    # Both go on with the same records: this trainer, and one that starts from the files.
    play(lived, STAYS, 3, start=30, final=False)
    shutil.copytree(lived.data.path, copy)
    lived.end_windows()
    other = DataDirectory(Settings(copy, durable=False), clock=lived.clock)
    again = Trainer(other, clock=lived.clock)
    lived.clock.pass_(2.0)
    while again.step():
        pass
    again.run(lambda: True)
    other.close()
    assert rebuild(copy).ok
    assert rebuild(lived.data.path).ok


def test_a_held_model_does_not_stop_an_erasure(lived: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    good = newest_models(lived.data.log)[0].digest
    from bandit.learning.guard import Fault

    monkeypatch.setattr(lived.trainer._gate, "look", lambda *_, **__: Fault("drift", "it moved too far"))
    play(lived, STAYS, 3, start=20)
    assert erase(lived).status == "erased"
    assert newest_models(lived.data.log)[0].digest == good
    monkeypatch.undo()
    play(lived, STAYS, 3, start=30)
    lived.learn()
    assert newest_models(lived.data.log)[0].digest != good
    assert rebuild(lived.data.path).ok


def test_without_the_base_the_trainer_refuses_to_begin_anew(lived: Loop) -> None:
    erase(lived)
    lived.close()
    for path in lived.data.models.folder.glob("*.vw"):
        path.unlink()
    with pytest.raises(Exception, match="retrain"):
        Trainer(lived.data, clock=lived.clock)


# ---------------------------------------------------------------- interrupted


STEPS = ["write_base", "after base", "delete_some", "second chunk", "forget_names", "scrub", "finish"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_is_gone_on_from(lived: Loop, step: str, tmp_path: Path) -> None:
    play(lived, STAYS, 2, start=20, final=False)
    play(lived, GONE, 45, start=20, final=False)
    lived.service.erase(GONE, wait_s=0.0)
    lived.close()
    lived.data.close()
    code = f"""
    import os, signal, sys
    from pathlib import Path
    from bandit.learning import housekeeping
    from bandit.config import Settings
    from bandit.store import bases
    from bandit.store.data import DataDirectory
    from bandit.learning.trainer import Trainer

    step = sys.argv[2]
    def killed(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)
    def later(function, n):
        calls = []
        def wrapped(*arguments, **named):
            calls.append(1)
            if len(calls) > n:
                killed()
            return function(*arguments, **named)
        return wrapped
    keeper = housekeeping.Housekeeper
    if step == "write_base":
        housekeeping.append_base = killed
    elif step == "after base":
        keeper.go_on = later(keeper.go_on, 1)
    elif step == "second chunk":
        housekeeping.delete_some = later(housekeeping.delete_some, 1)
    else:
        setattr(housekeeping, step, killed)
    data = DataDirectory(Settings(Path(sys.argv[1]), durable=False), clock=lambda: {lived.clock.now + 5.0!r})
    trainer = Trainer(data, clock=lambda: {lived.clock.now + 5.0!r})
    while trainer.step():
        pass
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(lived.data.path), step], cwd=ROOT, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    again = Loop(lived.data, lived.clock)
    again.learn()
    assert again.service.erase(GONE, wait_s=0.0).decisions == 54
    assert unfinished(lived.data.log) == []
    assert holds(lived.data.path, GONE, "event-of-ada") == []
    play(again, STAYS, 2, start=30)
    again.end_windows()
    assert rebuild(lived.data.path).ok
    again.close()


# ---------------------------------------------------------------- over HTTP


def test_the_route_tells_how_far_it_is(api: Api, lived: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.service.ERASE_LOOK_S", 0.001)
    monkeypatch.setattr(Service.erase, "__kwdefaults__", {"wait_s": 0.01})
    reply = api.call("DELETE", f"/v1/users/{GONE}")
    assert (reply.status, reply.body["status"]) == (202, "erasing")
    lived.learn()
    reply = api.call("DELETE", f"/v1/users/{GONE}")
    assert (reply.status, reply.body["status"], reply.body["decisions"]) == (200, "erased", 9)
    assert api.call("GET", f"/v1/events/event-of-{GONE}-0").status == 404
    assert api.call("GET", f"/v1/events/event-of-{STAYS}-0").status == 200


@pytest.mark.parametrize("user", ["x" * 257, "a%00b"])
def test_an_id_that_cannot_be_one_is_refused(api: Api, user: str) -> None:
    assert api.call("DELETE", f"/v1/users/{user}").status == 400


def test_a_running_service_erases_while_it_serves(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", workers=2) as service:
        for k in range(20):
            for user in (GONE, STAYS):
                body = {"candidates": ["a", "b", "c"], "user": {"id": user}, "event_id": f"of-{user}-{k}"}
                assert service.call("POST", "/v1/rank", body).status == 200
        reply = service.call("DELETE", f"/v1/users/{GONE}")
        assert reply.status in (200, 202)

        def erased() -> bool:
            return bool(service.call("DELETE", f"/v1/users/{GONE}").status == 200)

        wait_for(erased, what="the erasure")
        assert service.call("DELETE", f"/v1/users/{GONE}").body["decisions"] == 20
        assert holds(service.data, GONE) == []
        assert service.call("POST", "/v1/rank", {"candidates": ["a", "b"], "user": {"id": GONE}}).status == 200
        service.stop()
        assert rebuild(service.data).ok


def test_both_names_of_a_viewer_are_erased() -> None:
    assert names_of("u", b"secret") == ["u", pseudonym_of("u", b"secret")]


# ---------------------------------------------------------------- scrubbing


def test_scrubbing_while_others_write_harms_nothing(data: DataDirectory) -> None:
    """Rows move between pages all the time; what is left of them in gaps goes, and nothing else."""
    code = """
    import secrets, sys, time
    from pathlib import Path
    from bandit.store.log import EventLog
    log = EventLog(Path(sys.argv[1]), durable=False, clock=time.time)
    until = time.monotonic() + 3.0
    n = 0
    while time.monotonic() < until:
        def write(txn):
            for _ in range(20):
                name = "user-" + secrets.token_hex(20)
                txn.append("decision", b"{}", event_id=secrets.token_hex(16), user=name)
                txn.execute("INSERT INTO viewers (user, position, body) VALUES (?, 1, ?)", (name, bytes(300)))
        log.append(write)
        n += 20
    print(n)
    """
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(data.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    scrubs = 0
    while any(one.poll() is None for one in writers):
        scrubs += scrub(data.log, lambda txn: None)
        data.log.query("SELECT max(user) FROM viewers")
    written = sum(int(one.communicate()[0]) for one in writers)
    assert scrubs > 0
    assert data.log.query("PRAGMA integrity_check") == [("ok",)]
    assert data.log.query("SELECT count(*) FROM viewers")[0][0] == written
    assert data.log.query("SELECT count(*) FROM log WHERE kind = 'decision'")[0][0] == written


def test_rows_that_moved_before_they_were_deleted_leave_nothing(data: DataDirectory) -> None:
    names = [f"user-{os.urandom(8).hex()}" for _ in range(3_000)]

    def write(txn: Any) -> None:
        for name in names:
            txn.append("decision", b'{"of":"%s"}' % name.encode(), event_id=f"event-{name}", user=name)
            txn.execute("INSERT INTO viewers (user, position, body) VALUES (?, 1, ?)", (name, name.encode() * 20))

    data.log.append(write)
    gone = names[::7]

    def delete(txn: Any) -> None:
        for name in gone:
            txn.execute("DELETE FROM log WHERE user = ?", (name,))
            txn.execute("DELETE FROM viewers WHERE user = ?", (name,))

    data.log.append(delete)
    data.log.checkpoint()
    assert holds(data.path, *gone), "SQLite left nothing behind by itself: then scrubbing is not needed any more"
    assert scrub(data.log, lambda txn: None)
    assert holds(data.path, *gone) == []
    assert data.log.query("PRAGMA integrity_check") == [("ok",)]
    assert data.log.query("SELECT count(*) FROM viewers")[0][0] == len(names) - len(gone)
