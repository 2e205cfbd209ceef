"""Times and ids of many events at once, from their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numba import njit

from replay.events import F64, I64, U8, U64

_LETTERS: Final = frozenset("0123456789abcdef")


def hash_texts(texts: Sequence[str]) -> U64:
    """A 64-bit hash of each text, the same in every process."""
    hashes: U64 = _each(texts, np.uint64, _hash_each)
    return hashes


def seconds_of(texts: Sequence[str | None]) -> F64:
    """Seconds since 1970, UTC, of ISO 8601 times; NaN where there is none. Without an offset it is UTC.

    >>> seconds_of(["1970-01-01T00:01:00.5000000Z", "1970-01-01 01:00:00+01:00", None]).tolist()
    [60.5, 0.0, nan]
    """
    found: F64 = _each([text or "" for text in texts], np.float64, _seconds_each)
    for i in np.flatnonzero(np.isnan(found)).tolist():
        text = texts[i]
        if text:
            try:
                moment = datetime.fromisoformat(text)
                found[i] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                pass
    return found


def stamps_of(seconds: F64) -> list[str]:
    """The texts that :func:`seconds_of` reads as these times, to 100 ns; empty where NaN or beyond the years that it
    knows."""
    known = np.isfinite(seconds) & (seconds > -6.2e10) & (seconds < 2.5e11)
    whole = np.floor(np.where(known, seconds, 0.0))
    parts = np.rint((np.where(known, seconds, 0.0) - whole) * 1e7).astype(np.int64)
    whole = whole.astype(np.int64) + parts // 10**7
    parts %= 10**7
    days = np.datetime_as_string(whole.astype("datetime64[s]"))
    return [
        f"{day}.{part:07d}Z" if good else ""
        for day, part, good in zip(days.tolist(), parts.tolist(), known.tolist(), strict=True)
    ]


def _each(texts: Sequence[str], kind: Any, kernel: Callable[[U8, I64, Any], None]) -> Any:
    out = np.empty(len(texts), kind)
    if not texts:
        return out
    data = np.frombuffer("\n".join(texts).encode("utf-8", "surrogatepass"), np.uint8)
    ends = np.append(np.flatnonzero(data == 10), len(data))
    if len(ends) == len(texts):
        kernel(data, ends, out)
        return out
    for i, text in enumerate(texts):
        one = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        kernel(one, np.array([len(one)]), out[i : i + 1])
    return out


@njit(cache=True, nogil=True)
def _hash_each(data: U8, ends: I64, out: U64) -> None:  # pragma: no cover - compiled
    start = 0
    for n in range(len(ends)):
        h = np.uint64(14695981039346656037)
        for i in range(start, ends[n]):
            h = (h ^ np.uint64(data[i])) * np.uint64(1099511628211)
        # FNV's upper bits are weak for short texts: the finaliser of splitmix64.
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[n] = h ^ (h >> np.uint64(31))
        start = ends[n] + 1


@njit(cache=True, nogil=True)
def _two(data: U8, i: int) -> int:  # pragma: no cover - compiled
    """Two digits as a number; far below 0 if they are none."""
    a, b = int(data[i]) - 48, int(data[i + 1]) - 48
    return a * 10 + b if 0 <= a <= 9 and 0 <= b <= 9 else -100000


@njit(cache=True, nogil=True)
def _seconds_each(data: U8, ends: I64, out: F64) -> None:  # pragma: no cover - compiled
    start = 0
    for n in range(len(ends)):
        i, end = start, ends[n]
        start = end + 1
        out[n] = np.nan
        if end - i < 19 or data[i + 4] != 45 or data[i + 7] != 45 or (data[i + 10] != 84 and data[i + 10] != 32):
            continue
        if data[i + 13] != 58 or data[i + 16] != 58:
            continue
        year = _two(data, i) * 100 + _two(data, i + 2)
        month, day = _two(data, i + 5), _two(data, i + 8)
        hour, minute, second = _two(data, i + 11), _two(data, i + 14), _two(data, i + 17)
        if year < 1 or not 1 <= month <= 12 or not 0 <= hour < 24 or not 0 <= minute < 60 or not 0 <= second < 60:
            continue
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        length = 28 + leap if month == 2 else (30 if month in (4, 6, 9, 11) else 31)
        if not 1 <= day <= length:
            continue
        i += 19
        part, scale = 0, 1
        if i < end and data[i] == 46:
            i += 1
            while i < end and 48 <= data[i] <= 57 and scale < 10**15:
                part = part * 10 + (int(data[i]) - 48)
                scale *= 10
                i += 1
            if scale == 1:
                continue
        if end - i == 6:
            if data[i] != 43 or data[i + 3] != 58 or _two(data, i + 1) != 0 or _two(data, i + 4) != 0:
                continue
        elif i < end and (data[i] != 90 or end - i != 1):
            continue
        # Days of the civil date, counted in years that begin in March.
        y = year - (month <= 2)
        in_400 = y % 400
        in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
        days = (y // 400) * 146097 + in_400 * 365 + in_400 // 4 - in_400 // 100 + in_year - 719468
        out[n] = float(((days * 24 + hour) * 60 + minute) * 60 + second) + part / scale
