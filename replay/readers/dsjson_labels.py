"""Labels of dsjson decisions: what was shown, how likely that was, and what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from replay.events import F64, I64, event_of_slot
from replay.readers.common import Tally
from replay.readers.dsjson_outcomes import Found, all_of, rule_named, values_of
from replay.readers.dsjson_types import Line, floats_decoder, ints_decoder
from replay.readers.ragged import starts_of

WAITING: Final = "deferred and never activated"
DIFFERS: Final = "lines, of every 16th, whose _label_probability is not the p of the action (see propensity=)"
ORIGINAL: Final = "decisions whose _original_label_cost is not their _label_cost (outcomes='original' reads it)"
LATE: Final = "outcomes beside their decision, joined to it"
NO_LABEL: Final = "decisions without a label; their reward is that of the outcomes found"

EVERY: Final = 16
"""One line in so many has its ``p`` compared with its label: parsing them all would cost a third more."""

_many_floats: Final = msgspec.json.Decoder(list[list[float]])
_many_ints: Final = msgspec.json.Decoder(list[list[int]])

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


def logged_of(lines: Sequence[Line], counts: I64) -> F64:
    """Shape (C,): probability of every candidate by ``p``, whose order ``a`` tells, in the candidates' own order.

    NaN at all of a decision's candidates if the two do not name each of them once.

    :param counts: shape (n,), how many candidates each has
    """
    p_of, a_of = (
        _lists(_many_floats, floats_decoder, [line.p for line in lines]),
        _lists(_many_ints, ints_decoder, [line.a for line in lines]),
    )
    logged = np.full(int(counts.sum()), np.nan)
    firsts = np.cumsum(counts) - counts
    whole = np.array([len(p) == len(a) == n for p, a, n in zip(p_of, a_of, counts.tolist(), strict=True)], bool)
    which = np.flatnonzero(whole)
    if not len(which):
        return logged
    p = np.fromiter(chain.from_iterable(p_of[i] for i in which), np.float64)
    a = np.fromiter(chain.from_iterable(a_of[i] for i in which), np.int64)
    first, count = np.repeat(firsts[which], counts[which]), np.repeat(counts[which], counts[which])
    fine = (a >= 1) & (a <= count)
    logged[(first + a - 1)[fine]] = p[fine]
    logged[np.repeat(np.bincount(event_of_slot(starts_of(counts)), np.isnan(logged), len(counts)) > 0, counts)] = np.nan
    return logged


def _lists(many: msgspec.json.Decoder[Any], one: msgspec.json.Decoder[Any], raws: Sequence[msgspec.Raw]) -> list[Any]:
    """A list of each; empty where there is none that can be read. Decoded together, which is several times faster."""
    try:
        found: list[Any] = many.decode(b"[" + b",".join([raw or b"[]" for raw in raws]) + b"]")
    except (msgspec.DecodeError, ValueError):
        return [_list(one, raw) for raw in raws]
    return found


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
