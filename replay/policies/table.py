"""A policy that is a table: the probability of an item, or of an item at a position, whatever the context."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from replay.errors import BadPolicy
from replay.events import F64, I64, U64, Assignment, Batch, Needs, item_key, slot_numbers
from replay.policies.base import (
    SUM_TOLERANCE,
    PolicyBase,
    candidate_starts,
    checked_pmf,
    of_chosen,
    place_of_slot,
    slot_sums,
    uncovered,
)

_ITEM: Final = ("item", "item_id")
_WHERE: Final = ("position", "slot")
_VALUE: Final = ("probability", "propensity", "propensity_score", "score")
_COLUMNS: Final = (
    "a column item (or item_id), a column probability (or score, which is scaled to sum to 1 over a slot's "
    "candidates), and if it is by position too a column position (as the log's field of that name) or slot (0 is "
    "the top one)"
)


class Rows(NamedTuple):
    """A table as it was read."""

    item: tuple[str, ...]
    position: tuple[str, ...] | None
    value: F64
    where: str
    """``position``, ``slot`` or nothing."""
    scores: bool


class Table(PolicyBase):
    """Probabilities by item, or by item and position.

    :raises BadPolicy: the rows are not what a table is
    """

    def __init__(self, name: str, spec: str, rows: Rows) -> None:
        super().__init__(name, spec)
        _check(spec, rows)
        self._scores = rows.scores
        self._where = rows.where
        keys = np.array([item_key(item) for item in rows.item], np.uint64)
        names = rows.position or ("",) * len(keys)
        # By position: ascending keys, and their values.
        self._parts: dict[str, tuple[U64, F64]] = {}
        for position in dict.fromkeys(names):
            mine = np.array([each == position for each in names])
            order = np.argsort(keys[mine])
            self._parts[position] = keys[mine][order], rows.value[mine][order]
            ascending = self._parts[position][0]
            twice = np.flatnonzero(ascending[1:] == ascending[:-1])
            if len(twice):
                listed = [item for item, here in zip(rows.item, mine.tolist(), strict=True) if here]
                item = listed[int(order[twice[0]])]
                at = f" at {rows.where} {position}" if rows.where else ""
                raise BadPolicy(f"{spec}: item {item} stands twice{at}; give it once")

    def needs(self, pmf: bool) -> Needs:
        """The candidates, to see that their probabilities sum to 1; the position, if the table is by it."""
        return Needs(fields=("position",) if self._where == "position" else (), candidates=True)

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: the table does not fit the candidates: it sums to something else than 1 over them, or
            has no row for a position
        """
        positions = self._positions(batch)
        if batch.candidates is None:
            return Assignment(self._blind(batch, positions), None)
        starts = candidate_starts(batch)
        values = self._look_up(batch, positions, np.diff(starts), batch.candidates.item)
        if self._scores:
            values = self._scaled(batch, values, starts)
        else:
            self._check_sums(batch, values, starts)
        whole = checked_pmf(self.name, batch, values, starts)
        return Assignment(of_chosen(whole, batch, starts), whole if pmf else None, uncovered=uncovered(batch, whole))

    def _positions(self, batch: Batch) -> Any:
        """Shape (S,): each slot's key into the parts, as text."""
        if not self._where:
            return np.zeros(batch.n_slots, "U1")
        if self._where == "slot":
            return slot_numbers(batch.starts).astype(str)
        if "position" not in batch.fields:
            raise BadPolicy(
                f"{self.spec} is by position, and the log has no field position; make it by item, or by slot (0 is "
                "the top one)"
            )
        return np.repeat(_plain(batch.fields["position"]), np.diff(batch.starts))

    def _look_up(self, batch: Batch, positions: Any, counts: I64, items: U64) -> F64:
        """Values of items; NaN where scores have none, 0 where probabilities have none."""
        values = np.full(len(items), np.nan if self._scores else 0.0)
        of_item = np.repeat(positions, counts)
        for position in np.unique(positions).tolist():
            if position not in self._parts:
                slot = int(np.argmax(positions == position))
                raise BadPolicy(
                    f"{self.spec} has no row for {self._where} {position} of {place_of_slot(batch, slot)}; it has "
                    f"{', '.join(list(self._parts)[:10])}"
                )
            here = np.flatnonzero(of_item == position)
            keys, of_key = self._parts[position]
            at = np.minimum(np.searchsorted(keys, items[here]), len(keys) - 1)
            found = keys[at] == items[here]
            values[here[found]] = of_key[at[found]]
        return values

    def _scaled(self, batch: Batch, values: F64, starts: I64) -> F64:
        missing = np.isnan(values)
        if missing.any():
            slot = int(np.searchsorted(starts, int(np.argmax(missing)), side="right")) - 1
            raise BadPolicy(
                f"{self.spec} has no score for {int(missing[starts[slot] : starts[slot + 1]].sum())} of the "
                f"candidates at {place_of_slot(batch, slot)}; give every item a score"
            )
        sums = slot_sums(values, starts)
        if not (sums > 0).all():
            slot = int(np.argmin(sums > 0))
            raise BadPolicy(f"{self.spec} scores every candidate at {place_of_slot(batch, slot)} with 0")
        return values / np.repeat(sums, np.diff(starts))

    def _check_sums(self, batch: Batch, values: F64, starts: I64) -> None:
        sums = slot_sums(values, starts)
        bad = np.abs(sums - 1.0) > SUM_TOLERANCE
        if bad.any():
            slot = int(np.argmax(bad))
            raise BadPolicy(
                f"{self.spec}: over the {batch.n_candidates[slot]} candidates at {place_of_slot(batch, slot)} the "
                f"table's probabilities sum to {sums[slot]:.6g}, not to 1; mend the table, or name its column score "
                "to have it scaled to the candidates at hand"
            )

    def _blind(self, batch: Batch, positions: Any) -> F64:
        """The log does not list candidates: the whole table must be a distribution over as many items."""
        if self._scores:
            raise BadPolicy(
                f"{self.spec} holds scores, and the log does not list the candidates to scale them over; give "
                "probabilities"
            )
        for position in np.unique(positions).tolist():
            if position in self._parts:
                total = float(self._parts[position][1].sum())
                if abs(total - 1.0) > SUM_TOLERANCE:
                    at = f" at {self._where} {position}" if position else ""
                    raise BadPolicy(
                        f"{self.spec}: its probabilities{at} sum to {total:.6g}, not to 1, and the log does not list "
                        "the candidates that they may be meant for; mend the table"
                    )
        return np.minimum(self._look_up(batch, positions, np.ones(batch.n_slots, np.int64), batch.item), 1.0)


def _check(spec: str, rows: Rows) -> None:
    good = np.isfinite(rows.value) & (rows.value >= 0)
    if not rows.scores:
        good &= rows.value <= 1.0 + 1e-9
    if not good.all():
        at = int(np.argmin(good))
        allowed = "at least 0" if rows.scores else "from 0 to 1"
        raise BadPolicy(f"{spec}: item {rows.item[at]} has {rows.value[at]}; allowed is {allowed}")
    if not len(rows.item):
        raise BadPolicy(f"{spec} holds no rows; give {_COLUMNS}")


def _plain(column: Any) -> Any:
    """Positions as text, 1.0 as 1."""
    column = np.asarray(column)
    if column.dtype.kind == "f" and np.isfinite(column).all() and (column == column.round()).all():
        column = column.astype(np.int64)
    return column.astype(str)


# -- reading ------------------------------------------------------------------------------------


def read_table(spec: str, path: Path) -> Rows:
    """
    :raises BadPolicy: the file is not there, or not a table
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise BadPolicy(f"{spec}: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadPolicy(f"{spec}: {path} cannot be read: {error}") from None
    if path.suffix == ".json":
        try:
            return _from_json(spec, json.loads(text))
        except ValueError as error:
            raise BadPolicy(f"{spec}: {path} is not JSON: {error}") from None
    if path.suffix in (".csv", ".tsv", ".txt"):
        reader = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
        return _from_records(spec, [{(k or "").strip(): v for k, v in row.items()} for row in reader])
    raise BadPolicy(f"{spec}: a table is a .csv, .tsv or .json file; {path.name} is none")


def from_mapping(spec: str, table: Mapping[Any, Any]) -> Rows:
    """A table by item from Python: ``{"a": 0.9, "b": 0.1}``."""
    return _from_json(spec, {str(item): value for item, value in table.items()})


def _from_json(spec: str, data: Any) -> Rows:
    if isinstance(data, dict) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in data.values()):
        return Rows(tuple(data), None, np.array(list(data.values()), np.float64), "", False)
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        return _from_records(spec, data)
    raise BadPolicy(f'{spec}: give {{"item": probability, ...}}, or a list of objects with {_COLUMNS}')


def _from_records(spec: str, records: list[dict[str, Any]]) -> Rows:
    if not records:
        raise BadPolicy(f"{spec} holds no rows; give {_COLUMNS}")
    columns = {name for row in records for name in row if name}
    item = _one_of(columns, _ITEM)
    value = _one_of(columns, _VALUE)
    where = _one_of(columns, _WHERE)
    if item is None or value is None:
        raise BadPolicy(f"{spec} has the columns {', '.join(sorted(columns)) or 'none'}; needed are {_COLUMNS}")
    values = np.array([_value(spec, i, row.get(value)) for i, row in enumerate(records, 1)])
    for i, row in enumerate(records, 1):
        if row.get(item) in (None, ""):
            raise BadPolicy(f"{spec}: row {i} has no {item}")
        if where and row.get(where) in (None, ""):
            raise BadPolicy(f"{spec}: row {i} has no {where}")
    return Rows(
        tuple(str(row[item]).strip() for row in records),
        tuple(str(row[where]).strip() for row in records) if where else None,
        values,
        where or "",
        value == "score",
    )


def _value(spec: str, row: int, given: Any) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BadPolicy(f"{spec}: row {row} has {given!r} where a number belongs")
    return value


def _one_of(columns: Iterable[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)
