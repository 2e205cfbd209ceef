"""``python -m replay watch-table LOG``: how long do your own viewers watch videos of each length?

Prints the fragment of the config that makes the derived signal `watch` compare plays with those of this log.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from bandit.config import LiveConfig
from bandit.errors import BanditError
from bandit.progress import Progress
from bandit.reward.signals import LENGTH, SLACK, WATCHED, Watch, WatchRow, WatchTable, derive
from replay.errors import BadQuestion
from replay.events import F64
from replay.readers.service import ServiceLog

LEVELS: Final = (*(round(0.05 * k, 2) for k in range(1, 20)), 0.99)
#: A row of the table rests on at least so many plays.
PLAYS_A_ROW: Final = 200
ROWS: Final = 12


class Plays(NamedTuple):
    """Slots that were seen and whose watch time and length are known.

    :ivar watch_s, length_s: shape (n,) each
    :ivar without_length: seen slots with a watch time, and no length
    :ivar table: of the newest config
    """

    watch_s: F64
    length_s: F64
    without_length: int
    table: WatchTable


def plays_of(log: ServiceLog, *, progress: Progress | None = None) -> Plays:
    """All plays of a log, each once.

    :raises BadLog: the log is damaged, or cannot be read now
    """
    watch_s, length_s = array("d"), array("d")
    unknown = 0

    def look(sent: Mapping[str, float], explicit: float | None, config: LiveConfig, of_item: float) -> float:
        nonlocal unknown
        if WATCHED in sent:
            length = sent.get(LENGTH, of_item)
            if length > 0:
                watch_s.append(max(0.0, sent[WATCHED]))
                length_s.append(length)
            else:
                unknown += 1
        return 0.0

    for _ in log.told(look):
        if progress is not None:
            progress(log.done(), log.size())
    newest = log.configs[max(log.configs)].document.watch if log.configs else WatchTable()
    return Plays(np.array(watch_s), np.array(length_s), unknown, newest)


def fit(watch_s: F64, length_s: F64, *, name: str, rows: int = ROWS) -> WatchTable:
    """A table of about as many rows as asked for, each of equally many plays of similar lengths.

    :param watch_s: shape (n,); ``length_s`` shape (n,), above 0
    :raises BadQuestion: fewer plays than one row rests on
    """
    n = len(watch_s)
    if n < PLAYS_A_ROW:
        raise BadQuestion(
            f"{n} plays have a watch_s and a length; a table needs at least {PLAYS_A_ROW}, and {ROWS * PLAYS_A_ROW} "
            f"for {ROWS} rows: give items a length_s, or send it as a signal"
        )
    order = np.argsort(length_s, kind="stable")
    made = []
    for places in _of_similar_length(length_s[order], a_row=max(PLAYS_A_ROW, -(-n // rows))):
        own, lengths = watch_s[order[places]], length_s[order[places]]
        length = float(np.median(lengths))
        # The ends of videos fall together, so that finishing one has a place of its own among the quantiles.
        finished = own >= (1 - SLACK) * lengths
        own = np.where(finished, own * length / lengths, np.minimum(own, (1 - SLACK) * length))
        made.append(WatchRow(length, np.quantile(own, LEVELS).round(2).tolist()))
    return WatchTable(name, float(np.median(length_s)), list(LEVELS), made)


def _of_similar_length(ascending: F64, *, a_row: int) -> Iterator[slice]:
    """Places of plays that make a row together: at least so many, and all that are of one length."""
    n = len(ascending)
    start = 0
    while start < n:
        end = int(np.searchsorted(ascending, ascending[min(start + a_row, n) - 1], side="right"))
        # What is left would be too few for a row of its own.
        end = n if n - end < min(a_row, PLAYS_A_ROW) else end
        yield slice(start, end)
        start = end


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The ``watch-table`` command."""
    parser = subparsers.add_parser(
        "watch-table",
        help="how long do viewers watch videos of each length? prints it for the config",
        description="Print the config's `watch` made from what the viewers of this log did, so that the derived signal "
        "`watch` has the same mean at every length for them. Only reads. Exit status: 0 made, 2 not possible.",
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="data directory of a service, running or not")
    parser.add_argument("--name", help="of the table (default: from the log's name and how many plays it rests on)")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help="at most so many (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 and the fragment on stdout, 2 if it cannot be made (the reason is on stderr)."""
    try:
        if not 1 <= arguments.rows <= 100:
            raise BadQuestion(f"{arguments.rows} rows are not possible; there can be 1 to 100")
        log = ServiceLog(arguments.log)
        try:
            with Progress("records", sys.stderr) as progress:
                plays = plays_of(log, progress=progress)
        finally:
            log.close()
        name = arguments.name or f"{arguments.log.resolve().name}, {len(plays.watch_s):,} plays"
        table = fit(plays.watch_s, plays.length_s, name=name[:100], rows=arguments.rows)
    except BanditError as error:
        print(f"watch-table: {error.message}", file=sys.stderr)
        return 2
    print(report(plays, table), file=sys.stderr)
    print(msgspec.json.format(msgspec.json.encode({"watch": table})).decode())
    return 0


def report(plays: Plays, table: WatchTable) -> str:
    """For people: what the table does to the plays it was made from."""
    in_force, made = Watch(plays.table), Watch(table)
    edges = [row.length_s for row in table.rows]
    nearest = np.searchsorted((np.array(edges[:-1]) + edges[1:]) / 2, plays.length_s)
    lines = [
        f"{len(plays.watch_s):,} plays; {plays.without_length:,} more have no length",
        "",
        f"{'length':>9}  {'plays':>9}  {'watch_s':>8}  {'completion':>10}  {'watch in force':>15}  {'watch now':>11}",
    ]
    for number, length in enumerate(edges):
        own = nearest == number
        # A few thousand say enough of a mean.
        chosen = np.flatnonzero(own)[:: max(1, int(own.sum()) // 5_000)]
        told = [({WATCHED: float(plays.watch_s[k])}, float(plays.length_s[k])) for k in chosen]
        means = [
            np.mean([derive(sent, of, watch)[key] for sent, of in told])
            for watch, key in ((made, "completion"), (in_force, "watch"), (made, "watch"))
        ]
        lines.append(
            f"{length:>7.1f} s  {own.sum():>9,}  {plays.watch_s[own].mean():>8.1f}  {means[0]:>10.2f}  "
            f"{means[1]:>15.2f}  {means[2]:>11.2f}"
        )
    return "\n".join([*lines, ""])
