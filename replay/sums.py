"""All that an evaluation keeps of a log: sums of terms, split by viewer into buckets. They can be merged.

Estimators are smooth functions of means of terms, so their values need the totals alone, and their standard errors
the totals by bucket: a viewer's events are all in one bucket, so buckets are independent of each other even where the
events of a viewer are not. With many more viewers than buckets, buckets are random groups of viewers, and variances
between them are right all the same, with one degree of freedom for each bucket. So memory stays constant.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.columns import LARGEST, NOTHING, Columns, checked
from replay.errors import BadQuestion
from replay.events import F64, I64, U64, Batch
from replay.expectations import dense_expectations
from replay.sum_kernels import add_single, add_slates, keep_largest
from replay.terms import SHAPES, SINGLE_KINDS, SLATE_KINDS, SLOT_KINDS, TermSet
from replay.weight_table import WeightTable

BUCKETS: Final = 8192
SLICE_BUCKETS: Final = 1024
"""For slices and stretches of time: their standard errors are themselves known to 2 %, in an eighth of the memory."""
TOP_K: Final = 4096
"""How many of the largest weights are kept: a tail fit takes the largest 3 sqrt(n), so enough for 1.8e6 events."""

_AT_ONCE: Final = 65_536
_LARGEST_LOG: Final = float(np.log(LARGEST))


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
        """How many events were added."""
        self.buckets: F64 = np.zeros((n_buckets, len(self.names)))
        """Shape (n_buckets, p): sums of terms over the events of each bucket of viewers."""
        self.tabled = table
        self.weights = WeightTable(reward_range, mean_weight_is_one=not terms.slates)
        """Counts by weight and reward; empty and not ``faithful`` without ``table``. Every event counts once."""
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
        stands_for: F64 | None = None,
        weight_bound: float = np.inf,
        rows: I64 | None = None,
    ) -> None:
        """Add a batch.

        :param weight: shape (S,), target over logged probability of what each slot shows, given the slots above
        :param q_chosen, dm: shape (S,), see `replay.expectations`; needed by the terms of doubly robust estimators
        :param marginal_weight: shape (S,), where the log has marginal propensities
        :param pseudo_weight: shape (n,), exact pseudo-inverse weights, if the caller has them
        :param stands_for: shape (n,), how many events each stands for where the log is a sample whose rate changed:
            1 / (1 - pdrop); means are then weighted, but ``weights`` and ``largest`` count each once
        :param weight_bound: no event's weight in this batch could have been larger
        :param rows: only these events, ascending; all if None
        :raises BadQuestion: something that the terms need is missing, misshapen or not finite
        """
        starts = None if batch.single else batch.starts
        columns = Columns(
            batch.reward, weight, batch.viewer, starts, q_chosen, dm, marginal_weight, pseudo_weight, stands_for
        )
        self._add(columns if rows is None else columns.of(rows), weight_bound)

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
        stands_for: F64 | None = None,
        weight_bound: float = np.inf,
    ) -> None:
        """:meth:`add` for columns that are in no batch; ``starts`` None means one slot in each event."""
        self._add(
            Columns(reward, weight, viewer, starts, q_chosen, dm, marginal_weight, pseudo_weight, stands_for),
            weight_bound,
        )

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
        :param viewer: shape (n,); None if each event is a viewer of its own (name them, where parts are to be merged)
        :raises BadQuestion: as :meth:`add`
        """
        n = len(reward)
        if not (propensity > 0).all():
            at = int(np.flatnonzero(~(propensity > 0))[0])
            raise BadQuestion(f"propensity {propensity[at]} at row {at + 1}; what was shown had some probability")
        keys = np.arange(self.n, self.n + n, dtype=np.uint64) if viewer is None else viewer
        for i in range(0, n, _AT_ONCE):
            part = slice(i, i + _AT_ONCE)
            some_pmf = pmf if len(pmf) == 1 else pmf[part]
            some_q = q if q is None or len(q) == 1 else q[part]
            p_chosen, q_chosen, dm = dense_expectations(some_pmf, some_q, action[part])
            self.add_columns(
                reward=reward[part], weight=p_chosen / propensity[part], viewer=keys[part],
                q_chosen=None if q is None else q_chosen, dm=None if q is None else dm, weight_bound=weight_bound,
            )  # fmt: skip

    def _add(self, columns: Columns, weight_bound: float) -> None:
        given = checked(columns, self.terms)
        if len(given.viewer) == 0:
            return
        self.__dict__.pop("total", None)
        if given.starts is not None:
            weight, reward = self._add_slates(given, given.starts)
        else:
            weight, reward = self._add_single(given)
        self._heap_size = keep_largest(self._heap, self._heap_size, weight)
        self.n += len(given.viewer)
        self.largest_weight = max(self.largest_weight, float(weight.max()))
        self.weight_bound = max(self.weight_bound, weight_bound)
        self.lowest_reward = min(self.lowest_reward, float(reward.min()))
        self.highest_reward = max(self.highest_reward, float(reward.max()))

    def _add_single(self, given: Columns) -> tuple[F64, F64]:
        """Returns the weight and reward of each event."""
        kinds, shapes, lams, _ = self._program
        q, dm, times = (
            NOTHING if column is None else column for column in (given.q_chosen, given.dm, given.stands_for)
        )
        for i in range(0, len(given.viewer), _AT_ONCE):
            part = slice(i, i + _AT_ONCE)
            weight, reward = given.weight[part], given.reward[part]
            add_single(
                self.buckets, given.viewer[part], times[part], weight, reward, q[part], dm[part], kinds, shapes, lams
            )
            self._count(weight, reward, faithful=given.stands_for is None)
        return given.weight, given.reward

    def _add_slates(self, given: Columns, starts: I64) -> tuple[F64, F64]:
        """Returns the weight w_{1:L} and reward of each event."""
        # No product of a slate's weights is larger than this one.
        if np.add.reduceat(np.log(np.maximum(given.weight, 1.0)), starts[:-1]).max() > _LARGEST_LOG:
            raise BadQuestion(
                "the weights of one event's slots multiply to more than 1e75: a propensity cannot be right"
            )
        self._widen(int((starts[1:] - starts[:-1]).max()))
        n = len(given.viewer)
        full, pair_weight, reward = np.empty(n), np.empty(n), np.empty(n)
        times, q, dm, marginal, pseudo = (
            NOTHING if column is None else column
            for column in (given.stands_for, given.q_chosen, given.dm, given.marginal_weight, given.pseudo_weight)
        )
        untold = add_slates(
            self.buckets, given.viewer, times, starts, given.weight, given.reward, q, dm, marginal, pseudo,
            self._program.kinds, self._program.slots, full, pair_weight, reward,
        )  # fmt: skip
        self._count(pair_weight, reward, faithful=given.stands_for is None and not untold)
        return full, reward

    def _count(self, weight: F64, reward: F64, *, faithful: bool) -> None:
        if self.tabled:
            self.weights.add(weight, reward)
        self.weights.faithful = self.weights.faithful and faithful

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
                "sums of different terms do not merge; only in one of them: "
                f"{', '.join(sorted(mine ^ theirs)) or 'slates'}; ask both for the same estimators"
            )
        if len(self.buckets) != len(other.buckets):
            raise BadQuestion(f"sums in {len(self.buckets)} and {len(other.buckets)} buckets do not merge")
        if self.tabled != other.tabled:
            raise BadQuestion("sums with and without a table of weights do not merge")
        both = Sums(
            self.terms, reward_range=self.reward_range, n_buckets=len(self.buckets), table=self.tabled,
            top=max(len(self._heap), len(other._heap)),
        )  # fmt: skip
        if self.tabled:
            both.weights = self.weights.merge(other.weights)
        both._widen(max(self.n_slots, other.n_slots))
        both.n = self.n + other.n
        for part in (self, other):
            both.buckets[:, : part.buckets.shape[1]] += part.buckets
            both._take_extremes(part)
            both._heap_size = keep_largest(both._heap, both._heap_size, part.largest)
        return both

    def _take_extremes(self, part: Sums) -> None:
        self.largest_weight = max(self.largest_weight, part.largest_weight)
        self.weight_bound = max(self.weight_bound, part.weight_bound)
        self.lowest_reward = min(self.lowest_reward, part.lowest_reward)
        self.highest_reward = max(self.highest_reward, part.highest_reward)

    # -- asking --------------------------------------------------------------------------------

    @cached_property
    def total(self) -> F64:
        """Shape (p,): sums of terms over all events."""
        total: F64 = self.buckets.sum(0)
        return total

    @property
    def size(self) -> float:
        """How many events the means are over: :attr:`n`, save where events stand for several."""
        return float(self.total[0])

    @property
    def means(self) -> F64:
        """Shape (p,).

        :raises BadQuestion: there are no events
        """
        if self.n == 0:
            raise BadQuestion("there are no events to take a mean of")
        means: F64 = self.total / self.total[0]
        return means

    @property
    def largest(self) -> F64:
        """The largest weights seen, at most ``top`` of them, in no order."""
        return self._heap[: self._heap_size].copy()

    @property
    def used_buckets(self) -> int:
        """How many buckets have events: at most the number of viewers."""
        return int(np.count_nonzero(self.buckets[:, 0]))

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
