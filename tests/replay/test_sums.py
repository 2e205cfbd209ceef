"""Sums: against plain NumPy, in any order, in any parts, and whatever is handed in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import BadQuestion
from replay.estimators import SINGLE, SLATES, family, parse_estimator, squares, standard_error, terms_for
from replay.events import F64, Batch, mixed
from replay.sums import Sums
from replay.terms import term_set

LAMBDAS = [family(name, lam) for name in ("clip", "dr_clip", "switch", "dros") for lam in (0.5, 3.0)]
LAMBDAS += [family(name, lam) for name in ("sgips", "sgdr") for lam in (0.0, 0.1, 1.0)]
ALL_SINGLE = [*SINGLE.values(), *LAMBDAS]
SINGLE_TERMS = terms_for(ALL_SINGLE, extra=squares(ALL_SINGLE))
SLATE_TERMS = terms_for(SLATES.values())


def single(seed: int, n: int, viewers: int | None = None) -> dict[str, Any]:
    """Columns of events of one slot."""
    rng = np.random.default_rng(seed)
    return {
        "reward": rng.normal(size=n),
        "weight": np.where(rng.random(n) < 0.2, 0.0, rng.lognormal(0, 1, n)),
        "viewer": rng.integers(0, viewers or 1 << 60, n).astype(np.uint64),
        "q_chosen": rng.normal(size=n),
        "dm": rng.normal(size=n),
    }


def slates(seed: int, n: int, longest: int = 4) -> dict[str, Any]:
    """Columns of events of one to ``longest`` slots."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, longest + 1, n))])
    s = int(starts[-1])
    return {
        "reward": rng.random(s),
        "weight": rng.lognormal(0, 0.5, s),
        "viewer": rng.integers(0, 1 << 60, n).astype(np.uint64),
        "starts": starts,
        "q_chosen": rng.random(s),
        "dm": rng.random(s),
        "marginal_weight": rng.lognormal(0, 0.5, s),
    }


def sums_of(columns: dict[str, Any], **options: Any) -> Sums:
    sums = Sums(SLATE_TERMS if "starts" in columns else SINGLE_TERMS, **options)
    sums.add_columns(**columns)
    return sums


def cut(columns: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """Events ``first`` up to ``last``."""
    starts = columns.get("starts")
    if starts is None:
        return {name: column[first:last] for name, column in columns.items()}
    slots = slice(starts[first], starts[last])
    part = {name: column[slots] for name, column in columns.items() if name not in ("viewer", "starts")}
    return {**part, "viewer": columns["viewer"][first:last], "starts": starts[first : last + 1] - starts[first]}


def shuffled(columns: dict[str, Any], seed: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(columns["viewer"]))
    parts = [cut(columns, i, i + 1) for i in order]
    out = {name: np.concatenate([part[name] for part in parts]) for name in columns if name != "starts"}
    if "starts" in columns:
        out["starts"] = np.concatenate([[0], np.cumsum([part["starts"][-1] for part in parts])])
    return out


def assert_same(a: Sums, b: Sums, tolerance: float = 1e-12) -> None:
    assert a.names == b.names
    assert a.n == b.n
    scale = np.maximum(np.abs(a.buckets).sum(0), 1e-300)
    assert (np.abs(a.buckets - b.buckets) / scale).max() <= tolerance
    for one, other in zip(a.weights.cells, b.weights.cells, strict=True):
        assert one.shape == other.shape
        assert (np.abs(one - other) <= tolerance * np.abs(a.weights.cells[0]).sum() * 100).all()
    assert np.array_equal(np.sort(a.largest), np.sort(b.largest))
    for name in ("largest_weight", "weight_bound", "lowest_reward", "highest_reward"):
        assert getattr(a, name) == getattr(b, name)


# -- what a term is ---------------------------------------------------------------------------


def oracle(c: dict[str, Any]) -> dict[str, F64]:
    """Every term of single slots, written down plainly."""
    r, q, dm = c["reward"], c["q_chosen"], c["dm"]

    def of(name: str, w: F64) -> dict[str, F64]:
        return {
            "wr" + name: w * r,
            "wwrr" + name: (w * r) ** 2,
            "we" + name: w * (r - q),
            "zz" + name: (dm + w * (r - q)) ** 2,
        }

    w = c["weight"]
    terms = {"one": np.ones_like(r), "y": r, "yy": r * r, "nz": (r != 0) * 1.0, "w": w, "ww": w * w, "wwr": w * w * r}
    terms |= of("", w) | {"dm": dm, "dmdm": dm**2, "wdm": w * dm, "wwe": w * w * (r - q)}
    for lam in (0.5, 3.0):
        terms |= of(f":clip({lam:g})", np.minimum(w, lam))
        terms |= of(f":switch({lam:g})", np.where(w <= lam, w, 0.0))
        terms |= of(f":dros({lam:g})", lam * w / (w * w + lam))
    for lam in (0.0, 0.1, 1.0):
        with np.errstate(invalid="ignore"):
            terms |= of(f":sg({lam:g})", np.where(w > 0, w / (1 - lam + lam * w), 0.0))
    return terms


def test_every_term_of_single_slots_is_what_its_name_says() -> None:
    columns = single(1, 1000, viewers=300)
    sums = sums_of(columns)
    terms = oracle(columns)
    bucket = (mixed(columns["viewer"]) % np.uint64(8192)).astype(np.int64)
    for j, name in enumerate(sums.names):
        expected = np.bincount(bucket, terms[name], 8192)
        np.testing.assert_allclose(sums.buckets[:, j], expected, rtol=1e-12, atol=1e-12, err_msg=name)
        assert sums.total[j] == pytest.approx(terms[name].sum(), rel=1e-11, abs=1e-11)
    assert sums.used_buckets == len(np.unique(bucket))


def test_every_term_of_slates_is_what_its_name_says() -> None:
    c = slates(2, 200)
    sums = sums_of(c)
    expected = dict.fromkeys(sums.names, 0.0)
    for first, last in pairwise(c["starts"]):
        part = slice(first, last)
        w, r, q, dm, m = (c[name][part] for name in ("weight", "reward", "q_chosen", "dm", "marginal_weight"))
        prefix, y = np.cumprod(w), r.sum()
        above = np.concatenate([[1.0], prefix[:-1]])
        event = {
            "one": 1.0, "y": y, "yy": y * y, "nz": 1.0, "w": prefix[-1], "ww": prefix[-1] ** 2,
            "rips": (prefix * r).sum(), "sips": prefix[-1] * y, "dm0": (above * dm).sum(), "wq": (prefix * q).sum(),
            "iips": (m * r).sum(), "piw": m.sum() - len(m) + 1, "pi": (m.sum() - len(m) + 1) * y,
        }  # fmt: skip
        for k in range(len(w)):
            slot = {
                "one": 1.0, "r": r[k], "w": prefix[k], "wr": prefix[k] * r[k], "ww": prefix[k] ** 2,
                "wwr": prefix[k] ** 2 * r[k], "m": m[k], "mr": m[k] * r[k],
            }  # fmt: skip
            event |= {f"{kind}@{k + 1}": value for kind, value in slot.items()}
        for name, value in event.items():
            expected[name] += value
    for j, name in enumerate(sums.names):
        assert sums.total[j] == pytest.approx(expected[name], rel=1e-12), name
    assert sums.largest_weight == np.multiply.reduceat(c["weight"], c["starts"][:-1]).max()


def test_only_what_is_asked_for_is_added_up() -> None:
    assert terms_for([parse_estimator("snips", slates=False)]) == term_set()
    assert len(Sums(terms_for([parse_estimator("snips", slates=False)])).names) == 9
    names = Sums(terms_for([parse_estimator("dros(10)", slates=False)])).names
    assert names[9:] == ("dm", "we:dros(10)")


def test_the_order_of_the_question_does_not_matter() -> None:
    assert terms_for(ALL_SINGLE, extra=squares(ALL_SINGLE)) == terms_for(
        ALL_SINGLE[::-1], extra=squares(ALL_SINGLE[::-1])
    )


# -- parts, order, size -----------------------------------------------------------------------

CUTS = st.lists(st.integers(0, 60), min_size=0, max_size=5)


@given(seed=st.integers(0, 10_000), cuts=CUTS, of_slates=st.booleans())
@settings(max_examples=40, deadline=None)
def test_parts_merge_to_the_whole(seed: int, cuts: list[int], of_slates: bool) -> None:
    columns = slates(seed, 60) if of_slates else single(seed, 60, viewers=20)
    edges = [0, *sorted(cuts), 60]
    merged = Sums(SLATE_TERMS if of_slates else SINGLE_TERMS, n_buckets=64)
    for first, last in pairwise(edges):
        part = Sums(merged.terms, n_buckets=64)
        part.add_columns(**cut(columns, first, last), weight_bound=7.0)
        merged = merged.merge(part)
    whole = Sums(merged.terms, n_buckets=64)
    whole.add_columns(**columns, weight_bound=7.0)
    assert_same(whole, merged)
    for estimator in SLATES.values() if of_slates else ALL_SINGLE:
        assert estimator.value(merged) == pytest.approx(estimator.value(whole), rel=1e-12, abs=1e-12)


@given(seed=st.integers(0, 10_000), of_slates=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_order_of_events_does_not_matter(seed: int, of_slates: bool) -> None:
    columns = slates(seed, 50) if of_slates else single(seed, 50, viewers=20)
    assert_same(sums_of(columns, n_buckets=64), sums_of(shuffled(columns, seed), n_buckets=64))


def test_the_same_input_gives_the_same_bits() -> None:
    for columns in (single(5, 3000), slates(5, 1000)):
        a, b = sums_of(columns), sums_of(columns)
        assert a.buckets.tobytes() == b.buckets.tobytes()
        assert a.largest.tobytes() == b.largest.tobytes()


def test_merging_changes_neither_part() -> None:
    a, b = sums_of(single(6, 100)), sums_of(single(7, 50))
    before = a.buckets.copy(), a.n, a.weights.n
    a.merge(b)
    assert np.array_equal(before[0], a.buckets)
    assert before[1:] == (a.n, a.weights.n)


def test_empty_sums_are_neutral() -> None:
    for columns in (single(8, 80), slates(8, 80)):
        whole = sums_of(columns)
        empty = Sums(whole.terms)
        assert_same(whole, whole.merge(empty))
        assert_same(whole, empty.merge(whole))


def test_a_chunk_is_only_a_matter_of_memory() -> None:
    columns = single(9, 70_000)
    by_hand = Sums(SINGLE_TERMS)
    for i in range(0, 70_000, 999):
        by_hand.add_columns(**cut(columns, i, min(i + 999, 70_000)))
    assert_same(sums_of(columns), by_hand)


def test_rows_are_the_same_as_a_batch_of_those_events() -> None:
    rng = np.random.default_rng(10)
    for columns in (single(10, 300), slates(10, 300)):
        starts = columns.get("starts", np.arange(301))
        s = int(starts[-1])
        batch = Batch(
            starts, np.zeros(s, np.uint64), np.zeros(s, np.int64), np.ones(s), columns["reward"], np.ones(s, np.int64),
            columns["viewer"], np.zeros(300), np.arange(1, 301),
        )  # fmt: skip
        rest = {name: c for name, c in columns.items() if name not in ("reward", "viewer", "starts", "weight")}
        rows = np.flatnonzero(rng.random(300) < 0.3)
        some, others = (Sums(SLATE_TERMS if "starts" in columns else SINGLE_TERMS) for _ in range(2))
        some.add(batch, columns["weight"], rows=rows, **rest)
        others.add(batch, columns["weight"], rows=np.setdiff1d(np.arange(300), rows), **rest)
        assert (some.n, others.n) == (len(rows), 300 - len(rows))
        assert_same(sums_of(columns), some.merge(others))


def test_a_matrix_gives_the_same_as_its_columns() -> None:
    rng = np.random.default_rng(11)
    n, a = 500, 13
    pmf, q = rng.dirichlet(np.ones(a), n), rng.random((n, a))
    action, reward, propensity = rng.integers(0, a, n), rng.random(n), rng.uniform(0.05, 1, n)
    viewer = rng.integers(0, 1000, n).astype(np.uint64)
    dense, columns = Sums(SINGLE_TERMS), Sums(SINGLE_TERMS)
    dense.add_dense(reward=reward, action=action, propensity=propensity, pmf=pmf, q=q, viewer=viewer)
    i = np.arange(n)
    columns.add_columns(
        reward=reward, weight=pmf[i, action] / propensity, viewer=viewer, q_chosen=q[i, action], dm=(pmf * q).sum(1)
    )
    assert_same(columns, dense)


def test_without_viewers_every_row_of_a_matrix_is_its_own() -> None:
    sums = Sums(term_set())
    for _ in range(2):  # The second call's rows are not the first one's viewers again.
        sums.add_dense(
            reward=np.ones(40), action=np.zeros(40, int), propensity=np.full(40, 0.5), pmf=np.full((1, 2), 0.5)
        )
    assert sums.used_buckets == len(np.unique(mixed(np.arange(80, dtype=np.uint64)) % np.uint64(8192)))
    assert sums.mean("w") == 1.0


# -- standard errors --------------------------------------------------------------------------


def test_standard_errors_are_those_of_viewers() -> None:
    """Every viewer's events repeated ten times: ten times the events, and not a bit more known."""
    columns = single(12, 500)
    ten = {name: np.repeat(column, 10) for name, column in columns.items()}
    once, often = sums_of(columns), sums_of(ten)
    for estimator in ALL_SINGLE:
        se = standard_error(once, estimator.gradient(once))
        assert standard_error(often, estimator.gradient(often)) == pytest.approx(se, rel=1e-9)
        assert estimator.value(often) == pytest.approx(estimator.value(once), rel=1e-9)


def test_the_standard_error_of_a_mean_is_the_textbooks() -> None:
    """With a bucket for nearly every event, s / sqrt(n); with far fewer buckets the same within what they can say:
    256 buckets know a standard deviation to 4.4 %, so 20 % is beyond four and a half of those. Seed 13."""
    columns = single(13, 20_000)
    expected = float((columns["weight"] * columns["reward"]).std(ddof=1)) / np.sqrt(20_000)
    for n_buckets, tolerance in ((1 << 19, 0.01), (256, 0.2)):
        sums = Sums(term_set(), n_buckets=n_buckets)
        sums.add_columns(**columns)
        gradient = np.zeros(len(sums.names))
        gradient[sums.index("wr")] = 1.0
        assert standard_error(sums, gradient) == pytest.approx(expected, rel=tolerance)
        assert sums.influence(gradient).sum() == pytest.approx(0.0, abs=1e-8)


def test_one_viewer_says_nothing_of_another() -> None:
    columns = single(14, 30, viewers=1)
    sums = sums_of(columns)
    gradient = np.zeros(len(sums.names))
    gradient[1] = 1.0
    assert standard_error(sums, gradient) == np.inf


def test_more_data_tightens() -> None:
    """Standard errors fall as 1 / sqrt(n): a factor of 4 for 16 times the events, within 15 %. Seed 15."""
    few, many = (sums_of({**single(15, n), "weight": 2 * np.random.default_rng(15).random(n)}) for n in (4_000, 64_000))
    for estimator in [*SINGLE.values(), family("dros", 3.0)]:
        errors = [standard_error(sums, estimator.gradient(sums)) for sums in (few, many)]
        assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.15), estimator.name


# -- events that stand for several ------------------------------------------------------------


@pytest.mark.parametrize("of_slates", [False, True])
def test_standing_for_three_is_being_there_three_times(of_slates: bool) -> None:
    columns = slates(16, 100) if of_slates else single(16, 100)
    times = np.random.default_rng(16).integers(1, 4, 100)
    weighted = sums_of({**columns, "stands_for": times.astype(float)})
    repeated = Sums(weighted.terms)
    for i, count in enumerate(times):
        for _ in range(count):
            repeated.add_columns(**cut(columns, i, i + 1))
    np.testing.assert_allclose(weighted.buckets, repeated.buckets, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weighted.means, repeated.means, rtol=1e-12)
    assert (weighted.n, weighted.size) == (100, float(times.sum()))
    assert not weighted.weights.faithful


# -- the largest weights ----------------------------------------------------------------------


@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.5, 1e9]) | st.floats(0, 100), min_size=1, max_size=200),
    top=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_the_largest_weights_are_kept(weights: list[float], top: int) -> None:
    w = np.array(weights)
    sums = Sums(term_set(), top=top)
    half = len(w) // 2
    for part in (w[:half], w[half:]):
        sums.add_columns(reward=np.zeros(len(part)), weight=part, viewer=np.arange(len(part), dtype=np.uint64))
    assert np.array_equal(np.sort(sums.largest), np.sort(w)[-top:])
    assert sums.largest_weight == w.max()


def test_the_weight_bound_is_the_worst_of_all_batches() -> None:
    sums = Sums(term_set())
    assert sums.weight_bound == 0.0
    for bound in (5.0, 9.0, 7.0):
        sums.add_columns(reward=np.ones(1), weight=np.ones(1), viewer=np.ones(1, np.uint64), weight_bound=bound)
    assert sums.weight_bound == 9.0
    sums.add_columns(reward=np.ones(1), weight=np.ones(1), viewer=np.ones(1, np.uint64))
    assert sums.weight_bound == np.inf


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": np.array([1.0, np.nan, 1.0])}, "weight nan at row 2 is not a finite number"),
        ({"weight": np.array([1.0, 1.0, -0.5])}, "weight -0.5 at row 3 is negative"),
        ({"reward": np.array([np.inf, 1.0, 1.0])}, "reward inf at row 1"),
        ({"weight": np.array([1.0, 1e80, 1.0])}, "weight 1e\\+80 at row 2 is beyond 1e\\+75"),
        ({"reward": np.array([1.0, 1.0, -1e308])}, "reward -1e\\+308 at row 3 is beyond"),
        ({"weight": np.ones(2)}, r"weight has shape \(2,\), expected \(3,\)"),
        ({"viewer": np.ones(2, np.uint64)}, "3 slots in 2 events"),
        ({"starts": np.array([0, 2, 3])}, "3 slots in 3 events"),
        ({"stands_for": np.array([1.0, -1.0, 1.0])}, "stands_for -1.0 at row 2 is negative"),
    ],
)
def test_bad_columns_are_refused(change: dict[str, Any], says: str) -> None:
    columns: dict[str, Any] = {"reward": np.ones(3), "weight": np.ones(3), "viewer": np.arange(3, dtype=np.uint64)}
    sums = Sums(term_set())
    with pytest.raises(BadQuestion, match=says):
        sums.add_columns(**{**columns, **change})
    assert sums.n == 0
    assert not sums.buckets.any()


@pytest.mark.parametrize("starts", [[0, 0, 3], [0, 3], [1, 2, 3], [0, 2, 1]])
def test_slates_that_do_not_fit_are_refused(starts: list[int]) -> None:
    sums = Sums(term_set(slates=True))
    with pytest.raises(BadQuestion, match="do not fit"):
        sums.add_columns(reward=np.ones(3), weight=np.ones(3), viewer=np.arange(2, dtype=np.uint64),
                         starts=np.array(starts))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"), [("dr", "needs a reward model"), ("iips", "use rips"), ("pi", "pseudo-inverse weights")]
)
def test_what_a_term_needs_must_be_there(name: str, says: str) -> None:
    estimator = parse_estimator(name, slates=name != "dr")
    sums = Sums(terms_for([estimator]))
    with pytest.raises(BadQuestion, match=says):
        sums.add_columns(reward=np.ones(3), weight=np.ones(3), viewer=np.arange(3, dtype=np.uint64))


def test_sums_of_different_questions_do_not_merge() -> None:
    plain = Sums(term_set())
    with pytest.raises(BadQuestion, match=r"only in one of them: dm, we:dros\(10\)"):
        plain.merge(Sums(terms_for([family("dros", 10)])))
    with pytest.raises(BadQuestion, match="buckets do not merge"):
        plain.merge(Sums(term_set(), n_buckets=64))
    with pytest.raises(BadQuestion, match="reward range"):
        plain.merge(Sums(term_set(), reward_range=(0.0, 1.0)))
    with pytest.raises(BadQuestion, match="without a table"):
        plain.merge(Sums(term_set(), table=False))
    with pytest.raises(BadQuestion, match="do not merge"):
        plain.merge(Sums(term_set(slates=True)))


def test_weights_that_multiply_to_nonsense_are_refused() -> None:
    columns = slates(20, 10, longest=1)
    starts, weight = np.array([0, 10]), np.full(10, 1e10)
    sums = Sums(term_set(slates=True))
    with pytest.raises(BadQuestion, match="multiply to more than 1e75"):
        sums.add_columns(reward=columns["reward"], weight=weight, viewer=columns["viewer"][:1], starts=starts)
    assert sums.n == 0
    assert not sums.buckets.any()


@pytest.mark.parametrize("propensity", [0.0, -0.1, np.nan])
def test_impossible_propensities_are_refused(propensity: float) -> None:
    with pytest.raises(BadQuestion, match="at row 2; what was shown had some probability"):
        Sums(term_set()).add_dense(
            reward=np.ones(2), action=np.zeros(2, int), propensity=np.array([0.5, propensity]), pmf=np.ones((1, 1))
        )


def test_no_events_have_no_mean() -> None:
    with pytest.raises(BadQuestion, match="no events"):
        Sums(term_set()).mean("w")
    sums = sums_of(single(18, 3))
    with pytest.raises(BadQuestion, match="no term 'nonsense'"):
        sums.mean("nonsense")


def test_read_only_and_strided_columns_are_as_good() -> None:
    columns = single(19, 100)
    frozen = {name: column.copy() for name, column in columns.items()}
    for column in frozen.values():
        column.flags.writeable = False
    strided = {name: np.repeat(column, 2)[::2] for name, column in columns.items()}
    narrow = {**columns, "viewer": columns["viewer"].astype(np.int64)}
    for other in (frozen, strided, narrow):
        assert_same(sums_of(columns), sums_of(other))
