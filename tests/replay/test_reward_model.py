"""Reward models: they learn, and no prediction for a viewer comes from what saw that viewer."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier

from replay.errors import BadLog, BadQuestion
from replay.events import Batch, Candidates, Texts, fold_of, mixed
from replay.reward_model import KINDS, RewardModel
from replay.reward_model.linear import PENALTIES, _Krylov, fit_ridge
from replay.reward_model.sample import ViewerSample
from replay.reward_model.tables import TableSums, shrunk
from replay.reward_model.texts import TextReader, features_of

N_ITEMS = 6


def make_batch(
    n: int,
    *,
    seed: int = 0,
    n_slots: int = 1,
    viewers: int | None = None,
    texts: bool = False,
    contexts: bool = False,
    noise_only: bool = False,
) -> Batch:
    """Rewards depend on item, on the first context (or its text), and fall from slot to slot."""
    rng = np.random.default_rng(seed)
    s = n * n_slots
    x = rng.normal(size=(n, 3))
    viewer = np.arange(n, dtype=np.uint64) if viewers is None else rng.integers(0, viewers, n).astype(np.uint64)
    items = np.tile(np.arange(100, 100 + N_ITEMS, dtype=np.uint64), s)
    chosen = rng.integers(0, N_ITEMS, s)
    event, slot = np.repeat(np.arange(n), n_slots), np.tile(np.arange(n_slots), n)
    mean = expected(x[event], chosen, slot)
    if noise_only:
        mean = (mixed(viewer)[event] >> np.uint64(63)).astype(np.float64)
    reward = (rng.random(s) < mean).astype(np.float64)
    return Batch(
        starts=np.arange(n + 1) * n_slots,
        item=items.reshape(s, N_ITEMS)[np.arange(s), chosen],
        chosen=chosen,
        propensity=np.full(s, 1 / N_ITEMS),
        reward=reward,
        n_candidates=np.full(s, N_ITEMS),
        viewer=viewer,
        time=np.full(n, np.nan),
        place=np.arange(1, n + 1),
        candidates=Candidates(np.arange(s + 1) * N_ITEMS, items),
        contexts=x if contexts else None,
        texts=texts_of(x, items) if texts else None,
    )


def expected(x: np.ndarray, item: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Chances of the item's number ``item`` from 0."""
    effect = np.linspace(-1.5, 1.5, N_ITEMS)
    side = np.where(item % 2 == 0, 1.0, -1.0)
    return 0.8**slot / (1 + np.exp(-(effect[item] + 1.5 * side * np.sign(x[:, 0]))))


def texts_of(x: np.ndarray, items: np.ndarray) -> Texts:
    shared = [json.dumps({"U": {"side": "up" if row[0] > 0 else "down", "age": 31}}).encode() for row in x]
    return Texts(shared, [json.dumps({"I": {"id": f"v{item}", "odd": bool(item % 2)}}).encode() for item in items])


def all_expected(batch: Batch, x: np.ndarray) -> np.ndarray:
    n_slots = batch.n_slots // batch.n
    event = np.repeat(np.arange(batch.n), n_slots * N_ITEMS)
    slot = np.tile(np.repeat(np.arange(n_slots), N_ITEMS), batch.n)
    return expected(x[event], np.tile(np.arange(N_ITEMS), batch.n_slots), slot)


@pytest.mark.parametrize(
    ("kind", "features", "least"),
    [
        ("table", {}, 0.4),
        ("auto", {}, 0.4),
        ("ridge", {"contexts": True}, 0.85),
        ("auto", {"texts": True}, 0.93),
        ("logistic", {"texts": True}, 0.93),
        ("boosting", {"contexts": True}, 0.85),
        (DecisionTreeClassifier(max_depth=6, random_state=0), {"contexts": True}, 0.8),
        (LinearRegression(), {"texts": True}, 0.4),
    ],
)
def test_each_kind_learns(kind: Any, features: dict[str, bool], least: float) -> None:
    n = 800 if kind == "boosting" else 3000
    batch = make_batch(n, **features)
    x = np.random.default_rng(0).normal(size=(n, 3))
    predicted = RewardModel.fit([batch], kind=kind).predict(batch)
    assert predicted.shape == (n * N_ITEMS,)
    assert np.corrcoef(predicted, all_expected(batch, x))[0, 1] > least


@pytest.mark.parametrize("texts", [False, True])
def test_slots_of_a_feed_have_their_own_level(texts: bool) -> None:
    batch = make_batch(3000, n_slots=4, texts=texts)
    x = np.random.default_rng(0).normal(size=(3000, 3))
    predicted = RewardModel.fit([batch]).predict(batch)
    truth = all_expected(batch, x)
    by_slot = predicted.reshape(3000, 4, N_ITEMS).mean((0, 2))
    assert by_slot == pytest.approx(truth.reshape(3000, 4, N_ITEMS).mean((0, 2)), rel=0.1)
    assert np.corrcoef(predicted, truth)[0, 1] > (0.9 if texts else 0.4)


LEAK_CASES = [
    ("table", {}),
    ("auto", {"n_slots": 3}),
    ("ridge", {"contexts": True}),
    ("auto", {"contexts": True}),
    ("auto", {"texts": True, "n_slots": 2}),
    ("logistic", {"texts": True}),
    ("boosting", {"contexts": True}),
    (DecisionTreeClassifier(random_state=0), {"contexts": True}),
]


@pytest.mark.parametrize(("kind", "options"), LEAK_CASES)
def test_what_viewers_did_changes_no_bit_of_what_is_predicted_for_them(kind: Any, options: dict[str, Any]) -> None:
    batch = make_batch(200, viewers=80, **options)
    fold = fold_of(batch.viewer)
    before = RewardModel.fit([batch], kind=kind).predict(batch)
    of_candidate = np.repeat(fold, np.diff(batch.starts) * N_ITEMS)
    for f in range(1 if kind in ("boosting", "logistic") else 5):
        mine = np.repeat(fold, np.diff(batch.starts)) == f
        other = replace(batch, reward=np.where(mine, 1.0 - batch.reward, batch.reward))
        after = RewardModel.fit([other], kind=kind).predict(batch)
        assert (after[of_candidate == f] == before[of_candidate == f]).all()
        assert (after[of_candidate != f] != before[of_candidate != f]).any()


@pytest.mark.parametrize("kind", ["table", "auto", DecisionTreeClassifier(random_state=0)])
def test_noise_of_viewers_is_not_predicted(kind: Any) -> None:
    """Each viewer always or never earns, by a coin; ids and contexts tell viewers apart.

    A model that saw the viewer would be right nearly always. Ten seeds at 4 standard errors of the viewers' coins:
    false alarm 6e-4; models made of the other folds correlate a little *negatively*, which is no leak.
    """
    for seed in range(10):
        batch = make_batch(600, seed=seed, viewers=100, contexts=True, noise_only=True)
        batch.contexts = np.random.default_rng(5).normal(size=(100, 3))[batch.viewer.astype(np.int64)]
        predicted = RewardModel.fit([batch], kind=kind).predict(batch)[
            np.arange(batch.n_slots) * N_ITEMS + batch.chosen
        ]
        if predicted.std() > 0:
            assert np.corrcoef(predicted, batch.reward)[0, 1] < 4 / np.sqrt(100)


def test_a_policy_that_follows_the_predictions_earns_nothing_by_the_direct_method() -> None:
    """Rewards are coins of .05, whatever is shown. The best of ten predictions must not look better than .05 by more
    than what estimates of 2,000 coins differ by; a model asked about what it was fitted on reads half as much again.
    False alarm below 1e-4 (4.5 standard errors of the doubly robust mean over seeds)."""
    n, n_items = 2000, 10
    gains = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        chosen = rng.integers(0, n_items, n)
        reward = (rng.random(n) < 0.05).astype(np.float64)
        batch = replace(
            make_batch(n), item=chosen.astype(np.uint64), chosen=chosen, reward=reward,
            candidates=Candidates(np.arange(n + 1) * n_items, np.tile(np.arange(n_items, dtype=np.uint64), n)),
            contexts=rng.normal(size=(n, 3)),
        )  # fmt: skip
        q = RewardModel.fit([batch], kind=DecisionTreeClassifier(max_depth=8, random_state=0)).predict(batch)
        best = q.reshape(n, n_items).argmax(1)
        w = (chosen == best) * float(n_items)
        q_best, q_chosen = q.reshape(n, n_items)[np.arange(n), best], q.reshape(n, n_items)[np.arange(n), chosen]
        gains.append((q_best + w * (reward - q_chosen)).mean() - 0.05)
    assert abs(np.mean(gains)) < 4.5 * np.std(gains, ddof=1) / np.sqrt(12)


def test_all_batches_together_or_cut_up_give_the_same_model() -> None:
    whole = make_batch(1000, viewers=300, texts=True)
    assert whole.candidates is not None
    assert whole.texts is not None
    parts = [part_of(whole, i, min(i + 137, 1000)) for i in range(0, 1000, 137)]
    one, other = RewardModel.fit([whole], most_events=500), RewardModel.fit(parts, most_events=500)
    assert (one.predict(whole) == other.predict(whole)).all()
    assert (np.concatenate([one.predict(part) for part in parts]) == one.predict(whole)).all()


def part_of(batch: Batch, first: int, last: int) -> Batch:
    assert batch.candidates is not None
    assert batch.texts is not None
    c = slice(first * N_ITEMS, last * N_ITEMS)
    return Batch(
        starts=np.arange(last - first + 1),
        item=batch.item[first:last],
        chosen=batch.chosen[first:last],
        propensity=batch.propensity[first:last],
        reward=batch.reward[first:last],
        n_candidates=batch.n_candidates[first:last],
        viewer=batch.viewer[first:last],
        time=batch.time[first:last],
        place=batch.place[first:last],
        candidates=Candidates(np.arange(last - first + 1) * N_ITEMS, batch.candidates.item[c]),
        texts=Texts(batch.texts.shared[first:last], batch.texts.candidates[c]),
    )


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 60), max_size=12), most=st.integers(1, 80), seed=st.integers(0, 5))
def test_the_sample_keeps_whole_viewers_however_the_log_is_cut(cuts: list[int], most: int, seed: int) -> None:
    batch = make_batch(300, viewers=25, texts=True)
    bounds = [0, *[min(int(b), 300) for b in np.cumsum(cuts)], 300]
    sampled = ViewerSample(most, seed, TextReader())
    for first, last in itertools.pairwise(bounds):
        if last > first:
            sampled.add(part_of(batch, first, last))
    got = sampled.whole()
    hashes = sampled.hashes(batch.viewer)
    order = sorted(set(hashes.tolist()))
    kept: list[int] = []
    for each in order:
        if sum(hashes.tolist().count(k) for k in [*kept, each]) > most:
            break
        kept.append(each)
    if kept:
        expected_rows = np.isin(hashes, np.array(kept, np.uint64))
        assert (got.reward == batch.reward[expected_rows]).all()
    else:
        assert len(got) == most
    assert len(got) <= most


def test_unseen_items_get_the_slots_mean_and_lonely_logs_get_nothing() -> None:
    batch = make_batch(500)
    model = RewardModel.fit([batch], kind="table")
    items = np.tile(np.arange(1000, 1000 + N_ITEMS, dtype=np.uint64), 500)
    other = replace(batch, candidates=Candidates(np.arange(501) * N_ITEMS, items))
    assert np.unique(model.predict(other)).size <= 5
    assert model.predict(other).mean() == pytest.approx(batch.reward.mean(), abs=0.02)
    lonely = replace(batch, viewer=np.zeros(500, np.uint64))
    for kind in ("table", "auto"):
        assert (RewardModel.fit([lonely], kind=kind).predict(lonely) == 0).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "boosting"])
def test_all_rewards_alike_are_predicted(kind: str) -> None:
    for reward in (0.0, 1.0):
        batch = replace(make_batch(60, texts=True), reward=np.full(60, reward))
        assert RewardModel.fit([batch], kind=kind).predict(batch) == pytest.approx(reward, abs=1e-9)


def test_predictions_stay_within_the_rewards() -> None:
    batch = make_batch(80, contexts=True)
    assert batch.contexts is not None
    batch.contexts *= 1e6
    predicted = RewardModel.fit([batch], kind="ridge").predict(batch)
    assert predicted.min() >= 0
    assert predicted.max() <= 1


def test_refusals_say_what_to_do() -> None:
    batch = make_batch(50)
    with pytest.raises(BadQuestion, match="table"):
        RewardModel.fit([batch], kind="forest")
    with pytest.raises(BadQuestion, match="use table"):
        RewardModel.fit([batch], kind="ridge")
    with pytest.raises(BadQuestion, match="use ridge"):
        RewardModel.fit([replace(make_batch(50, texts=True), reward=np.full(50, 0.5))], kind="logistic")
    with pytest.raises(BadQuestion, match="boosting needs numeric"):
        RewardModel.fit([make_batch(50, texts=True)], kind="boosting")
    with pytest.raises(BadQuestion, match="scikit-learn"):
        RewardModel.fit([batch], kind=3)
    with pytest.raises(BadQuestion, match="most_events"):
        RewardModel.fit([batch], most_events=0)
    with pytest.raises(BadQuestion, match="folds"):
        RewardModel.fit([batch], folds=2)
    with pytest.raises(BadLog, match="no events"):
        RewardModel.fit([])
    with pytest.raises(BadLog, match="finite"):
        RewardModel.fit([replace(batch, reward=np.full(50, np.nan))])
    with pytest.raises(BadLog, match="candidates"):
        RewardModel.fit([batch]).predict(replace(batch, candidates=None))
    with pytest.raises(BadLog, match="features"):
        RewardModel.fit([make_batch(200, texts=True)], kind="ridge").predict(make_batch(200))
    with pytest.raises(BadLog, match="numeric contexts"):
        RewardModel.fit([make_batch(200, contexts=True)], kind="ridge").predict(make_batch(200))
    with pytest.raises(BadLog, match="JSON"):
        features_of(b"{")
    with pytest.raises(BadLog, match="object"):
        features_of(b"[1]")


def test_features_are_read_from_every_form_of_vw_json() -> None:
    def count(text: str) -> int:
        return len(features_of(text.encode())[0])

    assert count('{"U": {"a": "x", "b": 2, "c": true, "d": false, "e": 0, "f": null}}') == 3
    assert count('{"f": ["x", "y", {"z": 1}], "g": [1.5, 2.5], "_multi": [{"a": 1}], "_tag": "t"}') == 5
    assert features_of(b'{"a": {"b": "c"}}') != features_of(b'{"b": {"a": "c"}}')
    assert features_of(b'{"t": ["x", "y"]}')[0] == features_of(b'{"t": ["y", "x"]}')[0][::-1]


def test_ridge_is_least_squares_with_a_penalty() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 8)) * (rng.random((300, 8)) < 0.5)
    y, weight = x @ rng.normal(size=8) + rng.normal(size=300), rng.uniform(0.5, 2, 300)
    found = fit_ridge(csr_matrix(x), y, weight, rng.integers(0, 4, 300))
    x0, y0 = x - np.average(x, axis=0, weights=weight), y - np.average(y, weights=weight)
    by_hand = np.linalg.solve((x0.T * weight) @ x0 + found.penalty * np.eye(8), (x0.T * weight) @ y0)
    assert found.coef == pytest.approx(by_hand, abs=1e-9)
    assert found.intercept == pytest.approx(np.average(y - x @ by_hand, weights=weight), abs=1e-9)
    coef, intercept = _Krylov(csr_matrix(x), y, weight).solve(PENALTIES)
    k = int(np.flatnonzero(found.penalty == PENALTIES)[0])
    assert coef[:, k] == pytest.approx(by_hand, abs=1e-8)
    assert intercept[k] == pytest.approx(found.intercept, abs=1e-8)


def test_effects_shrink_as_far_as_they_look_like_noise() -> None:
    rng = np.random.default_rng(1)
    exposure = rng.integers(5, 500, 4000).astype(float)
    truth = rng.normal(0, 0.3, 4000)
    surplus = exposure * truth + rng.normal(0, 1, 4000) * np.sqrt(exposure)
    ideal = surplus / (exposure + 1 / 0.3**2)
    assert np.mean((shrunk(surplus, exposure, 1.0) - truth) ** 2) < 1.02 * np.mean((ideal - truth) ** 2)
    nothing = shrunk(rng.normal(0, 1, 4000) * np.sqrt(exposure), exposure, 1.0)
    assert np.abs(nothing).max() < 0.05


def test_a_table_counts_every_event_once() -> None:
    sums = TableSums()
    for seed in range(5):
        sums.add(make_batch(3000, seed=seed, n_slots=2))
    sums.settle()
    assert sums.sums[:, 0].sum() == 5 * 3000 * 2
    assert len(sums.keys) == 2 * N_ITEMS
    rewards = sum(make_batch(3000, seed=seed, n_slots=2).reward.sum() for seed in range(5))
    assert sums.sums[:, 1].sum() == pytest.approx(rewards)
