"""A slate drawn slot by slot, with the exact probability of every placement.

At slot k, given the slots above,

    p_k(i) = (1 - phi_k) * explorer over the best M scored + phi_k * uniform over all eligible

both over what has not been drawn yet. Nothing is rejected and nothing is taken back, so the
joint probability of a slate is the product of its p_k. All floats are float64.

Drawing, looking up and listing probabilities all go through one kernel, ``_explore``, and sum
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
U8 = NDArray[np.uint8]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OK: Final = 0
_BAD_FLOOR: Final = 1
_BAD_INDEX: Final = 2

# Of the search for a gamma: up to some 1e12 times what was asked for, then to one part in a million.
_DOUBLINGS: Final = 40
_HALVINGS: Final = 20

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
    exploring: F64
    """Probability, given the slots above, that another than the best stands there; the best is the first by score of
    what could be drawn at the slot. Where nothing scored is left, another than the first in the caller's order."""
    explored: U8
    """1 where another than the best was drawn: as often, over many draws, as ``exploring`` says."""


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
    floor = _owned(floor, np.float64)
    chosen, propensity, exploratory, exploring, explored, status = _draw(
        scores, state, n_slots, explorer.kind, explorer.a, explorer.b, shortlist, floor, np.uint64(seed)
    )
    _raise_for(status, floor, len(chosen))
    return Slate(chosen, propensity, exploratory, exploring, explored)


def slate_propensity(scores: F32, state: U8, chosen: I32, *, explorer: Explorer, shortlist: int, floor: F64) -> F64:
    """Probability of each placement of a given slate, given the slots above; shape (len(chosen),).

    The very numbers that :func:`draw_slate` records, bit for bit. An item that could not be drawn at
    its slot (not eligible, or already placed above) has 0; what follows is conditional on it all the same.

    :param chosen: indices of the candidates, best slot first
    :param floor: shape of at least (len(chosen),); the other parameters as in :func:`draw_slate`
    :raises ValueError: as :func:`draw_slate`, or an index outside the candidates
    """
    scores, state = _candidates(scores, state, shortlist)
    chosen, floor = _owned(chosen, np.int32), _owned(floor, np.float64)
    propensity, status = _look_up(scores, state, chosen, explorer.kind, explorer.a, explorer.b, shortlist, floor)
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
        scores, state, _owned(drawn, np.int32), explorer.kind, explorer.a, explorer.b, shortlist, float(floor[slot])
    )
    _raise_for(status, floor[slot : slot + 1], 1)
    return probabilities


def limited(scores: F32, state: U8, explorer: Explorer, *, shortlist: int, most: float) -> Explorer:
    """The explorer with no more strength than leaves all but the best ``most`` together, at any slot.

    Gamma or lambda is raised until the first slot is at ``most``, so that what is explored is what is nearly as
    good. Where that cannot be (many share the best score, or the rule knows no gaps), and at the slots below, what
    is too much is given to the best. A pure function: the same scores give the same explorer.

    :param most: in [0, 1]; 1 gives the explorer back as it is
    :param shortlist: as in :func:`draw_slate`
    :raises ValueError: arrays of different lengths, a negative shortlist, ``most`` outside [0, 1]
    """
    if not 0.0 <= most <= 1.0:
        raise ValueError(f"most is {most}; it must be from 0 to 1")
    scores, state = _candidates(scores, state, shortlist)
    if most == 1.0:
        return explorer._replace(b=1.0)
    return Explorer(explorer.kind, _limit(scores, state, explorer.kind, explorer.a, most, shortlist), most)


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
    limited(scores, state, explorer, shortlist=1, most=0.5)
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
        raise ValueError(f"floor {floor!r} does not give {n_slots} slots a phi in [0, 1]; give every slot one")
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


# The scored candidates, best first: all the explorer may ever see.


@_kernel
def _is_worse(scores: F32, a: int, b: int) -> bool:
    """Whether a ranks below b: a lower score, or the same one and later in the caller's order."""
    return bool(scores[a] < scores[b] or (scores[a] == scores[b] and a > b))


@_kernel
def _sift_down(scores: F32, heap: I32, at: int, size: int) -> None:
    """Restore, below position ``at``, a heap whose root is the worst."""
    item = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _is_worse(scores, heap[child + 1], heap[child]):
            child += 1
        if not _is_worse(scores, heap[child], item):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@_kernel
def _sort(scores: F32, items: I32) -> None:
    """Sort best first, in linear time where the items are nearly sorted already."""
    size = len(items)
    budget = 8 * size
    for at in range(1, size):
        item = items[at]
        to = at
        while to > 0 and _is_worse(scores, items[to - 1], item):
            items[to] = items[to - 1]
            to -= 1
        items[to] = item
        budget -= at - to
        if budget < 0:
            break
    if budget >= 0:
        return
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(scores, items, at, size)
    for last in range(size - 1, 0, -1):
        items[0], items[last] = items[last], items[0]
        _sift_down(scores, items, 0, last)


@_kernel
def _ranked(scores: F32, state: U8, shortlist: int, n_drawn: int) -> I32:
    """The best (shortlist + n_drawn) scored candidates, best first; without a shortlist all of them.

    So many that the best ``shortlist`` of what remains are always among them. Candidates are
    spread over equal intervals of score, the best intervals are gathered, and their order mended.
    """
    n = len(scores)
    scored = np.empty(n, np.int32)
    n_scored = 0
    for i in range(n):
        scored[n_scored] = i
        n_scored += state[i] == 0 and np.isfinite(scores[i])
    depth = n_scored if shortlist == 0 else min(shortlist + n_drawn, n_scored)
    if depth == 0:
        return np.empty(0, np.int32)
    low = high = np.float64(scores[scored[0]])
    for at in range(n_scored):
        score = np.float64(scores[scored[at]])
        low = min(low, score)
        high = max(high, score)
    if low == high:
        return scored[:depth].copy()
    # Multiplication and truncation are monotone, so a better score is never in a worse interval.
    scale = (n_scored - 1) / (high - low)
    interval = np.empty(n_scored, np.int32)
    count = np.zeros(n_scored + 1, np.int32)
    for at in range(n_scored):
        interval[at] = int((high - np.float64(scores[scored[at]])) * scale)
        count[interval[at]] += 1
    gathered = 0
    last = -1
    while gathered < depth:
        last += 1
        size = count[last]
        count[last] = gathered
        gathered += size
    items = np.empty(gathered, np.int32)
    for at in range(n_scored):
        if interval[at] <= last:
            items[count[interval[at]]] = scored[at]
            count[interval[at]] += 1
    _sort(scores, items)
    return items[:depth].copy()


@_kernel
def _remove(items: I32, values: F64, size: int, at: int) -> None:
    for to in range(at, size - 1):
        items[to] = items[to + 1]
    for to in range(at, size - 1):
        values[to] = values[to + 1]


@_kernel
def _position(items: I32, size: int, item: int) -> int:
    """Where the item is; -1 if it is not there."""
    for at in range(size):
        if items[at] == item:
            return at
    return -1


# One slot. The only place where an explorer's probabilities are computed.


@_kernel
def _explore(values: F64, size: int, kind: int, a: float, b: float, q: F64) -> None:
    """Fill q[:size] with the explorer's probabilities over values[:size], the best of which is first.

    :param b: all but the best get no more than this together
    """
    if size == 0:
        return
    _explore_freely(values, size, kind, a, q)
    if b < 1.0:
        others = _others(size, q)
        if others > b:
            for at in range(1, size):
                q[at] *= b / others
            q[0] = 1.0 - b


@_kernel
def _others(size: int, q: F64) -> float:
    """What all but the first have together."""
    others = 0.0
    for at in range(1, size):
        others += q[at]
    return others


@_kernel
def _explore_freely(values: F64, size: int, kind: int, a: float, q: F64) -> None:
    top = values[0]
    if kind == SQUARECB:
        for at in range(size):
            q[at] = 1.0 / (size + a * (top - values[at]))
        q[0] = 1.0 - _others(size, q)
    elif kind == EPSILON_GREEDY:
        for at in range(size):
            q[at] = a / size
        q[0] += 1.0 - a
    elif kind == SOFTMAX:
        total = 0.0
        for at in range(size):
            q[at] = np.exp(a * (values[at] - top))
            total += q[at]
        for at in range(size):
            q[at] /= total
    elif kind == GREEDY:
        for at in range(size):
            q[at] = 0.0
        q[0] = 1.0
    else:
        for at in range(size):
            q[at] = 1.0 / size


@_kernel
def _limit(scores: F32, state: U8, kind: int, a: float, b: float, shortlist: int) -> float:
    """Gamma or lambda, from ``a`` up, at which all but the best have ``b`` together at the first slot.

    ``a`` itself where that is never so: bisected, by halves of its logarithm's interval, where it is.
    """
    if kind != SQUARECB and kind != SOFTMAX:
        return a
    ranked = _ranked(scores, state, shortlist, 0)
    size = len(ranked)
    values = _values(scores, ranked)
    q = np.empty(size, np.float64)
    if size < 2:
        return a
    _explore_freely(values, size, kind, a, q)
    if _others(size, q) <= b:
        return a
    low = max(a, 1e-3)
    high = low
    for _ in range(_DOUBLINGS):
        high *= 2.0
        _explore_freely(values, size, kind, high, q)
        if _others(size, q) <= b:
            break
        low = high
    if _others(size, q) > b:
        return a
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        _explore_freely(values, size, kind, middle, q)
        if _others(size, q) <= b:
            high = middle
        else:
            low = middle
    return high


@_kernel
def _mixed(q: float, phi: float, n_seen: int, n_left: int) -> float:
    """Probability of an eligible candidate, over both ways in which it can be drawn.

    :param q: the explorer's probability; 0 for what it does not see
    :param n_seen: how many the explorer sees; if none, the draw is uniform
    """
    if n_seen == 0:
        return 1.0 / n_left
    return (1.0 - phi) * q + phi / n_left


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
def _values(scores: F32, items: I32) -> F64:
    values = np.empty(len(items), np.float64)
    for at in range(len(items)):
        values[at] = scores[items[at]]
    return values


@_kernel
def _n_seen(shortlist: int, n_ranked: int) -> int:
    return n_ranked if shortlist == 0 else min(shortlist, n_ranked)


@_kernel
def _is_phi(phi: float) -> bool:
    return 0.0 <= phi <= 1.0


@_kernel
def _draw(
    scores: F32, state: U8, n_slots: int, kind: int, a: float, b: float, shortlist: int, floor: F64, seed: np.uint64
) -> tuple[I32, F64, U8, F64, U8, int]:
    n = len(scores)
    left = np.empty(n, np.int32)
    n_left = 0
    for i in range(n):
        left[n_left] = i
        n_left += state[i] < 2
    k = min(n_slots, n_left)
    chosen = np.empty(k, np.int32)
    propensity = np.empty(k, np.float64)
    exploratory = np.empty(k, np.uint8)
    exploring = np.empty(k, np.float64)
    explored = np.empty(k, np.uint8)
    if len(floor) < k:
        return chosen, propensity, exploratory, exploring, explored, _BAD_FLOOR
    ranked = _ranked(scores, state, shortlist, k)
    n_ranked = len(ranked)
    values = _values(scores, ranked)
    q = np.empty(n_ranked, np.float64)
    for slot in range(k):
        phi = floor[slot]
        if not _is_phi(phi):
            return chosen, propensity, exploratory, exploring, explored, _BAD_FLOOR
        n_seen = _n_seen(shortlist, n_ranked)
        _explore(values, n_seen, kind, a, b, q)
        way = _random(seed, _SLATE_STREAM, 2 * slot)
        u = _random(seed, _SLATE_STREAM, 2 * slot + 1)
        if n_seen == 0 or way < phi:
            item = left[int(u * n_left)]
            at = _position(ranked, n_ranked, item)
        else:
            at = _pick(q, n_seen, u)
            item = ranked[at]
        seen = 0 <= at < n_seen
        chosen[slot] = item
        propensity[slot] = _mixed(q[at] if seen else 0.0, phi, n_seen, n_left)
        exploratory[slot] = not seen
        exploring[slot] = 1.0 - _mixed(q[0] if n_seen > 0 else 0.0, phi, n_seen, n_left)
        explored[slot] = item != (ranked[0] if n_seen > 0 else left[0])
        if at >= 0:
            _remove(ranked, values, n_ranked, at)
            n_ranked -= 1
        for to in range(np.searchsorted(left[:n_left], item), n_left - 1):
            left[to] = left[to + 1]
        n_left -= 1
    return chosen, propensity, exploratory, exploring, explored, _OK


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
    n_ranked = len(ranked)
    values = _values(scores, ranked)
    q = np.empty(n_ranked, np.float64)
    taken = np.zeros(n, np.uint8)
    for slot in range(len(slate)):
        item = slate[slot]
        if not 0 <= item < n:
            return propensity, _BAD_INDEX
        if not _is_phi(floor[slot]):
            return propensity, _BAD_FLOOR
        if taken[item] or state[item] >= 2:
            continue
        n_seen = _n_seen(shortlist, n_ranked)
        _explore(values, n_seen, kind, a, b, q)
        at = _position(ranked, n_ranked, item)
        propensity[slot] = _mixed(q[at] if 0 <= at < n_seen else 0.0, floor[slot], n_seen, n_left)
        taken[item] = 1
        n_left -= 1
        if at >= 0:
            _remove(ranked, values, n_ranked, at)
            n_ranked -= 1
    return propensity, _OK


@_kernel
def _list_slot(
    scores: F32, state: U8, drawn: I32, kind: int, a: float, b: float, shortlist: int, phi: float
) -> tuple[F64, int]:
    n = len(scores)
    probabilities = np.zeros(n, np.float64)
    if not _is_phi(phi):
        return probabilities, _BAD_FLOOR
    ranked = _ranked(scores, state, shortlist, len(drawn))
    n_ranked = len(ranked)
    values = _values(scores, ranked)
    taken = np.zeros(n, np.uint8)
    for item in drawn:
        if not 0 <= item < n:
            return probabilities, _BAD_INDEX
        taken[item] = 1
        at = _position(ranked, n_ranked, item)
        if at >= 0:
            _remove(ranked, values, n_ranked, at)
            n_ranked -= 1
    n_left = 0
    for i in range(n):
        n_left += state[i] < 2 and taken[i] == 0
    n_seen = _n_seen(shortlist, n_ranked)
    q = np.empty(n_ranked, np.float64)
    _explore(values, n_seen, kind, a, b, q)
    for i in range(n):
        if state[i] < 2 and taken[i] == 0:
            probabilities[i] = _mixed(0.0, phi, n_seen, n_left)
    for at in range(n_seen):
        probabilities[ranked[at]] = _mixed(q[at], phi, n_seen, n_left)
    return probabilities, _OK
