"""Slots filled one by one: nobody is kept away without need, and nobody below is left with nothing."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import EmptySlate
from bandit.ranking.filling import kept_for_others

ITEMS = "abcde"
SLOTS = st.lists(st.sets(st.sampled_from(ITEMS)), min_size=1, max_size=5)


def fillings(allowed: list[set[str]]) -> set[tuple[str, ...]]:
    """Every way to fill the slots, by trying all."""
    ways = permutations(ITEMS, len(allowed))
    return {way for way in ways if all(item in slot for item, slot in zip(way, allowed, strict=True))}


@given(SLOTS)
def test_exactly_what_can_be_completed_may_be_drawn(allowed: list[set[str]]) -> None:
    every = fillings(allowed)
    if not every:
        with pytest.raises(EmptySlate, match="cannot all be filled"):
            kept_for_others(allowed, [])
        return
    beginnings = {way[:n] for way in every for n in range(len(allowed))}
    for above in beginnings:
        left = allowed[len(above)] - set(above) - kept_for_others(allowed, list(above))
        assert left == {way[len(above)] for way in every if way[: len(above)] == above}
