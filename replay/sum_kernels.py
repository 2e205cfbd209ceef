"""The loops of `replay/sums.py`: one pass over rows, straight into buckets, never a matrix of rows by terms.

Everything is added in the order of the rows, so the same input gives the same bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from replay.terms import SHAPES, SINGLE_KINDS, SLATE_KINDS, SLOT_KINDS

_BLOCK: Final = 128  # Rows whose terms are worked out together: they stay in the first-level cache.

_ONE, _Y, _YY, _NZ, _W, _WW, _WR, _WWR, _WWRR, _DM, _WQ, _WE, _WWE, _WDM, _DMDM, _ZZ = range(len(SINGLE_KINDS))
_PLAIN, _CLIP, _SWITCH, _DROS, _SG = range(len(SHAPES))
_N_SLATE: Final = len(SLATE_KINDS)
_N_SLOT: Final = len(SLOT_KINDS)


@njit(cache=True, nogil=True)
def _bucket(key, mask):  # type: ignore[no-untyped-def]
    """The low bits of `replay.events.mixed`, which a test compares."""
    z = np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) & mask


@njit(cache=True, nogil=True)
def _shaped(shape, lam, w, g):  # type: ignore[no-untyped-def]
    """Fill ``g`` with the shaped weights of a block."""
    if lam == np.inf and shape != _SG:
        shape = _PLAIN
    if shape == _PLAIN:
        for i in range(len(w)):
            g[i] = w[i]
    elif shape == _CLIP:
        for i in range(len(w)):
            g[i] = min(w[i], lam)
    elif shape == _SWITCH:
        for i in range(len(w)):
            g[i] = w[i] if w[i] <= lam else 0.0
    elif shape == _DROS:
        for i in range(len(w)):
            g[i] = lam * w[i] / (w[i] * w[i] + lam) if w[i] > 0.0 else 0.0
    else:
        for i in range(len(w)):
            g[i] = w[i] / (1.0 - lam + lam * w[i]) if w[i] > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _fill(kind, g, r, q, dm, out):  # type: ignore[no-untyped-def]
    """One term of a block of rows; ``g`` are its weights. Without a reward model, q and dm are empty and not read."""
    m = len(r)
    if kind == _ONE:
        for i in range(m):
            out[i] = 1.0
    elif kind == _Y:
        for i in range(m):
            out[i] = r[i]
    elif kind == _YY:
        for i in range(m):
            out[i] = r[i] * r[i]
    elif kind == _NZ:
        for i in range(m):
            out[i] = 1.0 if r[i] != 0.0 else 0.0
    elif kind == _W:
        for i in range(m):
            out[i] = g[i]
    elif kind == _WW:
        for i in range(m):
            out[i] = g[i] * g[i]
    elif kind == _WR:
        for i in range(m):
            out[i] = g[i] * r[i]
    elif kind == _WWR:
        for i in range(m):
            out[i] = g[i] * g[i] * r[i]
    elif kind == _WWRR:
        for i in range(m):
            out[i] = (g[i] * r[i]) * (g[i] * r[i])
    elif kind == _DM:
        for i in range(m):
            out[i] = dm[i]
    elif kind == _WQ:
        for i in range(m):
            out[i] = g[i] * q[i]
    elif kind == _WE:
        for i in range(m):
            out[i] = g[i] * (r[i] - q[i])
    elif kind == _WWE:
        for i in range(m):
            out[i] = g[i] * g[i] * (r[i] - q[i])
    elif kind == _WDM:
        for i in range(m):
            out[i] = g[i] * dm[i]
    elif kind == _DMDM:
        for i in range(m):
            out[i] = dm[i] * dm[i]
    else:
        for i in range(m):
            z = dm[i] + g[i] * (r[i] - q[i])
            out[i] = z * z


@njit(cache=True, nogil=True)
def add_single(buckets, viewer, stands_for, w, r, q, dm, kinds, shapes, lams):  # type: ignore[no-untyped-def]
    """Events of one slot each.

    :param buckets: shape (2^b, p), added to
    :param viewer: shape (n,), uint64
    :param stands_for: shape (n,): how many events each is counted as; or (0,), if one
    :param w, r: shape (n,): weight and reward
    :param q, dm: shape (n,): prediction for what was shown, and its mean under the target; or shape (0,)
    :param kinds, shapes, lams: shape (p,): the terms
    """
    n, p = len(w), len(kinds)
    modelled, weighted = len(q) > 0, len(stands_for) > 0
    mask = np.uint64(len(buckets) - 1)
    values = np.empty((p, _BLOCK))
    g = np.empty(_BLOCK)
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        m = end - begin
        w_, r_ = w[begin:end], r[begin:end]
        q_, dm_ = (q[begin:end], dm[begin:end]) if modelled else (q, dm)
        shape, lam = -1, 0.0
        for j in range(p):
            if shapes[j] != shape or lams[j] != lam:
                shape, lam = shapes[j], lams[j]
                _shaped(shape, lam, w_, g)
            _fill(kinds[j], g, r_, q_, dm_, values[j])
        for i in range(m):
            row = buckets[_bucket(viewer[begin + i], mask)]
            if weighted:
                for j in range(p):
                    row[j] += values[j, i] * stands_for[begin + i]
            else:
                for j in range(p):
                    row[j] += values[j, i]


@njit(cache=True, nogil=True)
def add_slates(  # type: ignore[no-untyped-def]
    buckets,
    viewer,
    stands_for,
    starts,
    w,
    r,
    q,
    dm,
    marginal,
    pseudo,
    event_kinds,
    slot_kinds,
    full,
    pair_weight,
    pair_reward,
):
    """Events of any number of slots.

    :param stands_for: shape (n,) or (0,)
    :param starts: shape (n + 1,)
    :param w, r: shape (S,): weight of each slot given those above, and reward
    :param q, dm: shape (S,) or (0,)
    :param marginal: shape (S,) or (0,): marginal weights
    :param pseudo: shape (n,) or (0,): pseudo-inverse weights; without them the formula for factored policies
    :param event_kinds: indices into ``SLATE_KINDS``
    :param slot_kinds: indices into ``SLOT_KINDS``
    :param full: shape (n,), written: w_{1:L}
    :param pair_weight, pair_reward: shape (n,), written: see `WeightTable`
    :returns: how many events no pair can tell
    """
    n, p, per_slot = len(viewer), len(event_kinds), len(slot_kinds)
    modelled, marginals, brought, weighted = len(q) > 0, len(marginal) > 0, len(pseudo) > 0, len(stands_for) > 0
    mask = np.uint64(len(buckets) - 1)
    event, slot = np.zeros(_N_SLATE), np.zeros(_N_SLOT)
    untold = 0
    for i in range(n):
        row = buckets[_bucket(viewer[i], mask)]
        times = stands_for[i] if weighted else 1.0
        first, last = starts[i], starts[i + 1]
        prefix, y, x, dm0, wq, iips, sum_m = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        at = p
        for s in range(first, last):
            if modelled:
                dm0 += prefix * dm[s]
            prefix *= w[s]
            if modelled:
                wq += prefix * q[s]
            y += r[s]
            x += prefix * r[s]
            slot[0], slot[1], slot[2], slot[3] = 1.0, r[s], prefix, prefix * r[s]
            slot[4], slot[5] = prefix * prefix, prefix * prefix * r[s]
            if marginals:
                slot[6], slot[7] = marginal[s], marginal[s] * r[s]
                sum_m += marginal[s]
                iips += marginal[s] * r[s]
            for j in range(per_slot):
                row[at + j] += times * slot[slot_kinds[j]]
            at += per_slot
        piw = pseudo[i] if brought else sum_m - (last - first) + 1.0
        event[0], event[1], event[2], event[3] = 1.0, y, y * y, 1.0 if y != 0.0 else 0.0
        event[4], event[5], event[6], event[7], event[8] = prefix, prefix * prefix, x, x * x, prefix * y
        event[9], event[10], event[11], event[12], event[13] = dm0, wq, iips, piw, piw * y
        for j in range(p):
            row[j] += times * event[event_kinds[j]]
        if y != 0.0:
            pair_weight[i] = x / y
        else:
            pair_weight[i] = prefix
            untold += x != 0.0
        full[i], pair_reward[i] = prefix, y
    return untold


@njit(cache=True, nogil=True)
def keep_largest(heap, size, weight):  # type: ignore[no-untyped-def]
    """Let the largest of ``weight`` into ``heap``, a binary heap whose first element is the least; returns its size."""
    capacity = len(heap)
    if capacity == 0:
        return 0
    for i in range(len(weight)):
        w = weight[i]
        if size < capacity:
            at = size
            size += 1
            while at > 0 and heap[(at - 1) // 2] > w:
                heap[at] = heap[(at - 1) // 2]
                at = (at - 1) // 2
            heap[at] = w
        elif w > heap[0]:
            at = 0
            while True:
                child = 2 * at + 1
                if child >= capacity:
                    break
                if child + 1 < capacity and heap[child + 1] < heap[child]:
                    child += 1
                if heap[child] >= w:
                    break
                heap[at] = heap[child]
                at = child
            heap[at] = w
    return size
