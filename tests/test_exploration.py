"""The budget of exploration: never above it, true over many draws, and drawn again from what is stamped."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandit.config import Config, EpsilonGreedy, Softmax, SquareCB
from bandit.records import Decision
from bandit.slate.drawing import ELIGIBLE, INELIGIBLE, draw_slate, limited, slate_propensity, slot_probabilities
from bandit.slate.exploration import Exploration, budget_of, expected_share, warnings_of
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform
from bandit.store.events import find_decision
from tests.conftest import Api, Loop

Array = NDArray[Any]

# The first example may wait for the kernels to be compiled.
unhurried = settings(deadline=None)

EXPLORERS = [
    squarecb(gamma_scale=1.0, n_learned=100),
    squarecb(gamma_scale=1.0, n_learned=0),
    epsilon_greedy(epsilon=0.4),
    softmax(lambda_=2.0),
    greedy(),
    uniform(),
]
SHARES = st.floats(0.005, 1.0)
FLOORS = st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.05, 0.3, 1.0]) | st.floats(0.0, 1.0), min_size=1, max_size=8)
SCORES = st.lists(st.floats(-2, 2, width=32) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=30)

# ---------------------------------------------------------------- the budget


@given(SHARES, FLOORS)
def test_no_beginning_of_a_feed_is_given_more_than_the_budget(share: float, floors: list[float]) -> None:
    budget = budget_of(share, tuple(floors))
    at_most = [phi + (1 - phi) * budget.most for phi in budget.floors]
    for n in range(1, len(floors) + 1):
        assert sum(at_most[:n]) / n <= share + 1e-12
    assert budget.most >= share * 0.4


@given(SHARES, FLOORS)
def test_a_floor_above_zero_stays_above_zero_and_never_grows(share: float, floors: list[float]) -> None:
    for given_, scaled in zip(floors, budget_of(share, tuple(floors)).floors, strict=True):
        assert (scaled > 0) == (given_ > 0)
        assert scaled <= given_


def test_floors_within_half_of_the_budget_stay_as_they_are() -> None:
    assert budget_of(0.2, (0.1, 0.05)).floors == (0.1, 0.05)
    assert budget_of(None, (0.9, 0.0)) == ((0.9, 0.0), 1.0)


# ---------------------------------------------------------------- the draw


@unhurried
@given(SCORES, st.sampled_from(EXPLORERS), st.integers(0, 8), SHARES, FLOORS, st.integers(0, 2**64 - 1))
def test_no_request_explores_more_than_the_budget(
    scores: list[float], explorer: Explorer, shortlist: int, share: float, floors: list[float], seed: int
) -> None:
    budget = budget_of(share, tuple(floors))
    values, state = np.array(scores, np.float32), np.zeros(len(scores), np.uint8)
    rule = limited(values, state, explorer, shortlist=shortlist, most=budget.most)
    slate = draw_slate(
        values, state, n_slots=len(floors), explorer=rule, shortlist=shortlist, floor=np.array(budget.floors), seed=seed
    )
    for n in range(1, len(slate.chosen) + 1):
        assert expected_share(slate.exploring[:n].tolist()) <= share + 1e-9
    # What was said is what the probabilities of all candidates say.
    for slot in range(len(slate.chosen)):
        p = slot_probabilities(
            values, state, slate.chosen[:slot], slot=slot, explorer=rule, shortlist=shortlist,
            floor=np.array(budget.floors),
        )  # fmt: skip
        left = [i for i in range(len(scores)) if i not in slate.chosen[:slot]]
        best = max(left, key=lambda i: (values[i], -i))
        assert p.sum() == pytest.approx(1.0, abs=1e-9)
        assert slate.exploring[slot] == pytest.approx(1.0 - p[best], abs=1e-12)
        assert slate.explored[slot] == (slate.chosen[slot] != best)
        assert slate.chances[slot] == (p > 0).sum()
        assert slate.first[slot] == (slate.chosen[slot] == left[0])
        if budget.floors[slot] > 0:
            assert all(p[i] >= budget.floors[slot] / len(left) * (1 - 1e-12) for i in left)


@unhurried
@given(SCORES, st.sampled_from(EXPLORERS), st.integers(0, 8))
def test_without_a_budget_nothing_changes(scores: list[float], explorer: Explorer, shortlist: int) -> None:
    values, state = np.array(scores, np.float32), np.zeros(len(scores), np.uint8)
    assert limited(values, state, explorer, shortlist=shortlist, most=1.0) == explorer


def first_slot(scores: Array, explorer: Explorer) -> Array:
    """The explorer alone."""
    return slot_probabilities(
        scores, np.zeros(len(scores), np.uint8), np.empty(0, np.int32), slot=0, explorer=explorer, shortlist=0,
        floor=np.zeros(1),
    )  # fmt: skip


@pytest.mark.parametrize("explorer", [squarecb(gamma_scale=1.0, n_learned=4), softmax(lambda_=0.5)])
def test_strength_is_raised_until_the_budget_is_used_and_no_further(explorer: Explorer) -> None:
    scores, state = np.linspace(1, 0, 20, dtype=np.float32), np.zeros(20, np.uint8)
    rule = limited(scores, state, explorer, shortlist=0, most=0.1)
    assert rule.a > explorer.a
    p = first_slot(scores, Explorer(rule.kind, rule.a))
    assert 0.1 * (1 - 1e-5) < 1 - p[0] <= 0.1
    # So what is nearly as good is tried most, unlike a share of what the weak explorer would try.
    mixed = first_slot(scores, explorer._replace(b=0.1))
    assert mixed[0] == pytest.approx(0.9)
    assert p[1] > 2 * mixed[1]
    assert p[19] < mixed[19]


def test_an_explorer_within_the_budget_keeps_its_strength() -> None:
    scores, state = np.linspace(1, 0, 20, dtype=np.float32), np.zeros(20, np.uint8)
    explorer = squarecb(gamma_scale=10_000.0, n_learned=100)
    assert limited(scores, state, explorer, shortlist=0, most=0.3) == explorer._replace(b=0.3)


def test_ties_share_the_budget_evenly_whatever_the_strength() -> None:
    scores, state = np.zeros(10, np.float32), np.zeros(10, np.uint8)
    for explorer in (EXPLORERS[0], EXPLORERS[3], EXPLORERS[5]):
        rule = limited(scores, state, explorer, shortlist=0, most=0.09)
        assert rule == (explorer.kind, explorer.a, 0.09)
        assert first_slot(scores, rule) == pytest.approx([0.91, *[0.01] * 9])


@pytest.mark.parametrize("explorer", EXPLORERS, ids=str)
def test_limited_draws_still_sum_to_one_over_all_slates(explorer: Explorer) -> None:
    rng = np.random.default_rng(5)
    scores, state = rng.normal(size=6).astype(np.float32), np.array([0, 0, 1, 0, 2, 0], np.uint8)
    floor = np.array([0.02, 0.0, 0.05])
    rule = limited(scores, state, explorer, shortlist=3, most=0.2)
    each = [
        slate_propensity(scores, state, np.array(slate, np.int32), explorer=rule, shortlist=3, floor=floor).prod()
        for slate in permutations([0, 1, 2, 3, 5], 3)
    ]
    assert sum(each) == pytest.approx(1.0, abs=1e-12)


def test_the_share_that_is_told_is_the_share_that_is_drawn() -> None:
    """Over 20,000 seeded feeds; false alarm 1 in 16,000 for each of six explorers (four standard errors)."""
    rng = np.random.default_rng(11)
    floors = (0.1, 0.02, 0.02, 0.3, 0.05)
    budget = budget_of(0.15, floors)
    for explorer in EXPLORERS:
        told = variance = 0.0
        found = n = 0
        for seed in range(20_000):
            if seed % 100 == 0:
                scores = rng.normal(size=30).astype(np.float32)
                state = np.where(rng.random(30) < 0.1, INELIGIBLE, ELIGIBLE).astype(np.uint8)
                rule = limited(scores, state, explorer, shortlist=10, most=budget.most)
            slate = draw_slate(
                scores, state, n_slots=5, explorer=rule, shortlist=10, floor=np.array(budget.floors), seed=seed
            )
            told += float(slate.exploring.sum())
            # Given the slots above, each is a coin of its own: the sum of what is off by is a martingale.
            variance += float((slate.exploring * (1 - slate.exploring)).sum())
            found += int(slate.explored.sum())
            n += len(slate.chosen)
        assert abs(found - told) < 4 * math.sqrt(variance)
        assert 0.02 < found / n < 0.15


# ---------------------------------------------------------------- annealing


def test_epsilon_falls_by_what_was_learned_and_stops_at_its_least() -> None:
    config = EpsilonGreedy(epsilon=0.3, anneal_after=1_000, least=0.02)
    seen = [config.explorer(n).a for n in (0, 7_000, 10**6, 10**12)]
    assert seen == pytest.approx([0.3, 0.15, 0.3 * 1_001 ** (-1 / 3), 0.02])
    assert EpsilonGreedy(epsilon=0.3).explorer(10**9).a == 0.3
    assert EpsilonGreedy(epsilon=0.01, least=0.5, anneal_after=1).explorer(10**9).a == 0.01


def test_lambda_grows_by_what_was_learned() -> None:
    config = Softmax(lambda_=5.0, anneal_after=100)
    assert [config.explorer(n).a for n in (0, 300, 10**15)] == pytest.approx([5.0, 10.0, 1e6])
    assert Softmax(lambda_=5.0).explorer(10**9).a == 5.0


def test_squarecb_grows_as_ever() -> None:
    assert SquareCB(gamma_scale=10.0, gamma_exponent=0.5).explorer(400).a == pytest.approx(200.0)


# ---------------------------------------------------------------- what is said


def test_floors_that_are_off_are_told_with_what_they_cost() -> None:
    assert warnings_of(Exploration(), [0.05, 0.05]) == []
    (told,) = warnings_of(Exploration(), [0.05, 0.0, 0.0])
    assert "slot 1 to 2" in told
    assert "replay refuses" in told
    (told,) = warnings_of(Exploration(share=0.05), [0.3])
    assert "scaled down to 0.025" in told


def put(api: Api, change: dict[str, Any]) -> Any:
    reply = api.call("GET", "/v1/config")
    return api.call("PUT", "/v1/config", reply.body | change, headers={"If-Match": reply.headers["ETag"]})


def test_the_reply_to_a_config_says_what_a_slot_without_a_floor_costs(api: Api) -> None:
    reply = put(api, {"floor": [0.0, 0.05]})
    assert reply.status == 200
    assert reply.headers["Warning"].startswith('299 feed-bandit "floor is 0 at slot 0')
    assert api.call("GET", "/v1/config").headers["Warning"] == reply.headers["Warning"]
    assert "Warning" not in put(api, {"floor": 0.05}).headers


@pytest.mark.parametrize("kind", ["squarecb", "epsilon_greedy", "softmax", "greedy", "uniform"])
def test_every_decision_keeps_to_the_budget_and_says_how_much_it_took(api: Api, loop: Loop, kind: str) -> None:
    assert put(api, {"explorer": {"kind": kind}, "exploration": {"share": 0.1}, "slots": 5}).status == 200
    candidates = [f"v{k}" for k in range(40)]
    explored = n = 0
    told = variance = 0.0
    for round_ in range(30):
        body = api.call("POST", "/v1/rank", {"candidates": candidates, "user": {"id": f"u{round_ % 3}"}}).body
        found = find_decision(loop.data.log, body["event_id"])
        assert found is not None
        decision = msgspec.json.decode(found.payload, type=Decision)
        assert decision.share is not None
        assert 0 < decision.share <= 0.1 + 1e-9
        assert len(decision.explored_at) == decision.explored
        assert len(decision.chances) == 5
        assert all(0 < n <= 40 - slot for slot, n in enumerate(decision.chances))
        told += decision.share * 5
        explored += decision.explored
        variance += 5 * decision.share * (1 - decision.share)
        n += 5
        items = [{"id": one["id"], "reward": int(one["id"][1:]) % 3 - 1, "seen": True, "final": True}
                 for one in body["ranking"]]  # fmt: skip
        api.call("POST", "/v1/feedback", {"event_id": body["event_id"], "items": items})
        if round_ == 5:
            loop.learn()
    # The event ids are not seeded: false alarm below 1 in 3 million.
    assert abs(explored - told) < 5 * math.sqrt(variance) + 1


def test_the_fallback_keeps_to_the_budget_too(api: Api, loop: Loop) -> None:
    put(api, {"exploration": {"share": 0.02}})
    loop.service.ranker.snapshot = None
    body = api.call("POST", "/v1/rank", {"candidates": [f"v{k}" for k in range(40)]}).body
    assert body["fallback"] == "no_model"
    found = find_decision(loop.data.log, body["event_id"])
    assert found is not None
    share = msgspec.json.decode(found.payload, type=Decision).share
    assert share is not None
    assert share <= 0.02 + 1e-9


def test_a_decision_says_only_a_strength_that_is_not_the_configs(api: Api, loop: Loop) -> None:
    body = api.call("POST", "/v1/rank", {"candidates": ["a", "b", "c"]}).body
    found = find_decision(loop.data.log, body["event_id"])
    assert found is not None
    assert msgspec.json.decode(found.payload, type=Decision).strength is None


def test_the_default_config_has_no_budget() -> None:
    assert Config(floor=[0.5, 0.0]).budget(3) == ((0.5, 0.0, 0.0), 1.0)
