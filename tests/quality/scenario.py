"""What every scenario consists of: policies that are measured by seed, figures, and targets that follow from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

OURS = "feed-bandit"

#: What one run of one policy gave, by the figure's name.
Measured = dict[str, float]


class Policy(NamedTuple):
    """Something that is measured.

    :ivar measure: from a seed, and whether to be quick, to figures; importable by name, for other processes
    :ivar seeds: so many full runs, with seeds from 1 up
    :ivar package: it is another package's
    :ivar note: it is run only when asked for by name, for this reason
    """

    name: str
    measure: Callable[[int, bool], Measured]
    seeds: int = 1
    package: str = ""
    note: str = ""


class Figure(NamedTuple):
    """Mean over seeds, its standard error (None of a single seed), and how many seeds."""

    mean: float
    error: float | None
    seeds: int


class Target(NamedTuple):
    """:ivar met: None if it cannot be said, as when a peer could not be run"""

    text: str
    measured: str
    met: bool | None


#: Figures by policy and name.
Table = Mapping[str, Mapping[str, Figure]]


class Watched(NamedTuple):
    """A figure of the quick run that CI holds against the file.

    :ivar better: the direction in which a change is welcome
    :ivar tolerance: a change for the worse up to this is let pass
    """

    policy: str
    figure: str
    better: Literal["higher", "lower"]
    tolerance: float


class Scenario(NamedTuple):
    """A permanent id, and what belongs to it.

    :ivar quick: names of the policies that CI runs, one seed each
    :ivar hold: what must be true of the quick run by itself
    """

    name: str
    what: str
    policies: Sequence[Policy]
    figures: Sequence[str]
    targets: Callable[[Table], list[Target]]
    quick: Sequence[str]
    watched: Sequence[Watched]
    hold: Callable[[Table], list[Target]] = lambda table: []


def figure_of(values: Sequence[float]) -> Figure:
    """:param values: one for each seed, at least one"""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Figure(math.nan, None, 0)
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Figure(statistics.fmean(known), error, len(known))


def table_of(measured: Mapping[str, Sequence[Measured]]) -> dict[str, dict[str, Figure]]:
    """Figures of every policy from what its seeds gave."""
    return {
        policy: {name: figure_of([run[name] for run in runs if name in run]) for name in _names(runs)}
        for policy, runs in measured.items()
        if runs
    }


def _names(runs: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run))


def mean_of(table: Table, policy: str, figure: str) -> float | None:
    """None if it was not measured."""
    found = table.get(policy, {}).get(figure)
    return None if found is None or math.isnan(found.mean) else found.mean


def at_least(table: Table, policy: str, figure: str, limit: float, *, text: str) -> Target:
    """A target with a fixed limit."""
    value = mean_of(table, policy, figure)
    return Target(text, "not measured" if value is None else f"{value:.4f}", None if value is None else value >= limit)


def beats(
    table: Table, figure: str, others: Sequence[str], *, text: str, lower: bool = False, ours: str = OURS
) -> Target:
    """Ours is strictly better than the best of the others that were measured; every one missing is named."""
    value = mean_of(table, ours, figure)
    found = {name: mean for name in others if (mean := mean_of(table, name, figure)) is not None}
    missing = [name for name in others if name not in found]
    if value is None or not found:
        return Target(text, "not measured", None)
    best = min(found, key=lambda name: found[name] if lower else -found[name])
    better = value < found[best] if lower else value > found[best]
    told = f"{value:.4f} against {found[best]:.4f} ({best})"
    return Target(text, told + (f"; not measured: {', '.join(missing)}" if missing else ""), better)
