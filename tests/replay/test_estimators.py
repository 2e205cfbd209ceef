"""Estimators of single slots: against plain NumPy, their derivatives, and what must hold whatever the data."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import BadQuestion
from replay.estimators import (
    FAMILIES,
    SINGLE,
    SLATES,
    Estimator,
    difference,
    difference_gradient,
    event_variance,
    family,
    parse_estimator,
    squares,
    standard_error,
    terms_for,
)
from replay.events import F64
from replay.sums import Sums
from replay.terms import number

LAMBDAS = {"clip": 2.0, "dr_clip": 2.0, "switch": 2.0, "dros": 2.0, "sgips": 0.1, "sgdr": 0.1}
ALL = [*SINGLE.values(), *(family(name, lam) for name, lam in LAMBDAS.items())]
UNSHAPED = [family(name, np.inf) for name in ("clip", "dr_clip", "switch", "dros")]
TERMS = terms_for([*ALL, *UNSHAPED], extra=squares(ALL))


def columns_of(seed: int, n: int = 400) -> dict[str, Any]:
    """A log of a real policy: weights have mean 1 in expectation."""
    rng = np.random.default_rng(seed)
    logged, target = rng.dirichlet(np.ones(5), n), rng.dirichlet(np.ones(5), n)
    action = np.array([rng.choice(5, p=p) for p in logged])
    i = np.arange(n)
    q = rng.random((n, 5))
    return {
        "reward": (rng.random(n) < q[i, action]) * 1.0,
        "weight": target[i, action] / np.maximum(logged[i, action], 1e-3),
        "viewer": np.arange(n, dtype=np.uint64),
        "q_chosen": q[i, action],
        "dm": (target * q).sum(1),
    }


def sums_of(columns: dict[str, Any], n_buckets: int = 8192) -> Sums:
    sums = Sums(TERMS, n_buckets=n_buckets)
    sums.add_columns(**columns)
    return sums


def oracle(c: dict[str, Any]) -> dict[str, float]:
    """Every estimator by its definition, over rows."""
    w, r, q, dm = c["weight"], c["reward"], c["q_chosen"], c["dm"]
    e, z = r - q, dm + w * (r - q)
    beta, beta_z = (np.cov(x, w, ddof=0)[0, 1] / np.var(w) for x in (w * r, z))
    return {
        "ips": (w * r).mean(),
        "snips": (w * r).sum() / w.sum(),
        "beta_ips": (w * r - beta * (w - 1)).mean(),
        "dm": dm.mean(),
        "dr": z.mean(),
        "sndr": dm.mean() + (w * e).sum() / w.sum(),
        "beta_dr": (z - beta_z * (w - 1)).mean(),
        "clip(lambda=2)": (np.minimum(w, 2) * r).mean(),
        "dr_clip(lambda=2)": (dm + np.minimum(w, 2) * e).mean(),
        "switch(lambda=2)": (dm + np.where(w <= 2, w, 0) * e).mean(),
        "dros(lambda=2)": (dm + 2 * w / (w**2 + 2) * e).mean(),
        "sgips(lambda=0.1)": (w / (0.9 + 0.1 * w) * r).mean(),
        "sgdr(lambda=0.1)": (dm + w / (0.9 + 0.1 * w) * e).mean(),
    }


@pytest.mark.parametrize("seed", range(5))
def test_values_are_the_definitions(seed: int) -> None:
    columns = columns_of(seed)
    sums, expected = sums_of(columns), oracle(columns)
    assert expected.keys() == {each.name for each in ALL}
    for estimator in ALL:
        assert estimator.value(sums) == pytest.approx(expected[estimator.name], rel=1e-11), estimator.name


class Shifted:
    """Means by name, one of them moved."""

    def __init__(self, sums: Sums, name: str, by: float) -> None:
        self.values = dict(zip(sums.names, sums.means.tolist(), strict=True))
        self.values[name] += by
        self.n_slots = sums.n_slots

    def __getitem__(self, name: str) -> float:
        return self.values[name]


def numerical_gradient(estimator: Estimator, sums: Sums) -> F64:
    out = []
    for name in sums.names:
        h = 1e-5 * max(1.0, abs(sums.mean(name)))
        up, down = (estimator.function(Shifted(sums, name, by))[0] for by in (h, -h))  # type: ignore[arg-type]
        out.append((up - down) / (2 * h))
    return np.array(out)


@pytest.mark.parametrize("estimator", ALL, ids=lambda each: each.name)
def test_gradients_are_derivatives(estimator: Estimator) -> None:
    for seed in range(3):
        sums = sums_of(columns_of(seed))
        gradient = estimator.gradient(sums)
        assert gradient.shape == (len(sums.names),)
        np.testing.assert_allclose(gradient, numerical_gradient(estimator, sums), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("estimator", ALL, ids=lambda each: each.name)
def test_standard_errors_are_those_of_a_jackknife(estimator: Estimator) -> None:
    """Leave one event out, 300 times: the delta method agrees within 15 %. Buckets hold two events at times."""
    columns = columns_of(21, 300)
    columns["weight"] = np.minimum(columns["weight"], 6.0)
    left_out = []
    for i in range(300):
        left_out.append(estimator.value(sums_of({name: np.delete(c, i) for name, c in columns.items()})))
    jackknife = np.sqrt(299 / 300 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
    sums = sums_of(columns)
    assert standard_error(sums, estimator.gradient(sums)) == pytest.approx(jackknife, rel=0.15)


# -- what must hold whatever the data ---------------------------------------------------------

REWARDS = st.floats(-10, 10).map(lambda x: round(x, 3))
ROWS = st.lists(
    st.tuples(st.floats(0, 20).map(lambda x: round(x, 3)), REWARDS, REWARDS, REWARDS), min_size=2, max_size=60
).filter(lambda rows: sum(row[0] for row in rows) > 0.01)


def log_of(rows: list[tuple[float, float, float, float]]) -> dict[str, Any]:
    w, r, q, dm = (np.array(column) for column in zip(*rows, strict=True))
    return {"weight": w, "reward": r, "q_chosen": q, "dm": dm, "viewer": np.arange(len(w), dtype=np.uint64)}


@given(rows=ROWS, constant=REWARDS)
@settings(max_examples=40, deadline=None)
def test_a_constant_reward_is_recovered(rows: list[tuple[float, float, float, float]], constant: float) -> None:
    columns = log_of(rows)
    columns["reward"] = columns["q_chosen"] = columns["dm"] = np.full(len(rows), constant)
    sums = sums_of(columns, 64)
    recover = {"dm", "dr", "sndr", "beta_dr", "snips", "beta_ips", "switch", "dros", "dr_clip", "sgdr"}
    if columns["weight"].std() < 1e-2:
        recover -= {"beta_ips", "beta_dr"}  # Weights that are all the same, but not 1, are no control variate.
    for estimator in ALL:
        if (estimator.family or estimator.name) in recover:
            tolerance = 1e-6 if "beta" in estimator.name else 1e-9
            assert estimator.value(sums) == pytest.approx(constant, abs=tolerance * max(1, abs(constant))), estimator


@given(rows=ROWS)
@settings(max_examples=30, deadline=None)
def test_on_policy_is_the_mean(rows: list[tuple[float, float, float, float]]) -> None:
    """With all weights 1; doubly robust ones if the model's mean is what it says of what was shown, too."""
    columns = log_of(rows)
    columns["weight"] = np.ones(len(rows))
    columns["dm"] = columns["q_chosen"]
    sums, mean = sums_of(columns, 64), columns["reward"].mean()
    for estimator in (*SINGLE.values(), *UNSHAPED):
        if estimator.name != "dm":
            assert estimator.value(sums) == pytest.approx(mean, abs=1e-9), estimator.name
            assert difference(estimator, sums) == pytest.approx(0.0, abs=1e-9)
    for name in ("ips", "snips"):
        influence = sums.influence(difference_gradient(SINGLE[name], sums))
        assert np.abs(influence).max() <= 1e-9, "production differs from itself by nothing, with certainty"


@given(rows=ROWS)
@settings(max_examples=30, deadline=None)
def test_doubling_the_data_changes_no_value(rows: list[tuple[float, float, float, float]]) -> None:
    once, twice = sums_of(log_of(rows), 64), sums_of(log_of(rows + rows), 64)
    for estimator in ALL:
        a, b = estimator.value(once), estimator.value(twice)
        assert b == pytest.approx(a, rel=1e-6 if "beta" in estimator.name else 1e-11, abs=1e-9), estimator.name


@given(rows=ROWS, scale=st.sampled_from([-2.0, 0.5, 3.0]), shift=st.sampled_from([-1.0, 0.0, 4.0]))
@settings(max_examples=30, deadline=None)
def test_rewards_in_other_units(rows: list[tuple[float, float, float, float]], scale: float, shift: float) -> None:
    """All follow a change of scale; those that know of the mean weight, or have a model, follow a shift as well."""
    columns = log_of(rows)
    moved = dict(columns)
    for name in ("reward", "q_chosen", "dm"):
        moved[name] = scale * columns[name] + shift
    scaled = {**columns, **{name: scale * columns[name] for name in ("reward", "q_chosen", "dm")}}
    base, s, m = (sums_of(each, 64) for each in (columns, scaled, moved))
    for estimator in ALL:
        if "beta" in estimator.name and columns["weight"].std() < 1e-2:
            continue  # As above.
        tolerance = 1e-5 if "beta" in estimator.name else 1e-9
        value = estimator.value(base)
        assert estimator.value(s) == pytest.approx(scale * value, rel=tolerance, abs=tolerance), estimator.name
        if estimator.name in ("ips",) or estimator.family in ("clip", "sgips"):
            continue
        assert estimator.value(m) == pytest.approx(scale * value + shift, rel=tolerance, abs=tolerance), estimator.name


def test_weights_of_zero() -> None:
    """The target never does what was logged: sums of weights say 0, ratios refuse, the model is left to speak."""
    columns = {**columns_of(3), "weight": np.zeros(400)}
    sums = sums_of(columns)
    for estimator in ALL:
        if estimator.name in ("snips", "sndr"):
            with pytest.raises(BadQuestion, match="every weight is 0"):
                estimator.value(sums)
        elif estimator.needs_q:
            assert estimator.value(sums) == pytest.approx(columns["dm"].mean(), rel=1e-12), estimator.name
        else:
            assert estimator.value(sums) == 0.0
            assert (np.isfinite(estimator.gradient(sums))).all()


def test_one_event() -> None:
    sums = sums_of({name: column[:1] for name, column in columns_of(4).items()})
    for estimator in ALL:
        assert np.isfinite(estimator.value(sums))
        assert standard_error(sums, estimator.gradient(sums)) == np.inf


def test_no_events() -> None:
    for estimator in ALL:
        with pytest.raises(BadQuestion, match="no events"):
            estimator.value(Sums(TERMS))


# -- families ---------------------------------------------------------------------------------


def test_families_end_in_the_estimators_they_shrink() -> None:
    ends = {
        "clip": ((np.inf, "ips"),), "dr_clip": ((0.0, "dm"), (np.inf, "dr")), "switch": ((0.0, "dm"), (np.inf, "dr")),
        "dros": ((0.0, "dm"), (np.inf, "dr")), "sgips": ((0.0, "ips"),), "sgdr": ((0.0, "dr"),),
    }  # fmt: skip
    members = [family(name, lam) for name, pairs in ends.items() for lam, _ in pairs]
    sums = Sums(terms_for([*ALL, *members]))
    sums.add_columns(**columns_of(5))
    for name, pairs in ends.items():
        for lam, end in pairs:
            assert family(name, lam).value(sums) == pytest.approx(SINGLE[end].value(sums), rel=1e-12), (name, lam)
    clipped = family("sgips", 1.0)  # Every weight that is not 0 becomes 1.
    sums = Sums(terms_for([clipped]))
    sums.add_columns(reward=np.array([1.0, 2.0]), weight=np.array([0.0, 9.0]), viewer=np.zeros(2, np.uint64))
    assert clipped.value(sums) == 1.0


def test_squares_give_the_variance_of_rows() -> None:
    columns = columns_of(6)
    sums = sums_of(columns)
    w, e = columns["weight"], columns["reward"] - columns["q_chosen"]
    rows = {
        "ips": w * columns["reward"],
        "dr": columns["dm"] + w * e,
        "dm": columns["dm"],
        "dros(lambda=2)": columns["dm"] + 2 * w / (w**2 + 2) * e,
        "sgips(lambda=0.1)": w / (0.9 + 0.1 * w) * columns["reward"],
    }
    for estimator in ALL:
        if estimator.name in rows:
            assert event_variance(estimator, sums) == pytest.approx(rows[estimator.name].var(), rel=1e-9)
    assert event_variance(SINGLE["snips"], sums) is None


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [*ALL, family("dros", np.inf), family("clip", 1e-7)], ids=lambda each: each.name)
def test_names_are_read_back(estimator: Estimator) -> None:
    assert parse_estimator(estimator.name, slates=False) == estimator
    assert parse_estimator(f" {estimator.name.upper().replace('(LAMBDA=', ' ( Lambda = ')} ", slates=False) == estimator


def test_short_forms_and_the_names_of_others() -> None:
    assert parse_estimator("dros(10)", slates=False) == family("dros", 10.0)
    assert parse_estimator("switch_dr(l=10)", slates=False) == family("switch", 10.0)
    assert parse_estimator("SNIPW", slates=False).name == "snips"
    assert parse_estimator("rips", slates=True).name == "rips"


@pytest.mark.parametrize(
    ("text", "slates", "says"),
    [
        ("rips", False, "there are ips, snips"),
        ("snips", True, "there are sips, snsips, rips"),
        ("dros", False, r"dros needs its lambda: dros\(lambda=10\)"),
        ("dros(lambda=-1)", False, "must be from 0 to inf"),
        ("dros(nan)", False, "must be from 0 to inf"),
        ("sgdr(lambda=2)", False, "must be from 0 to 1"),
        ("clip(ten)", False, "'ten', expected a number"),
        ("ips(lambda=3)", False, "no estimator 'ips"),
        ("clip(lambda=10)", True, "there are sips"),
        ("", False, "no estimator ''"),
        ("dr)", False, "no estimator"),
    ],
)
def test_what_is_not_an_estimator(text: str, slates: bool, says: str) -> None:
    with pytest.raises(BadQuestion, match=says):
        parse_estimator(text, slates=slates)


def test_every_estimator_says_where_it_is_from() -> None:
    assert all(each.source for each in (*ALL, *SLATES.values()))
    assert set(FAMILIES) == set(LAMBDAS)


@given(st.floats(allow_nan=False))
def test_numbers_are_read_back(value: float) -> None:
    assert float(number(value)) == value


def test_estimators_go_to_other_processes() -> None:
    sums = sums_of(columns_of(8))
    for estimator in (*ALL, *SLATES.values()):
        again = pickle.loads(pickle.dumps(estimator))
        assert again == estimator
        if not estimator.slates:
            assert again.value(pickle.loads(pickle.dumps(sums))) == estimator.value(sums)
