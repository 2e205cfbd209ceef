"""``python server.py retrain``: a fresh model of what the log still holds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bandit.cli import main
from bandit.learning.learner import Learner
from bandit.learning.lessons import Course
from bandit.learning.trainer import hold_trainer_lock
from bandit.records import RollbackRequest
from bandit.store.bases import bases
from bandit.store.models import digest_of, newest_models
from bandit.store.serving import serving
from bandit.store.statistics import all_tallies, newest_epoch
from replay.rebuild import rebuild
from tests.conftest import Loop
from tests.test_erasure import GONE, STAYS, erase, holds, play


@pytest.fixture
def erased(loop: Loop) -> Loop:
    """One of two viewers was erased, and the service is stopped; `loop.data` can be used again."""
    for turn in range(3):
        play(loop, GONE, 3, start=3 * turn, final=turn != 1)
        play(loop, STAYS, 4, start=4 * turn, final=turn != 1)
        loop.learn()
    erase(loop)
    play(loop, STAYS, 4, start=30, final=False)
    loop.close()
    loop.data.close()
    return loop


def learned_from_scratch(loop: Loop, until: int) -> str:
    """Digest of a model that never met anything but what the log holds up to a position."""
    with tempfile.TemporaryDirectory() as scratch, Learner(loop.data.args, scratch=Path(scratch)) as learner:
        course = Course(loop.data.log, learner)
        for row in loop.data.log.read(0, 1_000_000, candidates=True):
            if row.pos <= until:
                course.take(row)
        return digest_of(learner.save())


def test_the_fresh_model_holds_what_remains_and_nothing_else(erased: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    data = erased.data
    before = newest_models(data.log)[0]
    last = data.log.last_position()
    assert main(["retrain", "--data", str(data.path)]) == 0
    newest = newest_models(data.log)[0]
    assert newest.digest in capsys.readouterr().out
    assert (newest.position, newest.digest) == (last, learned_from_scratch(erased, last))
    assert newest.learned < before.learned
    (base,) = bases(data.log)
    assert (base.base.cause, base.base.model, base.base.position) == ("retrain", newest.digest, last)
    assert [path.stem for path in data.models.folder.glob("*.vw")] == [newest.digest]
    assert rebuild(data.path).ok


def test_the_service_goes_on_from_it(erased: Loop) -> None:
    data = erased.data
    tallies = all_tallies(data.log)
    assert main(["retrain", "--data", str(data.path)]) == 0
    assert all_tallies(data.log).keys() == tallies.keys()
    again = Loop(data, erased.clock)
    play(again, STAYS, 4, start=50)
    again.learn()
    again.end_windows()
    assert newest_models(data.log)[0].learned > bases(data.log)[0].base.learned
    assert newest_epoch(data.log).position > bases(data.log)[0].base.epoch
    again.close()
    assert rebuild(data.path).ok


def test_what_was_rolled_back_to_is_released(erased: Loop) -> None:
    data = erased.data
    again = Loop(data, erased.clock)
    kept = newest_models(data.log)[0].digest
    again.service.rollback(RollbackRequest(kept))
    again.close()
    data.close()
    assert main(["retrain", "--data", str(data.path)]) == 0
    now, newest = serving(data.log), newest_models(data.log)[0]
    assert (now.pinned, now.champion) == (None, newest.digest)
    assert not (data.models.folder / f"{kept}.vw").exists()


def test_models_that_are_lost_can_be_learned_anew(erased: Loop) -> None:
    for path in erased.data.models.folder.glob("*.vw"):
        path.unlink()
    assert main(["retrain", "--data", str(erased.data.path)]) == 0
    assert rebuild(erased.data.path).ok


def test_an_erasure_that_waits_is_carried_out_first(erased: Loop) -> None:
    again = Loop(erased.data, erased.clock)
    again.service.erase(STAYS, wait_s=0.0)
    again.trainer.close()
    erased.data.close()
    assert main(["retrain", "--data", str(erased.data.path)]) == 0
    assert holds(erased.data.path, STAYS) == []
    assert newest_models(erased.data.log)[0].learned == 0


def test_a_running_trainer_is_not_disturbed(erased: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    lock = hold_trainer_lock(erased.data.path)
    assert main(["retrain", "--data", str(erased.data.path)]) == 2
    assert "another trainer works" in capsys.readouterr().err
    os.close(lock)


def test_a_directory_without_a_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrain", "--data", str(tmp_path)]) == 2
    assert "log.db" in capsys.readouterr().err
