"""Arrays as logs, and obp's bandit feedback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replay.errors import BadLog
from replay.events import Candidates, Needs, Texts, item_key
from replay.readers import open_log
from replay.readers.arrays import EVENTS, from_arrays
from tests.replay.logs import ALL, whole


def log_of(n: int = 4, **changes):
    given = {
        "reward": np.arange(n) / 10,
        "action": np.arange(n) % 3,
        "propensity": np.full(n, 0.5),
        "n_actions": 3,
        **changes,
    }
    return from_arrays(**given)


def test_batches_are_views_of_the_arrays():
    n = EVENTS * 2 + 5
    reward, propensity, contexts = np.random.default_rng(1).random((3, n))
    log = log_of(n, reward=reward, propensity=propensity, contexts=contexts.reshape(-1, 1), columns={"q": reward})
    batches = list(log.batches(Needs(columns=("q",))))
    assert [batch.n for batch in batches] == [EVENTS, EVENTS, 5]
    for batch in batches:
        assert np.shares_memory(batch.reward, reward)
        assert np.shares_memory(batch.columns["q"], reward)
        assert batch.starts[0] == 0
        assert batch.single
    assert np.concatenate([batch.place for batch in batches]).tolist() == list(range(1, n + 1))
    assert log.done() == log.size() == n


def test_candidates_are_all_actions():
    batch = whole(log_of(3))
    assert batch.candidates.starts.tolist() == [0, 3, 6, 9]
    assert batch.candidates.item.tolist() == [0, 1, 2] * 3
    assert batch.item.tolist() == batch.chosen.tolist() == [0, 1, 2]


def test_candidates_may_differ_by_slot():
    batch = whole(log_of(3, n_actions=[1, 2, 3]))
    assert batch.candidates.item.tolist() == [0, 0, 1, 0, 1, 2]


def test_without_n_actions_candidates_are_unknown_and_refused_where_wanted():
    log = log_of(n_actions=None)
    assert whole(log, Needs()).n_candidates.tolist() == [0] * 4
    with pytest.raises(BadLog, match="give n_actions"):
        whole(log)


def test_feeds_are_rows_of_a_matrix_or_ragged():
    rows = [[0, 1], [2, 0]]
    feed = log_of(reward=np.ones((2, 2)), action=rows, propensity=np.full((2, 2), 0.5), columns={"t": [[1, 2], [3, 4]]})
    batch = whole(feed, Needs(columns=("t",)))
    assert batch.starts.tolist() == [0, 2, 4]
    assert batch.item.tolist() == [0, 1, 2, 0]
    assert batch.columns["t"].tolist() == [1, 2, 3, 4]
    ragged = log_of(6, starts=[0, 1, 3, 6], viewer=["a", "b", "a"])
    batch = whole(ragged)
    assert np.diff(batch.starts).tolist() == [1, 2, 3]
    assert batch.viewer.tolist() == [item_key("a"), item_key("b"), item_key("a")]


def test_given_candidates_and_texts_are_handed_on_by_batch():
    n = EVENTS + 2
    starts = np.arange(n + 1) * 2
    candidates = Candidates(starts, np.tile(np.array([7, 9], np.uint64), n))
    texts = Texts([b"{}"] * n, [b'{"a":1}', b'{"a":2}'] * n)
    log = log_of(n, action=np.ones(n, int), n_actions=None, candidates=candidates, texts=texts)
    first, second = log.batches(ALL)
    assert set(first.item.tolist()) == {9}
    assert second.candidates.starts.tolist() == [0, 2, 4]
    assert second.candidates.item.tolist() == [7, 9, 7, 9]
    assert second.texts.candidates == [b'{"a":1}', b'{"a":2}'] * 2


def test_dates_are_seconds():
    times = np.array(["1970-01-01T00:00:01", "NaT", "2021-01-01", "1970-01-02"], "datetime64[s]")
    found = whole(log_of(time=times)).time
    assert found[0] == 1.0
    assert np.isnan(found[1])
    assert found[3] == 86400.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward": [1, np.nan, 0, 0]}, "event 2: reward is nan"),
        ({"reward": [1, np.inf, 0, 0]}, "event 2: reward is inf"),
        ({"reward": ["a", "b", "c", "d"]}, "reward is an array of <U1"),
        ({"reward": np.ones((2, 2, 1))}, "reward has shape (2, 2, 1)"),
        ({"propensity": [0.5, 0.5, 0.5]}, "propensity has shape (3,); reward has (4,)"),
        ({"propensity": [0.5, np.nan, 0.5, 0.5]}, "event 2: there is no propensity"),
        ({"propensity": [0.5, 0.5, 0.0, 0.5]}, "event 3: the propensity is 0"),
        ({"propensity": [0.5, 0.5, 0.5, 1.5]}, "event 4: the propensity is 1.5"),
        ({"propensity": [0.5, 0.5, 0.5, -1]}, "event 4: the propensity is -1"),
        ({"action": [0, 1, 2]}, "action has shape (3,)"),
        ({"action": [0, 1, 2, 3]}, "event 4: action is 3 of 3"),
        ({"action": [0, -1, 2, 0]}, "event 2: action is -1"),
        ({"action": [0, 0.5, 2, 0]}, "action holds 0.5"),
        ({"action": [0, np.nan, 2, 0]}, "action holds nan"),
        ({"action": ["a", "b", "c", "d"]}, "action is an array of <U1"),
        ({"action": np.array([0, 2**63, 0, 0], np.uint64)}, "whole numbers up to"),
        ({"n_actions": 0}, "n_actions holds 0"),
        ({"n_actions": [3, 3]}, "n_actions has shape (2,)"),
        ({"viewer": [1, 2]}, "viewer has shape (2,)"),
        ({"viewer": [1.5, 2, 3, 4]}, "viewer holds 1.5"),
        ({"time": [1, 2]}, "time has shape (2,)"),
        ({"contexts": [1, 2, 3, 4]}, "contexts have shape (4,)"),
        ({"contexts": [[1], [2], [np.nan], [3]]}, "contexts hold NaN"),
        ({"fields": {"f": [1]}}, "field 'f' has shape (1,)"),
        ({"columns": {"c": [1]}}, "column 'c' has shape (1,)"),
        ({"columns": {"c": ["a"] * 4}}, "column 'c' is an array of <U1"),
        ({"starts": [0, 3]}, "starts must rise from 0 to 4"),
        ({"starts": [0, 2, 2, 4]}, "at least one slot"),
        ({"seen": [0.5] * 4}, "seen is an array of float64"),
        ({"reward_range": (1, 0)}, "reward_range"),
        ({"candidates": Candidates(np.array([0, 1]), np.array([1], np.uint64))}, "candidates are of 1 slots"),
        ({"texts": Texts([b"{}"], [b"{}"])}, "texts are of 1 events"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_given(change, said):
    with pytest.raises(BadLog) as error:
        log_of(**change)
    assert said in error.value.message


def test_an_empty_log_has_no_batches():
    assert list(from_arrays(reward=[], action=[], propensity=[]).batches(Needs())) == []


def test_obps_feedback_is_read_as_arrays(tmp_path):
    path = tmp_path / "feedback.npz"
    context = np.random.default_rng(2).random((4, 3))
    arrays: dict[str, Any] = {
        "reward": [1, 0, 0, 1],
        "action": [0, 1, 2, 0],
        "pscore": [0.2] * 4,
        "position": [0, 1, 2, 0],
    }
    np.savez(path, n_rounds=4, n_actions=3, context=context, pi_b=np.array([None]), **arrays)
    log = open_log(path)
    assert log.kind == "arrays"
    batch = whole(log, Needs(columns=("position",), fields=("position",)))
    assert batch.contexts.tolist() == context.tolist()
    assert batch.columns["position"].tolist() == [0, 1, 2, 0]
    assert batch.n_candidates.tolist() == [3] * 4
    np.savez(path, reward=[1], action=[0])
    with pytest.raises(BadLog, match="has no pscore; it has: reward, action; log the probability"):
        open_log(path)
    path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(BadLog, match=r"is no \.npz"):
        open_log(path)
