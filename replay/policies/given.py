"""Policies whose probabilities come from elsewhere: a column of the log, a file beside it, a Python callable."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import BadPolicy
from replay.events import Assignment, Batch, Log, Needs
from replay.policies.base import PolicyBase, candidate_starts, checked, checked_pmf, of_chosen, uncovered

Probabilities = Callable[[Batch], Any]
"""Takes a batch; gives the probability of what was shown at each slot, shape (S,), or of every candidate of every
slot, shape (C,). Its attribute ``needs``, a `Needs`, says what more than the candidates it wants to see."""


class Column(PolicyBase):
    """Probabilities that stand in the log, in a column of their own: those of another run."""

    def __init__(self, name: str, spec: str, column: str) -> None:
        super().__init__(name, spec)
        self._column = column

    def needs(self, pmf: bool) -> Needs:
        """The column."""
        return Needs(columns=(self._column,))

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: there is no such column, or it holds what is no probability
        """
        if self._column not in batch.columns:
            there = ", ".join(sorted(batch.columns)) or "none"
            raise BadPolicy(f"{self.spec}: the log has no column {self._column}; there are: {there}")
        return Assignment(checked(self.name, batch, batch.columns[self._column]), None)


class Propensities(PolicyBase):
    """Probabilities of each slot of the log, in its order: a target that may change with time.

    :param values: shape (slots,), of what was shown; or (slots, A), of all the A candidates that every slot has
    """

    stationary = False
    along = True

    def __init__(self, name: str, spec: str, values: NDArray[Any]) -> None:
        super().__init__(name, spec)
        if values.ndim not in (1, 2) or values.dtype.kind != "f":
            raise BadPolicy(
                f"{spec} holds {values.dtype} of shape {values.shape}; needed are floats of shape (slots,), of what "
                "was shown, or (slots, candidates)"
            )
        self._values = values
        self._at = 0
        self._first: int | None = None

    def prepare(self, log: Log) -> None:
        """Count the log's slots: a file for another log must not pass.

        :raises BadPolicy: there are more or fewer slots than probabilities
        """
        n_slots, n_events = 0, 0
        for batch in log.batches(Needs()):
            if self._first is None:
                self._first = int(batch.place[0])
            n_slots += batch.n_slots
            n_events += batch.n
        if n_slots != len(self._values):
            left_out = sum(log.problems().counts.values())
            raise BadPolicy(
                f"{self.spec} holds probabilities for {len(self._values)} slots; the log has {n_slots}, of {n_events} "
                f"events ({left_out} more were left out); give one for each that is read, in order"
            )
        self._at = 0

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: they are no probabilities, or of another number of candidates
        """
        if int(batch.place[0]) == self._first:
            self._at = 0  # The log is being read again.
        values = np.asarray(self._values[self._at : self._at + batch.n_slots], np.float64)
        self._at += batch.n_slots
        if values.ndim == 1:
            return Assignment(checked(self.name, batch, values), None)
        if not (batch.n_candidates == values.shape[1]).all():
            raise BadPolicy(
                f"{self.spec} has {values.shape[1]} probabilities a slot; around place {batch.place[0]} of the log "
                f"slots have {batch.n_candidates.min()} to {batch.n_candidates.max()} candidates"
            )
        starts = candidate_starts(batch)
        whole = checked_pmf(self.name, batch, values.ravel(), starts)
        return Assignment(of_chosen(whole, batch, starts), whole if pmf else None, uncovered=uncovered(batch, whole))


class Called(PolicyBase):
    """Whatever a Python callable says. It is called with every batch; in one process, in the log's order.

    :param target: where the function was loaded from, see :func:`load_callable`: another process loads it again
    """

    stationary = False

    def __init__(self, name: str, spec: str, function: Probabilities, target: str | None = None) -> None:
        super().__init__(name, spec)
        self._target = target
        if not callable(function):
            raise BadPolicy(f"{spec}: {function!r} is not callable; give a function of a batch")
        self._function = function
        wants = getattr(function, "needs", Needs())
        if not isinstance(wants, Needs):
            raise BadPolicy(f"{spec}: its attribute needs is {wants!r}; make it a replay.events.Needs")
        self._needs = wants._replace(candidates=True)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self._target is None else {**self.__dict__, "_function": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._target is not None:
            self._function = load_callable(self.spec, self._target)

    def needs(self, pmf: bool) -> Needs:
        """The candidates, and what the callable's attribute ``needs`` says."""
        return self._needs

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: the callable raised, or gave something else than probabilities
        """
        try:
            given = self._function(batch)
        except BadPolicy:
            raise
        except Exception as error:
            raise BadPolicy(
                f"{self.spec} raised {type(error).__name__}: {error}, for the batch from place {batch.place[0]} on"
            ) from error
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise BadPolicy(f"{self.spec} gave {type(given).__name__}; needed is an array of floats") from None
        starts = candidate_starts(batch)
        n_candidates = int(starts[-1])
        if values.shape == (n_candidates,):
            whole = checked_pmf(self.name, batch, values, starts)
            shown = of_chosen(whole, batch, starts)
            return Assignment(shown, whole if pmf else None, uncovered=uncovered(batch, whole))
        if values.shape != (batch.n_slots,):
            raise BadPolicy(
                f"{self.spec} gave shape {values.shape}; needed is ({batch.n_slots},), the probability of what was "
                f"shown at each slot, or ({n_candidates},), of every candidate of every slot"
            )
        return Assignment(checked(self.name, batch, values), None)


def load_callable(spec: str, target: str) -> Any:
    """What ``module:callable`` or ``path/to/file.py:callable`` names.

    :raises BadPolicy: there is no such module, or nothing of that name in it
    """
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise BadPolicy(f"{spec}: give module:callable, or path/to/file.py:callable")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except FileNotFoundError:
        raise BadPolicy(f"{spec}: there is no file {where}") from None
    except ModuleNotFoundError as error:
        raise BadPolicy(f"{spec}: there is no module {error.name}; modules are looked for in {sys.path[:3]}") from None
    except Exception as error:
        raise BadPolicy(f"{spec}: importing {where} raised {type(error).__name__}: {error}") from error
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            there = ", ".join(sorted(each for each in vars(module) if not each.startswith("_"))[:20])
            raise BadPolicy(f"{spec}: {where} has no {attribute}; it has {there or 'nothing'}")
        found = getattr(found, name)
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    made = importlib.util.spec_from_file_location(f"replay_policy_{path.stem}", path)
    if made is None or made.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


def load_propensities(spec: str, path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped, not read.

    :raises BadPolicy: there is no such file, or it is no array
    """
    if path.suffix != ".npy":
        raise BadPolicy(f"{spec}: needed is a .npy file, as numpy.save writes it; {path.name} is none")
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise BadPolicy(f"{spec}: there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise BadPolicy(f"{spec}: {path} is not a whole .npy file of numbers: {error}") from None
