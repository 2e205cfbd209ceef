"""Labels of dsjson decisions: what was shown, how likely that was, and what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from replay.events import F64
from replay.readers.common import Tally
from replay.readers.dsjson_outcomes import Found, all_of, rule_named, values_of
from replay.readers.dsjson_types import Line, floats_decoder, ints_decoder

WAITING: Final = "deferred and never activated"
DIFFERS: Final = "lines, of every 16th, whose _label_probability is not the p of the action (see propensity=)"
ORIGINAL: Final = "decisions whose _original_label_cost is not their _label_cost (outcomes='original' reads it)"
LATE: Final = "outcomes beside their decision, joined to it"
NO_LABEL: Final = "decisions without a label; their reward is that of the outcomes found"

EVERY: Final = 16
"""One line in so many has its ``p`` compared with its label: parsing them all would cost a third more."""

UNSAID: Final = -1
AT_ODDS: Final = -2


class Options(NamedTuple):
    """How lines are read; `replay.readers.dsjson.DsjsonLog` explains them."""

    outcomes: str
    propensity: str
    pdrop: str
    default_reward: float
    item: str | None
    viewer: str | None


class Labels:
    """Reads labels, for one reading of a log."""

    def __init__(self, options: Options, found: Found, tally: Tally) -> None:
        self._options = options
        self._rule = rule_named(options.outcomes)
        self._found = found
        self._tally = tally
        self.used: set[str] = set()
        """Events that took outcomes from beside their decision."""

    def sound(self, line: Line, place: int, chosen: int, count: int) -> bool:
        """Nothing is wrong with what was shown; else it is counted."""
        where = f"line {place}"
        if line.pdrop and not 0 <= line.pdrop < 1:
            self._tally.broken(where, "impossible pdrop", f"pdrop is {line.pdrop:g}; at least 0 and below 1 is allowed")
        elif chosen == UNSAID:
            self._tally.broken(where, "no action", "neither _labelIndex nor _label_Action nor a says what was shown")
        elif chosen == AT_ODDS:
            self._tally.broken(
                where,
                "_labelIndex and _label_Action at odds",
                f"_labelIndex is {line.index}, from 0, and _label_Action is {line.action}, from 1",
            )
        elif not 0 <= chosen < count:
            self._tally.broken(
                where, "action not among the candidates", f"action {chosen + 1} of {count} in _multi was shown"
            )
        else:
            return True
        return False

    def rewards(self, lines: Sequence[Line], places: Sequence[int]) -> tuple[F64, Any]:
        """(reward of each, which of them are decisions with a reward that can be used)."""
        cost = np.array([line.cost for line in lines], np.float64)
        original = [line.original for line in lines]
        if any(value is not None for value in original):
            first = np.array(original, np.float64)
            self._tally.note(ORIGINAL, int(np.count_nonzero(np.abs(first - cost) > 1e-6 * (1 + np.abs(cost)))))
            if self._options.outcomes == "original":
                cost = np.where(np.isnan(first), cost, first)
        reward = 0.0 - cost
        fine = np.ones(len(lines), bool)
        unlabelled = np.isnan(cost)
        if self._rule is not None:
            again: Sequence[int] = range(len(lines))
        elif self._found.outcomes:
            late = self._found.outcomes
            again = [i for i, line in enumerate(lines) if unlabelled[i] or (line.event or "", "") in late]
        else:
            again = np.flatnonzero(unlabelled).tolist()
        for i in again:
            line = lines[i]
            beside = all_of(self._found, line.event, ("",))
            values, activated = values_of(line.o)
            if unlabelled[i]:
                if line.waits and not (values or beside or activated or line.event in self._found.activated):
                    fine[i] = False
                    self._tally.note(WAITING)
                    continue
                self._tally.note(NO_LABEL)
            self.took(line, beside)
            reward[i] = self.reward(float(reward[i]), values, beside)
        return reward, fine

    def took(self, line: Line, beside: Sequence[float]) -> None:
        """Count outcomes that were joined to a decision."""
        if beside and line.event is not None:
            self._tally.note(LATE, len(beside))
            self.used.add(line.event)

    def reward(self, labelled: float, values: list[float], beside: list[float]) -> float:
        """One reward of a label (NaN if there is none), the outcomes joined to it, and those beside it."""
        if self._rule is not None and values + beside:
            return self._rule(values + beside)
        if np.isnan(labelled):
            return float(sum(values + beside)) if values or beside else self._options.default_reward
        if beside:
            return float(sum(beside)) + (labelled if values else 0.0)
        return labelled

    def propensities(self, lines: Sequence[Line], places: Sequence[int], chosen: Sequence[int]) -> F64:
        """Of what was shown; NaN where nothing says it."""
        given = np.array([line.p_label for line in lines], np.float64)
        by_p = self._options.propensity == "p"
        wrong = 0
        for i in np.flatnonzero(np.isnan(given) | (np.array(places) % EVERY == 0) | by_p).tolist():
            p = _p_of(lines[i], chosen[i])
            if by_p or np.isnan(given[i]):
                given[i] = p
            else:
                wrong += abs(given[i] - p) > 1e-4 * given[i]
        self._tally.note(DIFFERS, wrong)
        return given


def chosen_of(line: Line) -> int:
    """Which candidate was shown, from 0; ``UNSAID`` or ``AT_ODDS`` where that is not clear."""
    index, action = line.index, line.action
    if index is not None:
        if action is not None and action != index + 1:
            return AT_ODDS
        return index if index >= 0 else UNSAID
    if action is not None:
        return action - 1 if action > 0 else UNSAID
    ranked = _list(ints_decoder, line.a)
    return ranked[0] - 1 if ranked and ranked[0] > 0 else UNSAID


def _p_of(line: Line, chosen: int) -> float:
    """Probability of the action in ``p``; NaN if that does not say."""
    p, ranked = _list(floats_decoder, line.p), _list(ints_decoder, line.a)
    return p[ranked.index(chosen + 1)] if chosen + 1 in ranked[: len(p)] else np.nan


def _list(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> list[Any]:
    try:
        found: list[Any] = decoder.decode(raw) if raw else []
    except (msgspec.DecodeError, ValueError):
        return []
    return found
