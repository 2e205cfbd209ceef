"""A slate drawn slot by slot, with the exact probability of every placement.

At slot k, given the slots above,

    p_k(i) = (1 - phi_k) * explorer over the best M scored + phi_k * uniform over all eligible

both over what has not been drawn yet and may stand there by the rules (`bandit.slate.rules`), given the slots above and
the caller's pins. Nothing is rejected and nothing is taken back, so the joint probability of a slate is the product
of its p_k. All floats are float64.

Drawing, looking up and listing probabilities are one kernel, ``_draw``, and sum in the same order: they agree bit for
bit, or the recorded propensity would be a second opinion.

Every njit function that these kernels call is in this file. Numba's on-disk cache does not
notice a changed callee in another file, and would go on serving the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bandit.slate.binding import BY_TAG, CAP, GONE, SPACING, UNRESTRICTED, Restrictions
from bandit.slate.explorers import EPSILON_GREEDY, GREEDY, SOFTMAX, SQUARECB, Explorer

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
_BAD_RULES: Final = 3

# Of the search for a gamma: up to some 1e12 times what was asked for, then to one part in a million.
_DOUBLINGS: Final = 40
_HALVINGS: Final = 20

_NOTHING: Final = np.empty(0, np.int32)
_NO_SEED: Final = np.uint64(0)

# Streams of random numbers drawn from one seed; see _random.
_SLATE_STREAM: Final = np.uint64(1)
_ORDER_STREAM: Final = np.uint64(2)
_QUOTA_STREAM: Final = np.uint64(3)


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
    pinned: U8
    """1 where the caller wanted it; nothing was drawn there."""
    relaxed: I64
    """Bits of the rules that gave way at the slot, each broken by what stands there; rule r has bit ``2 << r``."""
    passed: I32
    """Shape (slots, rules): the best candidate that this rule kept out though it was better than all that was left;
    -1 for none."""
    chances: I32
    """How many candidates could be drawn there, given the slots above: those whose probability was above 0."""
    first: U8
    """1 where the first in the caller's order of all that could stand there does."""


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
    scores: F32,
    state: U8,
    *,
    n_slots: int,
    explorer: Explorer,
    shortlist: int,
    floor: F64,
    seed: int,
    rules: Restrictions = UNRESTRICTED,
) -> Slate:
    """A slate of min(n_slots, eligible) distinct candidates, and how likely each placement was.

    Equal scores are taken in the caller's order. A score that is not finite counts as not scored:
    its item can be drawn through the floor, and the recorded probability stays true. When nothing
    scored remains, the rest is drawn uniformly from what is eligible. With nothing eligible the
    slate is empty. It is shorter where what is left repeats what stands above; else rules give way, see
    `bandit.slate.rules`. Where nothing is left to draw, what is pinned below moves up.

    :param scores: shape (n,), expected rewards, higher is better; read only where ``state`` is ELIGIBLE
    :param state: shape (n,), ELIGIBLE, UNSCORED or INELIGIBLE
    :param shortlist: how many of the best remaining the explorer sees at each slot; 0 for all of them
    :param floor: shape (n_slots,), phi of each slot, in [0, 1]; at 0 most items have no probability there
    :param seed: of the decision, from :func:`seed_of`; the same seed draws the same slate
    :param rules: of at least ``n_slots`` slots, from :func:`bandit.slate.binding.bind`
    :raises ValueError: arrays of different lengths, a negative count, a phi that is missing or outside [0, 1]
    """
    scores, state = _candidates(scores, state, shortlist)
    if n_slots < 0:
        raise ValueError(f"n_slots {n_slots} is negative")
    floor = _owned(floor, np.float64)
    slate, _, status = _draw(
        scores, state, n_slots, _NOTHING, -1, explorer.kind, explorer.a, explorer.b, shortlist, floor,
        np.uint64(seed), *rules,
    )  # fmt: skip
    drawn = Slate(*slate)
    _raise_for(status, floor, len(drawn.chosen))
    return drawn


def slate_propensity(
    scores: F32,
    state: U8,
    chosen: I32,
    *,
    explorer: Explorer,
    shortlist: int,
    floor: F64,
    rules: Restrictions = UNRESTRICTED,
) -> F64:
    """Probability of each placement of a given slate, given the slots above; shape (len(chosen),).

    The very numbers that :func:`draw_slate` records, bit for bit. An item that could not be drawn at
    its slot (not eligible, already placed above, kept out by a rule) has 0; what follows is conditional on it all the
    same.

    :param chosen: indices of the candidates, best slot first
    :param floor: shape of at least (len(chosen),); the other parameters as in :func:`draw_slate`
    :raises ValueError: as :func:`draw_slate`, or an index outside the candidates
    """
    scores, state = _candidates(scores, state, shortlist)
    chosen, floor = _owned(chosen, np.int32), _owned(floor, np.float64)
    slate, _, status = _draw(
        scores,
        state,
        len(chosen),
        chosen,
        -1,
        explorer.kind,
        explorer.a,
        explorer.b,
        shortlist,
        floor,
        _NO_SEED,
        *rules,
    )
    _raise_for(status, floor, len(chosen))
    return slate[1]


def slot_probabilities(
    scores: F32,
    state: U8,
    drawn: I32,
    *,
    slot: int,
    explorer: Explorer,
    shortlist: int,
    floor: F64,
    rules: Restrictions = UNRESTRICTED,
) -> F64:
    """Probability of every candidate at one slot, given those drawn above it; shape (n,).

    Sums to one; all zeros when nothing eligible is left.

    :param drawn: indices placed in the slots above; in any order if no rules hold, else from the first slot on
    :param slot: which entry of ``floor`` applies; the other parameters as in :func:`draw_slate`
    :raises ValueError: as :func:`draw_slate`, or an index outside the candidates
    """
    scores, state = _candidates(scores, state, shortlist)
    floor = _owned(floor, np.float64)
    if not 0 <= slot < len(floor):
        raise ValueError(f"slot {slot} has no floor; floors are given for {len(floor)} slots")
    _, probabilities, status = _draw(
        scores, state, 0, _owned(drawn, np.int32), slot, explorer.kind, explorer.a, explorer.b, shortlist, floor,
        _NO_SEED, *rules,
    )  # fmt: skip
    _raise_for(status, floor[slot : slot + 1], 1)
    return probabilities


def limited(
    scores: F32,
    state: U8,
    explorer: Explorer,
    *,
    shortlist: int,
    most: float,
    rules: Restrictions = UNRESTRICTED,
) -> Explorer:
    """The explorer with no more strength than leaves all but the best ``most`` together, at any slot.

    Gamma or lambda is raised until the first slot is at ``most``, so that what is explored is what is nearly as
    good. Where that cannot be (many share the best score, or the rule knows no gaps), and at the slots below, what
    is too much is given to the best. A pure function: the same scores give the same explorer.

    :param most: in [0, 1]; 1 gives the explorer back as it is
    :param shortlist, rules: as in :func:`draw_slate`; what is pinned counts as a slot above
    :raises ValueError: arrays of different lengths, a negative shortlist, ``most`` outside [0, 1]
    """
    if not 0.0 <= most <= 1.0:
        raise ValueError(f"most is {most}; it must be from 0 to 1")
    scores, state = _candidates(scores, state, shortlist)
    if most == 1.0:
        return explorer._replace(b=1.0)
    if explorer.kind not in (SQUARECB, SOFTMAX):
        return explorer._replace(b=most)
    free = np.flatnonzero(rules.pins < 0)
    first = int(free[0]) if len(free) else 0
    # The greedy one sees what any explorer would, and has it listed best first.
    slate, _, status = _draw(
        scores, state, 0, _NOTHING, first, GREEDY, 0.0, 1.0, shortlist, np.zeros(first + 1), _NO_SEED, *rules
    )
    _raise_for(status, np.zeros(first + 1), first + 1)
    values = scores[slate[0]].astype(np.float64)
    return Explorer(explorer.kind, _limit(values, explorer.kind, explorer.a, most), most)


def score_order(seed: int, n: int) -> I32:
    """The order in which n candidates are scored under a deadline: a random permutation.

    From a stream of its own, so that which candidates the deadline leaves out says nothing about
    what is drawn from the rest.
    """
    return _shuffled(np.uint64(seed), n, _ORDER_STREAM)


def reserve(seed: int, free: Sequence[int], shares: Sequence[float]) -> list[list[int]]:
    """Slots set aside for quotas, by lot: of each quota its share of the free slots, rounded up or down by chance.

    From a stream of its own, so that it says nothing about what is drawn.

    :param free: slots that may be set aside
    :param shares: of each quota; together at most 1
    :returns: slots of each, rising; none stands twice
    """
    order = _shuffled(np.uint64(seed), len(free), _QUOTA_STREAM)
    reserved, begin = [], 0
    for number, share in enumerate(shares):
        wanted = share * len(free)
        # + 1e-9: a share of .3 of ten slots is three of them.
        size = int(wanted + 1e-9)
        size += _random(np.uint64(seed), _QUOTA_STREAM, -1 - number) < wanted - size - 1e-9
        end = min(begin + size, len(free))
        reserved.append(sorted(free[at] for at in order[begin:end].tolist()))
        begin = end
    return reserved


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache; the first request should not pay for it."""
    scores, state, floor = np.zeros(2, np.float32), np.zeros(2, np.uint8), np.zeros(1)
    explorer = Explorer(GREEDY, 0.0, 0.0)
    limited(scores, state, explorer, shortlist=1, most=0.5)
    slate = draw_slate(scores, state, n_slots=1, explorer=explorer, shortlist=1, floor=floor, seed=0)
    slate_propensity(scores, state, slate.chosen, explorer=explorer, shortlist=1, floor=floor)
    slot_probabilities(scores, state, slate.chosen, slot=0, explorer=explorer, shortlist=1, floor=floor)
    score_order(0, 2)
    reserve(0, [0], [0.5])


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
    if status == _BAD_RULES:
        raise ValueError("the rules are bound to other candidates, or to fewer slots")


def _kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    return cast(Callable[_P, _R], njit(cache=True, nogil=True)(function))


def _part(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Of a kernel, and compiled into it: Python cannot call it, and nothing of it is cached by itself."""
    options: dict[str, Any] = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Callable[_P, _R], njit(**options)(function))


# Random numbers: a counter in, a number out, so that each is a function of (seed, stream, counter)
# alone. The mixing is the finaliser of splitmix64 (Steele, Lea, Flood 2014; constants by Stafford).


@_part
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
def _shuffled(seed: np.uint64, n: int, stream: np.uint64) -> I32:
    order = np.arange(n).astype(np.int32)
    for left in range(n, 1, -1):
        at = int(_random(seed, stream, left) * left)
        order[at], order[left - 1] = order[left - 1], order[at]
    return order


# The scored candidates, best first: all the explorer may ever see.


@_part
def _is_worse(scores: F32, a: int, b: int) -> bool:
    """Whether a ranks below b: a lower score, or the same one and later in the caller's order."""
    return bool(scores[a] < scores[b] or (scores[a] == scores[b] and a > b))


@_part
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


@_part
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


@_part
def _ranked(scores: F32, state: U8, depth: int) -> I32:
    """The best ``depth`` scored candidates, best first; 0 for all of them.

    Candidates are spread over equal intervals of score, the best intervals are gathered, and their order mended.
    """
    n = len(scores)
    scored = np.empty(n, np.int32)
    n_scored = 0
    for i in range(n):
        scored[n_scored] = i
        n_scored += state[i] == 0 and np.isfinite(scores[i])
    depth = n_scored if depth == 0 else min(depth, n_scored)
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


# One slot. The only place where an explorer's probabilities are computed.


@_part
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


@_part
def _others(size: int, q: F64) -> float:
    """What all but the first have together."""
    others = 0.0
    for at in range(1, size):
        others += q[at]
    return others


@_part
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


@_part
def _mixed(q: float, phi: float, n_seen: int, n_left: int) -> float:
    """Probability of an eligible candidate, over both ways in which it can be drawn.

    :param q: the explorer's probability; 0 for what it does not see
    :param n_seen: how many the explorer sees; if none, the draw is uniform
    """
    if n_seen == 0:
        return 1.0 / n_left
    return (1.0 - phi) * q + phi / n_left


@_part
def _chances(q: F64, phi: float, n_seen: int, n_left: int) -> int:
    """How many of all that are left have a probability above 0."""
    # The least phi there is, shared by two, is nothing.
    if n_seen == 0 or phi / n_left > 0.0:
        return n_left
    n = 0
    for at in range(n_seen):
        n += q[at] > 0.0
    return n


@_part
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


@_part
def _position(items: I32, size: int, item: int) -> int:
    """Where the item is; -1 if it is not there."""
    for at in range(size):
        if items[at] == item:
            return at
    return -1


@_part
def _is_phi(phi: float) -> bool:
    return 0.0 <= phi <= 1.0


# What may stand at a slot. ``breaks`` holds, for every candidate, bits of what it breaks there: GONE for what may not
# be drawn at all, ``2 << r`` for rule r. The eight arguments from ``table`` on are `bandit.slate.binding.Restrictions`.


@_part
def _fits(
    n: int, n_slots: int, table: I32, marks: I64, in_force: I64, identity: I64, keys: I64, tag_start: I64, pins: I32
) -> bool:
    """Whether the rules are of these candidates and slots."""
    if len(table) == 0 and len(identity) == 0 and len(pins) == 0:
        return True
    for slot in range(min(n_slots, len(pins))):
        if not -1 <= pins[slot] < n:
            return False
    return bool(
        len(in_force) >= n_slots
        and len(pins) >= n_slots
        and len(table) <= 60
        and (len(marks) == 0 or len(marks) == n)
        and (len(identity) == 0 or len(identity) == n)
        and (keys.shape[1] == 0 or keys.shape[1] == n)
        and (len(tag_start) == 0 or len(tag_start) == n + 1)
    )


@_part
def _breaks(state: U8, marks: I64) -> I64:
    """What each candidate breaks wherever it stands."""
    breaks = np.empty(len(state), np.int64)
    if len(marks) == 0:
        for i in range(len(state)):
            breaks[i] = GONE if state[i] >= 2 else 0
    else:
        for i in range(len(state)):
            breaks[i] = marks[i] | (GONE if state[i] >= 2 else 0)
    return breaks


@_part
def _has_tag(item: int, tag: int, tag_start: I64, tags: I64) -> bool:
    found = False
    for k in range(tag_start[item], tag_start[item + 1]):
        found = found or tags[k] == tag
    return found


@_part
def _place(
    item: int, slot: int, placed: I32, breaks: I64, table: I32, identity: I64, keys: I64, tag_start: I64, tags: I64
) -> None:
    """The item stands at the slot: neither it nor its like may be drawn again, and caps may be reached."""
    placed[slot] = item
    breaks[item] |= GONE
    if len(identity) > 0:
        same = identity[item]
        for i in range(len(breaks)):
            breaks[i] |= GONE if identity[i] == same else 0
    for rule in range(len(table)):
        if table[rule, 0] != CAP:
            continue
        by, most, bit = table[rule, 1], table[rule, 2], np.int64(2) << np.int64(rule)
        if by == BY_TAG:
            for k in range(tag_start[item], tag_start[item + 1]):
                count = 0
                for other in placed:
                    count += other >= 0 and _has_tag(other, tags[k], tag_start, tags)
                if count >= most:
                    for i in range(len(breaks)):
                        if _has_tag(i, tags[k], tag_start, tags):
                            breaks[i] |= bit
        elif keys[by, item] != 0:
            key = keys[by, item]
            count = 0
            for other in placed:
                count += other >= 0 and keys[by, other] == key
            if count >= most:
                for i in range(len(breaks)):
                    breaks[i] |= bit if keys[by, i] == key else 0


@_part
def _space(slot: int, placed: I32, breaks: I64, table: I32, keys: I64) -> None:
    """Mark what would stand too near to its like, above or pinned below."""
    near = np.empty(len(placed), np.int64)
    for rule in range(len(table)):
        if table[rule, 0] != SPACING:
            continue
        by, gap, bit = table[rule, 1], table[rule, 2], np.int64(2) << np.int64(rule)
        n_near = 0
        for other in range(max(0, slot - gap), min(len(placed), slot + gap + 1)):
            if other != slot and placed[other] >= 0 and keys[by, placed[other]] != 0:
                near[n_near] = keys[by, placed[other]]
                n_near += 1
        for i in range(len(breaks)):
            breaks[i] &= ~bit
        for k in range(n_near):
            for i in range(len(breaks)):
                breaks[i] |= bit if keys[by, i] == near[k] else 0


@_part
def _count(breaks: I64, held: np.int64) -> int:
    """How many break nothing of what is held."""
    n_left = 0
    for i in range(len(breaks)):
        n_left += (breaks[i] & held) == 0
    return n_left


@_part
def _pool(breaks: I64, in_force: np.int64, n_rules: int) -> tuple[np.int64, int]:
    """What holds at a slot, as bits, and how many candidates break nothing of it; 0 only if all are gone.

    Rules hold from the strongest to the weakest as far as they leave something.
    """
    held = in_force | np.int64(GONE)
    n_left = _count(breaks, held)
    if n_left > 0:
        return held, n_left
    held = np.int64(GONE)
    n_left = _count(breaks, held)
    if n_left == 0:
        return held, 0
    for rule in range(n_rules):
        bit = np.int64(2) << np.int64(rule)
        if in_force & bit:
            n_with = _count(breaks, held | bit)
            if n_with > 0:
                held |= bit
                n_left = n_with
    return held, n_left


@_part
def _nth(breaks: I64, held: np.int64, nth: int) -> int:
    """The candidate before which so many others break nothing of what is held."""
    for i in range(len(breaks)):
        if (breaks[i] & held) == 0:
            if nth == 0:
                return i
            nth -= 1
    return -1


@_part
def _depth(breaks: I64, in_force: I64, shortlist: int, n_slots: int, n_rules: int) -> int:
    """How many of the best are ranked at first; without rules so many that it is always enough."""
    if shortlist == 0:
        return 0
    if n_rules == 0:
        return shortlist + n_slots
    n = len(breaks)
    n_left = _count(breaks, in_force[0] | np.int64(GONE))
    return int((shortlist + 3 * n_slots) * (n / max(n_left, 1))) + shortlist // 2


@_part
def _n_scored(scores: F32, state: U8) -> int:
    n_scored = 0
    for i in range(len(scores)):
        n_scored += state[i] == 0 and np.isfinite(scores[i])
    return n_scored


@_part
def _gather(scores: F32, ranked: I32, breaks: I64, held: np.int64, wanted: int, best: I32, values: F64) -> int:
    """Fill ``best`` with those of ``ranked`` that break nothing of what is held; how many, at most ``wanted``."""
    size = 0
    for item in ranked:
        if size == wanted:
            break
        if (breaks[item] & held) == 0:
            best[size] = item
            values[size] = scores[item]
            size += 1
    return size


@_part
def _best(
    scores: F32,
    state: U8,
    n_scored: int,
    ranked: I32,
    breaks: I64,
    held: np.int64,
    shortlist: int,
    best: I32,
    values: F64,
) -> tuple[I32, int]:
    """Fill ``best`` with what the explorer sees: the best ``shortlist`` of those that break nothing of what is held.

    :param ranked: the best of all, as deep as they were needed so far
    :returns: ``ranked``, deeper if need be, and how many the explorer sees
    """
    wanted = n_scored if shortlist == 0 else shortlist
    size = _gather(scores, ranked, breaks, held, wanted, best, values)
    while size < wanted and len(ranked) < n_scored:
        ranked = _ranked(scores, state, 2 * len(ranked) + 1)
        size = _gather(scores, ranked, breaks, held, wanted, best, values)
    return ranked, size


@_part
def _pass_over(ranked: I32, breaks: I64, held: np.int64, passed: I32) -> None:
    """Note for each rule the best that it kept out, among those better than all that may be drawn."""
    for item in ranked:
        broken = breaks[item]
        if broken & held == 0:
            return
        if broken & GONE == 0:
            for rule in range(len(passed)):
                if broken & held & (np.int64(2) << np.int64(rule)) and passed[rule] < 0:
                    passed[rule] = item


@_part
def _next_pin(slot: int, pins: I32, used: U8) -> int:
    """The first slot from here on whose pin does not stand yet; -1 if there is none."""
    for other in range(slot, len(pins)):
        if pins[other] >= 0 and used[other] == 0:
            return other
    return -1


@_part
def _use(item: int, pins: I32, used: U8) -> None:
    for slot in range(len(pins)):
        if pins[slot] == item:
            used[slot] = 1


@_kernel
def _draw(
    scores: F32, state: U8, n_slots: int, given: I32, listed: int, kind: int, a: float, b: float, shortlist: int,
    floor: F64, seed: np.uint64,
    table: I32, marks: I64, in_force: I64, identity: I64, keys: I64, tag_start: I64, tags: I64, pins: I32,
) -> tuple[tuple[I32, F64, U8, F64, U8, U8, I64, I32, I32, U8], F64, int]:  # fmt: skip
    """Draw a slate; or look up a given one; or list the probabilities at one slot.

    :param given: what stands at the slots, instead of being drawn; empty to draw
    :param listed: the slot to be listed, below what is given; -1 for none. Then ``chosen`` is what the explorer sees
    """
    n, n_rules = len(scores), len(table)
    k = 0
    status = _OK
    breaks = np.zeros(0, np.int64)
    if not _fits(n, max(n_slots, listed + 1), table, marks, in_force, identity, keys, tag_start, pins):
        status = _BAD_RULES
    else:
        breaks = _breaks(state, marks)
        if listed < 0:
            k = len(given) if len(given) > 0 else min(n_slots, _count(breaks, np.int64(GONE)))
        if len(floor) < max(k, listed + 1):
            status = _BAD_FLOOR
    for item in given:
        if not 0 <= item < n:
            status = _BAD_INDEX
    chosen = np.zeros(k, np.int32)
    propensity = np.zeros(k, np.float64)
    exploratory = np.zeros(k, np.uint8)
    exploring = np.zeros(k, np.float64)
    explored = np.zeros(k, np.uint8)
    pinned = np.zeros(k, np.uint8)
    relaxed = np.zeros(k, np.int64)
    passed = np.full((k, n_rules), -1, np.int32)
    chances = np.zeros(k, np.int32)
    first = np.zeros(k, np.uint8)
    probabilities = np.zeros(n if listed >= 0 else 0, np.float64)
    slate = (chosen, propensity, exploratory, exploring, explored, pinned, relaxed, passed, chances, first)
    if status != _OK:
        return slate, probabilities, status
    n_scored = _n_scored(scores, state)
    ranked = _ranked(scores, state, _depth(breaks, in_force, shortlist, max(k, len(given)), n_rules))
    best = np.empty(n_scored, np.int32)
    values = np.empty(n_scored, np.float64)
    q = np.empty(n_scored, np.float64)
    placed = np.full(max(k, len(given), listed + 1, len(pins)), -1, np.int32)
    used = np.zeros(len(pins), np.uint8)
    for slot in range(len(pins)):
        if pins[slot] >= 0:
            _place(pins[slot], slot, placed, breaks, table, identity, keys, tag_start, tags)
    if listed >= 0:
        for slot in range(len(given)):
            if state[given[slot]] < 2:
                _use(given[slot], pins, used)
                _place(given[slot], slot, placed, breaks, table, identity, keys, tag_start, tags)
    for slot in range(k) if listed < 0 else range(listed, listed + 1):
        phi = floor[slot]
        if not _is_phi(phi):
            return slate, probabilities, _BAD_FLOOR
        _space(slot, placed, breaks, table, keys)
        force = in_force[slot] if len(in_force) > 0 else np.int64(0)
        held, n_left = _pool(breaks, force, n_rules)
        pin = _next_pin(slot, pins, used)
        if pin == slot or n_left == 0:
            # Nothing is drawn. Where what is left repeats what stands above, the slate ends.
            if pin >= 0 and listed >= 0:
                probabilities[pins[pin]] = 1.0
            if listed >= 0:
                break
            if len(given) > 0:
                propensity[slot] = 1.0 if pin >= 0 and pins[pin] == given[slot] else 0.0
                item = given[slot]
                if state[item] < 2:
                    _use(item, pins, used)
                    _place(item, slot, placed, breaks, table, identity, keys, tag_start, tags)
                continue
            if pin < 0:
                slate = (
                    chosen[:slot], propensity[:slot], exploratory[:slot], exploring[:slot], explored[:slot],
                    pinned[:slot], relaxed[:slot], passed[:slot], chances[:slot], first[:slot],
                )  # fmt: skip
                return slate, probabilities, _OK
            chosen[slot] = pins[pin]
            propensity[slot] = 1.0
            pinned[slot] = 1
            chances[slot] = 1
            first[slot] = 1
            used[pin] = 1
            placed[slot] = pins[pin]
            continue
        ranked, n_seen = _best(scores, state, n_scored, ranked, breaks, held, shortlist, best, values)
        _explore(values, n_seen, kind, a, b, q)
        if listed >= 0:
            for i in range(n):
                if (breaks[i] & held) == 0:
                    probabilities[i] = _mixed(0.0, phi, n_seen, n_left)
            for at in range(n_seen):
                probabilities[best[at]] = _mixed(q[at], phi, n_seen, n_left)
            return (
                best[:n_seen].copy(), propensity, exploratory, exploring, explored, pinned, relaxed, passed, chances,
                first,
            ), probabilities, _OK  # fmt: skip
        if len(given) > 0:
            item = given[slot]
            at = _position(best, n_seen, item)
        else:
            way = _random(seed, _SLATE_STREAM, 2 * slot)
            u = _random(seed, _SLATE_STREAM, 2 * slot + 1)
            if n_seen == 0 or way < phi:
                item = _nth(breaks, held, int(u * n_left))
                at = _position(best, n_seen, item)
            else:
                at = _pick(q, n_seen, u)
                item = best[at]
        chosen[slot] = item
        if (breaks[item] & held) == 0:
            propensity[slot] = _mixed(q[at] if at >= 0 else 0.0, phi, n_seen, n_left)
        exploratory[slot] = at < 0
        exploring[slot] = 1.0 - _mixed(q[0] if n_seen > 0 else 0.0, phi, n_seen, n_left)
        top = _nth(breaks, held, 0)
        explored[slot] = item != (best[0] if n_seen > 0 else top)
        chances[slot] = _chances(q, phi, n_seen, n_left)
        first[slot] = item == top
        relaxed[slot] = force & ~held
        if n_rules > 0:
            _pass_over(ranked, breaks, held, passed[slot])
        if state[item] < 2:
            _use(item, pins, used)
            _place(item, slot, placed, breaks, table, identity, keys, tag_start, tags)
    return slate, probabilities, _OK


@_kernel
def _limit(values: F64, kind: int, a: float, b: float) -> float:
    """Gamma or lambda, from ``a`` up, at which all but the best have ``b`` together.

    ``a`` itself where that is never so: bisected, by halves of its logarithm's interval, where it is.

    :param values: best first
    """
    size = len(values)
    if size < 2:
        return a
    q = np.empty(size, np.float64)
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
