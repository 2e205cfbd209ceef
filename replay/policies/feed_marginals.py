"""How likely each candidate is at each slot whatever stands above it: enumerated, or drawn again.

The service's draw depends on *which* candidates stand above a slot and not on their order, so the tree of lists is
walked by sets. Where there are too many of those, placements are drawn again with importance weights: a list without
the candidate is drawn by serving's own code, and weighted by how likely the policy makes it and the candidate below.
Such an estimate is never 0 and has no bias.

Its inverse has none either, if the logged list counts as one of the re-draws: given the candidate at slot k, what was
logged above it has the law that the weights aim at, so that the logged list and N re-draws are exchangeable under
these weights, and E[1 / their mean] is exactly 1 / p (as in conditional importance sampling: Andrieu, Doucet and
Holenstein 2010). Without it 1 / p would come out too large by the relative variance of p.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from bandit.slate.drawing import ELIGIBLE, INELIGIBLE, draw_slate, slate_propensity
from replay.events import F64, I64, U8, U64, hash_key, mixed
from replay.policies.feed_draw import Draw

MOST_SETS: Final = 256
"""So many sets of what stands above are walked; what lies below them is drawn again."""

LOGGED, TARGET, LISTS = range(3)
"""Streams of random numbers of one decision."""


class Level(NamedTuple):
    """Everything that may stand above a slot, with s sets of m candidates that may be shown.

    :ivar mass: shape (s,): how likely each set is
    :ivar pmf: shape (s, m): every candidate at the slot, given the set
    :ivar parent, added, child: shape (steps,): which set and which candidate make which set of the next level
    """

    mass: F64
    pmf: F64
    parent: I64
    added: I64
    child: I64


def shown(draw: Draw) -> I64:
    """Shape (m,): the candidates that may be shown, as places in the caller's order."""
    return np.flatnonzero(draw.state == ELIGIBLE)


def levels(draw: Draw, *, most: int = MOST_SETS) -> list[Level]:
    """Slot by slot, from the top, as far as there are not more than ``most`` sets in all."""
    left, n_slots = shown(draw), len(draw.at)
    sets, mass, found = np.empty((1, 0), np.int64), np.ones(1), list[Level]()
    room = most
    while len(found) < n_slots and len(sets) <= room:
        room -= len(sets)
        slot = len(found)
        pmf = np.stack([draw.after(left[each].astype(np.int32), slot)[left] for each in sets])
        parent, added = np.nonzero(pmf > 0.0)
        # A set of k + 1 comes of at most k + 1 others: if even so there are too many, they need not be listed.
        if slot + 1 == n_slots or len(parent) > room * (slot + 1):
            nothing = np.empty(0, np.int64)
            found.append(Level(mass, pmf, nothing, nothing, nothing))
            break
        longer = np.sort(np.concatenate([sets[parent], added[:, None]], axis=1), axis=1)
        sets, inverse = np.unique(longer, axis=0, return_inverse=True)
        child = inverse.reshape(-1).astype(np.int64)
        found.append(Level(mass, pmf, parent, added, child))
        mass = np.zeros(len(sets))
        np.add.at(mass, child, found[-1].mass[parent] * pmf[parent, added])
    return found


def placements(found: list[Level]) -> list[F64]:
    """Shape (m,) of each slot that was enumerated: how likely each candidate is there."""
    return [level.mass @ level.pmf for level in found]


def second_moments(found: list[Level]) -> F64:
    """Shape (slots, m, slots, m): how likely two placements are together; of a tree that was walked to its end."""
    n_slots, m = len(found), found[0].pmf.shape[1]
    gram = np.zeros((n_slots, m, n_slots, m))
    # How likely a set stands above, and this candidate at that slot of it.
    joint = np.zeros((1, 0, m))
    each = np.arange(m)
    for slot, level in enumerate(found):
        gram[slot, each, slot, each] = level.mass @ level.pmf
        if slot:
            pairs = np.einsum("sja,sb->jab", joint, level.pmf)
            gram[:slot, :, slot, :] = pairs
            gram[slot, :, :slot, :] = pairs.transpose(2, 0, 1)
        if slot + 1 < n_slots:
            step = level.pmf[level.parent, level.added]
            longer = np.zeros((len(found[slot + 1].mass), slot + 1, m))
            np.add.at(longer[:, :slot], level.child, joint[level.parent] * step[:, None, None])
            cell = level.child * m + level.added
            new = np.bincount(cell, level.mass[level.parent] * step, minlength=len(longer) * m)
            longer[:, slot] = new.reshape(-1, m)
            joint = longer
    return gram


def seeds(event_id: str, *, seed: int, stream: int, slot: int, n: int) -> U64:
    """Shape (n,): of the re-draws of one slot of a decision: the same whenever it is evaluated."""
    key = np.uint64(hash_key(f"{seed} {stream} {slot} {event_id}"))
    return mixed(key + np.arange(n, dtype=np.uint64))


def redrawn(draw: Draw, slot: int, its_seeds: U64) -> F64:
    """Shape (n,): for each re-draw an estimate, without bias, of how likely what stands at a slot is there."""
    item, state = draw.at[slot], _without(draw, slot)
    found = np.empty(len(its_seeds))
    for j, seed in enumerate(its_seeds.tolist()):
        slate = draw_slate(
            draw.scores, state, n_slots=slot, explorer=draw.explorer, shortlist=draw.shortlist, floor=draw.floor,
            seed=seed, rules=draw.rules.restrictions,
        )  # fmt: skip
        # Without the candidate a feed of this length may not exist: its duplicates are gone with what stands above.
        found[j] = 0.0
        if len(slate.chosen) == slot:
            found[j] = draw.of_list(np.append(slate.chosen, item)).prod() / slate.propensity.prod()
    return found


def as_logged(draw: Draw, slot: int) -> float:
    """What :func:`redrawn` would give had it drawn what was logged above the slot."""
    above = slate_propensity(
        draw.scores, _without(draw, slot), draw.at[:slot], explorer=draw.explorer, shortlist=draw.shortlist,
        floor=draw.floor, rules=draw.rules.restrictions,
    )  # fmt: skip
    return float(draw.of_list(draw.at[: slot + 1]).prod() / above.prod())


def _without(draw: Draw, slot: int) -> U8:
    state = draw.state.copy()
    state[draw.at[slot]] = INELIGIBLE
    return state


def averaged(draw: Draw, found: list[Level], its_seeds: U64) -> F64:
    """Shape (2, slots, m): how likely every candidate is at every slot, by either half of the re-draws.

    The mean over re-drawn lists of what each slot's probabilities are below them; enumerated where ``found`` is.
    """
    left, n_slots = shown(draw), len(draw.at)
    halves = np.zeros((2, n_slots, len(left)))
    for slot, p in enumerate(placements(found)):
        halves[:, slot] = p
    if len(found) == n_slots:
        return halves
    for j, seed in enumerate(its_seeds.tolist()):
        slate = draw_slate(
            draw.scores, draw.state, n_slots=n_slots - 1, explorer=draw.explorer, shortlist=draw.shortlist,
            floor=draw.floor, seed=seed, rules=draw.rules.restrictions,
        )  # fmt: skip
        for slot in range(len(found), n_slots):
            halves[j % 2, slot] += draw.after(slate.chosen[:slot], slot)[left]
    halves[:, len(found) :] /= len(its_seeds) / 2
    return halves
