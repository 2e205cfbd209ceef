"""What sums are made of, checked once: columns of the right type and shape, without NaN, and without copies."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from replay.errors import BadQuestion
from replay.events import F64, I64, U64
from replay.terms import TermSet

NOTHING: Final[F64] = np.empty(0)
"""An optional column that is not there, for the kernels."""


LARGEST: Final = 1e75
"""Beyond it, squares of weighted rewards overflow; no log that is right comes near."""


class Columns(NamedTuple):
    """Of n events with S slots in all; see `Sums.add`."""

    reward: F64
    weight: F64
    viewer: U64
    starts: I64 | None = None
    q_chosen: F64 | None = None
    dm: F64 | None = None
    marginal_weight: F64 | None = None
    pseudo_weight: F64 | None = None
    stands_for: F64 | None = None

    def of(self, rows: I64) -> Columns:
        """These events alone.

        :param rows: shape (m,), ascending
        """
        starts, slots = self.starts, rows
        if self.starts is not None:
            lengths = np.diff(self.starts)[rows]
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
            slots = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        some: dict[str, Any] = {"viewer": self.viewer[rows], "starts": starts}
        for name in _NUMBERS:
            column = getattr(self, name)
            some[name] = None if column is None else column[slots if name in _BY_SLOT else rows]
        return Columns(**some)


_BY_SLOT: Final = ("reward", "weight", "q_chosen", "dm", "marginal_weight")
_NUMBERS: Final = (*_BY_SLOT, "pseudo_weight", "stands_for")
_NOT_NEGATIVE: Final = frozenset({"weight", "marginal_weight", "stands_for"})


def checked(columns: Columns, terms: TermSet) -> Columns:
    """The same, with the types that the kernels take, and no more than the terms need.

    :raises BadQuestion: something that the terms need is missing, misshapen, negative or not finite
    """
    n, n_slots = len(columns.viewer), len(columns.reward)
    starts = columns.starts
    if terms.slates:
        starts = np.arange(n + 1) if starts is None else plain(starts, np.int64)
        if len(starts) != n + 1 or starts[0] != 0 or starts[-1] != n_slots or (np.diff(starts) < 1).any():
            raise BadQuestion(f"{n} events and {n_slots} slots do not fit where events start; each needs one slot")
    elif n != n_slots or (starts is not None and (np.diff(starts) != 1).any()):
        raise BadQuestion(f"{n_slots} slots in {n} events: this needs the terms of slates")
    else:
        starts = None
    if terms.needs_q and (columns.q_chosen is None or columns.dm is None):
        raise BadQuestion("an estimator that was asked for needs a reward model, and there are no predictions")
    if terms.needs_marginals and columns.marginal_weight is None:
        raise BadQuestion(
            "iips needs the probability of each placement whatever stands above it (marginal), under the logging and "
            "the target policy; this log has them given the slots above: use rips or cascade_dr"
        )
    if terms.needs_pseudo_inverse and columns.marginal_weight is None and columns.pseudo_weight is None:
        raise BadQuestion("pi needs pseudo-inverse weights, or marginal propensities of a factored logging policy")
    sound: dict[str, Any] = {"viewer": plain(columns.viewer, np.uint64), "starts": starts}
    for name in _NUMBERS:
        needed = terms.needs_q or name not in ("q_chosen", "dm")
        sound[name] = _finite(name, getattr(columns, name), n_slots if name in _BY_SLOT else n) if needed else None
    return Columns(**sound)


def _finite(name: str, column: F64 | None, n: int) -> F64 | None:
    if column is None:
        return None
    if column.shape != (n,):
        raise BadQuestion(f"{name} has shape {column.shape}, expected ({n},)")
    column = plain(column, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        sound = bool(np.isfinite(column.sum()))
    if not sound and not np.isfinite(column).all():
        at = int(np.flatnonzero(~np.isfinite(column))[0])
        raise BadQuestion(f"{name} {column[at]} at row {at + 1} is not a finite number")
    if n and max(column.max(), -column.min()) > LARGEST:
        at = int(np.abs(column).argmax())
        raise BadQuestion(f"{name} {column[at]} at row {at + 1} is beyond {LARGEST:g}, where squares overflow")
    if n and name in _NOT_NEGATIVE and column.min() < 0:
        at = int(column.argmin())
        raise BadQuestion(f"{name} {column[at]} at row {at + 1} is negative")
    return column


class _Opened:
    """An array's memory, not marked as read-only."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}


def plain(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """The array as the kernels take it, copied only if it has another type or is not contiguous.

    Numba compiles a kernel anew for every mix of writable and read-only arguments (Arrow's columns and mapped files are
    read-only), so all are handed on as writable. No kernel writes to what it is given to read.
    """
    array = np.ascontiguousarray(array, dtype)
    return array if array.flags.writeable else np.asarray(_Opened(array))
