"""An assumption that is broken is rejected; one that holds is rejected no more often than it was said."""

from __future__ import annotations

import numpy as np
import pytest

from replay.disagreement import check, pairs_for
from replay.estimators import parse_estimator, terms_for
from replay.sums import Sums

N_SLOTS = 3


def slates(seed: int, n: int, *, below: float) -> Sums:
    """Two actions in each of three slots, drawn evenly; the target prefers action 1. The top slot's reward depends
    by ``below`` on what stands in the slot beneath it."""
    rng = np.random.default_rng(seed)
    action = rng.integers(0, 2, (n, N_SLOTS))
    weight = np.where(action == 1, 1.4, 0.6)
    chance = 0.3 + 0.2 * action
    chance[:, 0] += below * action[:, 1]
    reward = (rng.random((n, N_SLOTS)) < chance).astype(float)
    pair = [parse_estimator(name, slates=True) for name in ("rips", "sips")]
    sums = Sums(terms_for(pair, slates=True))
    sums.add_columns(
        reward=reward.ravel(), weight=weight.ravel(), viewer=np.arange(n, dtype=np.uint64),
        starts=np.arange(n + 1) * N_SLOTS,
    )  # fmt: skip
    return sums


def verdict(sums: Sums, alpha: float = 0.05):
    return check(sums, *pairs_for(marginals=False)[0], alpha=alpha)


def test_a_reward_that_depends_on_the_slot_below_rejects_the_cascade() -> None:
    found = verdict(slates(1, 20_000, below=0.4))
    assert found.level == "warning"
    assert found.sentence.startswith("Rejected: that a slot's reward does not depend on the slots below it.")
    assert "sips" in found.advice


def test_a_true_assumption_is_rejected_as_rarely_as_was_said() -> None:
    # 300 seeds at alpha .05: more than 27 rejections come by chance with probability 0.1 %.
    rejected = sum(verdict(slates(seed, 2_000, below=0.0)).level == "warning" for seed in range(300))
    assert 3 <= rejected <= 27


def test_that_nothing_was_rejected_is_not_sold_as_proof() -> None:
    found = verdict(slates(3, 2_000, below=0.0), alpha=1e-6)
    assert found.level == "ok"
    assert "no proof" in found.sentence


def test_without_events_or_without_variation_it_says_so() -> None:
    assert "could not be tested" in verdict(slates(1, 0, below=0.0)).sentence
    empty = slates(1, 10, below=0.0)
    empty.buckets[:, 1:] = 0
    assert "could not be tested" in verdict(empty).sentence


@pytest.mark.parametrize(("marginals", "names"), [(False, {"rips"}), (True, {"rips", "iips", "pi"})])
def test_what_needs_marginals_is_tested_where_there_are_some(marginals: bool, names: set[str]) -> None:
    assert {more.name for more, _, _ in pairs_for(marginals=marginals)} == names
