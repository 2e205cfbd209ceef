"""What all readers share: counting what they could not use, and refusing propensities that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

from replay.errors import BadLog
from replay.events import F64, I64, U64, Problems

OnBroken = Literal["skip", "fail"]

EXAMPLES: Final = 5
ROUNDING: Final = 1e-6
"""How far above 1 a propensity may be: single-precision softmaxes do not sum to 1 more closely."""

WHAT_TO_LOG: Final = (
    "log the probability with which what was shown was drawn, at the moment of the draw; "
    "it cannot be made up afterwards"
)


class Tally:
    """Counts of what was not used, by reason, with the first examples."""

    def __init__(self, name: str, on_broken: OnBroken) -> None:
        """
        :param name: of the log, for messages
        :param on_broken: what :meth:`broken` does
        """
        self._name = name
        self._on_broken = on_broken
        self._counts: dict[str, int] = {}
        self._examples: list[str] = []

    def note(self, reason: str, n: int = 1) -> None:
        """Count what is left out, or was read in a way that should be known, by design."""
        if n:
            self._counts[reason] = self._counts.get(reason, 0) + n

    def broken(self, where: str, reason: str, detail: str = "") -> None:
        """Count what should not be there; the first few are kept with their places.

        :param where: such as "line 7"
        :raises BadLog: if broken lines are fatal
        """
        text = f"{where}: {detail or reason}"
        if self._on_broken == "fail":
            raise BadLog(f"{self._name}, {text}; open it with on_broken='skip' to count such and go on")
        self.note(reason)
        if len(self._examples) < EXAMPLES:
            self._examples.append(text)

    def copy(self) -> tuple[dict[str, int], list[str]]:
        """To come back to with :meth:`restore`."""
        return dict(self._counts), list(self._examples)

    def restore(self, kept: tuple[dict[str, int], list[str]]) -> None:
        """Forget what was counted since."""
        self._counts, self._examples = dict(kept[0]), list(kept[1])

    def take(self, counts: Mapping[str, int], examples: Sequence[str]) -> None:
        """Count what was counted elsewhere."""
        for reason, n in counts.items():
            self.note(reason, n)
        self._examples += examples[: EXAMPLES - len(self._examples)]

    def problems(self) -> Problems:
        """What was counted so far."""
        return Problems(dict(self._counts), tuple(self._examples))


class Reading:
    """Base of the readers: the parts of :class:`replay.events.Log` that are the same for all of them."""

    kind: str = ""

    def __init__(
        self, name: str, *, on_broken: OnBroken, reward_range: tuple[float, float] | None, marginals: bool
    ) -> None:
        """
        :param name: as the user named it
        :raises BadLog: a reward range that is none
        """
        if on_broken not in ("skip", "fail"):
            raise BadLog(f"on_broken is {on_broken!r}; allowed are 'skip' and 'fail'")
        if reward_range is not None and not reward_range[0] < reward_range[1]:
            raise BadLog(f"reward_range {reward_range} is none; give (lowest, highest) of an event's reward")
        self.name = name
        self.reward_range = reward_range
        self.marginals = marginals
        self._on_broken = on_broken
        self._tally = Tally(name, on_broken)
        self._done = 0
        self._size = 0

    def problems(self) -> Problems:
        """Of the last reading, so far."""
        return self._tally.problems()

    def size(self) -> int:
        """What :meth:`done` counts up to; 0 if unknown."""
        return self._size

    def done(self) -> int:
        """How much of :meth:`size` the current reading has passed."""
        return self._done

    def parts(self) -> Sequence[Reading]:
        """The log in parts, in order, each a log of its own. This one can only be read as a whole."""
        return [self]

    def report(self) -> Any:
        """What the last reading of this part found that it could not use; see :meth:`absorb`. It can be sent away."""
        return self._tally.copy()

    def absorb(self, reports: Sequence[Any]) -> None:
        """Have :meth:`problems` tell what the parts reported, in the order of the parts, wherever they were read."""
        self._tally = Tally(self.name, self._on_broken)
        for counts, examples in reports:
            self._tally.take(counts, examples)

    def knows_candidates(self) -> bool:
        """It says what each slot could have shown, so that it can be asked for."""
        return True

    def is_of_feeds(self) -> bool:
        """Its events may have several slots."""
        return False

    def field_names(self) -> tuple[str, ...]:
        """Fields that the log is known to have without reading it."""
        return ()

    def column_names(self) -> tuple[str, ...]:
        """Columns of numbers that the log is known to have without reading it."""
        return ()

    def _begin(self) -> None:
        self._tally = Tally(self.name, self._on_broken)
        self._done = 0


def no_propensity(name: str, where: str) -> BadLog:
    """The error for a propensity that is not there."""
    return BadLog(f"{name}, {where}: there is no propensity; {WHAT_TO_LOG}", where=where)


def checked_propensity(name: str, unit: str, place: I64, propensity: F64) -> F64:
    """The propensities, those a rounding above 1 set to 1.

    :param unit: what places count: "line", "row" or "event"
    :param place: shape (S,), of each propensity
    :raises BadLog: one is NaN, not above 0, or above 1
    """
    good = (propensity > 0) & (propensity <= 1 + ROUNDING)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        where, value = f"{unit} {int(place[first])}", float(propensity[first])
        if np.isnan(value):
            raise no_propensity(name, where)
        raise BadLog(
            f"{name}, {where}: the propensity is {value:g}; a probability above 0 and at most 1 is allowed; "
            f"{WHAT_TO_LOG}",
            where=where,
            propensity=value,
        )
    return np.minimum(propensity, 1.0)


def own_keys(place: I64) -> U64:
    """Keys of events whose viewer is unknown: each its own, by its place."""
    return place.astype(np.uint64)


def dense(n: int, n_items: int) -> tuple[I64, U64]:
    """Starts and items of the candidates of n slots that could each have shown items 0 to n_items - 1."""
    return np.arange(n + 1, dtype=np.int64) * n_items, np.tile(np.arange(n_items, dtype=np.uint64), n)
