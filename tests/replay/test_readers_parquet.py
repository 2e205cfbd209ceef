"""Parquet as a log."""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.errors import BadLog
from replay.events import Needs, item_key
from replay.readers import open_log, parquet_rows
from replay.readers.ragged import joined
from tests.replay.logs import same, whole


def written(path, name="log.parquet", group=None, **columns):
    target = path / name
    pq.write_table(pa.table(columns), target, row_group_size=group)
    return target


def plain(n=5, **changes):
    columns = {"reward": np.arange(n) / 2, "propensity": np.full(n, 0.5), "action": np.arange(n) % 3, **changes}
    return {name: column for name, column in columns.items() if column is not None}


def test_columns_are_found_by_their_usual_names(tmp_path):
    path = written(
        tmp_path,
        click=[True, False],
        pscore=[0.5, 0.25],
        item=["a", "b"],
        user=["u", None],
        timestamp=[datetime.datetime(1970, 1, 1, 0, 0, 1), None],
        country=["de", None],
        target=[0.1, 0.2],
        n=[1, None],
    )
    batch = whole(open_log(path), Needs(fields=("country", "n", "none"), columns=("target", "none")))
    assert batch.reward.tolist() == [1.0, 0.0]
    assert batch.propensity.tolist() == [0.5, 0.25]
    assert batch.item.tolist() == [item_key("a"), item_key("b")]
    assert batch.chosen.tolist() == [-1, -1], "their place is not known"
    assert batch.viewer.tolist() == [item_key("u"), 2]
    assert batch.time[0] == 1.0
    assert np.isnan(batch.time[1])
    assert batch.fields["country"].tolist() == ["de", ""]
    assert batch.fields["n"].tolist() == ["1", ""]
    assert batch.columns["target"].tolist() == [0.1, 0.2]
    assert set(batch.fields) == {"country", "n"}
    assert set(batch.columns) == {"target"}


def test_columns_can_be_named(tmp_path):
    path = written(tmp_path, watched=[1.0], prob=[0.5], video=[3], who=[9])
    log = open_log(
        path, names={"reward": "watched", "propensity": "prob", "action": "video", "viewer": "who"}, n_actions=5
    )
    batch = whole(log)
    assert (batch.reward[0], batch.propensity[0], batch.chosen[0], batch.viewer[0]) == (1.0, 0.5, 3, 9)
    assert batch.candidates.item.tolist() == [0, 1, 2, 3, 4]


def test_feeds_are_consecutive_rows_also_across_batches_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_rows, "ROWS", 3)
    folder = tmp_path / "logs"
    folder.mkdir()
    n = 20
    event = np.repeat(np.arange(10), [1, 4, 2, 1, 3, 1, 1, 2, 4, 1])
    columns = plain(n, event_id=[f"e{i}" for i in event], n_actions=np.full(n, 3))
    for name, rows in (("a.parquet", slice(0, 9)), ("b.parquet", slice(9, n))):
        written(folder, name, group=4, **{key: column[rows] for key, column in columns.items()})
    log: Any = open_log(folder)
    batches = list(log.batches(Needs(candidates=True)))
    assert len(batches) > 3
    batch = whole(log)
    assert np.diff(batch.starts).tolist() == [1, 4, 2, 1, 3, 1, 1, 2, 4, 1]
    assert batch.reward.tolist() == columns["reward"].tolist()
    assert batch.place.tolist() == [1, 2, 6, 8, 9, 12, 13, 14, 16, 20]
    assert log.is_of_feeds()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    group=st.integers(1, 9),
    stretch=st.integers(1, 20),
)
def test_parts_hold_every_event_once_and_whole_however_files_are_cut(tmp_path, lengths, cuts, group, stretch):
    n = sum(lengths)
    columns = plain(n, event_id=np.repeat(np.arange(len(lengths)), lengths), n_actions=np.full(n, 3))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_rows, "STRETCH", stretch)
        patch.setattr(parquet_rows, "ROWS", 4)
        for k, rows in enumerate(np.split(np.arange(n), sorted(min(cut, n) for cut in cuts))):
            part = {name: column[rows] for name, column in columns.items()}
            written(Path(folder), f"{k}.parquet", group=group, **part)
        log: Any = open_log(folder)
        batches = [batch for part in log.parts() for batch in part.batches(Needs())]
        assert sum(part.size() for part in log.parts()) == n
        batch = joined(batches)
        same(batch, whole(log, Needs()), "starts", "place", "reward", "viewer")
        assert np.diff(batch.starts).tolist() == lengths
        assert batch.reward.tolist() == columns["reward"].tolist()
        assert batch.place.tolist() == (np.cumsum(lengths) - lengths + 1).tolist()


def test_candidates_in_lists_are_what_could_have_been_shown(tmp_path):
    path = written(tmp_path, **plain(3, action=None, item=["b", "a", "z"], candidates=[["a", "b"], ["a"], ["a", "c"]]))
    log = open_log(path)
    batch = whole(log)
    assert batch.chosen.tolist() == [1, 0]
    assert batch.n_candidates.tolist() == [2, 1]
    assert log.problems().counts == {"action or item is missing, or not among the candidates": 1}
    assert whole(log, Needs()).chosen.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": [0.5, None, 0.5]}, "row 2: there is no propensity; log the probability"),
        ({"propensity": [0.5, 0.5, 0.0]}, "row 3: the propensity is 0"),
        ({"propensity": [2, 1, 1]}, "row 1: the propensity is 2"),
        ({"propensity": ["a", "b", "c"]}, "column propensity holds string; numbers are needed"),
        ({"propensity": None}, "has no propensity; it has the columns reward, action"),
        ({"reward": None}, "has no reward"),
        ({"action": None}, "has no action or item"),
        ({"reward": ["a", "b", "c"]}, "column reward holds string"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, change, said):
    with pytest.raises(BadLog) as error:
        whole(open_log(written(tmp_path, **plain(3, **change))), Needs())
    assert said in error.value.message


def test_broken_rows_are_counted_or_fatal_with_all_of_their_feed(tmp_path):
    columns = plain(5, reward=[1, None, float("inf"), 1, 1], action=[0, 1, 2, None, 7], n_actions=[3] * 5)
    path = written(tmp_path, **columns)
    log = open_log(path)
    assert whole(log).place.tolist() == [1]
    assert log.problems().counts == {
        "the reward is missing or not finite": 2,
        "action or item is missing, or not among the candidates": 2,
    }
    assert log.problems().examples[0].startswith("row 2: ")
    with pytest.raises(BadLog, match=r"row 2: .*on_broken"):
        whole(open_log(path, on_broken="fail"))
    feeds = open_log(written(tmp_path, **{**columns, "event_id": [1, 2, 2, 3, 4]}))
    assert whole(feeds).n == 1


def test_what_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(BadLog, match="is no Parquet that can be read"):
        open_log(path)
    whole_file = written(tmp_path, **plain(1000)).read_bytes()
    path.write_bytes(whole_file[:-100])
    with pytest.raises(BadLog):
        open_log(path)
    damaged = bytearray(whole_file)
    damaged[20:400] = b"\xff" * 380
    path.write_bytes(bytes(damaged))
    with pytest.raises(BadLog):
        whole(open_log(path), Needs())
    with pytest.raises(BadLog, match="has no rows"):
        open_log(written(tmp_path, **plain(0)))
    with pytest.raises(BadLog, match=r"names=.'rewards'"):
        open_log(written(tmp_path, **plain()), names={"rewards": "reward"})
    with pytest.raises(BadLog, match="has no column 'x'; it has: reward"):
        open_log(written(tmp_path, **plain()), names={"reward": "x"})
    with pytest.raises(BadLog, match="n_actions=0"):
        open_log(written(tmp_path, **plain()), n_actions=0)


def test_files_with_other_columns_are_refused(tmp_path):
    written(tmp_path, "a.parquet", **plain())
    written(tmp_path, "b.parquet", reward=[1.0], propensity=[0.5])
    with pytest.raises(BadLog, match=r"b\.parquet has no column action"):
        open_log(tmp_path)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    # One row group of 3 million rows against one of 300,000: 24 MB a column would show.
    code = """
import sys
from replay.events import Needs
from replay.readers import open_log
n = sum(batch.n for batch in open_log(sys.argv[1]).batches(Needs(columns=("target",))))
status = open("/proc/self/status").read()
print(n, status.partition("VmHWM:")[2].split()[0])
"""
    rng = np.random.default_rng(3)
    peaks = []
    for n in (300_000, 3_000_000):
        columns = plain(n, target=rng.random(n), propensity=rng.random(n) + 1e-9)
        path = written(tmp_path, f"{n}.parquet", group=n, **columns)
        out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
        rows, peak = map(int, out.split())
        assert rows == n
        peaks.append(peak / 1024)
    assert peaks[1] < peaks[0] + 25, f"peaks in MB: {peaks}"
