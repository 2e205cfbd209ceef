"""Many processes give what one gives, to the last bit, whoever dies and whatever is done first."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay import evaluate, from_arrays
from replay.__main__ import main
from replay.answer import Options
from replay.collect import collect, question_of
from replay.collected import Collected
from replay.crews import Board, Task, collect_by, packed_policies, work
from replay.errors import BadLog, BadPolicy, BadQuestion, WorkerLost
from replay.evaluation import named, wanted
from replay.events import Needs
from replay.readers import open_log, parquet_rows
from tests.replay.test_learning import lines_of
from tests.replay.test_learning import written as written_lines
from tests.service import ROOT

#: Kills the process that reads the part once the file `kill` is there, which it takes away: so it happens once.
POLICY = """
import os, signal
from pathlib import Path
import numpy as np
kill, always = Path(__file__).with_name("kill"), Path(__file__).with_name("always")
def new(batch):
    if batch.place[0] > 300 and (always.exists() or kill.exists()):
        kill.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return np.where(batch.item == 1, 0.7, 0.1)
"""


def parquet_folder(folder: Path, *, n: int = 200, files: int = 6) -> Path:
    """Four actions, three countries, viewers who come back; two weeks."""
    rng = np.random.default_rng(7)
    folder.mkdir()
    for k in range(files):
        reward = rng.random(n) * 0.1 + (rng.random(n) < 0.3)
        table = {
            "reward": reward,
            "propensity": np.full(n, 0.25),
            "action": rng.integers(0, 4, n),
            "n_actions": np.full(n, 4),
            "target": rng.random(n) * 0.5,
            "viewer": rng.integers(0, 300, n),
            "country": [f"c{i:02}" for i in rng.integers(0, 3, n)],
            "time": 1.7e9 + (k * n + np.arange(n)) * 1_000.0,
        }
        if k == 4:
            reward[3] = np.nan
        pq.write_table(pa.table(table), folder / f"{k}.parquet", row_group_size=80)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of several stretches, though small. Workers take how it is cut from the log that they are sent."""
    monkeypatch.setattr(parquet_rows, "STRETCH", 160)
    (tmp_path / "policy.py").write_text(POLICY)
    return parquet_folder(tmp_path / "logs")


def bits(*arguments: Any, **options: Any) -> bytes:
    """All of the answer but how long it took."""
    result = evaluate(*arguments, **options)
    return msgspec.json.encode(msgspec.structs.replace(result, seconds=0.0))


class Anyhow:
    """A crew in this process that does its tasks, and tells of them, in any order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def run(self, sent: bytes, tasks: Sequence[Task]) -> Generator[tuple[int, Collected], None, None]:
        order = list(range(len(tasks)))
        self._random.shuffle(order)
        for place in order:
            yield place, work(sent, tasks[place])


QUESTION: dict[str, Any] = {"slices": ("country",), "reward_range": (0.0, 2.0), "looks": False}
POLICIES = ("new=column:target", "uniform")


def test_one_two_and_three_processes_give_the_same_bits(folder: Path) -> None:
    once = bits(folder, POLICIES, **QUESTION)
    assert len(open_log(folder).parts()) > 6  # type: ignore[attr-defined]
    assert b'"the reward is missing or not finite":1' in once
    for workers in (2, 3):
        assert bits(folder, POLICIES, workers=workers, **QUESTION) == once


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_whatever_is_done_first_the_bits_are_the_same(folder: Path, seed: int) -> None:
    log, policies = open_log(folder), named(POLICIES)
    asked = wanted(log, Options(slices=("country",)), slates=False)
    once = collect(log, policies, asked, slates=False)
    question = question_of(log, policies, asked, slates=False)
    again = collect_by(Anyhow(seed), question, policies, packed_policies(policies))
    for name, sums in once.policies.items():
        assert sums.whole.buckets.tobytes() == again.policies[name].whole.buckets.tobytes()
        assert sums.whole.largest.tobytes() == again.policies[name].whole.largest.tobytes()
        for field, values in sums.sliced.items():
            for value, part in values.items():
                assert part.buckets.tobytes() == again.policies[name].sliced[field][value].buckets.tobytes()


def test_a_worker_that_is_killed_midway_changes_nothing(folder: Path) -> None:
    policies = [f"new=python:{folder.parent / 'policy.py'}:new", "uniform"]
    once = bits(folder, policies, **QUESTION)
    (folder.parent / "kill").touch()
    assert bits(folder, policies, workers=2, **QUESTION) == once
    assert not (folder.parent / "kill").exists(), "a worker died"


def test_a_part_that_kills_every_worker_is_given_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = f"new=python:{folder.parent / 'policy.py'}:new"
    (folder.parent / "always").touch()
    with pytest.raises(WorkerLost, match=r"3 workers died.*part \d of the log \(killed by SIGKILL\)"):
        evaluate(folder, [policy], workers=2, model="none")
    assert main(["evaluate", str(folder), "--policy", policy, "--workers", "2"]) == 2
    assert "workers died" in capsys.readouterr().err


def test_errors_come_back_as_they_are(folder: Path) -> None:
    broken = folder / "3.parquet"
    table = pq.read_table(broken)
    bad = table.set_column(1, "propensity", pa.array([0.25] * 9 + [0.0] + [0.25] * (table.num_rows - 10)))
    pq.write_table(bad, broken)
    for workers in (1, 2):
        with pytest.raises(BadLog, match="row 610: the propensity is 0"):
            evaluate(folder, ["new=column:target"], workers=workers)
    pq.write_table(table, broken)
    with pytest.raises(BadPolicy, match="gave shape"):
        evaluate(folder, {"new": _one}, workers=2)
    with pytest.raises(BadQuestion, match="no field planet"):
        evaluate(folder, ["uniform"], workers=2, slices=("planet",))
    with pytest.raises(BadLog, match="row 804: "):
        evaluate(folder, ["uniform"], workers=2, on_broken="fail")


def _one(batch: Any) -> Any:
    return np.ones(1)


def test_what_cannot_be_sent_is_said(folder: Path) -> None:
    with pytest.raises(BadPolicy, match=r"new \(python:new\) cannot be sent to another process"):
        evaluate(folder, {"new": lambda batch: np.full(batch.n, 0.25)}, workers=2)

    class Local:
        def predict(self, batch: Any) -> Any:
            return np.zeros(4 * batch.n)

    with pytest.raises(BadQuestion, match="reward model cannot be sent"):
        evaluate(folder, ["uniform"], workers=2, model=Local())
    for workers, dask in ((0, None), (2, "tcp://127.0.0.1:1")):
        with pytest.raises(BadQuestion, match="workers"):
            evaluate(folder, ["uniform"], workers=workers, dask=dask)
    arrays = from_arrays(reward=[1.0, 0.0], action=[0, 1], propensity=[0.5, 0.5], n_actions=2)
    with pytest.raises(BadQuestion, match="read by one process alone: it is arrays"):
        evaluate(arrays, ["uniform"], workers=2)


def test_a_services_log_is_read_by_one_process(data: Any) -> None:
    with pytest.raises(BadQuestion, match=r"it is service, and .*convert it to Parquet"):
        evaluate(data.path, ["uniform"], workers=2)


def test_dsjson_files_are_one_log_with_outcomes_and_numbers_across_them(tmp_path: Path) -> None:
    lines: list[Any] = lines_of(3, 600)
    for i in (10, 300):
        del lines[i]["EventId"]  # A viewer by its line: of 600, not of its file.
    late = {"EventId": "e7", "RewardValue": 0.5}
    written_lines(tmp_path / "whole.json", [*lines, late, "{"])
    folder = tmp_path / "parts"
    folder.mkdir()
    for k, part in enumerate((lines[:250], lines[250:260], lines[260:], [late, "{"])):
        written_lines(folder / f"{k}.json", part)
    policies = ["uniform", "greedy=table:" + str(_table(tmp_path))]
    whole, parts = evaluate(tmp_path / "whole.json", policies), evaluate(folder, policies)
    assert parts.log.left_out == whole.log.left_out
    assert parts.log.examples[0].startswith("3.json, line 2")
    for mine, other in zip(parts.policies, whole.policies, strict=True):
        for one, another in zip(mine.estimates, other.estimates, strict=True):
            assert one.value == pytest.approx(another.value, rel=1e-12)
    once = bits(folder, policies)
    assert bits(sorted(folder.iterdir()), policies) == once.replace(
        str(folder).encode(), f"{folder / '0.json'} and 3 more".encode()
    )
    assert bits(folder, policies, workers=2) == once
    places = np.concatenate([batch.place for batch in open_log(folder).batches(Needs())])
    assert places.tolist() == list(range(1, 601))


def _table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("item,probability\na0,0.7\na1,0.1\na2,0.1\na3,0.1\n")
    return path


def test_learners_along_a_log_run_side_by_side_with_the_same_bits(tmp_path: Path) -> None:
    log = written_lines(tmp_path / "log.json", lines_of(5, 700))
    more = written_lines(tmp_path / "more.json", lines_of(6, 300))
    learners = [f"l{k}=vw:--cb_explore_adf --epsilon 0.{k} -q UA" for k in (1, 2, 3)]
    for policies in (learners, [learners[0], "uniform", learners[1]]):
        once = bits([log, more], policies)
        assert bits([log, more], policies, workers=2) == once
        assert once.count(b'"updates":') >= 2
    with pytest.raises(BadPolicy, match="VW stopped"):
        evaluate([log, more], ["uniform", "vw:--cb_explore_adf --no_such_thing"], workers=2)


def test_propensities_in_order_are_read_along_the_log(folder: Path) -> None:
    values = np.random.default_rng(3).random(1_199)
    np.save(folder.parent / "p.npy", values)
    policies = [f"given=propensities:{folder.parent / 'p.npy'}", "uniform"]
    assert bits(folder, policies, workers=2) == bits(folder, policies)


def test_progress_goes_on_and_ends_at_the_end(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    evaluate(folder, ["uniform"], workers=2, progress=lambda done, of: told.append((done, of)))
    assert told == sorted(told)
    assert told[-1] == (1_200, 1_200)
    assert len(told) > 3


def test_ctrl_c_stops_all(folder: Path) -> None:
    slow = folder.parent / "slow.py"
    slow.write_text("import time\ndef new(batch):\n    open(__file__ + '.on', 'w').close()\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "replay", "evaluate", str(folder), "--policy", f"python:{slow}:new"]
    child = subprocess.Popen(
        [*command, "--workers", "2"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    give_up_at = time.monotonic() + 60
    while not Path(f"{slow}.on").exists() and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert Path(f"{slow}.on").exists()
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=50)
    assert child.returncode == 130
    assert "Traceback" not in said
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at:  # Nobody of its session is left.
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker lives on")


def test_a_board_hands_out_no_part_far_ahead_of_what_is_done() -> None:
    board = Board([Task((1,), (0, 1, 2, 3), whole=True), *(Task((0,), (k,)) for k in range(4))], ahead=2)
    assert [board.take() for _ in range(4)] == [0, 1, 2, None]
    board.done(2)
    assert board.take() is None
    board.done(1)
    assert [board.take() for _ in range(3)] == [3, 4, None]
    board.died(3, "killed")
    assert board.take() == 3
    board.died(3, "killed")
    board.take()
    with pytest.raises(WorkerLost, match="part 3 of the log"):
        board.died(3, "killed")
    assert not board.finished
