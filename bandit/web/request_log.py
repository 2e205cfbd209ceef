"""A line of JSON for every request: what was asked, by which key, how it ended and how long it took.

Never in it: keys, bodies, ids of viewers, or whatever else was sent but the event id.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from bandit.logs import time_of
from bandit.web.routing import Caller, Route

EVERY_S: Final = 0.1
#: Lines that wait to be written; whoever reads them so slowly misses some, rather than that requests wait.
MOST: Final = 50_000
#: What a pipe takes as a whole, so that lines of several processes do not mix.
WHOLE: Final = 4096

_Line = tuple[float, Route, int, float, Caller, str | None, Mapping[str, Any] | None]


class RequestLog:
    """Lines of one worker. A request only leaves what its line needs; a thread of its own makes and writes them.

    :param write: takes whole lines
    :param clock: UTC seconds
    """

    def __init__(self, write: Callable[[bytes], object], *, clock: Callable[[], float] = time.time) -> None:
        self._write = write
        self._clock = clock
        self._lines: deque[_Line] = deque()
        self._missed = 0
        self._worker = os.getpid()
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> RequestLog:
        """Write from now on, every `EVERY_S`, and what is left when the process ends."""
        self._thread.start()
        atexit.register(self.flush)
        return self

    def stop(self) -> None:
        """Write what is left, and no more."""
        self._stopping.set()
        self._thread.join()
        atexit.unregister(self.flush)
        self.flush()

    def add(
        self, route: Route, status: int, seconds: float, caller: Caller, event_id: str | None,
        told: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        """A request was answered.

        :param told: what its handler has to say of it
        """
        if len(self._lines) >= MOST:
            self._missed += 1
            return
        self._lines.append((self._clock(), route, status, seconds, caller, event_id, told))

    def flush(self) -> None:
        """Write all lines that wait."""
        with self._writing:
            chunk = b""
            while self._lines:
                line = self._line(*self._lines.popleft())
                if len(chunk) + len(line) > WHOLE:
                    self._put(chunk)
                    chunk = b""
                chunk += line
            if self._missed:
                missed, self._missed = self._missed, 0
                about = {"time": time_of(self._clock()), "level": "WARNING", "worker": self._worker}
                self._put(msgspec.json.encode(about | {"message": f"{missed} lines of requests were left out"}) + b"\n")
            self._put(chunk)

    def _put(self, chunk: bytes) -> None:
        if chunk:
            try:
                self._write(chunk)
            except OSError:
                # Nobody reads any more; requests go on.
                self._missed += 1

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self.flush()

    def _line(
        self, at: float, route: Route, status: int, seconds: float, caller: Caller, event_id: str | None,
        told: Mapping[str, Any] | None,
    ) -> bytes:  # fmt: skip
        line: dict[str, Any] = {
            "time": time_of(at),
            "level": "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO",
            "worker": self._worker,
            "method": route.method,
            "route": route.path.replace("<path:", "{").replace(">", "}"),
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
        }
        if caller.key:
            line["key"], line["app"] = caller.key, caller.app
        if event_id is not None:
            line["event_id"] = event_id
        if told:
            line.update(told)
        return msgspec.json.encode(line) + b"\n"


def to_stderr(chunk: bytes) -> None:
    """Write lines to the process's stderr, past Python's own buffers."""
    while chunk:
        chunk = chunk[os.write(2, chunk) :]
