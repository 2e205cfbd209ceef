"""The recorded propensity is the probability under which the item was really drawn.

For every explorer and scenario a small slate is drawn under N_DRAWS event ids, and the frequency
of every whole slate is compared with the product of the recorded propensities by Pearson's
chi-square. The ids and the secret are fixed, so a result is the same on every run; had they been
drawn afresh, a true implementation would fail somewhere with a probability of at most FALSE_ALARM
(Bonferroni over N_TESTS; each cell expects at least MIN_EXPECTED draws). The last section shows that
the same test at the same size and threshold catches wrong propensities.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from bandit.slate.binding import UNRESTRICTED, Marks, Restrictions, bind
from bandit.slate.drawing import (
    ELIGIBLE,
    INELIGIBLE,
    UNSCORED,
    draw_slate,
    score_order,
    seed_of,
    slate_propensity,
    slot_probabilities,
)
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform
from bandit.slate.rules import Cap, Duplicates, Quota, Rule, Seen, Spacing
from bandit.statistics.attribute_table import attributes_of

Array = NDArray[Any]
Slots = tuple[int, ...]

FALSE_ALARM = 1e-6
N_TESTS = 200
THRESHOLD = FALSE_ALARM / N_TESTS
N_DRAWS = 10_000
MIN_EXPECTED = 20.0
SECRET = b"the secret of the propensity tests"
SEEDS = [seed_of(f"event-{i}", SECRET) for i in range(N_DRAWS)]


def chi_square_tail(x: float, df: int) -> float:
    """P(chi-square with df degrees of freedom > x); incomplete gamma, DLMF 8.11.4 and 8.9.2."""
    a, x = df / 2, x / 2
    if x <= 0:
        return 1.0
    log_scale = a * math.log(x) - x - math.lgamma(a)
    if x < a + 1:
        term = total = 1 / a
        n = a
        while term > total * 1e-16:
            n += 1
            term *= x / n
            total += term
        return 1 - total * math.exp(log_scale)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 10_000):
        step = -i * (i - a)
        b += 2
        d = 1 / (step * d + b)
        c = b + step / c
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return math.exp(log_scale) * h


def p_value(counts: Counter[Slots], expected: dict[Slots, float]) -> float:
    """How surprising the counts are if the slates really have the expected probabilities.

    Rare slates are counted together; a drawn slate that cannot be drawn is a certain failure.
    """
    n = counts.total()
    if any(expected.get(slate, 0.0) == 0.0 for slate in counts):
        return 0.0
    cells = sorted((n * p, counts[slate]) for slate, p in expected.items() if p > 0)
    pooled = [(0.0, 0)]
    for e, c in cells:
        if pooled[-1][0] < MIN_EXPECTED:
            pooled[-1] = (pooled[-1][0] + e, pooled[-1][1] + c)
        else:
            pooled.append((e, c))
    if len(pooled) == 1:
        return 1.0
    return chi_square_tail(sum((c - e) ** 2 / e for e, c in pooled), len(pooled) - 1)


class Case(NamedTuple):
    """A decision to be drawn again and again."""

    scores: Array
    state: Array
    n_slots: int
    explorer: Explorer
    shortlist: int
    floor: Array
    rules: Restrictions = UNRESTRICTED

    def slates(self) -> list[Slots]:
        """Every slate that could be drawn, whatever its probability."""
        eligible = [i for i, s in enumerate(self.state) if s != INELIGIBLE]
        return list(itertools.permutations(eligible, min(self.n_slots, len(eligible))))

    def propensity(self, slate: Slots) -> Array:
        return slate_propensity(
            self.scores,
            self.state,
            np.array(slate, np.int32),
            explorer=self.explorer,
            shortlist=self.shortlist,
            floor=self.floor,
            rules=self.rules,
        )

    def expected(self) -> dict[Slots, float]:
        return {slate: math.prod(self.propensity(slate)) for slate in self.slates()}

    def draw(self) -> tuple[Counter[Slots], dict[Slots, Array]]:
        """How often each slate was drawn, and the propensities recorded with it."""
        counts: Counter[Slots] = Counter()
        recorded: dict[Slots, Array] = {}
        for seed in SEEDS:
            drawn = draw_slate(
                self.scores,
                self.state,
                n_slots=self.n_slots,
                explorer=self.explorer,
                shortlist=self.shortlist,
                floor=self.floor,
                seed=seed,
                rules=self.rules,
            )
            slate = tuple(drawn.chosen.tolist())
            counts[slate] += 1
            if slate in recorded:
                assert recorded[slate].tobytes() == drawn.propensity.tobytes()
            recorded[slate] = drawn.propensity
        return counts, recorded

    def check(self) -> None:
        counts, recorded = self.draw()
        expected = self.expected()
        assert math.fsum(expected.values()) == pytest.approx(1, abs=1e-12)
        for slate, propensity in recorded.items():
            assert propensity.tobytes() == self.propensity(slate).tobytes()
        assert p_value(counts, expected) > THRESHOLD


EXPLORERS = {
    "squarecb, nothing learned": squarecb(n_learned=0),
    "squarecb": squarecb(n_learned=100, gamma_scale=3),
    "squarecb, large gamma": squarecb(n_learned=10**12),
    "epsilon": epsilon_greedy(epsilon=0.3),
    "softmax": softmax(lambda_=2.5),
    "softmax, large lambda": softmax(lambda_=2000),
    "greedy": greedy(),
    "uniform": uniform(),
}

E, U, X = ELIGIBLE, UNSCORED, INELIGIBLE
SCENARIOS: dict[str, tuple[str, list[int], int, int, list[float]]] = {
    # kind of scores, states, slots, shortlist, floor
    "no floor": ("normal", [E] * 5, 3, 0, [0, 0, 0]),
    "floor by slot": ("normal", [E] * 5, 3, 0, [0.1, 0.4, 1]),
    "shortlist": ("normal", [E] * 6, 2, 2, [0, 0]),
    "shortlist and floor": ("normal", [E] * 5, 3, 2, [0.2, 0.1, 0.3]),
    "shortlist of one": ("normal", [E] * 5, 3, 1, [0.3, 0.3, 0.3]),
    "exclusions": ("normal", [X, E, E, X, E, E, X], 3, 3, [0.1, 0.1, 0.1]),
    "ties": ("tied", [E] * 5, 3, 2, [0.1, 0.1, 0.1]),
    "all tied": ("same", [E] * 4, 2, 2, [0.1, 0.1]),
    "fewer candidates than slots": ("normal", [E, X, E, E], 6, 2, [0.1] * 6),
    "one candidate": ("normal", [E], 3, 5, [0.1] * 3),
    "deadline": ("normal", [U, E, E, U, E, X], 3, 2, [0.3, 0.3, 0.3]),
    "deadline, scored run out": ("normal", [U, E, U, U], 3, 0, [0.2, 0.2, 0]),
    "nothing scored": ("normal", [U, U, X, U], 2, 3, [0, 0.1]),
    "scores not finite": ("broken", [E] * 6, 2, 3, [0.25, 0.25]),
}


def scores_of(kind: str, n: int, rng: np.random.Generator) -> Array:
    scores = {
        "normal": rng.normal(0, 0.4, n),
        "tied": rng.choice([0.1, 0.5], n),
        "same": np.full(n, 0.25),
        "broken": np.array([*rng.normal(0, 0.4, max(n - 3, 0)), math.nan, math.inf, -math.inf])[:n],
    }[kind]
    return scores.astype(np.float32)


@pytest.mark.parametrize("explorer", EXPLORERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_slates_are_drawn_as_often_as_recorded(scenario: str, explorer: str) -> None:
    kind, state, n_slots, shortlist, floor = SCENARIOS[scenario]
    rng = np.random.default_rng(list(f"{scenario}/{explorer}".encode()))
    Case(
        scores_of(kind, len(state), rng),
        np.array(state, np.uint8),
        n_slots,
        EXPLORERS[explorer],
        shortlist,
        np.array(floor, np.float64),
    ).check()


def random_case(number: int) -> Case:
    rng = np.random.default_rng([2024, number])
    n, n_slots = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    parameter = float(rng.uniform(0, 6))
    explorer = [
        squarecb(n_learned=int(rng.integers(0, 10_000)), gamma_scale=parameter),
        epsilon_greedy(epsilon=parameter / 6),
        softmax(lambda_=parameter),
        greedy(),
        uniform(),
    ][number % 5]
    return Case(
        scores_of(str(rng.choice(["normal", "normal", "tied", "broken"])), n, rng),
        rng.choice([E, E, E, E, U, X], n).astype(np.uint8),
        n_slots,
        explorer,
        int(rng.integers(0, 5)),
        rng.choice([0, 0.02, 0.2, 0.6, 1], n_slots).astype(np.float64),
    )


@pytest.mark.parametrize("number", range(30))
def test_random_decisions_are_drawn_as_often_as_recorded(number: int) -> None:
    random_case(number).check()


ITEMS: list[Any] = [
    {"creator": "a", "sound": "x", "tags": ["p"]},
    {"creator": "a", "sound": "y", "tags": ["p", "q"], "group": "g"},
    {"creator": "b", "sound": "x", "tags": ["q"], "group": "g"},
    {"creator": "b", "sound": "y", "tags": ["r"]},
    {"creator": "c", "sound": "x", "tags": ["p"]},
    {"tags": ["r"]},
]
MARKS = Marks(
    seen=np.array([1, 0, 0, 1, 0, 0], np.uint8),
    new=np.array([0, 0, 1, 1, 0, 0], np.uint8),
    off_interest=np.array([0, 0, 0, 1, 0, 1], np.uint8),
)
RULED: dict[str, tuple[list[Rule], dict[str, list[int]], dict[int, int]]] = {
    # rules, slots of quotas, pins
    "spacing": ([Spacing(of="creator"), Spacing(of="sound", slots=2)], {}, {}),
    "caps": ([Cap(of="creator", most=1), Cap(of="tag", most=1)], {}, {}),
    "duplicates": ([Duplicates()], {}, {}),
    "seen": ([Seen()], {}, {}),
    "quotas": ([Quota(of="new"), Quota(of="off_interest")], {"quota:new": [0], "quota:off_interest": [2]}, {}),
    "pins": ([Spacing(of="creator")], {}, {1: 4}),
    "everything": (
        [Duplicates(), Seen(), Cap(of="tag", most=1), Spacing(of="sound"), Spacing(of="creator"), Quota(of="new")],
        {"quota:new": [1]},
        {3: 5},
    ),
    "everything, otherwise": (
        [Quota(of="off_interest"), Spacing(of="creator", slots=3), Cap(of="sound", most=1), Seen(), Duplicates()],
        {"quota:off_interest": [0, 1]},
        {},
    ),
}


@pytest.mark.parametrize("explorer", ["squarecb", "epsilon", "softmax", "uniform"])
@pytest.mark.parametrize("rules", RULED)
def test_slates_under_rules_are_drawn_as_often_as_recorded(rules: str, explorer: str) -> None:
    of, reserved, pins = RULED[rules]
    rng = np.random.default_rng(list(f"{rules}/{explorer}".encode()))
    attributes = attributes_of([(f"v{i}", msgspec.json.encode(item)) for i, item in enumerate(ITEMS)])
    bound = bind(of, attributes, MARKS, n_slots=4, reserved=reserved, pins=pins)
    case = Case(
        scores_of("normal", 6, rng), np.zeros(6, np.uint8), 4, EXPLORERS[explorer], 2, np.full(4, 0.3),
        bound.restrictions,
    )  # fmt: skip
    case.check()
    # The rules do something, or this would prove nothing.
    assert case.expected() != case._replace(rules=UNRESTRICTED).expected()


def test_the_number_of_tests_is_what_the_false_alarm_rate_was_divided_by() -> None:
    # 30 random decisions, four explorers under each set of rules and, below, two for the scoring order and six (three
    # explorers) in the large.
    assert len(SCENARIOS) * len(EXPLORERS) + 30 + 4 * len(RULED) + 2 + 6 <= N_TESTS


@pytest.mark.parametrize("explorer", ["squarecb", "epsilon", "softmax"])
@pytest.mark.parametrize("shortlist", [50, 0])
def test_large_slates_are_drawn_as_often_as_recorded(explorer: str, shortlist: int) -> None:
    """At 300 candidates slates cannot be counted, so sets of items are.

    In every slot of every draw, with new scores each time, a random half of the candidates is
    named beforehand. Hits less their probability are a martingale, and their sum over its standard
    deviation is standard normal; the threshold is the same as for the slates.
    """
    rng = np.random.default_rng(7)
    n, n_slots = 300, 10
    floor = np.full(n_slots, 0.15)
    surplus = variance = 0.0
    for seed in SEEDS[:600]:
        scores = scores_of("tied" if seed % 5 == 0 else "normal", n, rng)
        state = rng.choice([E, E, E, U, X], n).astype(np.uint8)
        rule = EXPLORERS[explorer]
        slate = draw_slate(
            scores, state, n_slots=n_slots, explorer=rule, shortlist=shortlist, floor=floor, seed=seed
        )
        for slot in range(n_slots):
            p = slot_probabilities(
                scores,
                state,
                slate.chosen[:slot],
                slot=slot,
                explorer=rule,
                shortlist=shortlist,
                floor=floor,
            )
            assert p[slate.chosen[slot]] == slate.propensity[slot]
            named = rng.random(n) < 0.5
            hit = p[named].sum()
            surplus += named[slate.chosen[slot]] - hit
            variance += hit * (1 - hit)
    assert chi_square_tail(surplus**2 / variance, 1) > THRESHOLD


def test_every_scoring_order_is_equally_likely() -> None:
    counts = Counter(tuple(score_order(seed, 4).tolist()) for seed in SEEDS)
    assert p_value(counts, dict.fromkeys(itertools.permutations(range(4)), 1 / 24)) > THRESHOLD


def test_the_scoring_order_says_nothing_about_the_draw() -> None:
    scores, state, floor = np.zeros(3, np.float32), np.zeros(3, np.uint8), np.full(2, 0.5)
    counts: Counter[Slots] = Counter()
    for seed in SEEDS:
        slate = draw_slate(scores, state, n_slots=2, explorer=uniform(), shortlist=0, floor=floor, seed=seed)
        counts[*score_order(seed, 3).tolist(), *slate.chosen.tolist()] += 1
    pairs = itertools.product(itertools.permutations(range(3)), itertools.permutations(range(3), 2))
    assert p_value(counts, {order + slate: 1 / 36 for order, slate in pairs}) > THRESHOLD


# The test of the test: what it would have caught.


def drawn_case(explorer: Explorer, scores: list[float], phi: float = 0.2, shortlist: int = 3) -> Case:
    n = len(scores)
    return Case(np.array(scores, np.float32), np.zeros(n, np.uint8), 3, explorer, shortlist, np.full(3, phi))


SPREAD = [0.1, 0.5, 0.3, 0.45, 0.2]
TIED = [0.3, 0.3, 0.3, 0.1, 0.1]


def first_slot_reused(case: Case) -> dict[Slots, float]:
    """The classic mistake: later slots drawn, in the record, from what is left of the first slot's."""
    empty = np.empty(0, np.int32)
    first = slot_probabilities(
        case.scores,
        case.state,
        empty,
        slot=0,
        explorer=case.explorer,
        shortlist=case.shortlist,
        floor=case.floor,
    )
    expected = {}
    for slate in case.slates():
        p, left = 1.0, 1.0
        for item in slate:
            p *= first[item] / left
            left -= first[item]
        expected[slate] = p
    return expected


def floor_forgotten(case: Case) -> dict[Slots, float]:
    """An item of the shortlist can be drawn both ways; only the explorer's was recorded."""
    expected = {}
    for slate in case.slates():
        p = 1.0
        for slot, item in enumerate(slate):
            seen = sorted(set(range(5)) - set(slate[:slot]), key=lambda i: (-case.scores[i], i))
            in_shortlist = item in seen[: case.shortlist]
            both = float(case.propensity(slate)[slot])
            p *= both - case.floor[slot] / len(seen) if in_shortlist else both
        expected[slate] = p
    total = sum(expected.values())
    return {slate: p / total for slate, p in expected.items()}


def with_explorer(explorer: Explorer) -> Callable[[Case], dict[Slots, float]]:
    return lambda case: case._replace(explorer=explorer).expected()


def ties_shared(case: Case) -> dict[Slots, float]:
    """As if the greedy share went to all of the tied evenly: the average over all orders of the items."""
    total: Counter[Slots] = Counter()
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        shuffled = case._replace(scores=case.scores[list(order)])
        for slate, p in shuffled.expected().items():
            total[tuple(order[i] for i in slate)] += p / len(orders)  # type: ignore[assignment]
    return dict(total)


MUTANTS: dict[str, tuple[Case, Callable[[Case], dict[Slots, float]]]] = {
    "first slot reused, epsilon": (drawn_case(epsilon_greedy(epsilon=0.3), SPREAD), first_slot_reused),
    "first slot reused, squarecb": (
        drawn_case(squarecb(n_learned=100, gamma_scale=3), SPREAD),
        first_slot_reused,
    ),
    "floor forgotten": (drawn_case(softmax(lambda_=2.5), SPREAD), floor_forgotten),
    "floor a quarter too high": (
        drawn_case(greedy(), SPREAD),
        lambda case: case._replace(floor=case.floor * 1.25).expected(),
    ),
    "shortlist one too long": (
        drawn_case(uniform(), SPREAD),
        lambda case: case._replace(shortlist=4).expected(),
    ),
    "epsilon a quarter too high": (
        drawn_case(epsilon_greedy(epsilon=0.3), SPREAD),
        with_explorer(epsilon_greedy(epsilon=0.375)),
    ),
    "lambda a quarter too high": (
        drawn_case(softmax(lambda_=8), SPREAD),
        with_explorer(softmax(lambda_=10)),
    ),
    "gamma a quarter too high": (
        drawn_case(squarecb(n_learned=100, gamma_scale=3), SPREAD),
        with_explorer(squarecb(n_learned=100, gamma_scale=3.75)),
    ),
    "ties shared": (drawn_case(greedy(), TIED), ties_shared),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_propensity_would_be_caught(mutant: str) -> None:
    case, wrong = MUTANTS[mutant]
    counts, _ = case.draw()
    assert p_value(counts, case.expected()) > THRESHOLD
    expected = wrong(case)
    assert math.fsum(expected.values()) == pytest.approx(1, abs=1e-9)
    assert p_value(counts, expected) < THRESHOLD


@pytest.mark.parametrize(
    ("x", "df", "tail"),
    [
        (3.841458820694124, 1, 0.05),
        (2, 2, math.exp(-1)),
        (40, 2, math.exp(-20)),
        (18.307038053275146, 10, 0.05),
    ],
)
def test_the_chi_square_tail_is_the_tabled_one(x: float, df: int, tail: float) -> None:
    assert chi_square_tail(x, df) == pytest.approx(tail, rel=1e-9)
