"""What is wrong with this log? Every diagnostic that needs no target policy, and the day or release to blame."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from bandit.errors import BanditError
from bandit.progress import Progress
from replay import forensic_checks
from replay.errors import BadQuestion
from replay.events import Batch, Log, Needs
from replay.forensic_sums import ForensicSums
from replay.forensics import find
from replay.repeats import Repeats
from replay.results import Check

SOUND: Final = 0
WRONG: Final = 1
BAD_INPUT: Final = 2

LEFT_OUT: Final = 0.1
"""Share of what was read that could not be used, from which on it is said aloud."""

FEWEST_EVENTS: Final = 200
"""Below this the tests by chance see only gross faults."""

WIDTH: Final = 100
MOST_ROWS: Final = 10
"""Of each facet, besides those that are wrong."""
_MARKS: Final = {"refusal": "WRONG", "warning": "look", "ok": "ok"}


class Row(Struct):
    """1/p of what was drawn, on average, where the number of candidates is expected."""

    facet: str
    label: str
    slots: int
    inverse: float
    error: float
    candidates: float
    wrong: bool


class Diagnosis(Struct):
    """What the doctor says.

    :param left_out: what the reader could not use, by plain reason
    :param deleted_before: position of a service's log before which records were deleted, as they are kept only so long;
        0 or 1: none was, as far as can be told
    :param checks: faults first
    :param rows: the whole log, then every day, model, config and slot
    """

    log: str
    kind: str
    events: int
    slots: int
    first_time: float | None
    last_time: float | None
    deleted_before: int
    left_out: dict[str, int]
    examples: list[str]
    checks: list[Check]
    rows: list[Row]
    seconds: float

    @property
    def sound(self) -> bool:
        """Nothing is wrong, and nothing to look at."""
        return all(check.level == "ok" for check in self.checks)


def diagnose(
    log: Log, *, candidates: bool = True, progress: Callable[[int, int], None] = lambda done, of: None
) -> Diagnosis:
    """Read a log once, in constant memory, and say what is wrong with it.

    A sound log is called wrong with probability at most :data:`replay.forensics.ALPHA`, by all tests of draws together.

    :param candidates: also hold draws against the list of candidates; slower where lists are long
    :param progress: told, now and then, how much of how much is read
    :raises BadLog: a propensity is missing or impossible, or the log cannot be read
    """
    started = time.monotonic()
    sums, repeats = ForensicSums(), Repeats()
    events = slots = 0
    first, last = np.inf, -np.inf
    for batch in _batches(log, candidates):
        sums.add(batch)
        repeats.add(batch)
        events += batch.n
        slots += batch.n_slots
        known = batch.time[np.isfinite(batch.time)]
        if len(known):
            first, last = min(first, float(known.min())), max(last, float(known.max()))
        progress(log.done(), log.size())
    problems = log.problems()
    table = sums.table()
    found = find(table)
    checks = [_events(events, dict(problems.counts))]
    if events:
        checks += [*forensic_checks.checks(table, found), *repeats.checks(), *forensic_checks.feedback(table)]
    return Diagnosis(
        log=log.name,
        kind=log.kind,
        events=events,
        slots=slots,
        first_time=first if first <= last else None,
        last_time=last if first <= last else None,
        deleted_before=getattr(log, "deleted_before", 0),
        left_out=dict(problems.counts),
        examples=list(problems.examples),
        checks=sorted(checks, key=lambda check: list(_MARKS).index(check.level)),
        rows=[Row(*row) for row in forensic_checks.rows(table, found)] if events else [],
        seconds=time.monotonic() - started,
    )


def _batches(log: Log, candidates: bool) -> Iterator[Batch]:
    """With the releases that the log knows of."""
    fields: tuple[str, ...] = ()
    for name in ("model", "config"):
        try:
            first = next(iter(log.batches(Needs(fields=(name,)))), None)
        except BadQuestion:
            continue
        if first is not None and name in first.fields:
            fields += (name,)
    return iter(log.batches(Needs(fields=fields, candidates=candidates, logged=candidates)))


def _events(events: int, left_out: dict[str, int]) -> Check:
    name, lost = "events", sum(left_out.values())
    share = lost / (events + lost) if lost else 0.0
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items(), key=lambda each: -each[1]))
    sentence = f"{events:,} events were read" + (f"; left out: {reasons}." if reasons else ", and none left out.")
    if not events:
        return Check(name, "refusal", 0.0, 1.0, sentence, "There is nothing to evaluate.")
    if share > LEFT_OUT:
        return Check(
            name,
            "warning",
            share,
            LEFT_OUT,
            sentence,
            "Is what is left out like the rest? Only then is the rest enough.",
        )
    if events < FEWEST_EVENTS:
        sentence += " So few show only gross faults."
    return Check(name, "ok", share, LEFT_OUT, sentence)


# ---------------------------------------------------------------- the command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The ``doctor`` command."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what is wrong with a log: propensities, draws, joins, and the day or release to blame",
        description="Run every diagnostic that needs no target policy, and name the day, model, config or slot that is "
        "to blame. Only reads. Exit status: 0 sound, 1 something is wrong, 2 bad input.",
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="a service's data directory, dsjson, Parquet, OBD")
    parser.add_argument("--kind", help="how to read it, if its name does not say")
    parser.add_argument("--fast", action="store_true", help="do not hold draws against the lists of candidates")
    parser.add_argument("--json", action="store_true", help="print the diagnosis as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 sound, 1 something is wrong, 2 the log cannot be used (the reason is on stderr)."""
    from replay.readers import open_log

    try:
        log = open_log(arguments.log, kind=arguments.kind)
        with Progress("read", sys.stderr) as progress:
            diagnosis = diagnose(log, candidates=not arguments.fast, progress=progress)
    except BanditError as error:
        print(f"doctor: {error.message}", file=sys.stderr)
        return BAD_INPUT
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    else:
        print(report(diagnosis))
    return SOUND if diagnosis.sound else WRONG


def report(diagnosis: Diagnosis) -> str:
    """Sentences first, then the table; at most 100 columns wide."""
    times = [_when(at) for at in (diagnosis.first_time, diagnosis.last_time) if at is not None]
    span = f", {times[0]} to {times[1]}" if len(times) == 2 else ""
    lines = [f"{diagnosis.log} ({diagnosis.kind}): {diagnosis.events:,} events, {diagnosis.slots:,} slots{span}", ""]
    if diagnosis.deleted_before > 1:
        lines[1:] = [f"older records were deleted: the log begins at position {diagnosis.deleted_before:,}", ""]
    faults = sum(check.level == "refusal" for check in diagnosis.checks)
    looks = sum(check.level == "warning" for check in diagnosis.checks)
    if faults:
        lines.append(f"{faults} thing{'s are' if faults > 1 else ' is'} wrong with this log.")
    elif looks:
        lines.append(f"Nothing is wrong with this log, but {looks} thing{'s' if looks > 1 else ''} to look at.")
    else:
        lines.append("This log is sound, as far as it can be told.")
    lines.append("")
    for check in diagnosis.checks:
        lines += _told(check)
    lines += [f"         e.g. {example}" for example in diagnosis.examples[:3]]
    return "\n".join([*lines, *_table(diagnosis.rows)])


def _told(check: Check) -> list[str]:
    lines = textwrap.wrap(check.sentence, WIDTH - 9)
    told = [f"{_MARKS[check.level]:>6}   {lines[0]}", *(f"         {line}" for line in lines[1:])]
    if check.advice and check.level != "ok":
        told += [f"       > {line}" if not i else f"         {line}" for i, line in enumerate(
            textwrap.wrap(check.advice, WIDTH - 9))]  # fmt: skip
    return told


def _table(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    # What is wrong is never cut off; of what is right, the latest days and the labels with the most slots are shown.
    kept = {i for i, row in enumerate(rows) if row.wrong or not row.facet}
    for facet in dict.fromkeys(row.facet for row in rows if row.facet):
        right = [i for i, row in enumerate(rows) if row.facet == facet and not row.wrong]
        right = right if facet in ("day", "slot") else sorted(right, key=lambda i: rows[i].slots)
        kept.update(right[-MOST_ROWS:] if facet != "slot" else right[:MOST_ROWS])
    shown = [rows[i] for i in sorted(kept)]
    lines = ["", f"{'':28}{'slots':>12}{'mean 1/p':>12}{'expected':>12}{'ratio':>9}{'± error':>9}"]
    for row in shown:
        name = f"{row.facet} {row.label}".strip() or "all"
        name = name if len(name) <= 27 else name[:24] + "..."
        ratio, error = row.inverse / row.candidates, row.error / row.candidates
        lines.append(
            f"{name:<28}{row.slots:>12,}{row.inverse:>12,.4g}{row.candidates:>12,.4g}{ratio:>9.3f}{error:>9.3f}"
            + ("   WRONG" if row.wrong else "")
        )
    if len(shown) < len(rows):
        lines.append(f"... and {len(rows) - len(shown):,} more that are as they should be")
    return lines


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
