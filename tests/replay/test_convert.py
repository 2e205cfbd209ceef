"""Logs written down in other shapes hold the same, and train."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.config import Settings
from bandit.store.data import DataDirectory
from replay import convert
from replay.errors import BadLog
from replay.events import Candidates, Needs
from replay.readers import open_log
from replay.readers.arrays import from_arrays
from replay.writers.dsjson import DsjsonWriter
from tests.conftest import Clock, Loop
from tests.replay.logs import ALL, cb, ccb, same, whole, written
from tests.replay.test_readers_obd import written as obd_written
from tests.replay.test_service_log import Player

SLOTS = ("starts", "item", "chosen", "propensity", "reward", "n_candidates", "viewer")


def singles(n=40, seed=1, **changes):
    """A log of single decisions with everything that a log can have."""
    rng = np.random.default_rng(seed)
    given = {
        "reward": rng.integers(0, 2, n).astype(float),
        "action": rng.integers(0, 4, n),
        "propensity": rng.uniform(0.01, 1, n),
        "n_actions": 4,
        "viewer": rng.integers(0, 2**63, n).astype(np.uint64) * 2 + 1,
        "time": 1.6e9 + np.arange(n) * 1.25,
        "contexts": rng.normal(size=(n, 2)),
        "columns": {"position": rng.integers(0, 3, n), "target": rng.uniform(0, 1, n)},
        "fields": {"country": np.array(["de", "fr"])[rng.integers(0, 2, n)]},
        **changes,
    }
    return from_arrays(**given)


def feeds(n=40, seed=2, items=6, slots=3, **changes):
    """Feeds drawn without replacement; keys of items are of all sizes."""
    rng = np.random.default_rng(seed)
    keys = np.array([3, 10**18 - 1, 10**18, 2**63, 2**64 - 1, 7], np.uint64)[:items]
    chosen, propensity, item, starts = [], [], [], [0]
    for _ in range(n):
        left = list(range(items))
        for _ in range(slots):
            k = int(rng.integers(len(left)))
            chosen.append(k)
            propensity.append(1 / len(left))
            item += keys[left].tolist()
            starts.append(len(item))
            left.pop(k)
    given = {
        "reward": np.round(rng.random(n * slots), 3),
        "action": chosen,
        "propensity": propensity,
        "starts": np.arange(n + 1) * slots,
        "candidates": Candidates(np.array(starts), np.array(item, np.uint64)),
        "viewer": rng.integers(0, 9, n),
        "seen": rng.integers(0, 2, n * slots),
        **changes,
    }
    return from_arrays(**given)


def learned(path, arguments):
    """What VW says of a file that it has learned from, in a process of its own."""
    code = """
import sys, vowpalwabbit
arguments = sys.argv[2] + " --dsjson --strict_parse --no_stdin -d " + sys.argv[1]
workspace = vowpalwabbit.Workspace(arguments, enable_logging=True)
workspace.run_parser()
print(workspace.get_weighted_examples(), workspace.get_sum_loss())
workspace.finish()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    examples, loss = map(float, done.stdout.split()[-2:])
    assert loss != 0, "nothing was learned"
    return examples


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("make", [singles, feeds])
def test_from_shape_to_shape_nothing_is_lost(tmp_path, make):
    log = make()
    needs = Needs(candidates=True, fields=("country",), columns=("target", "position"))
    first = whole(log, needs)
    for name in ("a.parquet", "b.json", "c.jsonl.zst", "d.parquet", "e.dsjson.gz"):
        result = convert.convert(log, tmp_path / name)
        assert (result.events, result.slots) == (first.n, first.n_slots)
        log = open_log(tmp_path / name)
        again = whole(log, needs)
        same(first, again, *SLOTS, "time")
        same(first.candidates, again.candidates, "starts", "item")
        if first.contexts is not None:
            same(first, again, "contexts")
        if first.seen is not None:
            same(first, again, "seen")
        for column in first.columns:
            np.testing.assert_array_equal(first.columns[column], again.columns[column])
        for field in first.fields:
            assert again.fields[field].tolist() == first.fields[field].tolist()


times = st.integers(2**29 * 10**6, 2**32 * 10**6).map(lambda us: us / 1e6)
rewards = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1.0, 5e-324, 0.1])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_single_decisions_come_back_from_parquet_and_dsjson(data):
    n = data.draw(st.integers(1, 8))
    counts = data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    log: Any = from_arrays(
        reward=data.draw(st.lists(rewards, min_size=n, max_size=n)),
        action=[data.draw(st.integers(0, count - 1)) for count in counts],
        propensity=data.draw(st.lists(st.floats(1e-300, 1.0), min_size=n, max_size=n)),
        n_actions=counts,
        viewer=np.array(data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n)), np.uint64),
        time=data.draw(
            st.lists(st.integers(2**29 * 10**6, 2**32 * 10**6).map(lambda us: us / 1e6), min_size=n, max_size=n)
        ),
        fields={"f": data.draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=n, max_size=n))},
    )
    needs = Needs(candidates=True, fields=("f",))
    first = whole(log, needs)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("a.parquet", "b.json"):
            convert.convert(log, Path(scratch) / name)
            log = open_log(Path(scratch) / name)
            again = whole(log, needs)
            same(first, again, *SLOTS, "time")
            same(first.candidates, again.candidates, "starts", "item")
            # NumPy's texts end at their last letter that is no NUL.
            assert again.fields["f"].tolist() == first.fields["f"].tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.data())
def test_any_feeds_come_back_from_parquet_and_dsjson(seed, items, data):
    first_log = feeds(n=5, seed=seed, items=items, slots=data.draw(st.integers(1, items)), seen=None)
    first = whole(first_log, Needs(candidates=True))
    with tempfile.TemporaryDirectory() as scratch:
        log = first_log
        for name in ("a.parquet", "b.json", "c.parquet"):
            convert.convert(log, Path(scratch) / name)
            log = open_log(Path(scratch) / name)
            again = whole(log, Needs(candidates=True))
            if not first.single:
                same(first, again, *SLOTS)
            same(first.candidates, again.candidates, "starts", "item")


def test_texts_of_a_log_are_kept_as_they_are(tmp_path):
    source = open_log(written(tmp_path, cb(), cb(EventId="e2", c={"_multi": [{"x": 1}, {"y": "é\n"}, {"id": 3}]})))
    for name in ("a.parquet", "b.json"):
        convert.convert(source, tmp_path / name)
        log = open_log(tmp_path / name)
        first, again = whole(source), whole(log)
        same(first, again, *SLOTS)
        assert [json.loads(text) for text in again.texts.shared] == [json.loads(text) for text in first.texts.shared]
        assert [json.loads(text) for text in again.texts.candidates] == [json.loads(t) for t in first.texts.candidates]
        assert whole(log, Needs(fields=("model",))).fields["model"].tolist() == ["m1", "m1"]


def test_items_that_their_text_does_not_name_are_named(tmp_path):
    # Found under its own name, this item is another than the one that its text would be.
    source = open_log(written(tmp_path, cb()), item="I.x")
    convert.convert(source, tmp_path / "out.json")
    assert whole(open_log(tmp_path / "out.json"), Needs()).item.tolist() == [2]


def test_open_bandit_logs_come_back(tmp_path):
    source = open_log(obd_written(tmp_path))
    convert.convert(source, tmp_path / "out.json")
    convert.convert(open_log(tmp_path / "out.json"), tmp_path / "again", to="obd")
    log = open_log(tmp_path / "again")
    needs = Needs(texts=True, columns=("position",), fields=("position", "user_feature_0"))
    first, again = whole(source, needs), whole(log, needs)
    same(first, again, *SLOTS, "time")
    assert first.texts == again.texts
    assert first.columns["position"].tolist() == again.columns["position"].tolist()
    assert first.fields["user_feature_0"].tolist() == again.fields["user_feature_0"].tolist()


def test_obps_feedback_has_its_keys_and_shapes_and_comes_back(tmp_path):
    log = singles()
    convert.convert(log, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as file:
        found = dict(file)
    assert found["n_rounds"] == 40
    assert found["n_actions"] == 4
    shapes = {name: found[name].shape for name in ("context", "action", "position", "reward", "pscore")}
    assert shapes == {"context": (40, 2), "action": (40,), "position": (40,), "reward": (40,), "pscore": (40,)}
    assert found["action"].dtype.kind == found["position"].dtype.kind == "i"
    same(whole(log), whole(open_log(tmp_path / "out.npz")), *SLOTS, "contexts", "time")


# ---------------------------------------------------------------- VW


@pytest.mark.parametrize("arguments", ["--cb_explore_adf", "--cb_explore_adf --cb_type dr -q CI", "--cb_adf"])
def test_vw_learns_from_every_single_decision(tmp_path, arguments):
    convert.convert(singles(200), tmp_path / "out.json")
    assert learned(tmp_path / "out.json", arguments) == 200


def test_vw_learns_from_every_feed(tmp_path):
    convert.convert(feeds(200), tmp_path / "out.json")
    assert learned(tmp_path / "out.json", "--ccb_explore_adf") == 200


def test_vw_learns_from_what_came_from_open_bandit_csv_and_personalizer(tmp_path):
    convert.convert(open_log(obd_written(tmp_path)), tmp_path / "obd.json")
    assert learned(tmp_path / "obd.json", "--cb_explore_adf -q UI") == 2
    convert.convert(open_log(written(tmp_path, cb(), cb(EventId="e2", pdrop=0.5))), tmp_path / "cb.json")
    assert 1 <= learned(tmp_path / "cb.json", "--cb_explore_adf") <= 2
    convert.convert(open_log(written(tmp_path, ccb(), ccb(EventId="f2"))), tmp_path / "ccb.json")
    assert learned(tmp_path / "ccb.json", "--ccb_explore_adf") == 2


def test_a_services_own_log_comes_back_and_trains(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    player = Player(Loop(data, clock), seed=6)
    player.play(60)
    player.loop.end_windows()
    log: Any = open_log(path)
    try:
        first = whole(log, Needs(candidates=True, fields=("model", "config")))
        assert run(path, tmp_path / "out.json") == 0
        assert learned(tmp_path / "out.json", "--ccb_explore_adf") == first.n > 10
        assert run(tmp_path / "out.json", tmp_path / "out.parquet") == 0
        for name in ("out.json", "out.parquet"):
            again = whole(open_log(tmp_path / name), Needs(candidates=True, fields=("model", "config")))
            same(first, again, *SLOTS, "time", "seen")
            same(first.candidates, again.candidates, "starts", "item")
            assert first.fields["model"].tolist() == again.fields["model"].tolist()
    finally:
        log.close()
        player.loop.close()
        data.close()


def test_a_slot_with_other_candidates_says_so_to_vw(tmp_path):
    log = feeds(
        1, candidates=Candidates(np.array([0, 3, 5, 6]), np.array([1, 2, 3, 9, 8, 7], np.uint64)), action=[0, 1, 0]
    )
    convert.convert(log, tmp_path / "out.json")
    line = json.loads((tmp_path / "out.json").read_text())
    assert [slot.get("_inc") for slot in line["c"]["_slots"]] == [[0, 1, 2], [3, 4], [5]]
    assert [outcome["_a"] for outcome in line["_outcomes"]] == [[0], [4], [5]]
    assert learned(tmp_path / "out.json", "--ccb_explore_adf") == 1
    same(whole(log), whole(open_log(tmp_path / "out.json")), *SLOTS)


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("log", "to", "said"),
    [
        (lambda: feeds(), "obd", "the slots of a feed are drawn given those above"),
        (lambda: feeds(), "obp", "the slots of a feed are drawn given those above"),
        (lambda: singles(reward=np.full(40, 0.5)), "obd", "event 1 has reward 0.5"),
        (lambda: singles(n_actions=np.arange(40) + 4), "obp", "this log has 4 to 43"),
        (lambda: singles(n_actions=None), "obp", "open it with n_actions"),
        (lambda: singles(n_actions=None), "dsjson", "give --n-actions"),
        (
            lambda: from_arrays(reward=[[1, 1]], action=[[0, 0]], propensity=[[1, 1]], n_actions=2),
            "dsjson",
            "two slots",
        ),
        (lambda: from_arrays(reward=[], action=[], propensity=[], n_actions=2), "parquet", "has no events"),
    ],
)
def test_what_a_shape_cannot_hold_is_refused_and_leaves_nothing(tmp_path, log, to, said):
    with pytest.raises(BadLog) as error:
        convert.convert(log(), tmp_path / "out", to=to)
    assert said in error.value.message
    assert list(tmp_path.iterdir()) == []


def test_texts_that_are_no_json_objects_are_refused():
    batch = whole(singles(1))
    for texts in ((b"[]", b"{}"), (b"{}", b"x"), (b"{", b"{}")):
        batch.texts = type("Texts", (), {"shared": [texts[0]], "candidates": [texts[1]] * 4})()
        with pytest.raises(BadLog, match="a text is no JSON"):
            DsjsonWriter(io.BytesIO(), feeds=False).write(batch)


def test_targets_are_replaced_only_if_asked(tmp_path):
    log = singles()
    target = tmp_path / "out.json"
    convert.convert(log, target)
    before = target.read_bytes()
    with pytest.raises(BadLog, match="is there already; give --force"):
        convert.convert(singles(seed=9), target)
    assert target.read_bytes() == before
    convert.convert(singles(seed=9), target, force=True)
    assert target.read_bytes() != before
    with pytest.raises(BadLog, match="is the log itself"):
        convert.convert(open_log(target), target, force=True)
    with pytest.raises(BadLog, match="is a file; it is not replaced by obd"):
        convert.convert(log, target, to="obd", force=True)
    folder = tmp_path / "folder"
    convert.convert(log, folder, to="obd")
    convert.convert(singles(seed=9), folder, to="obd", force=True)
    (folder / "mine.txt").write_text("keep me")
    with pytest.raises(BadLog, match=r"holds other files too \(mine\.txt\)"):
        convert.convert(log, folder, to="obd", force=True)
    with pytest.raises(BadLog, match="is no directory to write into"):
        convert.convert(log, tmp_path / "none" / "out.json")
    with pytest.raises(BadLog, match="does not say what to write; give --to"):
        convert.convert(log, tmp_path / "out.txt")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "out.json"]


def test_a_reading_that_fails_leaves_the_old_target(tmp_path):
    target = tmp_path / "out.parquet"
    convert.convert(singles(), target)
    before = target.read_bytes()
    source = open_log(written(tmp_path, cb(), cb(_label_probability=0)))
    with pytest.raises(BadLog, match="the propensity is 0"):
        convert.convert(source, target, force=True)
    assert target.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------- the command


def run(*words):
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    return convert.run(parser.parse_args(["convert", *map(str, words)]))


def test_the_command_says_what_it_did(tmp_path, capsys):
    source = written(tmp_path, cb(), "x", cb())
    assert run(source, tmp_path / "out.parquet") == 0
    out = capsys.readouterr().out
    assert "2 events, 2 slots" in out
    assert "1 bad JSON" in out
    assert "line 2: " in out
    assert run(source, tmp_path / "again.parquet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["events"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.json", "out.parquet"], "does not exist"),
        (["log.json", "out.xyz"], "does not say what to write"),
        (["log.json", "out.parquet", "--on-broken", "fail"], "line 2"),
        (["log.json", "out.parquet", "--n-actions", "3"], "n_actions is no option of a dsjson log"),
        (["log.json", "out.parquet", "--reward", "like"], "needs raw signals"),
        (["log.json", "none/out.parquet"], "is no directory to write into"),
    ],
)
def test_the_command_ends_with_two_and_a_reason(tmp_path, capsys, monkeypatch, words, said):
    written(tmp_path, cb(), "x")
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    assert said in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["log.json"]


def test_needs_of_a_conversion_leave_nothing_out():
    assert convert._needs(singles(), "dsjson") == Needs(
        fields=("country",), columns=("position", "target"), candidates=True, texts=True, logged=True
    )
    assert ALL.texts
