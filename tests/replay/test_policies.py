"""Target policies: what a spec makes, what it gives, and that nothing that is no probability gets through."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import BadPolicy
from replay.events import Assignment, Batch, Candidates, Log, Needs, Policy, Problems, item_key
from replay.policies import KINDS, as_policy, parse_policy
from replay.policies.base import candidate_starts, checked_pmf, split_options, weight_bound


class Kept:
    """A log of batches that are at hand."""

    name, kind = "kept", "arrays"
    reward_range = None
    marginals = False

    def __init__(self, *batches: Batch) -> None:
        self._batches = batches

    def batches(self, needs: Needs) -> Iterator[Batch]:
        yield from self._batches

    def problems(self) -> Problems:
        return Problems({}, ())

    def size(self) -> int:
        return 0

    def done(self) -> int:
        return 0


def batch_of(
    candidates: Sequence[Sequence[str]],
    chosen: Sequence[int],
    *,
    propensity: Sequence[float] | None = None,
    slots: Sequence[int] | None = None,
    first_place: int = 1,
    **more: Any,
) -> Batch:
    """Events of one slot each, or of as many as ``slots`` says; uniform logging unless propensities are given."""
    sizes = [len(each) for each in candidates]
    starts = np.cumsum([0, *([1] * len(sizes) if slots is None else slots)])
    keys = np.array([item_key(item) for each in candidates for item in each], np.uint64)
    begin = np.cumsum([0, *sizes])
    n = len(starts) - 1
    return Batch(
        starts=starts,
        item=keys[begin[:-1] + np.array(chosen)],
        chosen=np.array(chosen),
        propensity=1.0 / np.array(sizes) if propensity is None else np.array(propensity),
        reward=np.zeros(len(sizes)),
        n_candidates=np.array(sizes),
        viewer=np.arange(n, dtype=np.uint64),
        time=np.full(n, np.nan),
        place=np.arange(n) + first_place,
        candidates=Candidates(begin, keys),
        **more,
    )


BATCH = batch_of([["a", "b", "c"], ["a", "b", "c"], ["b", "c"]], [0, 2, 1])


def assigned(policy: Policy, *batches: Batch, pmf: bool = True) -> Assignment:
    policy.prepare(Kept(*batches))
    return policy.assign(batches[0], pmf)


def written(path: Path, content: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# -- specs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "spec"),
    [
        ("uniform", "uniform", "uniform"),
        ("new=uniform", "new", "uniform"),
        (" new = uniform ", "new", "uniform"),
        ("column:p=q", "column:p=q", "column:p=q"),
        ("x=column:p=q", "x", "column:p=q"),
        ("vw:--cb_explore_adf --epsilon=.1", "vw:--cb_explore_adf --epsilon=.1", "vw:--cb_explore_adf --epsilon=.1"),
    ],
)
def test_a_name_is_what_stands_before_the_spec(text: str, name: str, spec: str) -> None:
    policy = parse_policy(text)
    assert (policy.name, policy.spec) == (name, spec)


@pytest.mark.parametrize("text", ["nothing", "x=nothing", "greedily:m.vw", "tables", ""])
def test_an_unknown_policy_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(BadPolicy) as refusal:
        parse_policy(text)
    assert all(kind in refusal.value.message for kind in KINDS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("=uniform", "empty name"),
        ("uniform:3", "nothing more"),
        ("logged,floor=.1", "nothing more"),
        ("table:", "table:FILE"),
        ("column", "column:NAME"),
        ("table:/no/such.csv", "no file"),
        ("greedy:/no/such.vw", "no file"),
        ("propensities:/no/such.npy", "no file"),
        ("propensities:p.csv", ".npy"),
        ("python:math", "module:callable"),
        ("python:no_such_module:f", "no module"),
        ("python:math:no_such_name", "has no no_such_name"),
        ("python:math:pi", "not callable"),
        ("python:/no/such.py:f", "no file"),
    ],
)
def test_a_wrong_spec_is_refused_and_says_why(text: str, says: str) -> None:
    with pytest.raises(BadPolicy, match=says):
        parse_policy(text)


@given(st.text(max_size=40))
def test_no_text_breaks_parsing(text: str) -> None:
    try:
        policy = parse_policy(text)
    except BadPolicy:
        return
    assert policy.name
    assert policy.spec


def test_options_are_told_from_the_file() -> None:
    known = {"a": "", "b": ""}
    assert split_options("m.vw,a=1,b=2", known) == ("m.vw", {"a": "1", "b": "2"})
    assert split_options("odd,name.vw", known) == ("odd,name.vw", {})
    with pytest.raises(BadPolicy, match="the option c"):
        split_options("m.vw,c=1", known)
    with pytest.raises(BadPolicy, match="twice"):
        split_options("m.vw,a=1,a=2", known)


# -- logged, uniform ------------------------------------------------------------------------------


def test_logged_is_what_was_logged() -> None:
    batch = batch_of([["a", "b"]], [0], propensity=[0.3])
    policy = parse_policy("logged")
    assignment = assigned(policy, batch)
    assert assignment.propensity.tolist() == [0.3]
    assert policy.largest_weight(batch, assignment) == 1.0


def test_uniform_gives_every_candidate_the_same() -> None:
    assignment = assigned(parse_policy("uniform"), BATCH)
    np.testing.assert_allclose(assignment.propensity, [1 / 3, 1 / 3, 1 / 2])
    assert assignment.pmf is not None
    np.testing.assert_allclose(np.add.reduceat(assignment.pmf, [0, 3, 6]), 1)
    assert parse_policy("uniform").assign(BATCH, False).pmf is None


def test_uniform_without_candidates_is_refused() -> None:
    with pytest.raises(BadPolicy, match="place 1 of the log"):
        assigned(parse_policy("uniform"), replace(BATCH, n_candidates=np.array([0, 3, 2]), candidates=None))


# -- tables ---------------------------------------------------------------------------------------

CSV = "item,probability\na,0.5\nb,0.3\nc,0.2\n"
ALL_THREE = batch_of([["a", "b", "c"], ["c", "a", "b"]], [0, 0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeffitem_id,propensity\na,0.5\nb,0.3\nc,0.2\n"),
        ("t.tsv", CSV.replace(",", "\t")),
        ("t.json", {"a": 0.5, "b": 0.3, "c": 0.2}),
        ("t.json", [{"item": item, "propensity": p} for item, p in (("a", 0.5), ("b", 0.3), ("c", 0.2))]),
        ("t.csv", "item,score\na,5\nb,3\nc,2\n"),
    ],
)  # fmt: skip
def test_a_table_gives_items_their_probability(tmp_path: Path, name: str, content: Any) -> None:
    assignment = assigned(parse_policy(f"table:{written(tmp_path / name, content)}"), ALL_THREE)
    np.testing.assert_allclose(assignment.propensity, [0.5, 0.2])
    assert assignment.pmf is not None
    np.testing.assert_allclose(assignment.pmf, [0.5, 0.3, 0.2, 0.2, 0.5, 0.3])


def test_scores_are_scaled_to_the_candidates_at_hand_and_probabilities_are_not(tmp_path: Path) -> None:
    scores = written(tmp_path / "s.csv", "item,score\na,5\nb,3\nc,1\n")
    np.testing.assert_allclose(assigned(parse_policy(f"table:{scores}"), BATCH).propensity, [5 / 9, 1 / 9, 1 / 4])
    probabilities = written(tmp_path / "p.csv", CSV)
    with pytest.raises(BadPolicy, match=r"over the 2 candidates at place 3 of the log .* sum to 0\.5,"):
        assigned(parse_policy(f"table:{probabilities}"), BATCH)


@pytest.mark.parametrize("column", ["position", "slot"])
def test_a_table_by_position(tmp_path: Path, column: str) -> None:
    rows = f"item,{column},probability\na,0,1\nb,0,0\nc,0,0\na,1,.2\nb,1,.2\nc,1,.6\n"
    policy = parse_policy(f"table:{written(tmp_path / 't.csv', rows)}")
    if column == "slot":
        batch = batch_of([["a", "b", "c"], ["a", "b", "c"]], [0, 2], slots=[2])
    else:
        assert policy.needs(False).fields == ("position",)
        batch = replace(ALL_THREE, fields={"position": np.array([0.0, 1.0])})
    np.testing.assert_allclose(assigned(policy, batch).propensity, [1, 0.6])


def test_a_table_is_checked_as_a_whole_where_the_log_lists_no_candidates(tmp_path: Path) -> None:
    blind = replace(ALL_THREE, candidates=None)
    good = parse_policy(f"table:{written(tmp_path / 't.csv', CSV)}")
    assert assigned(good, blind).propensity.tolist() == [0.5, 0.2]
    with pytest.raises(BadPolicy, match=r"sum to 0\.8, not to 1"):
        assigned(as_policy({"a": 0.5, "b": 0.3}), blind)
    with pytest.raises(BadPolicy, match="does not list the candidates"):
        assigned(parse_policy(f"table:{written(tmp_path / 's.csv', CSV.replace('probability', 'score'))}"), blind)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "", "no rows"),
        ("t.csv", "item,probability\n", "no rows"),
        ("t.csv", "thing,chance\na,1\n", "columns chance, thing"),
        ("t.csv", "item,probability\na,much\n", "row 1 has 'much'"),
        ("t.csv", "item,probability\na,nan\n", "row 1 has 'nan'"),
        ("t.csv", "item,probability\na\n", "row 1 has None"),
        ("t.csv", "item,probability\na,-0.1\n", "item a has -0.1; allowed is from 0 to 1"),
        ("t.csv", "item,probability\na,1.2\n", "from 0 to 1"),
        ("t.csv", "item,score\na,-2\n", "at least 0"),
        ("t.csv", "item,probability\na,0.5\nb,0.2\na,0.3\n", "item a stands twice"),
        ("t.csv", "item,position,probability\na,,1\n", "row 1 has no position"),
        ("t.json", "{", "not JSON"),
        ("t.json", [1, 2], "give"),
        ("t.json", {"a": "x"}, "give"),
        ("t.xls", CSV, "csv"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, name: str, content: Any, says: str) -> None:
    with pytest.raises(BadPolicy, match=says):
        parse_policy(f"table:{written(tmp_path / name, content)}")


def test_a_table_that_is_no_table_of_this_log_is_refused(tmp_path: Path) -> None:
    by_position = written(tmp_path / "t.csv", "item,position,probability\na,7,1\n")
    with pytest.raises(BadPolicy, match="no field position"):
        assigned(parse_policy(f"table:{by_position}"), ALL_THREE)
    with pytest.raises(BadPolicy, match="no row for position 0"):
        assigned(parse_policy(f"table:{by_position}"), replace(ALL_THREE, fields={"position": np.array([0, 7])}))
    with pytest.raises(BadPolicy, match="no score for 1 of the candidates"):
        assigned(
            parse_policy(f"table:{written(tmp_path / 's.csv', 'item,score' + chr(10) + 'a,1' + chr(10) + 'b,1')}"),
            BATCH,
        )


# -- given probabilities --------------------------------------------------------------------------


def test_a_column_of_the_log() -> None:
    policy = parse_policy("column:other")
    assert policy.needs(True).columns == ("other",)
    batch = replace(BATCH, columns={"other": np.array([0.1, 0.0, 1.0])})
    assert assigned(policy, batch).propensity.tolist() == [0.1, 0.0, 1.0]
    with pytest.raises(BadPolicy, match="no column other; there are: mine"):
        assigned(policy, replace(BATCH, columns={"mine": np.ones(3)}))


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
def test_what_is_no_probability_is_refused_with_its_place(bad: float) -> None:
    batch = replace(BATCH, columns={"other": np.array([0.1, bad, 1.0])})
    with pytest.raises(BadPolicy, match=r"place 2 of the log; allowed is 0 to 1"):
        assigned(parse_policy("column:other"), batch)
    slates = batch_of([["a", "b"], ["a", "b"]], [0, 1], slots=[2], columns={"other": np.array([0.1, bad])})
    with pytest.raises(BadPolicy, match="place 1 of the log, slot 1"):
        assigned(parse_policy("column:other"), slates)


def test_a_file_of_propensities_goes_along_the_log(tmp_path: Path) -> None:
    later = replace(BATCH, place=BATCH.place + 3)
    path = written(tmp_path / "p.npy", np.arange(6) / 10)
    policy = parse_policy(f"propensities:{path}")
    policy.prepare(Kept(BATCH, later))
    for _ in range(2):
        assert policy.assign(BATCH, False).propensity.tolist() == [0, 0.1, 0.2]
        assert policy.assign(later, False).propensity.tolist() == pytest.approx([0.3, 0.4, 0.5])


def test_a_file_of_all_candidates(tmp_path: Path) -> None:
    path = written(tmp_path / "p.npy", np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], np.float32))
    assignment = assigned(parse_policy(f"propensities:{path}"), ALL_THREE)
    np.testing.assert_allclose(assignment.propensity, [0.5, 0.1], rtol=1e-6)
    with pytest.raises(BadPolicy, match="2 probabilities a slot"):
        assigned(as_policy(np.full((2, 2), 0.5)), ALL_THREE)


@pytest.mark.parametrize("n", [2, 4])
def test_a_file_for_another_log_is_refused(tmp_path: Path, n: int) -> None:
    path = written(tmp_path / "p.npy", np.full(n, 0.5))
    with pytest.raises(BadPolicy, match=f"for {n} slots; the log has 3"):
        assigned(parse_policy(f"propensities:{path}"), BATCH)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "p.npy", np.full(100, 0.5)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:300])
    (tmp_path / "int.npy").write_bytes(written(tmp_path / "i.npy", np.arange(3)).read_bytes())
    (tmp_path / "text.npy").write_text("no")
    for name in ("cut", "int", "text"):
        with pytest.raises(BadPolicy):
            parse_policy(f"propensities:{tmp_path / name}.npy")


def test_a_callable_may_say_either(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def shown(batch): return np.full(batch.n_slots, .25)\n"
        "def every(batch): return np.repeat(1 / batch.n_candidates, batch.n_candidates)\n"
    )
    assert assigned(parse_policy(f"python:{tmp_path}/mine.py:shown"), BATCH).propensity.tolist() == [0.25] * 3
    every = assigned(parse_policy(f"python:{tmp_path}/mine.py:every"), BATCH)
    np.testing.assert_allclose(every.propensity, [1 / 3, 1 / 3, 1 / 2])
    assert every.pmf is not None
    assert len(every.pmf) == 8


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda batch: np.full(2, 0.5), r"gave shape \(2,\); needed is \(3,\)"),
        (lambda batch: "many", "needed is an array"),
        (lambda batch: 1 / 0, "raised ZeroDivisionError"),
        (lambda batch: np.full(8, 0.5), "sum to 1.5, not to 1"),
        (lambda batch: np.full(3, np.nan), "place 1 of the log"),
        (lambda batch: np.repeat([0.5, 0.5, 0.5, -0.5, 0.5, 1.0, 0.0], [1, 1, 1, 1, 1, 1, 2]), "place 2 of the log"),
    ],
)
def test_a_callable_that_gives_no_probabilities_is_refused(function: Any, says: str) -> None:
    with pytest.raises(BadPolicy, match=says):
        assigned(as_policy(function), BATCH)


def test_a_callable_says_what_it_wants_to_see() -> None:
    def function(batch: Batch) -> Any:
        return batch.fields["hour"] * 0.0 + 0.5

    function.needs = Needs(fields=("hour",))  # type: ignore[attr-defined]
    assert as_policy(function).needs(False) == Needs(fields=("hour",), candidates=True)


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(BadPolicy, match="float is no policy"):
        as_policy(3.0)
    same = parse_policy("uniform")
    assert as_policy(same) is same
    assert as_policy("uniform", "new").name == "new"


# -- bounds and checks ----------------------------------------------------------------------------


def test_weights_are_bounded_where_the_logging_was_uniform() -> None:
    assert weight_bound(BATCH, Assignment(BATCH.propensity, None)) == pytest.approx(3)
    assert weight_bound(BATCH, assigned(parse_policy("uniform"), BATCH)) == pytest.approx(1)
    skewed = replace(BATCH, propensity=np.array([1 / 3, 1 / 3, 0.9]))
    assert weight_bound(skewed, Assignment(skewed.propensity, None)) == np.inf


def test_weights_are_bounded_by_what_was_logged_of_all_candidates() -> None:
    assert BATCH.candidates is not None
    logged = np.array([0.5, 0.25, 0.25, 0.1, 0.2, 0.7, 0.5, 0.5])
    batch = replace(BATCH, propensity=np.array([0.5, 0.7, 0.5]), candidates=BATCH.candidates._replace(logged=logged))
    assert weight_bound(batch, Assignment(batch.propensity, None)) == pytest.approx(10)
    assert weight_bound(batch, assigned(parse_policy("uniform"), batch)) == pytest.approx(10 / 3)


def test_a_floor_bounds_the_weights_of_slates_by_their_product() -> None:
    slates = batch_of(
        [["a", "b"], ["a", "b"], ["a", "b"]], [0, 1, 0], slots=[2, 1], propensity=[0.9, 0.6, 0.3],
        columns={"least_propensity": np.array([0.1, 0.2, 0.3])},
    )  # fmt: skip
    assert weight_bound(slates, Assignment(slates.propensity, None)) == pytest.approx(50)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_a_bound_holds_for_every_candidate(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = batch_of([[str(i) for i in range(n)] for n in sizes], [int(rng.integers(n)) for n in sizes])
    pmf = np.concatenate([rng.dirichlet(np.ones(n)) for n in sizes])
    policy = as_policy(lambda _: pmf, "mine")
    assignment = assigned(policy, batch)
    weights = pmf * np.repeat(sizes, sizes)
    assert weights.max() == pytest.approx(policy.largest_weight(batch, assignment))


def test_small_rounding_is_scaled_away() -> None:
    pmf = np.array([0.3333333, 0.3333333, 0.3333333, 0.5, 0.25, 0.25, 0.5, 0.5])
    np.testing.assert_allclose(
        np.add.reduceat(checked_pmf("x", BATCH, pmf), candidate_starts(BATCH)[:-1]), 1, rtol=1e-15
    )


def test_kept_is_a_log() -> None:
    log: Log = Kept(BATCH)
    assert [batch.n for batch in log.batches(Needs())] == [3]


def test_policies_over_feeds_are_made_too() -> None:
    assert parse_policy("caller").spec == "caller"
    assert parse_policy("mine=caller,floor=.1").name == "mine"
    with pytest.raises(BadPolicy, match="over feeds"):
        parse_policy("feed:")


def test_what_could_not_have_been_shown_is_counted() -> None:
    assert BATCH.candidates is not None
    logged = np.array([1.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.5, 0.5])
    batch = replace(BATCH, propensity=np.array([1, 0.5, 0.5]), candidates=BATCH.candidates._replace(logged=logged))
    policy = parse_policy("uniform")
    assignment = assigned(policy, batch)
    assert assignment.uncovered == pytest.approx(2 / 3 + 1 / 3 + 0)
    assert policy.largest_weight(batch, assignment) == np.inf
    only = as_policy(lambda batch: np.array([1, 0, 0, 0, 0, 1, 1, 0]), "only")
    assignment = assigned(only, batch)
    assert assignment.uncovered == 0
    assert only.largest_weight(batch, assignment) == pytest.approx(2)
