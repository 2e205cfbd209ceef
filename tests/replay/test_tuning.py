"""Choosing lambda: the published rules do what they say, and the default one errs less."""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np
import pytest
from scipy import stats

from replay.errors import BadQuestion
from replay.estimators import FAMILIES, family, terms_for
from replay.sums import Sums
from replay.tuning import GRIDS, RULES, grid, tune, tuning_terms, unshrunk


def log_of(seed: int, *, n: int = 1500, rate: float = 0.3, good_model: bool = True, top: float = 50.0):
    """Weights, rewards, predictions for what was shown, mean predictions; the target's value is ``rate`` * 1.5."""
    rng = np.random.default_rng(seed)
    taken = rng.random(n) < 0.5 / top
    w = np.where(taken, top, 0.5 / (1 - 0.5 / top) * np.ones(n))
    chance = np.where(taken, 2.0 * rate, rate)
    r = (rng.random(n) < chance).astype(float)
    q = chance if good_model else np.full(n, rate)
    dm = np.full(n, 1.5 * rate if good_model else rate)
    return w, r, q, dm


def sums_of(columns: tuple[np.ndarray, ...], candidates, *, n_buckets: int = 1 << 16) -> Sums:
    w, r, q, dm = columns
    sums = Sums(terms_for(candidates, extra=tuning_terms(candidates)), n_buckets=n_buckets)
    sums.add_columns(reward=r, weight=w, viewer=np.arange(len(r)).astype(np.uint64), q_chosen=q, dm=dm)
    return sums


def shaped(name: str, lam: float, w: np.ndarray) -> np.ndarray:
    if name in ("clip", "dr_clip"):
        return np.minimum(w, lam)
    if name == "switch":
        return np.where(w <= lam, w, 0.0)
    if name == "dros":
        return w if lam == inf else lam * w / (lam + w * w)
    return w / (1 - lam + lam * w)


def rows_of(name: str, lam: float, columns: tuple[np.ndarray, ...]) -> np.ndarray:
    w, r, q, dm = columns
    v = shaped(name, lam, w)
    return v * r if name in ("clip", "sgips") else dm + v * (r - q)


def by_hand(name: str, columns: tuple[np.ndarray, ...], rule: str) -> float:
    """The lambda that obp 0.5.7's code would take, written out for arrays."""
    lams, n, w = list(GRIDS[name]), len(columns[0]), columns[0]
    rows = {lam: rows_of(name, lam, columns) for lam in lams}
    if rule == "slope":
        width = {lam: stats.t(n - 1).ppf(0.9) * rows[lam].std() / sqrt(n - 1) for lam in lams}
        order = sorted(lams, key=lambda lam: -width[lam])
        for k, lam in enumerate(order):
            for other in order[:k]:
                if abs(rows[other].mean() - rows[lam].mean()) > width[lam] + (sqrt(6) - 1) * width[other]:
                    return order[k - 1]
        return order[-1]
    full = rows_of(name, unshrunk(family(name, lams[0])).lam, columns)
    slack = sqrt(2 * (w**2).mean() * log(20) / n) + 2 * w.max() * log(20) / (3 * n) if rule == "mse_bound" else 0.0
    return min(lams, key=lambda lam: (abs((full - rows[lam]).mean()) + slack) ** 2 + rows[lam].var() / n)


@pytest.mark.parametrize("rule", ["slope", "mse_bound", "mse_direct"])
@pytest.mark.parametrize("name", FAMILIES)
def test_published_rules_choose_what_their_formulas_choose(name: str, rule: str) -> None:
    for seed, good in ((1, True), (2, False)):
        columns = log_of(seed, good_model=good)
        candidates = grid(name)
        sums = sums_of(columns, candidates, n_buckets=1 << 18)
        chosen = tune(sums, candidates, rule=rule).estimator
        assert chosen.value(sums) == pytest.approx(rows_of(name, by_hand(name, columns, rule), columns).mean())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_one_are_left_alone(name: str, rule: str) -> None:
    r = log_of(3)[1]
    candidates = grid(name)
    sums = sums_of((np.ones(len(r)), r, np.full(len(r), r.mean()), np.full(len(r), r.mean())), candidates)
    tuned = tune(sums, candidates, rule=rule)
    if name != "dros" and rule != "slope":  # dros halves a weight of 1 at lambda 1
        assert tuned.estimator.value(sums) == pytest.approx(r.mean(), abs=1e-12)
    assert tuned.rule == rule
    assert rule in tuned.note


@pytest.mark.parametrize("rule", RULES)
def test_a_choice_is_the_same_from_parts_as_from_the_whole(rule: str) -> None:
    columns = log_of(4)
    candidates = grid("dr_clip")
    whole = sums_of(columns, candidates)
    parts = [Sums(whole.terms, n_buckets=1 << 16) for _ in range(3)]
    for k, part in enumerate(parts):
        w, r, q, dm = (column[k::3] for column in columns)
        part.add_columns(reward=r, weight=w, viewer=np.arange(1500)[k::3].astype(np.uint64), q_chosen=q, dm=dm)
    merged = parts[0].merge(parts[1]).merge(parts[2])
    one, other = tune(whole, candidates, rule=rule), tune(merged, candidates, rule=rule)
    assert one.estimator == other.estimator
    assert one.scores == pytest.approx(other.scores, rel=1e-9)


@pytest.mark.parametrize("rule", ["prior", "mse", "mse_direct", "cross_validation"])
def test_a_lambda_that_costs_too_much_is_left(rule: str) -> None:
    """n is large, and the reward model wrong where weights are large: shrinking would cost 20 standard errors."""
    columns = log_of(5, n=60_000, good_model=False, top=10.0)
    candidates = grid("dr_clip")
    sums = sums_of(columns, candidates)
    assert tune(sums, candidates, rule=rule).estimator.value(sums) == pytest.approx(0.45, abs=0.02)


def test_the_default_rule_shrinks_sparse_logs_and_errs_less() -> None:
    """80 seeds; the errors of rules are compared on the same logs, at more than 3 standard errors of the difference
    (false alarm below .002)."""
    errors: dict[str, list[float]] = {"prior": [], "mse_bound": [], "full": []}
    for seed in range(80):
        columns = log_of(100 + seed, n=2000, rate=0.02, top=50.0)
        candidates = grid("dr_clip")
        sums = sums_of(columns, candidates, n_buckets=8192)
        for rule in ("prior", "mse_bound"):
            errors[rule].append((tune(sums, candidates, rule=rule).estimator.value(sums) - 0.03) ** 2)
        errors["full"].append((unshrunk(candidates[0]).value(sums) - 0.03) ** 2)
    for other in ("mse_bound", "full"):
        gain = np.array(errors[other]) - np.array(errors["prior"])
        assert gain.mean() > 3 * gain.std(ddof=1) / sqrt(80)


def test_one_viewer_alone_gives_nothing_to_choose_by() -> None:
    candidates = grid("clip")
    sums = Sums(terms_for(candidates, extra=tuning_terms(candidates)))
    sums.add_columns(reward=np.ones(5), weight=np.full(5, 3.0), viewer=np.zeros(5, np.uint64))
    assert tune(sums, candidates).estimator == family("clip", inf)


def test_all_zero_rewards_and_weights_choose_quietly() -> None:
    candidates = grid("dr_clip")
    zero = np.zeros(50)
    for w in (np.ones(50), zero):
        for rule in RULES:
            assert tune(sums_of((w, zero, zero, zero), candidates), candidates, rule=rule).estimator in candidates


def test_refusals_say_what_there_is() -> None:
    candidates = grid("clip")
    sums = sums_of(log_of(1, n=50), candidates)
    with pytest.raises(BadQuestion, match="cross_validation"):
        tune(sums, candidates, rule="guess")
    with pytest.raises(BadQuestion, match="one family"):
        tune(sums, [])
    with pytest.raises(BadQuestion, match="one family"):
        tune(sums, [*candidates, family("switch", 2.0)])
    with pytest.raises(BadQuestion, match="dr_clip"):
        grid("snips")
    with pytest.raises(BadQuestion, match="lambda"):
        grid("sgips", [2.0])
    with pytest.raises(BadQuestion, match="no term"):
        tune(sums, grid("dros"))
