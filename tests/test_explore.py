"""Explorers against their definitions, written out again here, and against Vowpal Wabbit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import vowpalwabbit
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandit.errors import InvalidConfig
from bandit.slate.drawing import slot_probabilities
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform

Array = NDArray[Any]
Lines = list[str]

# The first example may wait for the kernels to be compiled.
unhurried = settings(deadline=None)


def probabilities(scores: Array, explorer: Explorer, drawn: list[int] | None = None) -> Array:
    """The explorer alone: no shortlist, no floor, everything eligible and scored."""
    return slot_probabilities(
        np.asarray(scores, np.float32),
        np.zeros(len(scores), np.uint8),
        np.array(drawn or [], np.int32),
        slot=0,
        explorer=explorer,
        shortlist=0,
        floor=np.zeros(1),
    )


SCORES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40)


@unhurried
@given(SCORES, st.floats(0, 100), st.integers(0, 10**9))
def test_squarecb_is_the_inverse_gap_weighting(scores: list[float], scale: float, n_learned: int) -> None:
    gamma = scale * math.sqrt(n_learned)
    best = scores.index(max(scores))
    expected = [1 / (len(scores) + gamma * (scores[best] - s)) for s in scores]
    expected[best] = 0
    expected[best] = 1 - math.fsum(expected)
    got = probabilities(np.array(scores), squarecb(gamma_scale=scale, n_learned=n_learned))
    assert got == pytest.approx(expected, abs=1e-12)


@unhurried
@given(SCORES, st.floats(0, 1))
def test_epsilon_greedy_gives_the_first_of_the_best_its_share(scores: list[float], epsilon: float) -> None:
    expected = [epsilon / len(scores)] * len(scores)
    expected[scores.index(max(scores))] += 1 - epsilon
    assert probabilities(np.array(scores), epsilon_greedy(epsilon=epsilon)) == pytest.approx(
        expected, abs=1e-12
    )


@unhurried
@given(SCORES, st.floats(0, 1e6))
def test_softmax_is_proportional_to_the_exponential(scores: list[float], lambda_: float) -> None:
    weight = [math.exp(lambda_ * (s - max(scores))) for s in scores]
    expected = [w / math.fsum(weight) for w in weight]
    assert probabilities(np.array(scores), softmax(lambda_=lambda_)) == pytest.approx(expected, abs=1e-12)


@unhurried
@given(SCORES)
def test_greedy_takes_the_first_of_the_best_and_uniform_anything(scores: list[float]) -> None:
    expected = np.zeros(len(scores))
    expected[scores.index(max(scores))] = 1
    assert (probabilities(np.array(scores), greedy()) == expected).all()
    assert (probabilities(np.array(scores), uniform()) == 1 / len(scores)).all()


def test_squarecb_is_uniform_before_anything_was_learned() -> None:
    assert probabilities(np.array([0.1, 0.9, 0.5, 0.2]), squarecb(n_learned=0)) == pytest.approx([0.25] * 4)


def test_a_constant_gamma_does_not_wait_for_experience() -> None:
    assert squarecb(n_learned=0, gamma_scale=7, gamma_exponent=0).a == 7


@pytest.mark.parametrize(
    "explorer", [squarecb(n_learned=10**15), softmax(lambda_=1e300), squarecb(n_learned=1, gamma_scale=1e300)]
)
def test_extreme_greed_and_scores_stay_finite(explorer: Explorer) -> None:
    got = probabilities(np.array([-3e38, 3e38, 0, -0.0, 1e-45]), explorer)
    assert np.isfinite(got).all()
    assert got == pytest.approx([0, 1, 0, 0, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: epsilon_greedy(epsilon=1.5), "epsilon"),
        (lambda: epsilon_greedy(epsilon=-0.1), "epsilon"),
        (lambda: epsilon_greedy(epsilon=math.nan), "epsilon"),
        (lambda: softmax(lambda_=-1), "lambda"),
        (lambda: softmax(lambda_=math.inf), "lambda"),
        (lambda: squarecb(n_learned=-1), "n_learned"),
        (lambda: squarecb(n_learned=1, gamma_scale=-1), "gamma_scale"),
        (lambda: squarecb(n_learned=1, gamma_exponent=-0.5), "gamma_exponent"),
        (lambda: squarecb(n_learned=10, gamma_exponent=400), "gamma"),
    ],
)
def test_a_parameter_outside_its_range_is_refused_by_name(make: Callable[[], Explorer], name: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"^{name} .* must be") as caught:
        make()
    assert caught.value.detail["parameter"] == name


# Vowpal Wabbit. The scores come from a --cb_adf workspace that learned the same events; labels bear
# probability 1, because --squarecb learns unweighted whatever the label says. VW computes in float32.


@contextmanager
def workspaces(*arguments: str) -> Iterator[list[Any]]:
    opened = [vowpalwabbit.Workspace(f"--quiet --cb_type mtr -q UI {text}") for text in arguments]
    try:
        yield opened
    finally:
        for workspace in opened:
            workspace.finish()


class Event:
    """A random decision; with ``labelled`` one of its actions bears a reward."""

    def __init__(self, rng: random.Random, n: int, *, labelled: bool = False) -> None:
        self.shared = f"|U u{rng.randrange(5)} age:{rng.random():.3f}"
        self.actions = [f"|I i{rng.randrange(30)} length:{rng.random():.3f}" for _ in range(n)]
        self.label = (rng.randrange(n), f"0:{-rng.random():.3f}:1") if labelled else None

    def cb(self) -> Lines:
        labels = [
            self.label[1] if self.label and self.label[0] == i else "" for i in range(len(self.actions))
        ]
        return [f"shared {self.shared}"] + [
            f"{label} {a}" for label, a in zip(labels, self.actions, strict=True)
        ]

    def ccb(self, n_slots: int = 1, slot_features: str = "|") -> Lines:
        lines = [f"ccb shared {self.shared}"] + [f"ccb action {a}" for a in self.actions]
        label = f"{self.label[0]}:{self.label[1][2:]} " if self.label else ""
        return lines + [f"ccb slot {label if k == 0 else ''}{slot_features}" for k in range(n_slots)]


VW_EXPLORERS: dict[str, Callable[[int], Explorer]] = {
    "--squarecb": lambda n: squarecb(n_learned=n),
    "--squarecb --gamma_scale 0": lambda n: squarecb(n_learned=n, gamma_scale=0),
    "--squarecb --gamma_scale 1000": lambda n: squarecb(n_learned=n, gamma_scale=1000),
    "--squarecb --gamma_scale 3 --gamma_exponent 0": lambda n: squarecb(
        n_learned=n, gamma_scale=3, gamma_exponent=0
    ),
    "--squarecb --gamma_scale 3 --gamma_exponent 0.75": lambda n: squarecb(
        n_learned=n, gamma_scale=3, gamma_exponent=0.75
    ),
    "--epsilon 0.2 --first_only": lambda n: epsilon_greedy(epsilon=0.2),
    "--epsilon 0 --first_only": lambda n: greedy(),
    "--epsilon 1 --first_only": lambda n: uniform(),
    "--softmax": lambda n: softmax(lambda_=1),
    "--softmax --lambda 0": lambda n: softmax(lambda_=0),
    "--softmax --lambda 8": lambda n: softmax(lambda_=8),
    "--softmax --lambda 100": lambda n: softmax(lambda_=100),
}


@pytest.mark.parametrize("arguments", VW_EXPLORERS)
def test_the_first_slot_is_drawn_as_vw_draws_it(arguments: str) -> None:
    rng = random.Random(arguments)
    with workspaces("--cb_adf", f"--cb_explore_adf {arguments}") as (scorer, vw):
        n_learned = 0
        for n_more in (0, 1, 30, 170):
            for _ in range(n_more):
                event = Event(rng, rng.randrange(1, 12), labelled=True)
                scorer.learn(event.cb())
                vw.learn(event.cb())
                n_learned += 1
            for n in (1, 2, 3, 8, 30):
                event = Event(rng, n)
                # A repeated action is a tie, at the top if it is the best.
                event.actions += rng.sample(event.actions, min(n, 2))
                scores = -np.array(scorer.predict(event.cb()))
                got = probabilities(scores, VW_EXPLORERS[arguments](n_learned))
                assert got == pytest.approx(vw.predict(event.cb()), abs=1e-6)


def test_without_first_only_vw_shares_among_the_tied() -> None:
    """Where this explorer and VW's default part, on purpose: see epsilon_greedy."""
    event = Event(random.Random(0), 4)
    with workspaces("--cb_explore_adf --epsilon 0.2") as (vw,):
        assert vw.predict(event.cb()) == pytest.approx([0.25] * 4)
    assert probabilities(np.zeros(4), epsilon_greedy(epsilon=0.2)) == pytest.approx([0.85, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("arguments", VW_EXPLORERS)
def test_every_slot_is_drawn_as_vw_ccb_draws_it(arguments: str) -> None:
    """VW's --ccb_explore_adf draws slot by slot over what remains, as we do.

    Trained on decisions of one slot, so that its slot features have no weight and all slots have the
    scores of --cb_adf. Its first action at each slot is the one it sampled, and takes out.
    """
    rng = random.Random(arguments)
    deep = 0
    with workspaces("--cb_adf", f"--ccb_explore_adf {arguments}") as (scorer, ccb):
        for _ in range(150):
            event = Event(rng, rng.randrange(1, 12), labelled=True)
            scorer.learn(event.cb())
            ccb.learn(event.ccb())
        explorer = VW_EXPLORERS[arguments](150)
        for _ in range(20):
            event = Event(rng, rng.randrange(4, 12))
            event.actions.append(event.actions[0])
            scores = -np.array(scorer.predict(event.cb()))
            drawn: list[int] = []
            for slot in ccb.predict(event.ccb(4)):
                expected = np.zeros(len(scores))
                for action, probability in slot:
                    expected[action] = probability
                assert probabilities(scores, explorer, drawn) == pytest.approx(expected, abs=1e-6)
                drawn.append(slot[0][0])
            deep += drawn != sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:4]
    assert deep > 0 or "--epsilon 0 " in arguments


def test_vw_ccb_trained_on_several_slots_is_not_comparable() -> None:
    """It crosses every feature with the slot, so each slot has scores of its own.

    We rank with one score per candidate, the slot being a constant when scoring; that is the reason why
    the comparison above trains on one slot.
    """
    rng = random.Random(3)
    with workspaces("--ccb_explore_adf --softmax --lambda 1") as (ccb,):
        for _ in range(200):
            event = Event(rng, 6, labelled=True)
            event.actions = [f"|I i{i}" for i in range(6)]
            ccb.learn(event.ccb(2))
        event = Event(rng, 6)
        event.actions = [f"|I i{i}" for i in range(6)]
        first, second = (dict(slot) for slot in ccb.predict(event.ccb(2)))
        gaps = [math.log(first[a] / second[a]) for a in second]
        assert max(gaps) - min(gaps) > 0.01
