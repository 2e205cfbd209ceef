"""Columns of Arrow tables as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from replay.errors import BadLog
from replay.events import F64, I64, U64, item_key
from replay.readers.stamps import seconds_of


def floats(column: pa.ChunkedArray, what: str) -> F64:
    """NaN where there is nothing.

    :raises BadLog: the column does not hold numbers
    """
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        if pa.types.is_null(kind):
            return np.full(len(column), np.nan)
        if not pa.types.is_decimal(kind):
            raise BadLog(f"{what} holds {kind}; numbers are needed")
    if not pa.types.is_float64(kind):
        column = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def wholes(column: pa.ChunkedArray, what: str) -> tuple[I64, NDArray[np.bool_]]:
    """(whole numbers, where there is none: 0 stands there)."""
    if pa.types.is_integer(column.type) and not column.null_count:
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype == np.uint64:
            bad = values > np.uint64(2**62)
            return np.where(bad, 0, values).astype(np.int64), bad
        return values.astype(np.int64, copy=False), np.zeros(len(values), bool)
    values = floats(column, what)
    bad = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53))
    return np.where(bad, 0.0, values).astype(np.int64), bad


def keys_of(column: pa.ChunkedArray, rows: I64 | None, otherwise: U64 | None) -> U64:
    """Keys of ids, whole numbers or texts.

    :param rows: only of these
    :param otherwise: keys where there is no id; 0 if not given
    """
    if rows is not None and len(rows) != len(column):
        column = column.take(pa.array(rows))
    missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False), bool) if column.null_count else None
    if pa.types.is_integer(column.type):
        if missing is not None:
            column = column.fill_null(0)
        keys: U64 = column.to_numpy(zero_copy_only=False).astype(np.uint64)
    else:
        encoded = pc.cast(column, pa.string(), safe=False).combine_chunks().dictionary_encode()
        kinds = np.array([item_key(_whole_text(kind)) for kind in encoded.dictionary.to_pylist()] or [0], np.uint64)
        keys = kinds[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    if missing is None:
        return keys
    return np.where(missing, np.uint64(0) if otherwise is None else otherwise, keys)


def _whole_text(text: str) -> str:
    """A float column of ids says 7.0 for 7, or what pandas makes of ids where one is missing."""
    return text.removesuffix(".0")


def seconds(column: pa.ChunkedArray) -> F64:
    """Seconds since 1970, UTC; NaN where there is none."""
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = pc.cast(column, pa.timestamp("us")), pa.timestamp("us")
    if pa.types.is_timestamp(kind):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        ticks = pc.cast(column, pa.int64())
        missing = np.asarray(ticks.is_null().to_numpy(zero_copy_only=False), bool)
        whole = ticks.fill_null(0).to_numpy(zero_copy_only=False)
        return np.where(missing, np.nan, whole // per_second + (whole % per_second) / per_second)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return seconds_of(column.to_pylist())
    return floats(column, "time")


def values_of(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers as numbers, all else as texts; empty texts where there is nothing."""
    kind = column.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not column.null_count):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.fill_null("").to_pylist(), np.str_)
    return np.array(["" if value is None else str(value) for value in column.to_pylist()], np.str_)


def bytes_of(column: pa.ChunkedArray) -> list[bytes]:
    """Texts as UTF-8; an empty JSON object where there is nothing."""
    return [
        b"{}" if value is None else value.encode() if isinstance(value, str) else bytes(value)
        for value in column.to_pylist()
    ]


def changes(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; the first does."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_integer(array.type) and not array.null_count:
        values = array.to_numpy(zero_copy_only=False)
    else:
        values = array.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    found = np.ones(len(values), bool)
    found[1:] = values[1:] != values[:-1]
    return found
