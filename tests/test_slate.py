"""Properties of slates that hold for any scores, states, explorer, shortlist and floor."""

from __future__ import annotations

import ast
import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bandit.slate.drawing
from bandit.slate.drawing import (
    ELIGIBLE,
    INELIGIBLE,
    UNSCORED,
    Slate,
    draw_slate,
    score_order,
    seed_of,
    slate_propensity,
    slot_probabilities,
)
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform

Array = NDArray[Any]

# The first example may wait for the kernels to be compiled.
unhurried = settings(deadline=None)


class Decision(NamedTuple):
    scores: Array
    state: Array
    n_slots: int
    explorer: Explorer
    shortlist: int
    floor: Array

    def draw(self, seed: int) -> Slate:
        return draw_slate(
            self.scores,
            self.state,
            n_slots=self.n_slots,
            explorer=self.explorer,
            shortlist=self.shortlist,
            floor=self.floor,
            seed=seed,
        )

    def propensity(self, chosen: Array) -> Array:
        return slate_propensity(
            self.scores,
            self.state,
            chosen,
            explorer=self.explorer,
            shortlist=self.shortlist,
            floor=self.floor,
        )

    def at(self, slot: int, drawn: Array) -> Array:
        return slot_probabilities(
            self.scores,
            self.state,
            drawn,
            slot=slot,
            explorer=self.explorer,
            shortlist=self.shortlist,
            floor=self.floor,
        )

    def shortlisted(self, drawn: list[int]) -> list[int]:
        """The best M of eligible, scored and not yet drawn, by a full sort."""
        seen = [
            i
            for i in range(len(self.scores))
            if self.state[i] == ELIGIBLE and np.isfinite(self.scores[i]) and i not in drawn
        ]
        seen.sort(key=lambda i: (-self.scores[i], i))
        return seen[: self.shortlist or None]


EXPLORERS = st.one_of(
    st.builds(squarecb, gamma_scale=st.floats(0, 1e6), n_learned=st.integers(0, 10**9)),
    st.builds(epsilon_greedy, epsilon=st.floats(0, 1)),
    st.builds(softmax, lambda_=st.floats(0, 1e4)),
    st.just(greedy()),
    st.just(uniform()),
)
SCORE = st.one_of(
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, 0.5, 1.0]),
    st.floats(width=32),
)
STATE = st.sampled_from([ELIGIBLE] * 5 + [UNSCORED, INELIGIBLE])


@st.composite
def decisions(draw: st.DrawFn, score: st.SearchStrategy[float] = SCORE) -> Decision:
    candidates = draw(st.lists(st.tuples(score, STATE), max_size=60))
    n_slots = draw(st.integers(0, 12))
    return Decision(
        np.array([s for s, _ in candidates], np.float32),
        np.array([s for _, s in candidates], np.uint8),
        n_slots,
        draw(EXPLORERS),
        draw(st.integers(0, 20)),
        np.array(draw(st.lists(st.floats(0, 1), min_size=n_slots, max_size=n_slots)), np.float64),
    )


SEED = st.integers(0, 2**64 - 1)


def assert_same(ours: Slate, theirs: Slate) -> None:
    assert ours.chosen.tobytes() == theirs.chosen.tobytes()
    assert ours.propensity.tobytes() == theirs.propensity.tobytes()
    assert ours.exploratory.tobytes() == theirs.exploratory.tobytes()


@unhurried
@given(decisions(), SEED)
def test_a_slate_is_full_of_distinct_eligible_candidates(decision: Decision, seed: int) -> None:
    slate = decision.draw(seed)
    chosen = slate.chosen.tolist()
    assert len(chosen) == min(decision.n_slots, int((decision.state < INELIGIBLE).sum()))
    assert len(set(chosen)) == len(chosen)
    assert (decision.state[slate.chosen] < INELIGIBLE).all()
    assert (slate.propensity > 0).all()
    assert (slate.propensity <= 1 + 1e-12).all()


@unhurried
@given(decisions(), SEED)
def test_drawing_looking_up_and_listing_agree_bit_for_bit(decision: Decision, seed: int) -> None:
    slate = decision.draw(seed)
    assert decision.propensity(slate.chosen).tobytes() == slate.propensity.tobytes()
    for slot, item in enumerate(slate.chosen):
        above = slate.chosen[:slot]
        assert decision.at(slot, above)[item] == slate.propensity[slot]
        # What is drawn above is a set: its order does not matter, not even to the last bit.
        assert decision.at(slot, above[::-1].copy()).tobytes() == decision.at(slot, above).tobytes()


@unhurried
@given(decisions(), SEED)
def test_probabilities_sum_to_one_and_none_is_below_the_floor(decision: Decision, seed: int) -> None:
    slate = decision.draw(seed)
    for slot in range(len(slate.chosen)):
        p = decision.at(slot, slate.chosen[:slot])
        left = decision.state < INELIGIBLE
        left[slate.chosen[:slot]] = False
        assert math.fsum(p) == pytest.approx(1, abs=1e-12)
        assert (p[~left] == 0).all()
        # The best gets what the others leave, which may be a rounding error less than its share.
        assert (p[left] >= decision.floor[slot] / left.sum() - 1e-14).all()


@unhurried
@given(decisions(), SEED)
def test_only_the_floor_reaches_beyond_the_shortlist(decision: Decision, seed: int) -> None:
    slate = decision.draw(seed)
    for slot, item in enumerate(slate.chosen.tolist()):
        above = slate.chosen[:slot]
        seen = decision.shortlisted(above.tolist())
        assert slate.exploratory[slot] == (item not in seen)
        if not seen:
            continue
        p = decision.at(slot, above)
        n_left = int((decision.state < INELIGIBLE).sum()) - slot
        unseen = np.ones(len(p), bool)
        unseen[seen] = False
        unseen[above] = False
        unseen &= decision.state < INELIGIBLE
        assert (p[unseen] == decision.floor[slot] / n_left).all()


@unhurried
@given(decisions(st.floats(-1, 1, width=32)), st.randoms(use_true_random=False))
def test_without_ties_the_callers_order_does_not_matter(decision: Decision, rng: Any) -> None:
    assume(len(np.unique(decision.scores)) == len(decision.scores))
    assume(decision.n_slots > 0)
    order = list(range(len(decision.scores)))
    rng.shuffle(order)
    shuffled = decision._replace(scores=decision.scores[order], state=decision.state[order])
    nobody = np.empty(0, np.int32)
    assert shuffled.at(0, nobody) == pytest.approx(decision.at(0, nobody)[order], abs=1e-14)


@unhurried
@given(decisions(), SEED)
def test_a_score_that_is_not_finite_counts_as_not_scored(decision: Decision, seed: int) -> None:
    broken = ~np.isfinite(decision.scores)
    state = decision.state.copy()
    state[broken & (state == ELIGIBLE)] = UNSCORED
    repaired = decision._replace(scores=np.where(broken, 0, decision.scores).astype(np.float32), state=state)
    assert_same(decision.draw(seed), repaired.draw(seed))


@unhurried
@given(decisions(), SEED)
def test_scores_of_what_was_not_scored_are_never_read(decision: Decision, seed: int) -> None:
    other = np.where(decision.state == ELIGIBLE, decision.scores, -decision.scores - 1).astype(np.float32)
    assert_same(decision.draw(seed), decision._replace(scores=other).draw(seed))


@pytest.mark.parametrize(
    "shape", ["normal", "ascending", "descending", "outlier", "few values", "tiny", "huge"]
)
@pytest.mark.parametrize("shortlist", [1, 50, 400, 999, 1000, 5000])
def test_the_shortlist_is_the_best_by_a_full_sort(shape: str, shortlist: int) -> None:
    rng = np.random.default_rng(5)
    normal = rng.normal(size=1000)
    scores = {
        "normal": normal,
        "ascending": np.sort(normal),
        "descending": -np.sort(normal),
        "outlier": np.where(np.arange(1000) == 700, 1e30, normal),
        "few values": np.round(normal),
        "tiny": normal * 1e-44,
        "huge": normal * 8e37,
    }[shape].astype(np.float32)
    state = rng.choice([0, 0, 0, 1, 2], 1000).astype(np.uint8)
    state[700] = ELIGIBLE
    decision = Decision(scores, state, 8, uniform(), shortlist, np.zeros(8))
    slate = decision.draw(11)
    for slot in range(8):
        above = slate.chosen[:slot]
        seen = decision.shortlisted(above.tolist())
        assert sorted(seen) == np.flatnonzero(decision.at(slot, above)).tolist()


def test_greedy_fills_the_slate_in_order_of_score_then_of_the_caller() -> None:
    scores = np.array([0.2, 0.7, -0.0, 0.7, 0.0, 0.2], np.float32)
    slate = Decision(scores, np.zeros(6, np.uint8), 6, greedy(), 0, np.zeros(6)).draw(1)
    assert slate.chosen.tolist() == [1, 3, 0, 5, 2, 4]
    assert slate.propensity.tolist() == [1] * 6


def test_a_floor_of_one_is_uniform_over_all_eligible() -> None:
    state = np.array([ELIGIBLE, UNSCORED, INELIGIBLE, ELIGIBLE], np.uint8)
    slate = Decision(np.array([9, 0, 0, 1], np.float32), state, 3, greedy(), 1, np.ones(3)).draw(3)
    assert slate.propensity == pytest.approx([1 / 3, 1 / 2, 1])


def test_an_unscored_item_can_be_drawn_and_is_exploratory() -> None:
    decision = Decision(np.zeros(1, np.float32), np.array([UNSCORED], np.uint8), 2, greedy(), 5, np.zeros(2))
    slate = decision.draw(3)
    assert (slate.chosen.tolist(), slate.propensity.tolist(), slate.exploratory.tolist()) == ([0], [1.0], [1])


def test_nothing_eligible_is_an_empty_slate() -> None:
    for n in (0, 3):
        decision = Decision(
            np.zeros(n, np.float32), np.full(n, INELIGIBLE, np.uint8), 2, greedy(), 0, np.zeros(2)
        )
        assert {len(part) for part in decision.draw(0)} == {0}
        assert decision.at(0, np.empty(0, np.int32)).tolist() == [0] * n


SIMPLE = Decision(
    np.array([0.3, 0.1, 0.2, 0.9], np.float32),
    np.array([0, 0, 1, 2], np.uint8),
    3,
    epsilon_greedy(epsilon=0.2),
    0,
    np.full(3, 0.1),
)


def test_what_could_not_be_drawn_has_no_propensity() -> None:
    p = SIMPLE.propensity(np.array([3, 0, 0, 1], np.int32)[:3])
    assert p == pytest.approx([0, 0.9 * 0.9 + 0.1 / 3, 0])


@pytest.mark.parametrize("item", [-1, 4])
def test_a_slate_that_names_no_candidate_is_refused(item: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        SIMPLE.propensity(np.array([item], np.int32))
    with pytest.raises(ValueError, match="does not exist"):
        SIMPLE.at(0, np.array([item], np.int32))


@pytest.mark.parametrize("floor", [[0.1], [0.1, 0.1, 1.01], [0.1, -0.01, 0.1], [math.nan] * 3])
def test_a_floor_that_is_no_probability_is_refused(floor: list[float]) -> None:
    decision = SIMPLE._replace(floor=np.array(floor))
    with pytest.raises(ValueError, match="floor"):
        decision.draw(1)
    with pytest.raises(ValueError, match="floor"):
        decision.propensity(np.array([0, 1, 2], np.int32))
    # The slots that have a floor are not to blame for one that has none.
    bad = next((k for k in range(len(floor)) if not 0 <= floor[k] <= 1), len(floor))
    with pytest.raises(ValueError, match="floor"):
        decision.at(bad, np.empty(0, np.int32))


def test_arrays_and_counts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        SIMPLE._replace(state=np.zeros(3, np.uint8)).draw(1)
    with pytest.raises(ValueError, match="n_slots -1"):
        SIMPLE._replace(n_slots=-1).draw(1)
    with pytest.raises(ValueError, match="shortlist -1"):
        SIMPLE._replace(shortlist=-1).draw(1)


def test_any_layout_of_arrays_gives_the_same_slate_and_compiles_nothing() -> None:
    kernel: Any = bandit.slate.drawing._draw
    expected = SIMPLE.draw(5)
    compiled = len(kernel.signatures)
    frozen = SIMPLE.scores.copy()
    frozen.flags.writeable = False
    for scores in (frozen, np.repeat(SIMPLE.scores, 2)[::2], SIMPLE.scores.astype(np.float64)):
        slate = SIMPLE._replace(scores=scores, state=SIMPLE.state.astype(np.int64)).draw(5)
        assert slate.chosen.tolist() == expected.chosen.tolist()
    assert len(kernel.signatures) == compiled


def test_the_event_id_and_the_secret_decide_the_draw() -> None:
    rng = np.random.default_rng(0)
    decision = Decision(
        rng.normal(size=500).astype(np.float32), np.zeros(500, np.uint8), 10, uniform(), 0, np.zeros(10)
    )
    seeds = [seed_of(event, secret) for event, secret in itertools.product(["a", "b", "é"], [b"k", b"l"])]
    drawn = [tuple(decision.draw(seed).chosen.tolist()) for seed in seeds]
    assert len(set(drawn)) == len(seeds)
    assert drawn == [tuple(decision.draw(seed).chosen.tolist()) for seed in seeds]


def test_a_draw_of_old_can_be_drawn_again() -> None:
    """Recorded when written. If this fails, decisions already in a log can no longer be audited."""
    assert seed_of("event-1", b"secret") == GOLDEN_SEED
    decision = Decision(
        (np.arange(100) % 7).astype(np.float32),
        np.zeros(100, np.uint8),
        6,
        softmax(lambda_=0.3),
        40,
        np.full(6, 0.2),
    )
    assert decision.draw(GOLDEN_SEED).chosen.tolist() == GOLDEN_SLATE
    assert score_order(GOLDEN_SEED, 8).tolist() == GOLDEN_ORDER


GOLDEN_SEED = 4486347144930070343
GOLDEN_SLATE = [67, 71, 82, 97, 26, 47]
GOLDEN_ORDER = [4, 0, 7, 6, 2, 5, 1, 3]


def golden_decisions() -> Iterator[tuple[Decision, int]]:
    for number in range(400):
        rng = np.random.default_rng([77, number])
        n = int(rng.integers(1, 40)) if number % 8 else 1000
        n_slots = int(rng.integers(1, 13))
        scores = rng.normal(0, 0.4, n).astype(np.float32)
        if number % 3 == 0:
            scores = np.round(scores, 1)
        if number % 7 == 0:
            scores[rng.integers(0, n, max(1, n // 5))] = np.nan
        state = rng.choice([0, 0, 0, 0, 1, 2], n).astype(np.uint8)
        parameter = float(rng.uniform(0, 6))
        explorer = [
            squarecb(n_learned=int(rng.integers(0, 10_000)), gamma_scale=parameter + 0.1),
            epsilon_greedy(epsilon=parameter / 6),
            greedy(),
            uniform(),
        ][number % 4]
        shortlist = int(rng.choice([0, 1, 5, 50]))
        floor = rng.choice([0, 0.05, 0.2, 1], n_slots).astype(np.float64)
        decision = Decision(scores, state, n_slots, explorer, shortlist, floor)
        yield decision, seed_of(f"golden-{number}", b"golden")


def test_without_rules_draws_are_those_of_before_there_were_rules() -> None:
    """Recorded with the kernels as they were then; bit for bit, probabilities included."""
    digest = hashlib.blake2b(digest_size=16)
    for decision, seed in golden_decisions():
        slate = decision.draw(seed)
        for part in slate[:3]:
            digest.update(part.tobytes())
        digest.update(decision.propensity(slate.chosen).tobytes())
        for slot in (0, len(slate.chosen) // 2):
            if len(slate.chosen):
                digest.update(decision.at(slot, slate.chosen[:slot]).tobytes())
    assert digest.hexdigest() == "997d950befff449df79b8e8553e071a0"


def test_the_seed_is_keyed_blake2b() -> None:
    digest = hashlib.blake2b("é".encode(), digest_size=8, key=b"k" * 64).digest()
    assert seed_of("é", b"k" * 64) == int.from_bytes(digest, "little")


@pytest.mark.parametrize("secret", [b"", b"k" * 65])
def test_a_secret_that_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        seed_of("event", secret)


@unhurried
@given(SEED, st.integers(0, 300))
def test_the_scoring_order_is_a_permutation(seed: int, n: int) -> None:
    order = score_order(seed, n)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(n))


def test_kernels_call_no_kernel_of_another_file() -> None:
    """Numba's cache does not see a change in another file: a stale kernel would record wrong propensities."""
    tree = ast.parse(Path(bandit.slate.drawing.__file__).read_text())
    kernels = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id in ("_kernel", "_part") for d in node.decorator_list)
    }
    assert "_draw" in kernels
    builtins = {"bool", "int", "len", "max", "min", "range"}
    for kernel in kernels.values():
        for node in ast.walk(kernel):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id in kernels.keys() | builtins
