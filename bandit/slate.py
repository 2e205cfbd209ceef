"""A slate drawn slot by slot, with the exact probability of every placement.

At slot k, given the slots above,

    p_k(i) = (1 - phi_k) * explorer over the best M scored + phi_k * uniform over all eligible

both over what has not been drawn yet. Nothing is rejected and nothing is taken back, so the
joint probability of a slate is the product of its p_k. All floats are float64.

Drawing, looking up and listing probabilities all go through one kernel, ``_open_slot``, and sum
in the same order: they agree bit for bit, or the recorded propensity would be a second opinion.

Every njit function that these kernels call is in this file. Numba's on-disk cache does not
notice a changed callee in another file, and would go on serving the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bandit.explore import EPSILON_GREEDY, GREEDY, SOFTMAX, SQUARECB, Explorer

ELIGIBLE: Final = 0
"""May be shown and has a score."""
UNSCORED: Final = 1
"""May be shown, but the deadline passed before it was scored."""
INELIGIBLE: Final = 2
"""May not be shown."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OK: Final = 0
_BAD_FLOOR: Final = 1
_BAD_INDEX: Final = 2

# Streams of random numbers drawn from one seed; see _random.
_SLATE_STREAM: Final = np.uint64(1)
_ORDER_STREAM: Final = np.uint64(2)


class Slate(NamedTuple):
    """What was drawn, best slot first; each array has one entry per filled slot."""

    chosen: I32
    """Indices into the caller's candidates."""
    propensity: F64
    """Probability of that index at that slot, given the slots above."""
    exploratory: U8
    """1 where the item was outside the slot's shortlist (so also: not scored), however it was drawn."""


def seed_of(event_id: str, secret: bytes) -> int:
    """The 64-bit seed of one decision: keyed BLAKE2b of its event id, little-endian.

    Whoever knows the secret can draw the decision again; nobody else can choose an event id that
    favours an item.

    :param secret: the service's key, 1 to 64 bytes
    :raises ValueError: an empty secret would let anybody predict the draw; a longer one cannot be a key
    """
    if not 1 <= len(secret) <= 64:
        raise ValueError(f"the secret has {len(secret)} bytes; 1 to 64 are allowed")
    digest = hashlib.blake2b(event_id.encode(), digest_size=8, key=secret).digest()
    return int.from_bytes(digest, "little")


def draw_slate(
    scores: F32, state: U8, *, n_slots: int, explorer: Explorer, shortlist: int, floor: F64, seed: int
) -> Slate:
    """A slate of min(n_slots, eligible) distinct candidates, and how likely each placement was.

    Equal scores are taken in the caller's order. A score that is not finite counts as not scored:
    its item can be drawn through the floor, and the recorded probability stays true. When nothing
    scored remains, the rest is drawn uniformly from what is eligible. With nothing eligible the
    slate is empty.

    :param scores: shape (n,), expected rewards, higher is better; read only where ``state`` is ELIGIBLE
    :param state: shape (n,), ELIGIBLE, UNSCORED or INELIGIBLE
    :param shortlist: how many of the best remaining the explorer sees at each slot; 0 for all of them
    :param floor: shape (n_slots,), phi of each slot, in [0, 1]; at 0 most items have no probability there
    :param seed: of the decision, from :func:`seed_of`; the same seed draws the same slate
    :raises ValueError: arrays of different lengths, a negative count, a phi that is missing or outside [0, 1]
    """
    scores, state = _candidates(scores, state, shortlist)
    if n_slots < 0:
        raise ValueError(f"n_slots {n_slots} is negative")
    chosen, propensity, exploratory, status = _draw(
        scores, state, n_slots, *explorer, shortlist, _owned(floor, np.float64), np.uint64(seed)
    )
    _raise_for(status, floor, len(chosen))
    return Slate(chosen, propensity, exploratory)


def slate_propensity(
    scores: F32, state: U8, chosen: I32, *, explorer: Explorer, shortlist: int, floor: F64
) -> F64:
    """Probability of each placement of a given slate, given the slots above; shape (len(chosen),).

    The very numbers that :func:`draw_slate` records, bit for bit. An item that could not be drawn at
    its slot (not eligible, or already placed above) has 0; what follows is conditional on it all the same.

    :param chosen: indices of the candidates, best slot first
    :param floor: shape of at least (len(chosen),); the other parameters as in :func:`draw_slate`
    :raises ValueError: as :func:`draw_slate`, or an index outside the candidates
    """
    scores, state = _candidates(scores, state, shortlist)
    propensity, status = _look_up(
        scores, state, _owned(chosen, np.int32), *explorer, shortlist, _owned(floor, np.float64)
    )
    _raise_for(status, floor, len(chosen))
    return propensity


def slot_probabilities(
    scores: F32, state: U8, drawn: I32, *, slot: int, explorer: Explorer, shortlist: int, floor: F64
) -> F64:
    """Probability of every candidate at one slot, given those drawn above it; shape (n,).

    Sums to one; all zeros when nothing eligible is left.

    :param drawn: indices placed in the slots above, in any order
    :param slot: which entry of ``floor`` applies; the other parameters as in :func:`draw_slate`
    :raises ValueError: as :func:`draw_slate`, or an index outside the candidates
    """
    scores, state = _candidates(scores, state, shortlist)
    floor = _owned(floor, np.float64)
    if not 0 <= slot < len(floor):
        raise ValueError(f"slot {slot} has no floor; floors are given for {len(floor)} slots")
    probabilities, status = _list_slot(
        scores, state, _owned(drawn, np.int32), *explorer, shortlist, float(floor[slot])
    )
    _raise_for(status, floor[slot : slot + 1], 1)
    return probabilities


def score_order(seed: int, n: int) -> I32:
    """The order in which n candidates are scored under a deadline: a random permutation.

    From a stream of its own, so that which candidates the deadline leaves out says nothing about
    what is drawn from the rest.
    """
    return _order(np.uint64(seed), n)


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache; the first request should not pay for it."""
    scores, state, floor = np.zeros(2, np.float32), np.zeros(2, np.uint8), np.zeros(1)
    explorer = Explorer(GREEDY, 0.0, 0.0)
    slate = draw_slate(scores, state, n_slots=1, explorer=explorer, shortlist=1, floor=floor, seed=0)
    slate_propensity(scores, state, slate.chosen, explorer=explorer, shortlist=1, floor=floor)
    slot_probabilities(scores, state, slate.chosen, slot=0, explorer=explorer, shortlist=1, floor=floor)
    score_order(0, 2)


_T = TypeVar("_T", bound=np.generic)


def _owned(array: NDArray[_T], dtype: type[_T]) -> NDArray[_T]:
    """The array as the kernels were compiled for. Any other layout would compile them anew, in a request."""
    if array.dtype == dtype and array.flags.carray:
        return array
    return np.require(array, dtype, ["C", "A", "W"])


def _candidates(scores: F32, state: U8, shortlist: int) -> tuple[F32, U8]:
    if scores.ndim != 1 or scores.shape != state.shape:
        raise ValueError(f"scores of shape {scores.shape} and states of shape {state.shape} do not match")
    if shortlist < 0:
        raise ValueError(f"shortlist {shortlist} is negative; 0 means no shortlist")
    return _owned(scores, np.float32), _owned(state, np.uint8)


def _raise_for(status: int, floor: F64, n_slots: int) -> None:
    if status == _BAD_FLOOR:
        raise ValueError(
            f"floor {floor!r} does not give {n_slots} slots a phi in [0, 1]; give every slot one"
        )
    if status == _BAD_INDEX:
        raise ValueError("a slate names a candidate that does not exist: an index outside [0, n)")


def _kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    return cast(Callable[_P, _R], njit(cache=True, nogil=True)(function))


# Random numbers: a counter in, a number out, so that each is a function of (seed, stream, counter)
# alone. The mixing is the finaliser of splitmix64 (Steele, Lea, Flood 2014; constants by Stafford).


@_kernel
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_kernel
def _random(seed: np.uint64, stream: np.uint64, counter: int) -> float:
    """Uniform in [0, 1), a multiple of 2**-53."""
    gamma = np.uint64(0x9E3779B97F4A7C15)
    key = _mix(seed + stream * gamma)
    bits = _mix(key + (np.uint64(counter) + np.uint64(1)) * gamma)
    return np.float64(bits >> np.uint64(11)) * 2.0**-53


@_kernel
def _order(seed: np.uint64, n: int) -> I32:
    order = np.arange(n).astype(np.int32)
    for left in range(n, 1, -1):
        at = int(_random(seed, _ORDER_STREAM, left) * left)
        order[at], order[left - 1] = order[left - 1], order[at]
    return order


# Which candidates the explorer may ever see.


@_kernel
def _is_scored(score: np.float32, state: int) -> bool:
    return state == 0 and bool(np.isfinite(score))


@_kernel
def _worse(scores: F32, a: int, b: int) -> bool:
    """Whether a ranks below b: a lower score, or the same one and later in the caller's order."""
    return bool(scores[a] < scores[b] or (scores[a] == scores[b] and a > b))


@_kernel
def _sift_down(scores: F32, heap: I32, at: int, size: int) -> None:
    """Restore a heap whose root is the worst, below position ``at``."""
    item = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores, heap[child + 1], heap[child]):
            child += 1
        if not _worse(scores, heap[child], item):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@_kernel
def _ranked(scores: F32, state: U8, shortlist: int, n_drawn: int) -> I32:
    """Scored candidates in which the best ``shortlist`` of what remains can be found at any slot.

    With a shortlist: the best (shortlist + n_drawn), best first. Without one, or where it would
    hold them all: all, in the caller's order, unsorted.
    """
    n = len(scores)
    n_scored = 0
    for i in range(n):
        n_scored += _is_scored(scores[i], state[i])
    if shortlist == 0 or shortlist >= n_scored:
        every = np.empty(n_scored, np.int32)
        at = 0
        for i in range(n):
            if _is_scored(scores[i], state[i]):
                every[at] = i
                at += 1
        return every
    depth = min(shortlist + n_drawn, n_scored)
    heap = np.empty(depth, np.int32)
    size = 0
    for i in range(n):
        if not _is_scored(scores[i], state[i]):
            continue
        if size < depth:
            heap[size] = i
            size += 1
            if size == depth:
                for at in range(depth // 2 - 1, -1, -1):
                    _sift_down(scores, heap, at, depth)
        elif scores[i] > scores[heap[0]]:
            # An equal score comes later in the caller's order than all that are kept, so it is worse.
            heap[0] = i
            _sift_down(scores, heap, 0, depth)
    for last in range(depth - 1, 0, -1):
        heap[0], heap[last] = heap[last], heap[0]
        _sift_down(scores, heap, 0, last)
    return heap


# One slot. The only place where an explorer's probabilities are computed.


@_kernel
def _open_slot(
    scores: F32, ranked: I32, taken: U8, kind: int, a: float, shortlist: int, pool: I32, q: F64
) -> int:
    """Fill ``pool`` with the candidates that the explorer sees, ``q`` with its probabilities.

    :returns: how many there are; 0 when nothing scored remains
    """
    most = len(ranked) if shortlist == 0 else shortlist
    size = 0
    best = 0
    for i in ranked:
        if taken[i]:
            continue
        pool[size] = i
        if scores[i] > scores[pool[best]]:
            best = size
        size += 1
        if size == most:
            break
    if size == 0:
        return 0
    top = np.float64(scores[pool[best]])
    if kind == SQUARECB:
        total = 0.0
        for at in range(size):
            q[at] = 1.0 / (size + a * (top - np.float64(scores[pool[at]])))
        q[best] = 0.0
        for at in range(size):
            total += q[at]
        q[best] = 1.0 - total
    elif kind == EPSILON_GREEDY:
        for at in range(size):
            q[at] = a / size
        q[best] += 1.0 - a
    elif kind == SOFTMAX:
        total = 0.0
        for at in range(size):
            q[at] = np.exp(a * (np.float64(scores[pool[at]]) - top))
            total += q[at]
        for at in range(size):
            q[at] /= total
    elif kind == GREEDY:
        for at in range(size):
            q[at] = 0.0
        q[best] = 1.0
    else:
        for at in range(size):
            q[at] = 1.0 / size
    return size


@_kernel
def _mixed(q: float, in_pool: bool, size: int, phi: float, n_left: int) -> float:
    """Probability of one eligible candidate, over both ways in which it can be drawn."""
    if size == 0:
        return 1.0 / n_left
    if not in_pool:
        return phi / n_left
    return (1.0 - phi) * q + phi / n_left


@_kernel
def _find(pool: I32, size: int, item: int) -> int:
    """Position of the item in the pool; -1 if it is not there."""
    for at in range(size):
        if pool[at] == item:
            return at
    return -1


@_kernel
def _pick(q: F64, size: int, u: float) -> int:
    """Position drawn from q by inversion; one of probability 0 is never drawn."""
    total = 0.0
    likeliest = 0
    for at in range(size):
        total += q[at]
        if u < total:
            return at
        if q[at] > q[likeliest]:
            likeliest = at
    # Only where q sums to a hair less than one.
    return likeliest


@_kernel
def _is_phi(phi: float) -> bool:
    return 0.0 <= phi <= 1.0


@_kernel
def _draw(
    scores: F32,
    state: U8,
    n_slots: int,
    kind: int,
    a: float,
    b: float,
    shortlist: int,
    floor: F64,
    seed: np.uint64,
) -> tuple[I32, F64, U8, int]:
    n = len(scores)
    left = np.empty(n, np.int32)
    n_left = 0
    for i in range(n):
        if state[i] < 2:
            left[n_left] = i
            n_left += 1
    k = min(n_slots, n_left)
    chosen = np.empty(k, np.int32)
    propensity = np.empty(k, np.float64)
    exploratory = np.empty(k, np.uint8)
    if len(floor) < k:
        return chosen, propensity, exploratory, _BAD_FLOOR
    ranked = _ranked(scores, state, shortlist, k)
    pool = np.empty(len(ranked), np.int32)
    q = np.empty(len(ranked), np.float64)
    taken = np.zeros(n, np.uint8)
    for slot in range(k):
        phi = floor[slot]
        if not _is_phi(phi):
            return chosen, propensity, exploratory, _BAD_FLOOR
        size = _open_slot(scores, ranked, taken, kind, a, shortlist, pool, q)
        way = _random(seed, _SLATE_STREAM, 2 * slot)
        u = _random(seed, _SLATE_STREAM, 2 * slot + 1)
        if size == 0 or way < phi:
            item = left[int(u * n_left)]
            at = _find(pool, size, item)
        else:
            at = _pick(q, size, u)
            item = pool[at]
        chosen[slot] = item
        propensity[slot] = _mixed(q[at] if at >= 0 else 0.0, at >= 0, size, phi, n_left)
        exploratory[slot] = at < 0
        taken[item] = 1
        where = np.searchsorted(left[:n_left], item)
        for j in range(where, n_left - 1):
            left[j] = left[j + 1]
        n_left -= 1
    return chosen, propensity, exploratory, _OK


@_kernel
def _look_up(
    scores: F32, state: U8, slate: I32, kind: int, a: float, b: float, shortlist: int, floor: F64
) -> tuple[F64, int]:
    n = len(scores)
    propensity = np.zeros(len(slate), np.float64)
    if len(floor) < len(slate):
        return propensity, _BAD_FLOOR
    n_left = 0
    for i in range(n):
        n_left += state[i] < 2
    ranked = _ranked(scores, state, shortlist, len(slate))
    pool = np.empty(len(ranked), np.int32)
    q = np.empty(len(ranked), np.float64)
    taken = np.zeros(n, np.uint8)
    for slot in range(len(slate)):
        item = slate[slot]
        if not 0 <= item < n:
            return propensity, _BAD_INDEX
        if not _is_phi(floor[slot]):
            return propensity, _BAD_FLOOR
        if taken[item] or state[item] >= 2:
            continue
        size = _open_slot(scores, ranked, taken, kind, a, shortlist, pool, q)
        at = _find(pool, size, item)
        propensity[slot] = _mixed(q[at] if at >= 0 else 0.0, at >= 0, size, floor[slot], n_left)
        taken[item] = 1
        n_left -= 1
    return propensity, _OK


@_kernel
def _list_slot(
    scores: F32, state: U8, drawn: I32, kind: int, a: float, b: float, shortlist: int, phi: float
) -> tuple[F64, int]:
    n = len(scores)
    probabilities = np.zeros(n, np.float64)
    if not _is_phi(phi):
        return probabilities, _BAD_FLOOR
    taken = np.zeros(n, np.uint8)
    for item in drawn:
        if not 0 <= item < n:
            return probabilities, _BAD_INDEX
        taken[item] = 1
    n_left = 0
    for i in range(n):
        n_left += state[i] < 2 and taken[i] == 0
    ranked = _ranked(scores, state, shortlist, len(drawn))
    pool = np.empty(len(ranked), np.int32)
    q = np.empty(len(ranked), np.float64)
    size = _open_slot(scores, ranked, taken, kind, a, shortlist, pool, q)
    for i in range(n):
        if state[i] < 2 and taken[i] == 0:
            probabilities[i] = _mixed(0.0, False, size, phi, n_left)
    for at in range(size):
        probabilities[pool[at]] = _mixed(q[at], True, size, phi, n_left)
    return probabilities, _OK
