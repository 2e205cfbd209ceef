"""What every reader gives and everything else takes: logged events in columns, a batch at a time.

A log is a sequence of *events*; an event has *slots*, from the top; a slot shows one *candidate*. A plain
contextual bandit is a log whose events have one slot. Columns of events have shape (n,), of slots (S,) and of
candidates (C,): ragged, one after another, with offsets that say where each one's begin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]

FOLDS = 5
"""Into how many folds events are put, by viewer, for cross-fitting."""


class Candidates(NamedTuple):
    """What could have been shown at each slot, given the slots above; (C,) in all."""

    starts: I64
    """Shape (S + 1,): slot s could have shown candidates ``starts[s]`` up to ``starts[s + 1]``."""
    item: U64
    """Shape (C,): key of each candidate, see :func:`item_key`."""
    logged: F64 | None = None
    """Shape (C,): its probability under the logging policy, given the slots above; NaN at all of a slot's where the log
    has only that of what was shown, None where it never has more, or was not asked."""


class Texts(NamedTuple):
    """Features as the log has them, as VW JSON objects: what a model file scores and a reward model learns from."""

    shared: list[bytes]
    """One of each event: viewer and context."""
    candidates: list[bytes]
    """One of each candidate *of the batch's candidates' order*, shape (C,)."""


@dataclass(slots=True)
class Batch:
    """A stretch of a log, in its order.

    ``reward`` is 0 where the slot was not seen: a feed's value is the sum over its slots with unseen = 0.
    """

    starts: I64
    """Shape (n + 1,): event i has slots ``starts[i]`` up to ``starts[i + 1]``."""
    item: U64
    """Shape (S,): key of what was shown."""
    chosen: I64
    """Shape (S,): its place among the slot's candidates, from 0."""
    propensity: F64
    """Shape (S,): probability under the logging policy of showing it there, given the slots above."""
    reward: F64
    """Shape (S,)."""
    n_candidates: I64
    """Shape (S,): how many candidates the slot had."""
    viewer: U64
    """Shape (n,): hash of the viewer; of the event itself where the log knows no viewers."""
    time: F64
    """Shape (n,): seconds since 1970, UTC; NaN where unknown."""
    place: I64
    """Shape (n,): line, row or log position, from 1: where to look when something is wrong."""
    seen: U8 | None = None
    """Shape (S,): 0 where nothing says that the slot was seen; None if all were."""
    fields: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Columns of shape (n,) by name, strings or numbers, to slice by: what the log says of context, model and so on."""
    columns: dict[str, F64] = field(default_factory=dict)
    """Numbers of shape (S,) by name that policies may ask for: propensities of other runs."""
    candidates: Candidates | None = None
    """None if the log, or the reader as opened, does not say more than how many there were."""
    texts: Texts | None = None
    """None if the log, or the reader as opened, has no features."""
    contexts: F64 | None = None
    """Shape (n, d): numeric contexts, where the log has those in place of texts."""
    source: Any = None
    """What only this reader's own policies understand (the service's log: its decisions)."""

    @property
    def n(self) -> int:
        """How many events."""
        return len(self.starts) - 1

    @property
    def n_slots(self) -> int:
        """How many slots in all."""
        return len(self.item)

    @property
    def single(self) -> bool:
        """Every event has exactly one slot."""
        return self.n_slots == self.n


def event_of_slot(starts: I64) -> I64:
    """Shape (S,): the event that each slot belongs to."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def slot_numbers(starts: I64) -> I64:
    """Shape (S,): 0 for the top slot of each event, 1 for the next, and so on."""
    return np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))


def item_key(item: str) -> int:
    """A 64-bit key of an item's id: the number itself if it is a plain decimal one, else a hash.

    >>> item_key("42")
    42
    """
    if item.isascii() and item.isdigit() and len(item) < 19 and (item == "0" or item[0] != "0"):
        return int(item)
    return hash_key(item)


def hash_key(text: str) -> int:
    """BLAKE2b-64 of a text; the same in every process, so folds and clusters are too."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def mixed(keys: U64) -> U64:
    """Well-mixed 64 bits of each key (the finaliser of splitmix64): keys may be plain numbers.

    :param keys: shape (n,)
    """
    z = keys.astype(np.uint64, copy=True)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fold_of(viewer: U64) -> I64:
    """Shape (n,): which of the ``FOLDS`` an event is in; all events of a viewer are in the same."""
    return (mixed(viewer) >> np.uint64(32)).astype(np.int64) % FOLDS


class Needs(NamedTuple):
    """What the policies and estimators of one evaluation want to see; a reader leaves out the rest, for speed."""

    fields: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    candidates: bool = False
    texts: bool = False
    logged: bool = False
    """With the candidates, how likely each was, where the log has that."""


class Problems(NamedTuple):
    """What a reader could not use; counts by a plain reason, and the first few with their places."""

    counts: Mapping[str, int]
    examples: tuple[str, ...]


class Log(Protocol):
    """An opened log. Reading it again gives the same batches."""

    name: str
    """As the user named it."""
    kind: str
    """``service``, ``dsjson``, ``parquet``, ``obd`` or ``arrays``."""
    marginals: bool
    """Propensities are marginal in each slot, not given the slots above (a factored logging policy)."""

    @property
    def reward_range(self) -> tuple[float, float] | None:
        """Lowest and highest reward of an *event*, if the log's kind or its config fixes it."""
        ...

    def batches(self, needs: Needs) -> Iterator[Batch]:
        """The log in order; each batch has at least one event.

        :raises BadLog: a missing or impossible propensity, or a broken line where that is fatal
        """
        ...

    def problems(self) -> Problems:
        """Of the last full reading."""
        ...

    def size(self) -> int:
        """Events or bytes, whichever the reader reports its progress in; 0 if unknown."""
        ...

    def done(self) -> int:
        """How much of :meth:`size` the current reading has passed."""
        ...


class Assignment(NamedTuple):
    """What a target policy does where the log was: made by a policy for a batch."""

    propensity: F64
    """Shape (S,): its probability of the logged candidate at each slot, given the slots above *as logged*."""
    pmf: F64 | None
    """Shape (C,): its probability of each candidate of each slot, given the slots above as logged; sums to 1 in each
    slot. None where the policy knows only the first, or was not asked."""
    accepted: U8 | None = None
    """Shape (n,), policies that learn along the log: 1 where the event was learned from."""
    uncovered: float | None = None
    """What it gives, added up over slots, to candidates that the log could not have shown; None if nobody looked."""


class Policy(Protocol):
    """A target policy: what would another one have earned?"""

    name: str
    spec: str
    """As it was asked for."""
    stationary: bool
    """The same for every event; a policy that learns along the log is not."""

    def needs(self, pmf: bool) -> Needs:
        """What it must see, with its probabilities of all candidates or without."""
        ...

    def prepare(self, log: Log) -> None:
        """Once before the first batch: load a model, run a learner along the log.

        :raises BadPolicy: it cannot be run on this log
        """
        ...

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """What it does at the slots of a batch. Batches come in the log's order.

        :raises BadPolicy: the batch shows something that it cannot rank
        """
        ...

    def largest_weight(self, batch: Batch, assignment: Assignment) -> float:
        """An upper bound on the weight (target over logged probability) that any candidate could have had in these
        events' slots, seen or not, from the logging policy's known floor; inf if nothing bounds it."""
        ...
