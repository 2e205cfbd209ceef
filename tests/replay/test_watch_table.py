"""A table of watch times from a log: it holds its promise for those who made it, and refuses what it cannot know."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from bandit.config import Config
from bandit.records import Feedback, Item, ItemFeedback, ItemsRequest, RankRequest
from bandit.reward.signals import Watch, WatchTable, derive, faults_of
from replay.__main__ import main
from replay.errors import BadQuestion
from replay.events import F64, Needs
from replay.readers.service import ServiceLog
from replay.watch_table import PLAYS_A_ROW, fit, plays_of
from tests.conftest import Loop

CATALOGUE = {"short": 6.0, "middle": 20.0, "long": 90.0}


def some_plays(n: int, *, seed: int = 5) -> tuple[F64, F64]:
    """Viewers unlike those of the shipped table: patient ones, and lengths from 4 to 200 s."""
    rng = np.random.default_rng(seed)
    length_s = np.exp(rng.uniform(np.log(4), np.log(200), n))
    leaves = np.where(rng.random(n) < 0.2, rng.exponential(2.0, n), rng.exponential(80.0, n))
    return np.minimum(leaves, length_s), length_s


def test_the_mean_of_watch_is_the_same_at_every_length_for_those_who_made_the_table() -> None:
    watch_s, length_s = some_plays(30_000)
    table = fit(watch_s, length_s, name="ours")
    assert faults_of(table) == []
    assert len(table.rows) == 12
    fresh = some_plays(30_000, seed=6)
    told = [derive({"watch_s": w}, of, Watch(table)) for w, of in zip(*(one.tolist() for one in fresh), strict=True)]
    watch, completion = (np.array([one[name] for one in told]) for name in ("watch", "completion"))
    parts = np.digitize(fresh[1], [8, 16, 32, 64, 128])
    means = [float(watch[parts == part].mean()) for part in range(6)]
    # 1.2 % is the standard error of a mean of 5,000 plays, three times; the rest is interpolation.
    assert means == pytest.approx([0.5] * 6, abs=0.03)
    assert completion[parts == 0].mean() > 1.5 * completion[parts == 5].mean()
    assert abs(np.corrcoef(watch, np.log(fresh[1]))[0, 1]) < 0.03


@pytest.mark.parametrize(
    "length_s",
    [
        np.full(1_000, 15.0), np.array([15.0] * 990 + [60.0] * 10), np.array([15.0] * 500 + [60.0] * 500),
        np.arange(1, 402.0),
    ],
    ids=["one length", "a few others", "two lengths", "just two rows"],
)  # fmt: skip
def test_few_lengths_make_few_rows_and_every_play_counts(length_s: F64) -> None:
    table = fit(length_s / 2, length_s, name="few")
    assert faults_of(table) == []
    assert 1 <= len(table.rows) <= 2


def test_too_few_plays_are_refused() -> None:
    with pytest.raises(BadQuestion, match="at least 200"):
        fit(np.ones(PLAYS_A_ROW - 1), np.ones(PLAYS_A_ROW - 1), name="few")


# ---------------------------------------------------------------- from a log


@pytest.fixture
def watched(loop: Loop) -> Loop:
    """A log with plays of three lengths, one of which the client says itself."""
    features = {name: msgspec.Raw(b'{"length_s":%d}' % of) for name, of in CATALOGUE.items() if name != "middle"}
    loop.service.put_items(ItemsRequest([Item(name, text) for name, text in features.items()]))
    rng = np.random.default_rng(1)
    for k in range(220):
        loop.service.rank(RankRequest([*CATALOGUE, "nobody knows"], event_id=f"e{k}"))
        told = []
        for name in CATALOGUE:
            sent = {"watch_s": float(min(rng.exponential(20.0), CATALOGUE[name]))}
            told.append(ItemFeedback(name, sent | ({"length_s": 20.0} if name == "middle" else {}), final=k % 2 == 0))
        told.append(ItemFeedback("nobody knows", {"watch_s": 3.0}))
        loop.service.feedback([Feedback(f"e{k}", told)])
    loop.end_windows()
    return loop


def test_each_play_counts_once_with_the_length_that_was_shown(watched: Loop) -> None:
    log = ServiceLog(watched.data.path)
    plays = plays_of(log)
    assert sorted(set(plays.length_s.tolist())) == [6.0, 20.0, 90.0]
    assert (len(plays.watch_s), plays.without_length) == (3 * 220, 220)
    assert plays.table == WatchTable()
    # Afterwards the log is read as before.
    assert plays_of(log).watch_s.tolist() == plays.watch_s.tolist()
    log.close()


def test_the_command_prints_what_a_config_takes(watched: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch-table", str(watched.data.path), "--name", "ours-1"]) == 0
    printed = capsys.readouterr()
    fragment = json.loads(printed.out)
    config = msgspec.convert({**msgspec.to_builtins(Config()), **fragment}, Config)
    assert (config.watch.name, len(config.watch.rows)) == ("ours-1", 3)
    assert "660 plays; 220 more have no length" in printed.err
    live = watched.service.config()
    watched.service.put_config(config, expected=live.version)
    assert watched.service.config().document.watch == config.watch


def test_a_log_that_cannot_tell_is_refused(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch-table", str(loop.data.path)]) == 2
    assert "0 plays have a watch_s and a length" in capsys.readouterr().err
    assert main(["watch-table", str(loop.data.path / "nowhere")]) == 2
    assert main(["watch-table", str(loop.data.path), "--rows", "0"]) == 2


def test_an_old_log_answers_for_derived_signals_and_presets(watched: Loop) -> None:
    """Nothing of it was asked for when it was written."""
    means = {}
    for reward in ("completion", "watch*1 + like*2 - not_interested*5", "preset:watch", "length_s"):
        log = ServiceLog(watched.data.path, reward=reward)
        means[reward] = sum(float(batch.reward.sum()) for batch in log.batches(Needs())) / (4 * 220)
        log.close()
    assert 0 < means["completion"] < 1
    assert means["watch*1 + like*2 - not_interested*5"] == means["preset:watch"]
    assert means["length_s"] == pytest.approx((6 + 20 + 90) / 4)
