"""How often somebody may ask: a token bucket. Pure; the clock is handed in."""

from __future__ import annotations

import threading


class TokenBucket:
    """So many requests a second, of which a second's worth may come at once. Safe to share between threads.

    :param rate: requests a second, above 0
    :param now: seconds, by the clock of every later :meth:`take`
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._most = max(1.0, rate)
        self._tokens = self._most
        self._at = now
        self._lock = threading.Lock()

    def take(self, now: float) -> float:
        """0 if the request may be answered, else in how many seconds the next one may.

        >>> bucket = TokenBucket(2.0, now=0.0)
        >>> [bucket.take(now) for now in (0.0, 0.0, 0.0, 0.5, 0.5)]
        [0.0, 0.0, 0.5, 0.0, 0.5]
        """
        with self._lock:
            self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * self.rate)
            self._at = max(self._at, now)
            if self._tokens < 1.0:
                return (1.0 - self._tokens) / self.rate
            self._tokens -= 1.0
            return 0.0
