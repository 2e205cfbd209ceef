"""What happened twice in a log: events written again, and draws that repeat because a seed was used again.

In constant memory: keys are kept only if their hash is small enough, the same for both of a pair, so the share of
repeated ones is estimated from those kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from replay.events import F64, I64, U64, Batch, mixed
from replay.results import Check

KEPT: Final = 1 << 18
"""Keys that are kept at most, of each kind."""

WINDOWS: Final = (32, 256)
"""Draws in a row that are compared."""

CERTAIN_BITS: Final = 40.0
"""A window counts once chance would repeat it somewhere in a log of 2^20 draws less than once in 2^40 / 2^20 logs and
fewer: its draws' probability is below 2^-(2 * 20 + 40), by the logged propensities themselves."""
_LOG_BITS: Final = 40.0

DUPLICATED_SHARE: Final = 1e-3
"""Share of events that are written twice from which on it is said; fewer are retries."""

FEWEST_WINDOWS: Final = 3
"""Repeated windows from which on it is said."""

_BASE: Final = np.uint64(0x9E3779B97F4A7C15)


class _Sample:
    """Counts keys and repeated keys among those with a small hash."""

    def __init__(self) -> None:
        self._kept: U64 = np.empty(0, np.uint64)
        self._counts: I64 = np.empty(0, np.int64)
        self._limit = np.uint64(2**64 - 1)

    def add(self, keys: U64) -> None:
        """:param keys: shape (n,), well mixed"""
        keys = keys[keys <= self._limit]
        if not len(keys):
            return
        both, place = np.unique(np.concatenate([self._kept, keys]), return_inverse=True)
        counts = np.zeros(len(both), np.int64)
        np.add.at(counts, place, np.concatenate([self._counts, np.ones(len(keys), np.int64)]))
        while len(both) > KEPT:
            self._limit = self._limit // np.uint64(2)
            few = int(np.searchsorted(both, self._limit, side="right"))
            both, counts = both[:few], counts[:few]
        self._kept, self._counts = both, counts

    @property
    def repeated(self) -> int:
        """How many of the keys kept had been there before."""
        return int((self._counts - 1).sum())

    @property
    def share(self) -> float:
        """Of keys that had been there before."""
        total = int(self._counts.sum())
        return self.repeated / total if total else 0.0


class Repeats:
    """Reads a log in its order."""

    def __init__(self) -> None:
        self._events = _Sample()
        self._windows = {length: _Sample() for length in WINDOWS}
        self._tail_keys: U64 = np.empty(0, np.uint64)
        self._tail_bits: F64 = np.empty(0)

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        timed = np.isfinite(batch.time)
        if timed.any():
            self._events.add(_event_keys(batch)[timed])
        keys = mixed(batch.chosen.astype(np.uint64) * np.uint64(1_000_003) + batch.n_candidates.astype(np.uint64))
        keys = np.concatenate([self._tail_keys, keys])
        bits = np.concatenate([self._tail_bits, -np.log2(np.clip(batch.propensity, 1e-300, 1.0))])
        before = len(self._tail_keys)
        for length, sample in self._windows.items():
            windows, improbable = _windows(keys, bits, length)
            # Those that end in this batch; the others were counted with the one before.
            new = slice(max(before - length + 1, 0), None)
            sample.add(windows[new][improbable[new] > _LOG_BITS + CERTAIN_BITS])
        keep = max(WINDOWS) - 1
        self._tail_keys, self._tail_bits = keys[-keep:], bits[-keep:]

    def checks(self) -> list[Check]:
        """One for events, one for draws."""
        share = self._events.share
        level = "warning" if share > DUPLICATED_SHARE else "ok"
        sentence = "No event stands in the log twice." if not self._events.repeated else (
            f"{100 * share:.2g} % of the events stand in the log more than once: same viewer, time and draws."
        )  # fmt: skip
        advice = "Drop the copies: intervals count each as news." if level == "warning" else ""
        result = [Check("duplicate events", level, share, DUPLICATED_SHARE, sentence, advice)]  # type: ignore[arg-type]
        repeated = [(sample.repeated, length, sample.share) for length, sample in self._windows.items()]
        count, length, windows = max(repeated, key=lambda each: each[2])
        if count < FEWEST_WINDOWS or windows <= 2 * share:
            return [*result, Check("repeated draws", "ok", windows, 0.0, "Draws do not repeat themselves.")]
        sentence = (
            f"{100 * windows:.2g} % of the runs of {length} draws have been there before, draw by draw: "
            "the random numbers start again from the same seed."
        )
        advice = "Seed each process and each restart differently, or draw from the event's id and a secret."
        return [*result, Check("repeated draws", "refusal", windows, 0.0, sentence, advice)]


def _event_keys(batch: Batch) -> U64:
    """Shape (n,): the same for events of the same viewer and time that drew and earned the same."""
    slot = mixed(batch.item) ^ mixed(batch.propensity.view(np.uint64) + np.uint64(1))
    slot = mixed(slot + mixed(np.ascontiguousarray(batch.reward).view(np.uint64)))
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(slot, dtype=np.uint64)])
    whole = total[batch.starts[1:]] - total[batch.starts[:-1]]
    when = mixed(np.ascontiguousarray(batch.time).view(np.uint64) + np.uint64(2))
    return mixed(whole ^ mixed(batch.viewer) * _BASE ^ when)


def _windows(keys: U64, bits: F64, length: int) -> tuple[U64, F64]:
    """Of every run of ``length`` draws: a hash, and how improbable it was, in bits; shape (n - length + 1,)."""
    n = len(keys)
    if n < length:
        return np.empty(0, np.uint64), np.empty(0)
    power = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(n, _BASE)]), dtype=np.uint64)
    inverse = np.uint64(pow(int(_BASE), -1, 2**64))
    back = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(n, inverse)]), dtype=np.uint64)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(keys * power[:n], dtype=np.uint64)])
    rolled = (total[length:] - total[:-length]) * back[: n - length + 1]
    summed = np.concatenate([np.zeros(1), np.cumsum(bits)])
    return mixed(rolled), summed[length:] - summed[:-length]
