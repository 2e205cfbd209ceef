"""How liking in a feed depends on what stands above, and the best feed under it; compiled.

Every njit function that another one here calls is in this file: numba's cache does not see that a callee in another
file has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    return cast(Callable[_P, _R], njit(cache=True, nogil=True)(function))


class Effects(NamedTuple):
    """What a feed does to liking, in logits, and when viewers leave it.

    :ivar position: lost from slot to slot
    :ivar fatigue: lost with every video seen in the session, up to `world.TIRED_MOST` of them
    :ivar neighbour: lost if the slot above has the same creator, and again if it has the same sound
    :ivar tag_again: lost for every slot above with a tag in common
    :ivar leave_valid: probability of leaving the feed after a slot that was played validly
    :ivar leave_other: probability of leaving it after another one
    """

    position: float = 0.03
    fatigue: float = 0.002
    neighbour: float = 0.6
    tag_again: float = 0.12
    leave_valid: float = 0.06
    leave_other: float = 0.06


class Choices(NamedTuple):
    """What can be shown at one moment: n candidates as one viewer sees them.

    :ivar logits: shape (n,), of a valid play at the first slot
    :ivar length: shape (n,), rows of the table of rewards
    """

    logits: F64
    creator: I64
    sound: I64
    tags: U64
    length: I64


class RewardTable(NamedTuple):
    """Expected reward of a slot that is seen, by length and logit; straight lines between.

    :ivar values: shape (n_lengths, n_logits)
    """

    values: F64
    lowest: float
    step: float


@_compiled
def _lost(choices: Choices, effects: Effects, slate: I64, slot: int, place: int) -> float:
    """What the slots above take off the logit of a candidate at a slot."""
    lost = (effects.position + effects.fatigue) * slot
    for above in range(slot):
        other = slate[above]
        if above == slot - 1:
            if choices.creator[other] == choices.creator[place]:
                lost += effects.neighbour
            if choices.sound[other] == choices.sound[place]:
                lost += effects.neighbour
        if choices.tags[other] & choices.tags[place]:
            lost += effects.tag_again
    return lost


@_compiled
def _reward_at(table: RewardTable, length: int, logit: float) -> float:
    at = (logit - table.lowest) / table.step
    at = min(max(at, 0.0), table.values.shape[1] - 1.001)
    left = int(at)
    share = at - left
    reward: float = (1.0 - share) * table.values[length, left] + share * table.values[length, left + 1]
    return reward


@_compiled
def slate_logits(choices: Choices, effects: Effects, slate: I64) -> F64:
    """Logits of a valid play, slot by slot; shape as ``slate``, which holds places among the candidates."""
    logits = np.empty(len(slate))
    for slot in range(len(slate)):
        logits[slot] = choices.logits[slate[slot]] - _lost(choices, effects, slate, slot, slate[slot])
    return logits


@_compiled
def slate_values(choices: Choices, effects: Effects, table: RewardTable, slate: I64) -> tuple[F64, F64]:
    """Expected reward of each slot, unseen being 0, and the probability that it is seen; both (n_slots,)."""
    rewards = np.empty(len(slate))
    seen = np.empty(len(slate))
    there = 1.0
    for slot in range(len(slate)):
        place = slate[slot]
        logit = choices.logits[place] - _lost(choices, effects, slate, slot, place)
        seen[slot] = there
        rewards[slot] = there * _reward_at(table, choices.length[place], logit)
        valid = 1.0 / (1.0 + np.exp(-logit))
        there *= 1.0 - valid * effects.leave_valid - (1.0 - valid) * effects.leave_other
    return rewards, seen


@_compiled
def best_slate(choices: Choices, effects: Effects, table: RewardTable, n_slots: int) -> I64:
    """Slot by slot the candidate of the highest expected reward, given the slots above; the first of equals."""
    n = len(choices.logits)
    slate = np.full(min(n_slots, n), -1, np.int64)
    taken = np.zeros(n, np.bool_)
    for slot in range(len(slate)):
        best = -np.inf
        for place in range(n):
            if not taken[place]:
                logit = choices.logits[place] - _lost(choices, effects, slate, slot, place)
                reward = _reward_at(table, choices.length[place], logit)
                if reward > best:
                    best = reward
                    slate[slot] = place
        taken[slate[slot]] = True
    return slate


@_compiled
def first_rewards(choices: Choices, table: RewardTable) -> F64:
    """Expected reward of each candidate if it stood first; shape (n,)."""
    rewards = np.empty(len(choices.logits))
    for place in range(len(rewards)):
        rewards[place] = _reward_at(table, choices.length[place], choices.logits[place])
    return rewards
