"""How much of a feed may be exploration: one setting, a share that holds for every request.

A placement is *exploratory* when another candidate stands at the slot than the best one that could: the first by
score of all that were eligible there and not placed above. A feed's *expected share* is the mean of that
probability over its slots, worked out from what the feed was drawn with; each decision is stamped with it, and
with how many of its placements were exploratory in fact. Over many decisions the two agree.

With a budget, at every slot whatever was drawn above,

    P(exploratory at slot k) <= phi_k + (1 - phi_k) * most

where phi_k is the slot's floor and ``most`` what the explorer may give to all but the best together. Floors get at
most half of the budget, the explorer the rest; so the expected share of a feed, and of any beginning of a feed, is
at most the budget, and every floor stays above 0 that was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

#: Of the budget, what floors may take: the explorer knows better what to try than chance does.
FLOORS_PART: Final = 0.5


class Exploration(Struct, forbid_unknown_fields=True):
    """How much of a feed may be exploration.

    `share`: the largest expected share of placements that are not the best one left at their slot, as of the
    model. For it, the explorer is made greedier and floors are scaled down, request by request; no floor above 0
    becomes 0. Without it, explorer and floor are as they are configured. `apprentice`: in apprentice mode, the share
    of each slot's draw that is uniform over all eligible; 0 serves the caller's order as it is.
    """

    share: Annotated[float, Meta(gt=0, le=1)] | None = None
    apprentice: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Budget(NamedTuple):
    """What a share comes to for one feed.

    :ivar floors: phi of each slot
    :ivar most: what an explorer may give to all but the best together, at any slot; 1 for no limit
    """

    floors: tuple[float, ...]
    most: float


@lru_cache(maxsize=1024)
def budget_of(share: float | None, floors: tuple[float, ...]) -> Budget:
    """Floors and explorers that keep the expected share of every beginning of the feed at ``share`` or below.

    >>> budget_of(None, (0.05, 0.05)).most, budget_of(0.2, (0.05, 0.05)).floors
    (1.0, (0.05, 0.05))
    >>> floors, most = budget_of(0.1, (0.1, 0.1))
    >>> floors, round(floors[0] + (1 - floors[0]) * most, 12)
    ((0.05, 0.05), 0.1)

    :param floors: as configured, one for each slot
    """
    if share is None:
        return Budget(floors, 1.0)
    dearest = _dearest_beginning(floors)
    if dearest > share * FLOORS_PART:
        scale = share * FLOORS_PART / dearest
        floors = tuple(max(phi * scale, min(phi, sys.float_info.min)) for phi in floors)
        dearest = share * FLOORS_PART
    return Budget(floors, (share - dearest) / (1.0 - dearest) if dearest < 1.0 else 0.0)


def _dearest_beginning(floors: Sequence[float]) -> float:
    """The largest mean floor of any beginning of a feed.

    A feed may be shorter than was asked for, and a viewer may leave: no beginning is to cost more.
    """
    dearest = total = 0.0
    for n, phi in enumerate(floors, 1):
        total += phi
        dearest = max(dearest, total / n)
    return dearest


def expected_share(exploring: Sequence[float]) -> float:
    """Expected share of exploratory placements: the mean over slots; 0 of an empty feed.

    :param exploring: probability at each slot, given those above
    """
    return sum(exploring) / len(exploring) if len(exploring) else 0.0


def annealed(start: float, n_learned: int, *, after: int | None, exponent: float) -> float:
    """``start * (1 + n_learned / after) ** exponent``; ``start`` itself without ``after``.

    >>> annealed(0.1, 0, after=1000, exponent=-0.5), annealed(0.1, 3000, after=1000, exponent=-0.5)
    (0.1, 0.05)
    """
    return start if after is None else start * (1.0 + n_learned / after) ** exponent


def warnings_of(exploration: Exploration, floors: Sequence[float], *, mode: str = "serve") -> list[str]:
    """What a config's exploration costs, in words; empty if there is nothing to say.

    :param floors: of the slots of a feed
    :param mode: of the config
    """
    if mode == "apprentice":
        if floors and floors[0] > 0.0:
            return []
        return [
            "mode is apprentice and exploration.apprentice 0: the caller's order is served as it is, so replay can "
            "evaluate no other policy on these decisions, and what the model would have earned is the model's opinion "
            "but for what it agrees on; a small exploration.apprentice, such as 0.05, makes it measurable"
        ]
    told = []
    off = [slot for slot, phi in enumerate(floors) if phi == 0.0]
    if off:
        told.append(
            f"floor is 0 at slot {_span(off)}: there, what the explorer passes over has no chance to be shown, so "
            "replay refuses to evaluate every policy that would show it, for the decisions made this way, for ever; "
            "any floor above 0 keeps them of use"
        )
    budget = budget_of(exploration.share, tuple(floors))
    if budget.floors != tuple(floors):
        told.append(
            f"floor takes more than half of exploration.share {exploration.share:g}: it is scaled down to "
            f"{max(budget.floors):.3g} at most; the smaller a floor, the more events replay needs for an answer"
        )
    return told


def _span(slots: Sequence[int]) -> str:
    """
    >>> _span([0]), _span([2, 3, 4]), _span([0, 2])
    ('0', '2 to 4', '0, 2')
    """
    if len(slots) > 1 and slots[-1] - slots[0] == len(slots) - 1:
        return f"{slots[0]} to {slots[-1]}"
    return ", ".join(map(str, slots))
