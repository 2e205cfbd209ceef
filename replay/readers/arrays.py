"""Logs that are arrays in memory, handed on in views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.errors import BadLog
from replay.events import F64, I64, U8, U64, Batch, Candidates, Needs, Texts, item_key, slot_numbers
from replay.readers.common import Reading, checked_propensity, dense, own_keys

EVENTS: Final = 65_536
"""Events in a batch, at most."""
LISTED: Final = 1 << 20
"""Candidates in a batch, about, where they are wanted: what is worked out for each of them then fits into a cache."""


def from_arrays(
    *,
    reward: ArrayLike,
    action: ArrayLike,
    propensity: ArrayLike,
    n_actions: int | ArrayLike | None = None,
    viewer: ArrayLike | None = None,
    time: ArrayLike | None = None,
    starts: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    fields: Mapping[str, ArrayLike] | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
    seen: ArrayLike | None = None,
    candidates: Candidates | None = None,
    texts: Texts | None = None,
    reward_range: tuple[float, float] | None = None,
    marginals: bool = False,
    name: str = "arrays",
) -> ArrayLog:
    """A log of arrays, which are checked here and then used as they are.

    :param reward: shape (n,), a contextual bandit; (n, L), feeds of L slots; or (S,) with ``starts``, feeds of any
        lengths. ``action``, ``propensity``, ``columns`` and ``seen`` have the same shape
    :param action: whole numbers from 0; each is its own item
    :param propensity: probability of having shown it there, given the slots above
    :param n_actions: how many could have been shown; one number, or one for each slot. Unknown without: what needs it
        (the uniform policy, for one) is then refused
    :param viewer: shape (n,), whole numbers or texts; without it each event is its own
    :param time: shape (n,), seconds since 1970 UTC, or datetime64
    :param starts: shape (n + 1,): event i has slots ``starts[i]`` up to ``starts[i + 1]``
    :param contexts: shape (n, d), numbers
    :param fields: shape (n,) each, numbers or texts, to slice by
    :param columns: numbers that policies may ask for, such as propensities of another run
    :param seen: 0 where nothing says that the slot was seen
    :param candidates: what each slot could have shown, where that is not 0 to ``n_actions - 1``; ``action`` then counts
        within the slot
    :param texts: VW JSON of contexts and candidates; needs ``candidates`` or ``n_actions``
    :param reward_range: lowest and highest reward of an event, if known
    :param marginals: propensities are marginal in each slot, not given the slots above
    :raises BadLog: shapes that do not fit, NaN, propensities not in (0, 1], actions that are none

    >>> log = from_arrays(reward=[1, 0], action=[0, 1], propensity=[0.5, 0.5], n_actions=2)
    >>> [batch.n for batch in log.batches(Needs())]
    [2]
    """
    rewards = _numbers(name, "reward", reward)
    if rewards.ndim not in (1, 2) or (starts is not None and rewards.ndim == 2):
        raise BadLog(
            f"{name}: reward has shape {rewards.shape}; allowed are (n,), (n, L) for feeds of L slots, "
            "and (S,) with starts"
        )
    shape = rewards.shape
    offsets = _starts(name, starts, shape)
    n = len(offsets) - 1
    place = np.arange(1, n + 1)
    slot_place = place if n == rewards.size else np.repeat(place, np.diff(offsets))
    actions = _whole(name, "action", _shaped(name, "action", action, shape))
    if actions.size and actions.min() < 0:
        at = int(np.argmin(actions))
        raise BadLog(f"{name}, event {slot_place[at]}: action is {actions[at]}; whole numbers from 0 are allowed")
    counts = _counts(name, n_actions, candidates, shape, actions.size)
    known = counts > 0
    beyond = np.flatnonzero(known & (actions >= counts))
    if len(beyond):
        at = int(beyond[0])
        raise BadLog(f"{name}, event {slot_place[at]}: action is {actions[at]} of {counts[at]}; the first is 0")
    rewards = _flat(rewards)
    _finite(name, "reward", rewards, slot_place)
    propensities = _flat(_shaped(name, "propensity", propensity, shape, _numbers))
    times = np.broadcast_to(np.nan, (n,)) if time is None else _times(name, time, n)
    return ArrayLog(
        Batch(
            starts=offsets,
            item=actions.astype(np.uint64) if candidates is None else candidates.item[candidates.starts[:-1] + actions],
            chosen=actions,
            propensity=checked_propensity(name, "event", slot_place, propensities),
            reward=rewards,
            n_candidates=counts,
            viewer=own_keys(place) if viewer is None else _keys(name, "viewer", viewer, n),
            time=times,
            place=place,
            seen=None if seen is None else _seen(name, seen, shape),
            fields={key: _column(name, f"field {key!r}", values, (n,)) for key, values in (fields or {}).items()},
            columns={
                key: _flat(_shaped(name, f"column {key!r}", values, shape, _numbers))
                for key, values in (columns or {}).items()
            },
            candidates=candidates,
            texts=_texts(name, texts, n, int(counts.sum())),
            contexts=None if contexts is None else _contexts(name, contexts, n),
        ),
        name=name,
        reward_range=reward_range,
        marginals=marginals,
    )


class ArrayLog(Reading):
    """A log that is in memory, whole. Made by :func:`from_arrays`."""

    kind = "arrays"

    def __init__(self, whole: Batch, *, name: str, reward_range: tuple[float, float] | None, marginals: bool) -> None:
        super().__init__(name, on_broken="fail", reward_range=reward_range, marginals=marginals)
        self._whole = whole
        self._size = whole.n

    def knows_candidates(self) -> bool:
        """They were given, or how many there are."""
        return self._whole.candidates is not None or bool((self._whole.n_candidates > 0).all())

    def is_of_feeds(self) -> bool:
        """As given."""
        return not self._whole.single

    def field_names(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._whole.fields)

    def column_names(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._whole.columns)

    def batches(self, needs: Needs) -> Iterator[Batch]:
        """Views of the arrays, up to ``EVENTS`` events each.

        :raises BadLog: the candidates are wanted and unknown
        """
        self._begin()
        whole = self._whole
        listed = needs.candidates or needs.texts
        if listed and not self.knows_candidates():
            raise BadLog(f"{self.name}: it is not known what could have been shown; give n_actions")
        at_once = EVENTS
        if listed and whole.n:
            at_once = min(max(LISTED * whole.n // max(int(whole.n_candidates.sum()), 1), 1), EVENTS)
        for first in range(0, whole.n, at_once):
            last = min(first + at_once, whole.n)
            yield self._part(first, last, needs)
            self._done = last

    def _part(self, first: int, last: int, needs: Needs) -> Batch:
        whole = self._whole
        events = slice(first, last)
        slots = slice(int(whole.starts[first]), int(whole.starts[last]))
        candidates, listed = None, slice(0, 0)
        if needs.candidates or needs.texts:
            candidates, listed = self._candidates(slots)
        texts = None
        if needs.texts and whole.texts is not None:
            texts = Texts(whole.texts.shared[events], whole.texts.candidates[listed])
        return Batch(
            starts=whole.starts[first : last + 1] - whole.starts[first],
            item=whole.item[slots],
            chosen=whole.chosen[slots],
            propensity=whole.propensity[slots],
            reward=whole.reward[slots],
            n_candidates=whole.n_candidates[slots],
            viewer=whole.viewer[events],
            time=whole.time[events],
            place=whole.place[events],
            seen=None if whole.seen is None else whole.seen[slots],
            fields={name: whole.fields[name][events] for name in needs.fields if name in whole.fields},
            columns={name: whole.columns[name][slots] for name in needs.columns if name in whole.columns},
            candidates=candidates,
            texts=texts,
            contexts=None if whole.contexts is None else whole.contexts[events],
        )

    def _candidates(self, slots: slice) -> tuple[Candidates, slice]:
        """(of these slots, which of all candidates they are)."""
        whole = self._whole
        counts = whole.n_candidates[slots]
        if whole.candidates is not None:
            starts = whole.candidates.starts[slots.start : slots.stop + 1]
            listed = slice(int(starts[0]), int(starts[-1]))
            logged = whole.candidates.logged
            some = Candidates(
                starts - starts[0], whole.candidates.item[listed], None if logged is None else logged[listed]
            )
            return some, listed
        before = int(whole.n_candidates[: slots.start].sum()) if whole.texts is not None else 0
        most = int(counts.max(initial=0))
        if (counts == most).all():
            starts, item = dense(len(counts), most)
        else:
            starts = np.zeros(len(counts) + 1, np.int64)
            np.cumsum(counts, out=starts[1:])
            item = slot_numbers(starts).astype(np.uint64)
        return Candidates(starts, item), slice(before, before + int(starts[-1]))


# ---------------------------------------------------------------- checks


def _numbers(name: str, what: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise BadLog(f"{name}: {what} is an array of {array.dtype}; numbers are allowed")
    return np.asarray(array, np.float64)


def _shaped(
    name: str, what: str, values: ArrayLike, shape: tuple[int, ...], read: Any = lambda name, what, v: np.asarray(v)
) -> NDArray[Any]:
    array: NDArray[Any] = read(name, what, values)
    if array.shape != shape:
        raise BadLog(f"{name}: {what} has shape {array.shape}; reward has {shape}, and they must be the same")
    return array


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1)


def _starts(name: str, starts: ArrayLike | None, shape: tuple[int, ...]) -> I64:
    size = int(np.prod(shape))
    if starts is None:
        step = 1 if len(shape) == 1 else shape[1]
        if step < 1:
            raise BadLog(f"{name}: reward has shape {shape}; feeds need at least one slot")
        return np.arange(0, size + 1, step, dtype=np.int64)
    offsets = _whole(name, "starts", np.asarray(starts))
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 1).any():
        raise BadLog(
            f"{name}: starts must rise from 0 to {size}, the number of slots, with at least one slot in each event"
        )
    return offsets


def _whole(name: str, what: str, array: NDArray[Any]) -> I64:
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) < 2**53)
        if not whole.all():
            raise BadLog(f"{name}: {what} holds {array[~whole][0]}; whole numbers are allowed")
    elif array.dtype.kind not in "iub" and array.size:
        raise BadLog(f"{name}: {what} is an array of {array.dtype}; whole numbers are allowed")
    elif array.dtype.kind == "u" and array.size and array.max() > np.uint64(2**62):
        raise BadLog(f"{name}: {what} holds {array.max()}; whole numbers up to 2 to the 62nd are allowed")
    return _flat(array).astype(np.int64, copy=False)


def _counts(
    name: str, n_actions: int | ArrayLike | None, candidates: Candidates | None, shape: tuple[int, ...], size: int
) -> I64:
    """Shape (S,); 0 where it is unknown."""
    if candidates is not None:
        counts = np.diff(candidates.starts)
        if len(counts) != size or candidates.starts[0] != 0 or candidates.starts[-1] != len(candidates.item):
            raise BadLog(f"{name}: candidates are of {len(counts)} slots; reward has {size}")
        if size and counts.min() < 1:
            raise BadLog(f"{name}: a slot without candidates could not have shown anything")
        return counts
    if n_actions is None:
        return np.broadcast_to(np.int64(0), (size,))
    given = np.asarray(n_actions)
    counts = _whole(name, "n_actions", given)
    if counts.size and counts.min() < 1:
        raise BadLog(f"{name}: n_actions holds {counts.min()}; at least 1 is allowed")
    if given.ndim == 0:
        return np.broadcast_to(counts[0], (size,))
    if given.shape != shape:
        raise BadLog(
            f"{name}: n_actions has shape {given.shape}; one number, or the shape of reward, {shape}, is allowed"
        )
    return counts


def _finite(name: str, what: str, values: F64, place: I64) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        at = int(bad[0])
        raise BadLog(f"{name}, event {place[at]}: {what} is {values[at]}; leave the event out, or say what it earned")


def _column(name: str, what: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape != shape:
        raise BadLog(f"{name}: {what} has shape {array.shape}; one value for each event, {shape}, is needed")
    return array


def _keys(name: str, what: str, values: ArrayLike, n: int) -> U64:
    array = _column(name, what, values, (n,))
    if array.dtype.kind in "ui":
        return array.astype(np.uint64, copy=False)
    if array.dtype.kind == "f":
        return _whole(name, what, array).astype(np.uint64)
    kinds, inverse = np.unique(array.astype(np.str_), return_inverse=True)
    return np.array([item_key(str(kind)) for kind in kinds.tolist()], np.uint64)[inverse.reshape(-1)]


def _times(name: str, values: ArrayLike, n: int) -> F64:
    array = _column(name, "time", values, (n,))
    if array.dtype.kind == "M":
        seconds = array.astype("datetime64[us]").astype(np.float64) / 1e6
        return np.where(np.isnat(array), np.nan, seconds)
    return _numbers(name, "time", array)


def _seen(name: str, values: ArrayLike, shape: tuple[int, ...]) -> U8:
    array = _shaped(name, "seen", values, shape)
    if array.dtype.kind not in "biu":
        raise BadLog(f"{name}: seen is an array of {array.dtype}; 0 and 1 are allowed")
    return _flat(array != 0).astype(np.uint8)


def _contexts(name: str, values: ArrayLike, n: int) -> F64:
    array = _numbers(name, "contexts", values)
    if array.ndim != 2 or len(array) != n:
        raise BadLog(f"{name}: contexts have shape {array.shape}; (n, d) with n = {n} events is needed")
    if not np.isfinite(array).all():
        raise BadLog(f"{name}: contexts hold NaN or infinity; numbers are needed")
    return array


def _texts(name: str, texts: Texts | None, n: int, n_candidates: int) -> Texts | None:
    if texts is not None and (len(texts.shared) != n or len(texts.candidates) != n_candidates):
        raise BadLog(
            f"{name}: texts are of {len(texts.shared)} events and {len(texts.candidates)} candidates; the log has {n} "
            f"and {n_candidates}"
        )
    return texts
