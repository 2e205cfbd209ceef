"""How much is worked on at a time, how much may wait for that, and what is turned away instead of waiting longer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Final

from bandit.errors import Overloaded

#: Of the time that a request may wait, what it may once a queue stands.
STANDING: Final = 0.1
#: Seconds between two lines in the log that tell of refusals.
TELL_S: Final = 10.0

log = logging.getLogger("feed_bandit")


class Admission:
    """One worker's turns. Who cannot have one soon is refused at once: what waits long is late when it is answered.

    A burst may wait for ``wait_s``. A queue that has not been empty for as long is no burst: more comes than can be
    answered, and however long the queue, so much has to be refused; then each may wait a tenth of that only, so
    that those who are answered are answered soon.

    Source: Maurer, "Fail at Scale", ACM Queue 13(8), 2015, after the controlled delay of Nichols and Jacobson, 2012.

    :param at_once: requests that are worked on at the same time
    :param waiting: requests that may wait for a turn
    :param wait_s: seconds that each may wait
    :param monotonic: seconds
    """

    def __init__(
        self, at_once: int, *, waiting: int, wait_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._turns: SimpleQueue[None] = SimpleQueue()
        for _ in range(at_once):
            self._turns.put(None)
        self._waiting = 0
        self._most = waiting
        self._wait_s = wait_s
        self._monotonic = monotonic
        self._empty_at = monotonic()
        self._refused = 0
        self._told_at = float("-inf")
        self._counting = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn, for as long as the block runs.

        :raises Overloaded: none came soon enough; nothing was done
        """
        self._take()
        try:
            yield
        finally:
            self._turns.put(None)

    def _take(self) -> None:
        try:
            self._turns.get_nowait()
            return
        except Empty:
            pass
        wait_s = self._begin_to_wait()
        try:
            self._turns.get(timeout=wait_s)
        except Empty:
            raise self._overloaded(f"no turn came within {wait_s * 1000:g} ms") from None
        finally:
            with self._counting:
                self._waiting -= 1
                if self._waiting == 0:
                    self._empty_at = self._monotonic()

    def _begin_to_wait(self) -> float:
        """How long, in seconds."""
        with self._counting:
            if self._waiting >= self._most:
                raise self._overloaded(f"{self._most} requests wait already")
            now = self._monotonic()
            if self._waiting == 0:
                self._empty_at = now
            self._waiting += 1
            return self._wait_s * STANDING if now - self._empty_at > self._wait_s else self._wait_s

    def _overloaded(self, why: str) -> Overloaded:
        """What to raise; the log hears of it now and then."""
        self._refused += 1
        now = self._monotonic()
        if now - self._told_at > TELL_S:
            # Two threads may tell at once, and a few refusals may go uncounted: no more is at stake.
            self._told_at, refused, self._refused = now, self._refused, 0
            log.warning("overloaded: %s requests refused since this was last said (%s)", refused, why)
        return Overloaded(
            f"more is asked of this worker than it can answer in time ({why}); ask again after Retry-After"
        )
