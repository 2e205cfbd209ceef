"""The Open Bandit Dataset's CSV: fashion items shown at three positions, by a uniform policy or Bernoulli Thompson
sampling.

Each row is a decision of its own, with one slot: the data do not say which rows were on one page. The position is a
feature, not a slot. Saito et al. 2021 describe the data (arXiv 2008.07146).

The 80, 34 or 46 columns ``user-item_affinity_*`` are not offered as features. They count a user's clicks by item, over
a time that is not said to end before the row: in the small logs 13 to 33 % of the rows with a click have one that is
not zero, and 4 % of all others. Whatever is fitted to them may have seen the answer.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from replay.errors import BadLog
from replay.events import Batch, Candidates, Needs, Texts
from replay.readers.common import WHAT_TO_LOG, OnBroken, Reading, checked_propensity, dense, own_keys
from replay.readers.ragged import taken
from replay.readers.stamps import seconds_of

BLOCK: Final = 1 << 22
FEATURES: Final = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
NEEDED: Final = ("item_id", "click", "propensity_score")
POSITION: Final = "position"


class OpenBanditLog(Reading):
    """A directory with a campaign's CSV and ``item_context.csv``, or the CSV itself.

    Fields are ``position`` and the four user features (hashes); the column ``position`` counts from 0. Texts have the
    user features (U), the position (C), and the item's id and features (I).

    :param n_actions: how many items could have been shown, where there is no ``item_context.csv``; else as many as the
        log has ever shown
    """

    kind = "obd"

    def __init__(
        self,
        path: Path,
        *,
        on_broken: OnBroken = "skip",
        n_actions: int | None = None,
        reward_range: tuple[float, float] | None = (0.0, 1.0),
        marginals: bool = False,
    ) -> None:
        """
        :raises BadLog: there is no such log, or a needed column is not there
        """
        super().__init__(str(path), on_broken=on_broken, reward_range=reward_range, marginals=marginals)
        self._file = _file_in(path)
        self._size = self._file.stat().st_size
        self._header = self._read_header()
        self._have = tuple(name for name in (*FEATURES, POSITION) if name in self._header)
        self._texts, self.n_items = self._items(n_actions)

    def field_names(self) -> tuple[str, ...]:
        """Position and user features."""
        return self._have

    def column_names(self) -> tuple[str, ...]:
        """The position, from 0."""
        return (POSITION,) if POSITION in self._header else ()

    # ---------------------------------------------------------------- what there is

    def _read_header(self) -> list[str]:
        try:
            with self._file.open(encoding="utf-8-sig", newline="") as file:
                header = next(csv.reader(file), [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadLog(f"{self._file} is no CSV that can be read ({error})") from None
        missing = [name for name in NEEDED if name not in header]
        if missing:
            have = ", ".join(name for name in header[:12] if name) or "none"
            hint = f"; {WHAT_TO_LOG}" if "propensity_score" in missing else ""
            raise BadLog(
                f"{self._file} has no column {', '.join(missing)}; it has: {have}. The Open Bandit Dataset has "
                f"them{hint}"
            )
        return header

    def _items(self, n_actions: int | None) -> tuple[list[bytes], int]:
        """(text of each item, how many there are)."""
        context = self._file.with_name("item_context.csv")
        rows: dict[int, dict[str, Any]] = {}
        if context.is_file():
            try:
                with context.open(encoding="utf-8-sig", newline="") as file:
                    for row in csv.DictReader(file):
                        rows[int(row["item_id"])] = {
                            key: _value(value) for key, value in row.items() if key and key.startswith("item_feature")
                        }
            except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
                raise BadLog(f"{context} is no item context that can be read ({error!r})") from None
            if sorted(rows) != list(range(len(rows))) or not rows:
                raise BadLog(f"{context}: item_id must be 0, 1, 2 and so on, each once")
        if n_actions is not None:
            n = n_actions
        elif rows:
            n = len(rows)
        else:
            n = self._most_items()
        if n < 1:
            raise BadLog(f"{self.name}: {n} items could have been shown; give n_actions of at least 1")
        return [
            msgspec.json.encode({"_tag": str(item), "I": {"id": str(item), **rows.get(item, {})}}) for item in range(n)
        ], n

    def _most_items(self) -> int:
        most = 0
        for table in self._tables(["item_id"], count=False):
            items = _numbers(table["item_id"])
            items = items[np.isfinite(items) & (items >= 0) & (items < 1e6)]
            if len(items):
                most = max(most, int(items.max()) + 1)
        return most

    # ---------------------------------------------------------------- reading

    def batches(self, needs: Needs) -> Iterator[Batch]:
        """The rows in order.

        :raises BadLog: a propensity is missing or impossible; a row is broken where that is fatal
        """
        self._begin()
        wanted = list(NEEDED)
        if "timestamp" in self._header:
            wanted.append("timestamp")
        if needs.texts:
            wanted += self._have
        else:
            wanted += [name for name in self._have if name in (*needs.fields, *needs.columns)]
        first = 1
        any_row = False
        for table in self._tables(wanted, count=True):
            batch = self._batch(table, first, needs)
            first += table.num_rows
            any_row = any_row or table.num_rows > 0
            if batch is not None:
                yield batch
        if not any_row:
            raise BadLog(f"{self.name} has no rows")

    def _tables(self, wanted: list[str], *, count: bool) -> Iterator[pa.RecordBatch]:
        """The columns as texts: a value that is no number is then one row's fault, not the end of the reading."""

        def odd(row: Any) -> str:
            if count:
                self._tally.broken(
                    f"row {row.number}" if row.number else "a row",
                    "wrong number of columns",
                    f"{row.actual_columns} columns where {row.expected_columns} are expected",
                )
            return "skip"

        problem: list[BadLog] = []

        def handler(row: Any) -> str:
            # An exception must not pass through Arrow's parser.
            try:
                return odd(row)
            except BadLog as error:
                problem.append(error)
                return "error"

        try:
            with _Utf8(self._file) as file:
                reader = pa_csv.open_csv(
                    file,
                    read_options=pa_csv.ReadOptions(block_size=BLOCK, use_threads=True),
                    parse_options=pa_csv.ParseOptions(invalid_row_handler=handler),
                    convert_options=pa_csv.ConvertOptions(
                        include_columns=wanted,
                        column_types=dict.fromkeys(wanted, pa.string()),
                        strings_can_be_null=True,
                    ),
                )
                for table in reader:
                    self._done = file.passed
                    yield table
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if problem:
                raise problem[0] from None
            raise BadLog(f"{self._file} cannot be read ({str(error).partition(chr(10))[0]})") from None
        if problem:
            raise problem[0]

    def _batch(self, table: pa.RecordBatch, first: int, needs: Needs) -> Batch | None:
        n = table.num_rows
        if not n:
            return None
        row = np.arange(first, first + n)
        item, click = _numbers(table["item_id"]), _numbers(table["click"])
        propensity = checked_propensity(self.name, "row", row, _numbers(table["propensity_score"]))
        whole = np.isfinite(item) & (item == np.floor(item)) & (item >= 0) & (item < self.n_items)
        bad = ~(whole & np.isfinite(click))
        chosen = np.where(whole, item, 0.0).astype(np.int64)
        names = table.schema.names
        fields = {name: np.array(_texts_of(table[name]), np.str_) for name in needs.fields if name in names}
        columns = {}
        if POSITION in needs.columns and POSITION in names:
            columns[POSITION] = _numbers(table[POSITION]) - 1.0
        time = seconds_of(table["timestamp"].to_pylist()) if "timestamp" in names else np.full(n, np.nan)
        batch = Batch(
            starts=np.arange(n + 1),
            item=chosen.astype(np.uint64),
            chosen=chosen,
            propensity=propensity,
            reward=click,
            n_candidates=np.full(n, self.n_items, np.int64),
            viewer=own_keys(row),
            time=time,
            place=row,
            fields=fields,
            columns=columns,
            candidates=Candidates(*dense(n, self.n_items)) if needs.candidates or needs.texts else None,
            texts=Texts(self._shared(table), self._texts * n) if needs.texts else None,
        )
        if not bad.any():
            return batch
        for at in np.flatnonzero(bad).tolist():
            what = "click" if whole[at] else f"item_id (of {self.n_items} items, from 0)"
            self._tally.broken(f"row {row[at]}", f"{what} is missing or impossible")
        keep = np.flatnonzero(~bad)
        return taken(batch, keep) if len(keep) else None

    def _shared(self, table: pa.RecordBatch) -> list[bytes]:
        users = [name for name in FEATURES if name in self._have]
        columns = [_texts_of(table[name]) for name in users]
        positions = _texts_of(table[POSITION]) if POSITION in self._have else [""] * table.num_rows
        encode = msgspec.json.Encoder().encode
        return [
            encode({"U": dict(zip(users, row, strict=True)), "C": {POSITION: position}})
            for position, *row in zip(positions, *columns, strict=True)
        ]


class _Utf8:
    """A file's bytes with what is no UTF-8 replaced: Arrow prints a traceback where a broken row is not."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self.passed = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        while len(self._held) < size:
            data = self._file.read(size)
            self.passed += len(data)
            self._held += self._decoder.decode(data, not data).encode()
            if not data:
                break
        out, self._held = self._held[:size], self._held[size:]
        return out

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _file_in(path: Path) -> Path:
    if path.is_file():
        if path.name == "item_context.csv":
            raise BadLog(f"{path} describes the items; name the log beside it")
        return path
    if not path.is_dir():
        raise BadLog(f"{path} does not exist")
    files = [file for file in sorted(path.glob("*.csv")) if file.name != "item_context.csv"]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise BadLog(f"{path} must hold one log beside item_context.csv; it holds: {found}. Name the file")
    return files[0]


def _numbers(column: Any) -> Any:
    """NaN where there is no number."""
    try:
        values = pc.cast(column, pa.float64())
    except pa.ArrowException:
        found = [_value(text) for text in column.to_pylist()]
        return np.array([value if isinstance(value, float) else np.nan for value in found], np.float64)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _texts_of(column: Any) -> list[str]:
    return ["" if text is None else text for text in column.to_pylist()]


def _value(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return "" if text is None else text
