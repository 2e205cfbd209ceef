"""A progress bar on a terminal; silent where nobody looks."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self, TextIO

WIDTH = 30
FIRST_S = 0.5
EVERY_S = 0.1


class Progress:
    """Call it with (done, of); it draws on a terminal, and only if the work takes longer than a moment.

    >>> import io
    >>> with Progress("records", io.StringIO()) as progress:
    ...     progress(5, 10)
    """

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._started = time.monotonic()
        self._next = self._started + FIRST_S if stream.isatty() else float("inf")
        self._drawn = False

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        self._drawn = True
        share = done / of if of else 1.0
        left = (now - self._started) * (1 - share) / share if share else 0.0
        bar = "#" * round(WIDTH * share)
        self._stream.write(
            f"\r[{bar:<{WIDTH}}] {100 * share:3.0f} %  {done:,} of {of:,} {self._what}, {left:.0f} s left \x1b[K"
        )
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
