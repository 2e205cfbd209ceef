"""All that an evaluation keeps of a log: sums of terms, split by viewer into buckets. They can be merged.

Estimators are smooth functions of means of terms, so their values need the totals alone, and their standard errors
the totals by bucket: a viewer's events are all in one bucket, so buckets are independent of each other even where the
events of a viewer are not. With many more viewers than buckets, buckets are random groups of viewers, and variances
between them are right all the same, with one degree of freedom for each bucket. So memory stays constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.errors import BadQuestion
from replay.events import F64, I64, U64, Batch
from replay.expectations import dense_expectations
from replay.sum_kernels import add_single, add_slates, keep_largest
from replay.terms import SHAPES, SINGLE_KINDS, SLATE_KINDS, SLOT_KINDS, TermSet
from replay.weight_table import WeightTable

BUCKETS: Final = 8192
SLICE_BUCKETS: Final = 1024
"""For slices and stretches of time: a third of a digit less in the standard error, an eighth of the memory."""
TOP_K: Final = 4096
"""How many of the largest weights are kept: enough for a tail fit on 1e6 events by the usual 3 sqrt(n)."""

_AT_ONCE: Final = 65_536
_NOTHING: Final = np.empty(0)


class _Program(NamedTuple):
    """The terms as the kernels take them."""

    kinds: I64
    shapes: I64
    lams: F64
    slots: I64


class Sums:
    """What is known of one policy (in one slice) once the events are read.

    :param terms: what to add up; see `replay.estimators.terms_for`
    :param reward_range: lowest and highest reward of an event, if the log fixes it
    :param n_buckets: a power of two
    :param table: also count weights and rewards, see `WeightTable`; slices do without
    :param top: how many of the largest weights to keep
    """

    def __init__(
        self,
        terms: TermSet,
        *,
        reward_range: tuple[float, float] | None = None,
        n_buckets: int = BUCKETS,
        table: bool = True,
        top: int = TOP_K,
        n_slots: int = 0,
    ) -> None:
        assert n_buckets & (n_buckets - 1) == 0, n_buckets
        self.terms = terms
        self.reward_range = reward_range
        self.n_slots = n_slots
        """Slates: the most slots that any event had; columns go that far."""
        self.names: tuple[str, ...] = terms.names(n_slots)
        """The terms, in column order; ``names[0] == "one"``."""
        self.n = 0
        self.buckets: F64 = np.zeros((n_buckets, len(self.names)))
        """Shape (n_buckets, p): sums of terms over the events of each bucket of viewers."""
        self.tabled = table
        self.weights = WeightTable(reward_range, mean_weight_is_one=not terms.slates)
        """Counts by weight and reward; empty and not ``faithful`` without ``table``."""
        self.weights.faithful = table
        self.largest_weight = 0.0
        """Seen; of slates, of w_{1:L}."""
        self.weight_bound = 0.0
        """No weight could have been larger, seen or not; inf if nothing bounds it; 0 before there were events."""
        self.lowest_reward, self.highest_reward = np.inf, -np.inf
        """Of an event, seen."""
        self._heap: F64 = np.empty(top)
        self._heap_size = 0
        self._program = _Program(
            np.array([(SLATE_KINDS if terms.slates else SINGLE_KINDS).index(term.kind) for term in terms.events]),
            np.array([SHAPES.index(term.shape) for term in terms.events]),
            np.array([term.lam for term in terms.events]),
            np.array([SLOT_KINDS.index(kind) for kind in terms.slots], np.int64),
        )

    # -- adding --------------------------------------------------------------------------------

    def add(
        self,
        batch: Batch,
        weight: F64,
        *,
        q_chosen: F64 | None = None,
        dm: F64 | None = None,
        marginal_weight: F64 | None = None,
        pseudo_weight: F64 | None = None,
        weight_bound: float = np.inf,
        rows: I64 | None = None,
    ) -> None:
        """Add a batch.

        :param weight: shape (S,), target over logged probability of what each slot shows, given the slots above
        :param q_chosen, dm: shape (S,), see `expectations`; needed by the terms of doubly robust estimators
        :param marginal_weight: shape (S,), where the log has marginal propensities
        :param pseudo_weight: shape (n,), exact pseudo-inverse weights, if the caller has them
        :param weight_bound: no event's weight in this batch could have been larger
        :param rows: only these events, ascending; all if None
        :raises BadQuestion: something that the terms need is missing, misshapen or not finite
        """
        if rows is None:
            self.add_columns(
                reward=batch.reward, weight=weight, viewer=batch.viewer, starts=batch.starts, q_chosen=q_chosen,
                dm=dm, marginal_weight=marginal_weight, pseudo_weight=pseudo_weight, weight_bound=weight_bound,
            )  # fmt: skip
            return
        starts, slots = batch.starts, rows
        if not batch.single:
            lengths = (starts[1:] - starts[:-1])[rows]
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
            slots = np.repeat(batch.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        some: dict[str, F64 | None] = {
            name: None if column is None else column[slots]
            for name, column in {"q_chosen": q_chosen, "dm": dm, "marginal_weight": marginal_weight}.items()
        }
        self.add_columns(
            reward=batch.reward[slots], weight=weight[slots], viewer=batch.viewer[rows],
            starts=None if batch.single else starts, **some,
            pseudo_weight=None if pseudo_weight is None else pseudo_weight[rows], weight_bound=weight_bound,
        )  # fmt: skip

    def add_columns(
        self,
        *,
        reward: F64,
        weight: F64,
        viewer: U64,
        starts: I64 | None = None,
        q_chosen: F64 | None = None,
        dm: F64 | None = None,
        marginal_weight: F64 | None = None,
        pseudo_weight: F64 | None = None,
        weight_bound: float = np.inf,
    ) -> None:
        """:meth:`add` for columns that are in no batch; ``starts`` None means one slot in each event."""
        n, n_slots = len(viewer), len(reward)
        if n == 0:
            return
        columns = {
            "weight": weight,
            "reward": reward,
            "q_chosen": q_chosen,
            "dm": dm,
            "marginal_weight": marginal_weight,
        }
        self._check(columns, n_slots)
        if pseudo_weight is not None:
            self._check({"pseudo_weight": pseudo_weight}, n)
        if self.terms.needs_q and (q_chosen is None or dm is None):
            raise BadQuestion("an estimator that was asked for needs a reward model, and there are no predictions")
        if self.terms.needs_marginals and marginal_weight is None:
            raise BadQuestion(
                "iips needs the probability of each placement whatever stands above it (marginal), for the logging "
                "and the target policy; this log has them given the slots above: use rips or cascade_dr"
            )
        if self.terms.needs_pseudo_inverse and marginal_weight is None and pseudo_weight is None:
            raise BadQuestion("pi needs pseudo-inverse weights, or marginal propensities of a factored logging policy")
        self.__dict__.pop("total", None)
        q_, dm_, m_ = (_NOTHING if c is None else c for c in (q_chosen, dm, marginal_weight))
        pseudo = _NOTHING if pseudo_weight is None else pseudo_weight
        if self.terms.slates:
            starts = np.arange(n + 1) if starts is None else starts
            event_weight, event_reward = self._add_slates(viewer, starts, weight, reward, q_, dm_, m_, pseudo)
        else:
            if n != n_slots:
                raise BadQuestion(f"{n_slots} slots in {n} events: this needs the terms of slates")
            kinds, shapes, lams, _ = self._program
            if not self.terms.needs_q:
                q_ = dm_ = _NOTHING
            for i in range(0, n, _AT_ONCE):
                part = slice(i, i + _AT_ONCE)
                add_single(
                    self.buckets, viewer[part], weight[part], reward[part], q_[part], dm_[part], kinds, shapes, lams
                )
                if self.tabled:
                    self.weights.add(weight[part], reward[part])
                self._heap_size = keep_largest(self._heap, self._heap_size, weight[part])
            event_weight, event_reward = weight, reward
        self.n += n
        self.largest_weight = max(self.largest_weight, float(event_weight.max()))
        self.weight_bound = max(self.weight_bound, weight_bound)
        self.lowest_reward = min(self.lowest_reward, float(event_reward.min()))
        self.highest_reward = max(self.highest_reward, float(event_reward.max()))

    def add_dense(
        self,
        *,
        reward: F64,
        action: I64,
        propensity: F64,
        pmf: NDArray[Any],
        q: NDArray[Any] | None = None,
        viewer: U64 | None = None,
        weight_bound: float = np.inf,
    ) -> None:
        """Add events of one slot with A candidates each, straight from matrices, without a copy of them.

        :param action: shape (n,), 0 to A - 1
        :param propensity: shape (n,), logged
        :param pmf: shape (n, A) or (1, A), float32 or float64: the target's probabilities
        :param q: the same of a reward model's predictions
        :param viewer: shape (n,); None if each event is a viewer of its own
        """
        n = len(reward)
        keys = np.arange(self.n, self.n + n, dtype=np.uint64) if viewer is None else viewer
        for i in range(0, n, _AT_ONCE):
            part = slice(i, i + _AT_ONCE)
            some_pmf = pmf if len(pmf) == 1 else pmf[part]
            some_q = q if q is None or len(q) == 1 else q[part]
            p_chosen, q_chosen, dm = dense_expectations(some_pmf, some_q, action[part])
            self.add_columns(
                reward=reward[part], weight=p_chosen / propensity[part], viewer=keys[part], weight_bound=weight_bound,
                q_chosen=None if q is None else q_chosen, dm=None if q is None else dm,
            )  # fmt: skip

    def _add_slates(
        self, viewer: U64, starts: I64, weight: F64, reward: F64, q: F64, dm: F64, marginal: F64, pseudo: F64
    ) -> tuple[F64, F64]:
        self._widen(int((starts[1:] - starts[:-1]).max()))
        pair_weight, pair_reward = np.empty(len(viewer)), np.empty(len(viewer))
        untold = add_slates(
            self.buckets, viewer, starts, weight, reward, q, dm, marginal, pseudo,
            self._program.kinds, self._program.slots, pair_weight, pair_reward,
        )  # fmt: skip
        if self.tabled:
            self.weights.add(pair_weight, pair_reward)
            self.weights.faithful = self.weights.faithful and not untold
        full = np.multiply.reduceat(weight, starts[:-1])
        self._heap_size = keep_largest(self._heap, self._heap_size, full)
        return full, pair_reward

    def _check(self, columns: Mapping[str, F64 | None], n: int) -> None:
        for name, column in columns.items():
            if column is None:
                continue
            if column.shape != (n,):
                raise BadQuestion(f"{name} has shape {column.shape}, expected ({n},)")
            if not np.isfinite(column.sum()) and not np.isfinite(column).all():
                at = int(np.flatnonzero(~np.isfinite(column))[0])
                raise BadQuestion(f"{name} {column[at]} at row {at + 1} is not a finite number")
            if name in ("weight", "marginal_weight") and column.min() < 0:
                at = int(column.argmin())
                raise BadQuestion(f"{name} {column[at]} at row {at + 1} is negative")

    def _widen(self, n_slots: int) -> None:
        """Make room for longer slates; the columns of the slots that are there stay where they are."""
        if n_slots <= self.n_slots:
            return
        self.n_slots = n_slots
        self.names = self.terms.names(n_slots)
        wide = np.zeros((len(self.buckets), len(self.names)))
        wide[:, : self.buckets.shape[1]] = self.buckets
        self.buckets = wide

    # -- merging -------------------------------------------------------------------------------

    def merge(self, other: Sums) -> Sums:
        """Both together, as if one pass had seen all; neither is changed.

        :raises BadQuestion: they hold different terms, or have another number of buckets
        """
        if self.terms != other.terms:
            mine, theirs = set(self.terms.names(1)), set(other.terms.names(1))
            raise BadQuestion(
                "sums of different terms do not merge: "
                f"only in one of them: {', '.join(sorted(mine ^ theirs)) or 'slates'}; ask both for the same estimators"
            )
        if len(self.buckets) != len(other.buckets):
            raise BadQuestion(f"sums in {len(self.buckets)} and {len(other.buckets)} buckets do not merge")
        if self.tabled != other.tabled:
            raise BadQuestion("sums with and without a table of weights do not merge")
        both = Sums(
            self.terms, reward_range=self.reward_range, n_buckets=len(self.buckets), table=False,
            top=max(len(self._heap), len(other._heap)), n_slots=max(self.n_slots, other.n_slots),
        )  # fmt: skip
        both.n = self.n + other.n
        both.buckets[:, : self.buckets.shape[1]] = self.buckets
        both.buckets[:, : other.buckets.shape[1]] += other.buckets
        both.tabled = self.tabled
        both.weights = self.weights.merge(other.weights)
        both.largest_weight = max(self.largest_weight, other.largest_weight)
        both.weight_bound = max(self.weight_bound, other.weight_bound)
        both.lowest_reward = min(self.lowest_reward, other.lowest_reward)
        both.highest_reward = max(self.highest_reward, other.highest_reward)
        for part in (self, other):
            both._heap_size = keep_largest(both._heap, both._heap_size, part.largest)
        return both

    # -- asking --------------------------------------------------------------------------------

    @cached_property
    def total(self) -> F64:
        """Shape (p,): sums of terms over all events."""
        total: F64 = self.buckets.sum(0)
        return total

    @property
    def largest(self) -> F64:
        """The largest weights seen, at most ``top`` of them, in no order."""
        return self._heap[: self._heap_size].copy()

    @property
    def means(self) -> F64:
        """Shape (p,).

        :raises BadQuestion: there are no events
        """
        if self.n == 0:
            raise BadQuestion("there are no events to take a mean of")
        means: F64 = self.total / self.n
        return means

    def index(self, name: str) -> int:
        """
        :raises BadQuestion: the term was not asked for
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise BadQuestion(f"these sums have no term {name!r}; they have {', '.join(self.names)}") from None

    def mean(self, name: str) -> float:
        """
        :raises BadQuestion: the term was not asked for, or there are no events
        """
        at = self.index(name)
        return float(self.means[at])

    def influence(self, gradient: F64) -> F64:
        """What variances are made of: shape (used buckets,), sums to 0.

        :param gradient: shape (p,), derivative of a value with respect to the means of the terms
        :returns: each bucket's sum, over its events, of the value's linearisation less its mean
        """
        used = self.buckets[self.buckets[:, 0] > 0]
        along: F64 = used @ gradient
        psi: F64 = along - used[:, 0] * (self.means @ gradient)
        return psi

    @property
    def used_buckets(self) -> int:
        """How many buckets have events: at most the number of viewers."""
        return int(np.count_nonzero(self.buckets[:, 0]))
