"""Outcomes of dsjson decisions: several of one event, and those that stand in the file beside their decision."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Raw

from replay.errors import BadLog
from replay.readers.dsjson_types import outcome_decoder
from replay.readers.lines import CutShort, blocks

RULES: Final[dict[str, Callable[[Sequence[float]], float]]] = {
    "sum": lambda values: float(sum(values)),
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "max": max,
    "min": min,
    "mean": lambda values: float(sum(values)) / len(values),
}
"""How several outcomes of an event become one reward."""

_LABEL: Final = b'{"_label_'
_PDROP: Final = re.compile(rb'"pdrop"\s*:\s*([0-9.eE+-]+)')


class Found:
    """What a first look at a file finds of what must be known before the first decision is read."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], list[float]] = {}
        """Rewards beside their decision, by event and slot ("" for those of the whole event)."""
        self.activated: set[str] = set()
        """Events that were said, beside their decision, to have been shown after all."""
        self.lines = 0
        """Of outcomes beside their decision."""
        self.largest_pdrop = 0.0
        self.lines_before: list[int] = []
        """Of each file, how many lines there are in the files before it."""

    def look(self, block: bytes) -> None:
        """Take note of a block of lines."""
        if b'"pdrop"' in block:
            for text in _PDROP.findall(block):
                try:
                    pdrop = float(text)
                except ValueError:
                    continue
                if self.largest_pdrop < pdrop < 1:
                    self.largest_pdrop = pdrop
        for first, end in _not_labelled(block):
            if block.find(b'"_multi"', first, end) >= 0 or block.find(b'"EventId"', first, end) < 0:
                continue
            line = block[first:end]
            try:
                outcome = outcome_decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if not outcome.is_one() or outcome.event is None:
                continue
            self.lines += 1
            value = outcome.value()
            if value is not None:
                slot = "" if outcome.index is None else str(outcome.index)
                self.outcomes.setdefault((outcome.event, slot), []).append(value)
            if value is not None or outcome.activates():
                self.activated.add(outcome.event)


def _not_labelled(block: bytes) -> list[tuple[int, int]]:
    """Spans of the lines that do not begin with a label, as decisions mostly do: passing those over costs nothing."""
    data = np.frombuffer(block, np.uint8)
    ends = np.append(np.flatnonzero(data == 10), len(data))
    starts = np.append(0, ends[:-1] + 1)
    labelled = ends - starts > len(_LABEL)
    for place, byte in enumerate(_LABEL):
        labelled &= data[np.minimum(starts + place, len(data) - 1)] == byte
    other = ~labelled & (ends > starts)
    return list(zip(starts[other].tolist(), ends[other].tolist(), strict=True))


def look_through(files: Sequence[Path]) -> Found:
    """A first look at whole files. Keeps the outcomes that stand alone, which are few in joined logs."""
    found = Found()
    lines = 0
    for file in files:
        found.lines_before.append(lines)
        # What cannot be read the reading itself comes to, and says so.
        with suppress(CutShort, BadLog):
            for block in blocks(file, lambda _: None):
                found.look(block)
                lines += lines_in(block)
    return found


def lines_in(block: bytes) -> int:
    """How many; the last may lack its newline."""
    return block.count(b"\n") + (not block.endswith(b"\n"))


def values_of(raw: Raw) -> tuple[list[float], bool]:
    """(the rewards in an ``o`` or ``_o``, whether it says that a deferred action was taken).

    :raises msgspec.DecodeError: no JSON
    """
    if not raw:
        return [], False
    found: Any = msgspec.json.decode(raw)
    values: list[float] = []
    taken = False
    for each in found if isinstance(found, list) else [found]:
        value = each
        if isinstance(each, dict):
            value = each.get("v")
            taken = taken or each.get("ActionTaken") is True or each.get("DeferredAction") is False
        if isinstance(value, int | float) and not isinstance(value, bool):
            values.append(float(value))
    return values, taken


def rule_named(name: str) -> Callable[[Sequence[float]], float] | None:
    """The rule of ``outcomes=``; None for those that take the label as the log has it.

    :raises BadLog: no such rule
    """
    if name in ("label", "original"):
        return None
    if name not in RULES:
        raise BadLog(f"outcomes={name!r} is not known; allowed are {', '.join(['label', 'original', *RULES])}")
    return RULES[name]


def all_of(found: Found, event: str | None, slots: Iterable[str]) -> list[float]:
    """Rewards beside their decision, of an event's slots."""
    if event is None or not found.outcomes:
        return []
    return [value for slot in slots for value in found.outcomes.get((event, slot), ())]
