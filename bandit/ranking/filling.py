"""Slots that are filled one by one from one list, each with candidates of its own that it may not show.

What is drawn above must not leave a slot below with nobody. Who would is kept away before the draw, so that nothing
is taken back and propensities stay exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

from bandit.errors import EmptySlate


def kept_for_others(allowed: Sequence[Set[str]], above: Collection[str]) -> set[str]:
    """Who may not stand at the next slot, because one further down would then have nobody.

    >>> sorted(kept_for_others([{"a", "b", "c"}, {"a"}, {"a", "b"}], []))
    ['a', 'b']
    >>> kept_for_others([{"a", "b", "c"}, {"a"}, {"a", "b"}], ["c"])
    set()

    :param allowed: of every slot, from the first on, all that it may show
    :param above: what stands at the first slots
    :raises EmptySlate: the slots that are left cannot all be filled
    """
    begin, taken = len(above), set(above)
    left = [slot - taken for slot in allowed[begin:]]
    if all(len(slot) >= len(left) for slot in left[1:]) and left[0]:
        # Whoever is drawn above them, each still finds one.
        return set()
    stands = _filled(left, set())
    if stands is None:
        raise EmptySlate(
            f"slots {begin} to {len(allowed) - 1} cannot all be filled: what they may show, by their excludedActions, "
            "is too little; send more actions, or exclude fewer",
            slots=list(range(begin, len(allowed))),
        )
    # Who is not needed further down is free to stand here.
    needed = {item for item, slot in stands.items() if slot > 0} & left[0]
    return {item for item in needed if _filled(left[1:], {item}) is None}


def _filled(allowed: Sequence[Set[str]], without: Set[str]) -> Mapping[str, int] | None:
    """A slot for each of so many candidates that every slot has one; None if that cannot be. Kuhn's algorithm.

    Source: Kuhn, "The Hungarian method for the assignment problem", 1955.
    """
    slot_of: dict[str, int] = {}

    def find(slot: int, seen: set[str]) -> bool:
        for item in allowed[slot]:
            if item not in without and item not in seen:
                seen.add(item)
                if item not in slot_of or find(slot_of[item], seen):
                    slot_of[item] = slot
                    return True
        return False

    return slot_of if all(find(slot, set()) for slot in range(len(allowed))) else None
