"""What all policies share: their name, the check of what they give, and a bound on their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from replay.errors import BadPolicy
from replay.events import F64, I64, Assignment, Batch, Log, Needs, event_of_slot, slot_numbers

SUM_TOLERANCE: Final = 1e-4
"""How far from 1 the probabilities of a slot's candidates may sum: tables are often written with six digits."""
UNIFORM_TOLERANCE: Final = 1e-6
"""Relative; logs write 1/3 as 0.333333."""


class PolicyBase:
    """A policy that needs nothing of the log but its batches, and is the same for every event."""

    stationary = True
    along = False
    """It has to see the whole log, in its order, as one."""

    def __init__(self, name: str, spec: str) -> None:
        self.name = name
        self.spec = spec

    def needs(self, pmf: bool) -> Needs:
        """Nothing beyond what every batch has."""
        return Needs()

    def prepare(self, log: Log) -> None:
        """Nothing to prepare."""

    def largest_weight(self, batch: Batch, assignment: Assignment) -> float:
        """See :func:`weight_bound`."""
        return weight_bound(batch, assignment)


# -- checks -------------------------------------------------------------------------------------


def place_of_slot(batch: Batch, slot: int) -> str:
    """Where in the log a slot is, in words."""
    event = int(event_of_slot(batch.starts)[slot])
    where = f"place {batch.place[event]} of the log"
    return where if batch.single else f"{where}, slot {slot_numbers(batch.starts)[slot]}"


def checked(policy: str, batch: Batch, propensity: NDArray[np.floating]) -> F64:
    """Probabilities of what was shown, each within [0, 1].

    :param policy: its name, for the message
    :param propensity: shape (S,)
    :raises BadPolicy: another shape, NaN, below 0 or above 1
    """
    if propensity.shape != (batch.n_slots,):
        raise BadPolicy(
            f"policy {policy} gave probabilities of shape {propensity.shape} for {batch.n_slots} slots; "
            f"give one for each slot: ({batch.n_slots},)"
        )
    values = np.asarray(propensity, np.float64)
    _check_range(policy, values, lambda slot: place_of_slot(batch, slot))
    return np.clip(values, 0.0, 1.0)


def checked_pmf(policy: str, batch: Batch, pmf: NDArray[np.floating], starts: I64 | None = None) -> F64:
    """Probabilities of every candidate, each within [0, 1], summing to 1 in every slot; scaled to sum to it exactly.

    :param pmf: shape (C,)
    :param starts: shape (S + 1,), where each slot's candidates begin; by ``batch.n_candidates`` if not given
    :raises BadPolicy: another shape, NaN, below 0, above 1, or another sum
    """
    starts = candidate_starts(batch) if starts is None else starts
    if pmf.shape != (int(starts[-1]),):
        raise BadPolicy(
            f"policy {policy} gave probabilities of shape {pmf.shape} for {starts[-1]} candidates of "
            f"{batch.n_slots} slots; give one for each: ({starts[-1]},)"
        )
    values = np.asarray(pmf, np.float64)
    _check_range(policy, values, lambda at: place_of_slot(batch, int(np.searchsorted(starts, at, side="right")) - 1))
    sums = slot_sums(values, starts)
    bad = np.abs(sums - 1.0) > SUM_TOLERANCE
    if bad.any():
        slot = int(np.argmax(bad))
        raise BadPolicy(
            f"policy {policy}: probabilities of the {starts[slot + 1] - starts[slot]} candidates at "
            f"{place_of_slot(batch, slot)} sum to {sums[slot]:.6g}, not to 1"
        )
    return np.clip(values, 0.0, 1.0) / np.repeat(sums, np.diff(starts))


def _check_range(policy: str, values: F64, place: Callable[[int], str]) -> None:
    with np.errstate(invalid="ignore"):
        good = (values >= -1e-9) & (values <= 1.0 + 1e-9)
    if not good.all():
        at = int(np.argmin(good))
        raise BadPolicy(f"policy {policy} gave the probability {values[at]} at {place(at)}; allowed is 0 to 1")


# -- slots and their candidates -----------------------------------------------------------------


def candidate_starts(batch: Batch) -> I64:
    """Shape (S + 1,): where each slot's candidates begin among the batch's."""
    if batch.candidates is not None:
        return batch.candidates.starts
    starts = np.zeros(batch.n_slots + 1, np.int64)
    np.cumsum(batch.n_candidates, out=starts[1:])
    return starts


def slot_sums(values: F64, starts: I64) -> F64:
    """Shape (S,): sums over each slot's candidates."""
    if len(starts) == 1:
        return np.zeros(0)
    sums = np.add.reduceat(np.append(values, 0.0), starts[:-1])
    return np.asarray(np.where(np.diff(starts) > 0, sums, 0.0))


def of_chosen(pmf: F64, batch: Batch, starts: I64) -> F64:
    """Shape (S,): of the probabilities of all candidates those of what was shown."""
    return np.asarray(pmf[starts[:-1] + batch.chosen])


def uncovered(batch: Batch, pmf: F64) -> float:
    """What is given, added up over slots, to candidates that were logged with probability 0, if the log has those of
    all.

    :param pmf: shape (C,)
    """
    if batch.candidates is None or batch.candidates.logged is None:
        return 0.0
    return float(pmf[batch.candidates.logged <= 0].sum())


# -- a bound on weights -------------------------------------------------------------------------


def is_uniform(batch: Batch) -> bool:
    """Whether every slot was shown with probability one over its number of candidates."""
    return bool((np.abs(batch.propensity * batch.n_candidates - 1.0) <= UNIFORM_TOLERANCE).all())


def weight_bound(batch: Batch, assignment: Assignment) -> float:
    """The largest weight that any event of the batch could have had; for several slots, of their product.

    What the logging policy gave to every candidate is known where the log has it, or the reader gives the column
    ``least_propensity``, or all that was logged is what a uniform policy logs; elsewhere there is no bound.
    """
    starts = candidate_starts(batch)
    if batch.n_slots == 0 or (np.diff(starts) <= 0).any():
        return float("inf")
    logged = None if batch.candidates is None else batch.candidates.logged
    least = batch.columns.get("least_propensity")
    with np.errstate(divide="ignore", invalid="ignore"):
        if logged is not None and not np.isnan(logged).any():
            pmf = np.ones(len(logged)) if assignment.pmf is None else assignment.pmf
            largest = np.maximum.reduceat(np.where(pmf > 0, pmf / logged, 0.0), starts[:-1])
        elif least is not None or is_uniform(batch):
            least = 1.0 / batch.n_candidates if least is None else least
            most = 1.0 if assignment.pmf is None else np.maximum.reduceat(assignment.pmf, starts[:-1])
            largest = most / least
        else:
            return float("inf")
        logs = np.log(np.maximum(largest, 1.0))
    total = np.concatenate([[0.0], np.cumsum(logs)])
    if not np.isfinite(total[-1]):
        return float("inf")
    return float(np.exp((total[batch.starts[1:]] - total[batch.starts[:-1]]).max(initial=0.0)))


# -- options ------------------------------------------------------------------------------------


def split_options(text: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """``FILE,a=1,b=2`` in two: what comes first, and the known options at its end.

    :param known: what each option is, by name, for messages
    :raises BadPolicy: an option twice
    """
    parts = text.split(",")
    options: dict[str, str] = {}
    while len(parts) > 1:
        name, equals, value = parts[-1].partition("=")
        if not equals or name.strip() not in known:
            break
        if name.strip() in options:
            raise BadPolicy(f"{text!r} gives {name.strip()} twice")
        options[name.strip()] = value.strip()
        parts.pop()
    if len(parts) > 1 and "=" in parts[-1] and "/" not in parts[-1]:
        wrong = parts[-1].partition("=")[0].strip()
        listed = "; ".join(f"{name}: {what}" for name, what in known.items()) or "none"
        raise BadPolicy(f"{text!r} has the option {wrong}, which is not known here; known are {listed}")
    return ",".join(parts), options


def number(spec: str, name: str, text: str, low: float, high: float) -> float:
    """The number that an option gives.

    :raises BadPolicy: no number, or outside [low, high]
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise BadPolicy(f"{spec}: {name}={text} is not a number from {low:g} to {high:g}")
    return value
