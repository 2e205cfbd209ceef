"""The default point estimate: between model and weights, right in the limit whatever the model is worth."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import BadQuestion
from replay.estimators import SINGLE, SLATES, standard_error, terms_for
from replay.shrinkage import RUNGS, SHRUNK, SHRUNK_SLATES, covariances, least_error, mean_absolute_deviation
from replay.sums import Sums

ALL = [SHRUNK, *SINGLE.values()]


def columns_of(seed: int, n: int, *, model: str = "good", rate: float = 0.2) -> tuple[np.ndarray, ...]:
    """Ten actions, logged uniformly, the target prefers the better ones; value .2757 rate / .2."""
    rng = np.random.default_rng(seed)
    chance = rate * np.linspace(0.2, 1.8, 10)
    target = np.exp(np.arange(10) / 3.0)
    target /= target.sum()
    a = rng.integers(0, 10, n)
    r = (rng.random(n) < chance[a]).astype(float)
    q = {"good": chance, "none": np.full(10, rate), "awful": 5 * rate - 2 * chance}[model]
    return target[a] * 10, r, q[a], np.full(n, q @ target)


TRUTH = float(np.linspace(0.2, 1.8, 10) @ np.exp(np.arange(10) / 3.0) / np.exp(np.arange(10) / 3.0).sum())


def sums_of(columns: tuple[np.ndarray, ...]) -> Sums:
    sums = Sums(terms_for(ALL))
    add(sums, columns, np.arange(len(columns[0])))
    return sums


def add(sums: Sums, columns: tuple[np.ndarray, ...], viewer: np.ndarray) -> None:
    w, r, q, dm = columns
    sums.add_columns(reward=r, weight=w, viewer=viewer.astype(np.uint64), q_chosen=q, dm=dm)


def test_constants_are_recovered() -> None:
    w = columns_of(1, 300)[0]
    for c in (0.0, 1.0, -2.5):
        full = np.full(300, c)
        assert SHRUNK.value(sums_of((w, full, full, full))) == pytest.approx(c, abs=1e-12)


def test_on_policy_with_a_model_of_the_mean_is_the_mean() -> None:
    _, r, _, _ = columns_of(2, 400)
    mean = np.full(400, r.mean())
    assert SHRUNK.value(sums_of((np.ones(400), r, mean, mean))) == pytest.approx(r.mean(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 300), cut=st.integers(1, 299))
def test_order_and_parts_do_not_matter(seed: int, n: int, cut: int) -> None:
    columns = columns_of(seed, n)
    whole = sums_of(columns)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = Sums(whole.terms)
    add(shuffled, tuple(column[order] for column in columns), order)
    cut = min(cut, n - 1)
    first, second = Sums(whole.terms), Sums(whole.terms)
    add(first, tuple(column[:cut] for column in columns), np.arange(n)[:cut])
    add(second, tuple(column[cut:] for column in columns), np.arange(n)[cut:])
    assert SHRUNK.value(shuffled) == pytest.approx(SHRUNK.value(whole), abs=1e-9)
    assert SHRUNK.value(first.merge(second)) == pytest.approx(SHRUNK.value(whole), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), model=st.sampled_from(["good", "none", "awful"]))
def test_the_value_lies_between_the_parts_and_scales_with_the_reward(seed: int, scale: float, model: str) -> None:
    w, r, q, dm = columns_of(seed, 200, model=model)
    sums = sums_of((w, r, q, dm))
    blend = SHRUNK.blend(sums)
    parts = {each.name: each.value(sums) for each in SHRUNK.parts}
    assert sum(blend.weights.values()) == pytest.approx(1.0)
    assert min(blend.weights.values()) >= 0.0
    assert blend.value == pytest.approx(sum(share * parts[name] for name, share in blend.weights.items()))
    assert SHRUNK.value(sums_of((w, r * scale, q * scale, dm * scale))) == pytest.approx(blend.value * scale, rel=1e-9)


@pytest.mark.parametrize("model", ["good", "none", "awful"])
def test_more_events_bring_it_to_the_truth_whatever_the_model(model: str) -> None:
    """n = 400,000; within five standard errors of sndr: false alarm below 1e-6 for each model."""
    sums = sums_of(columns_of(7, 400_000, model=model))
    blend = SHRUNK.blend(sums)
    assert blend.weights["dm"] < 0.01
    error = standard_error(sums, SINGLE["sndr"].gradient(sums))
    assert abs(blend.value - 0.2 * TRUTH) < 5 * error
    assert standard_error(sums, SHRUNK.gradient(sums)) == pytest.approx(error, rel=0.1)


def test_it_leans_on_the_model_where_the_weights_say_little_and_gains_by_it() -> None:
    """100 seeds of 300 events at 2 %; squared errors on the same logs differ by more than 3 standard errors."""
    gain = []
    for seed in range(100):
        sums = sums_of(columns_of(seed, 300, rate=0.02))
        truth = 0.02 * TRUTH
        gain.append((SINGLE["sndr"].value(sums) - truth) ** 2 - (SHRUNK.value(sums) - truth) ** 2)
    assert np.mean(gain) > 3 * np.std(gain, ddof=1) / 10


def test_a_model_that_the_log_contradicts_is_not_leaned_on() -> None:
    w, r, _, _ = columns_of(11, 3000, rate=0.02)
    far = np.full(3000, 0.5)
    blend = SHRUNK.blend(sums_of((w, r, far, far)))
    assert blend.model_error > 0.3
    assert blend.weights["dm"] < 0.01


def test_the_note_says_what_was_blended() -> None:
    blend = SHRUNK.blend(sums_of(columns_of(3, 500)))
    assert blend.companion == "sndr"
    assert "% " in blend.note
    assert "sndr" in blend.note


def test_the_rung_is_near_the_root_of_n() -> None:
    for n, rung in ((50, 10), (1000, 30), (10_000, 100)):
        assert f"sndr_clip(lambda={rung})" in SHRUNK.blend(sums_of(columns_of(1, n))).weights
    assert min(RUNGS) == 10


def test_one_viewer_alone_gives_the_companion() -> None:
    columns = columns_of(5, 40)
    sums = Sums(terms_for(ALL))
    add(sums, columns, np.zeros(40))
    assert SHRUNK.value(sums) == pytest.approx(SINGLE["sndr"].value(sums))


def test_no_weight_at_all_is_no_estimate() -> None:
    _, r, q, dm = columns_of(5, 40)
    with pytest.raises(BadQuestion, match="no estimate"):
        SHRUNK.value(sums_of((np.zeros(40), r, q, dm)))
    with pytest.raises(BadQuestion, match="no events"):
        SHRUNK.value(Sums(terms_for(ALL)))


def test_clicks_and_normal_rewards_have_their_mean_absolute_deviation() -> None:
    rng = np.random.default_rng(0)
    for r in ((rng.random(2000) < 0.1).astype(float), rng.normal(3.0, 2.0, 200_000)):
        sums = Sums(terms_for([SINGLE["ips"]]))
        add(sums, (np.ones(len(r)), r, np.zeros(len(r)), np.zeros(len(r))), np.arange(len(r)))
        assert mean_absolute_deviation(sums) == pytest.approx(np.abs(r - r.mean()).mean(), rel=5e-3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 4))
def test_no_weights_on_a_grid_err_less(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(m, 6))
    errors = root @ root.T / 6
    best = least_error(errors)
    others = rng.dirichlet(np.full(m, 0.5), 200)
    assert best @ errors @ best <= np.einsum("ki,ij,kj->k", others, errors, others).min() + 1e-9
    assert best.sum() == pytest.approx(1.0)


def test_covariances_are_those_of_the_standard_errors() -> None:
    sums = sums_of(columns_of(8, 500))
    gradients = np.array([each.gradient(sums) for each in (SINGLE["ips"], SINGLE["sndr"])])
    found = covariances(sums, gradients)
    assert found is not None
    assert np.sqrt(np.diag(found)) == pytest.approx([standard_error(sums, gradient) for gradient in gradients])


def test_feeds_get_the_blend_with_the_least_variance() -> None:
    rng = np.random.default_rng(4)
    n, depth = 2000, 3
    w = rng.lognormal(-0.125, 0.5, n * depth)
    r = (rng.random(n * depth) < 0.1).astype(float)
    sums = Sums(terms_for([SHRUNK_SLATES, *(SLATES[name] for name in ("snrips", "cascade_dr", "rips"))]))
    q = np.full(n * depth, 0.1)
    sums.add_columns(
        reward=r, weight=w, viewer=np.arange(n).astype(np.uint64), starts=np.arange(n + 1) * depth, q_chosen=q, dm=q
    )
    error = {
        name: standard_error(sums, SLATES[name].gradient(sums)) for name in ("snrips", "cascade_dr", "rips")
    }  # fmt: skip
    assert standard_error(sums, SHRUNK_SLATES.gradient(sums)) <= 1.02 * min(error.values())
    assert SHRUNK_SLATES.value(sums) == pytest.approx(0.3, abs=6 * min(error.values()))
    assert SHRUNK_SLATES.lam == inf
