"""Reads ahead in a thread: what comes next is being read while what is here is being worked on."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue
from typing import TypeVar

_T = TypeVar("_T")
_POLL_S = 0.1


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(source: Iterable[_T], ahead: int = 2) -> Generator[_T, None, None]:
    """The same things in the same order, up to ``ahead`` of them made before they are asked for.

    The source runs in one thread of its own from its first thing to its last. What it raises is raised here. It
    is left alone as soon as nobody asks any more.
    """
    queue: Queue[_T | _End] = Queue(ahead)
    stopped = threading.Event()

    def put(thing: _T | _End) -> bool:
        while not stopped.is_set():
            try:
                queue.put(thing, timeout=_POLL_S)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for thing in source:
                if not put(thing):
                    return
        except BaseException as error:
            put(_End(error))
        else:
            put(_End(None))

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        while True:
            thing = queue.get()
            if isinstance(thing, _End):
                if thing.error is not None:
                    raise thing.error
                return
            yield thing
    finally:
        stopped.set()
        worker.join()
