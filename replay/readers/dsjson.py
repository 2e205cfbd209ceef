"""VW's dsjson: contextual bandits (CB) and feeds (CCB), from Personalizer, learning-loop or VW's own tools."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final

import msgspec

from replay.errors import BadLog
from replay.events import Batch, Needs, Problems
from replay.readers.common import OnBroken, Reading, Tally, no_propensity
from replay.readers.dsjson_events import Assembler, Rows
from replay.readers.dsjson_labels import Options
from replay.readers.dsjson_outcomes import Found, lines_in, look_through, rule_named
from replay.readers.dsjson_types import Line, lines_decoder, outcome_decoder, whole_decoder
from replay.readers.identity import Identity
from replay.readers.lines import CutShort, blocks
from replay.readers.ragged import joined

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Where a line cannot be decoded because its propensity is no number, that is what has to be said.
_PROPENSITY: Final = re.compile(rb'"(?:_label_probability|_p)"\s*:\s*\[?\s*([^,}\]\s]+)')

DANGLING: Final = "outcomes without their decision"
LEFT: Final = "outcomes beside their decision, left out"
NEITHER: Final = "neither a decision nor an outcome"
NOTES: Final = "notes of the service (lines that begin with [)"


class DsjsonLog(Reading):
    """Files of dsjson, read as a stream, one after another.

    The reward is minus the cost that the label has. What else can be asked for:

    :param outcomes: ``label``, the joined cost, what VW learns from; ``original`` reads ``_original_label_cost``
        where there is one (what was earned before a baseline was subtracted, or in apprentice mode); ``sum``,
        ``first``, ``last``, ``max``, ``min``, ``mean`` aggregate the numbers in ``o`` again, a label without any stays
    :param dangling: outcomes that stand beside their decision came after the window of its join. ``join`` adds them to
        their decision if it is in one of the files (in place of a label that had no outcome at all), ``leave`` does
        not, as the service that wrote the log. Both count them. Those to be joined are kept in memory
    :param pdrop: a service that drops decisions at random says so in ``pdrop``; those left stand for 1 / (1 - pdrop)
        each. Nothing needs to be done where it is the same throughout. ``thin``, where it changes, leaves out as many
        more (by hash of the event id) as make the chance of being read the same for all: right for every estimator and
        interval, at the price of events. ``keep`` reads all, each for one. The column ``pdrop`` can be asked for
    :param propensity: ``label`` is ``_label_probability``; ``p`` is the shown action's in the list ``p``: learning-loop
        multiplies the label's by the chance of being kept, 1 - pdrop, without writing ``pdrop``
    :param default_reward: of decisions without label and outcome
    :param item: path of the member of an action that names the item, see `replay.readers.identity.Identity`
    :param viewer: path of the context's feature that names the viewer, such as ``User.id``; without it each event is
        its own

    Left out and counted: decisions that were never activated (``_skipLearn``, or without a label a ``DeferredAction``
    without an outcome), lines that are broken, slates. Fields are ``model`` (``VWState.m``), ``event_id`` and any
    feature of the context, by name or ``namespace.name``, as strings.
    """

    kind = "dsjson"

    def __init__(
        self,
        files: Sequence[Path],
        *,
        name: str | None = None,
        on_broken: OnBroken = "skip",
        reward_range: tuple[float, float] | None = None,
        marginals: bool = False,
        outcomes: str = "label",
        dangling: str = "join",
        pdrop: str = "thin",
        propensity: str = "label",
        default_reward: float = 0.0,
        item: str | None = None,
        viewer: str | None = None,
    ) -> None:
        """
        :param files: in the order in which they are read
        :param name: of the log, for messages; that of the first file if not given
        :raises BadLog: a file cannot be read, or an option is not known
        """
        super().__init__(name or str(files[0]), on_broken=on_broken, reward_range=reward_range, marginals=marginals)
        rule_named(outcomes)
        for name, value, allowed in (
            ("dangling", dangling, ("join", "leave")),
            ("pdrop", pdrop, ("thin", "keep")),
            ("propensity", propensity, ("label", "p")),
        ):
            if value not in allowed:
                raise BadLog(f"{name}={value!r} is not known; allowed are {' and '.join(map(repr, allowed))}")
        self.files = tuple(files)
        self._mine = range(len(files))
        self._used: set[str] = set()
        self._ended = False
        self._dangling = dangling
        self._options = Options(outcomes, propensity, pdrop, default_reward, item, viewer)
        self._sizes = [file.stat().st_size for file in files]
        self._size = sum(self._sizes)
        self._found: Found | None = None
        self._identity = Identity(item)
        self._written_fields, self._written_columns, self._feeds = _written(files[0])

    def is_of_feeds(self) -> bool:
        """Its first decision is one (CCB)."""
        return self._feeds

    def field_names(self) -> tuple[str, ...]:
        """``model`` and what ``convert`` wrote down; any feature of the context can be asked for besides."""
        return ("model", *(name for name in self._written_fields if name != "model"))

    def column_names(self) -> tuple[str, ...]:
        """What ``convert`` wrote down."""
        return self._written_columns

    def parts(self) -> Sequence[DsjsonLog]:
        """The files; lines are numbered over all of them."""
        if self._found is None:
            self._found = self._look()
        return [self._part(k) for k in self._mine]

    def _part(self, which: int) -> DsjsonLog:
        part = copy(self)
        part._mine = range(which, which + 1)
        part._size = self._sizes[which]
        return part

    def batches(self, needs: Needs) -> Iterator[Batch]:
        """The decisions in the files' order.

        :raises BadLog: a propensity is missing or impossible; a line is broken where that is fatal
        """
        self._begin()
        if self._found is None:
            self._found = self._look()
        for which in self._mine:
            yield from self._read(self._found, which, needs)
        self._ended = True

    def _read(self, found: Found, which: int, needs: Needs) -> Iterator[Batch]:
        """The decisions of one file."""
        file, before, lines_beside = self.files[which], self._done, self._lines_beside
        name = self.name if len(self.files) == 1 else str(file)
        self._of_file = Tally(name, self._on_broken)
        assembler = Assembler(
            name,
            self._options,
            needs,
            found=found,
            identity=self._identity,
            tally=self._of_file,
            written_fields=self._written_fields,
            lines_before=found.lines_before[which] if which else 0,
        )

        def passed(done: int) -> None:
            self._done = before + done

        first = 1
        try:
            for block in blocks(file, passed):
                rows = self._rows(name, block, first, whole=assembler.wants_wholes)
                first += lines_in(block)
                batch = self._assembled(assembler, rows) if rows.lines else None
                if batch is not None:
                    yield batch
        except CutShort as error:
            self._of_file.broken(f"line {first}", "compressed data ends early or is damaged", str(error))
        self._of_file.note(LEFT, self._lines_beside - lines_beside)
        counts, examples = self._of_file.copy()
        self._tally.take(counts, examples if len(self.files) == 1 else [f"{file.name}, {each}" for each in examples])
        self._used |= assembler.labels.used

    def problems(self) -> Problems:
        """Of the last reading."""
        tally = Tally(self.name, self._on_broken)
        tally.take(*self._tally.copy())
        if self._ended and self._found is not None and self._dangling == "join" and len(self._mine) == len(self.files):
            joined = self._used
            tally.note(DANGLING, sum(len(v) for (event, _), v in self._found.outcomes.items() if event not in joined))
        return tally.problems()

    def report(self) -> Any:
        """Also which events took outcomes from beside their decision."""
        return super().report(), self._used

    def absorb(self, reports: Sequence[Any]) -> None:
        """See `Reading.absorb`."""
        super().absorb([counted for counted, _ in reports])
        self._used.clear()
        for _, used in reports:
            self._used |= used
        self._ended = True

    def _look(self) -> Found:
        if self._dangling == "leave" and self._options.pdrop == "keep" and len(self.files) == 1:
            return Found()
        found = look_through(self.files)
        if self._dangling == "leave":
            found.outcomes.clear()
            found.activated.clear()
        return found

    def _begin(self) -> None:
        super()._begin()
        self._lines_beside = 0
        self._used = set()
        self._ended = False

    def _assembled(self, assembler: Assembler, rows: Rows) -> Batch | None:
        """A batch of the rows, but of those with features that cannot be read, which only now come to light."""
        before = self._of_file.copy()
        try:
            return assembler.batch(rows)
        except _UNREADABLE:
            self._of_file.restore(before)
        parts = []
        for i, place in enumerate(rows.places):
            before = self._of_file.copy()
            try:
                part = assembler.batch(rows.take([i]))
            except _UNREADABLE as error:
                self._of_file.restore(before)
                self._of_file.broken(f"line {place}", "bad JSON", str(error))
                continue
            if part is not None:
                parts.append(part)
        return joined(parts) if parts else None

    def _rows(self, name: str, block: bytes, first: int, *, whole: bool) -> Rows:
        """The decisions."""
        count = lines_in(block)
        if _is_utf8(block):
            try:
                lines = lines_decoder.decode_lines(block)
                wholes = whole_decoder.decode_lines(block) if whole else []
            except _UNREADABLE:
                lines = []
            if len(lines) == count and all([_is_decision(line) for line in lines]):  # noqa: C419 - twice as fast
                return Rows(
                    lines, list(range(first, first + count)), [bytes(each.c) for each in wholes] if whole else None
                )
        return self._one_by_one(name, block, first, whole=whole)

    def _one_by_one(self, name: str, block: bytes, first: int, *, whole: bool) -> Rows:
        """As :meth:`_rows`, where not every line is a decision that can be decoded."""
        rows = Rows([], [], [] if whole else None)
        for place, text in enumerate(block.split(b"\n"), start=first):
            text = text.strip(b" \t\r\xef\xbb\xbf")
            if not text:
                continue
            if text.startswith(b"["):
                self._of_file.note(NOTES)
                continue
            try:
                if not _is_utf8(text):
                    raise msgspec.DecodeError("it is not UTF-8")
                line = lines_decoder.decode(text)
            except _UNREADABLE as error:
                self._refuse(name, text, place, str(error))
                continue
            if not _is_decision(line):
                self._beside(text, place)
                continue
            rows.lines.append(line)
            rows.places.append(place)
            if rows.wholes is not None:
                rows.wholes.append(bytes(whole_decoder.decode(text).c))
        return rows

    def _refuse(self, name: str, text: bytes, place: int, why: str) -> None:
        """Count a line that cannot be decoded.

        :raises BadLog: because of its propensity
        """
        for value in _PROPENSITY.findall(text) if text.endswith(b"}") else ():
            if not _is_number(value):
                found = value.decode("utf-8", "replace")
                raise no_propensity(name, f"line {place}, where it is {found} and a number is expected")
        self._of_file.broken(f"line {place}", "bad JSON", why)

    def _beside(self, text: bytes, place: int) -> None:
        """Count a line that is no decision."""
        try:
            outcome = outcome_decoder.decode(text)
        except _UNREADABLE as error:
            self._of_file.broken(f"line {place}", "bad JSON", str(error))
            return
        if not outcome.is_one():
            self._of_file.broken(f"line {place}", NEITHER)
        elif self._dangling == "leave":
            self._lines_beside += 1


def _is_decision(line: Line) -> bool:
    return line.c is not None


def _is_number(text: bytes) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _written(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """(fields, columns) that the first decision says ``convert`` wrote down, and whether it is a feed.

    :raises BadLog: the file cannot be read
    """
    try:
        block = next(blocks(path, lambda _: None), b"")
    except CutShort:
        block = b""
    for text in block.split(b"\n", 20)[:20]:
        try:
            line = lines_decoder.decode(text)
        except _UNREADABLE:
            continue
        if _is_decision(line):
            feeds = line.outcomes is not None
            return (*_names(line), feeds)
    return (), (), False


def _names(line: Line) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if line.extra is None:
        return (), ()
    return tuple(line.extra.fields), tuple(line.extra.columns)
