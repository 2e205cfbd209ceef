"""A crew of processes on this machine."""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
from collections.abc import Generator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from replay.crews import AHEAD, Board, Done, Task, work

# Forked from a process that has loaded all this once and has no threads.
_CONTEXT: Final = get_context("forkserver")
_PATIENCE_S: Final = 5.0


class Processes:
    """So many processes; one that dies is replaced, and what it did is done again.

    :param n: at least 1
    """

    def __init__(self, n: int) -> None:
        self._n = n

    def run(self, sent: bytes, tasks: Sequence[Task]) -> Generator[tuple[int, Done], None, None]:
        """See `Crew.run`."""
        _CONTEXT.set_forkserver_preload([__name__, "replay.readers.parquet", "replay.readers.dsjson"])
        board = Board(tasks, ahead=AHEAD * self._n)
        workers: list[_Worker] = []
        try:
            workers += [_Worker(sent) for _ in range(min(self._n, len(tasks)))]
            while not board.finished:
                for worker in workers:
                    if worker.place is None and (place := board.take()) is not None:
                        worker.give(place, tasks[place])
                for i in _heard([each for each in workers if each.place is not None], workers):
                    place = workers[i].place
                    assert place is not None
                    try:
                        found = workers[i].take()
                    except (EOFError, OSError):
                        how = workers[i].end()
                        board.died(place, how)
                        workers[i] = _Worker(sent)
                        continue
                    workers[i].place = None
                    board.done(place)
                    if (following := board.take()) is not None:
                        workers[i].give(following, tasks[following])
                    yield place, found
        finally:
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.end()


class _Worker:
    """One process, and the place of the task that it is doing."""

    def __init__(self, sent: bytes) -> None:
        self.place: int | None = None
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, sent), name="replay-worker", daemon=False)
        self.process.start()
        theirs.close()

    def give(self, place: int, task: Task) -> None:
        self.place = place
        # That it is gone is found out when it is heard.
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def take(self) -> Done:
        """
        :raises EOFError, OSError: the process is gone
        """
        found: Done = self.pipe.recv()
        return found

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.terminate()

    def end(self) -> str:
        """Wait for its end; says how that was."""
        self.pipe.close()
        self.process.join(_PATIENCE_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _heard(busy: Sequence[_Worker], workers: Sequence[_Worker]) -> list[int]:
    """Places of the workers that have something to say, or are gone; waits for one."""
    ready = set(map(id, wait([each.pipe for each in busy] + [each.process.sentinel for each in busy])))
    return [
        i for i, each in enumerate(workers)
        if each in busy and (id(each.pipe) in ready or not each.process.is_alive())
    ]  # fmt: skip


def _serve(pipe: Connection[Any, Task], sent: bytes) -> None:
    """What a worker does: one task after another, until nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The one who asked stops this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with contextlib.suppress(ImportError):
        import pyarrow as pa

        pa.set_cpu_count(1)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        found: Done
        try:
            found = work(sent, task)
        except Exception as error:
            found = _sendable(error)
        try:
            pipe.send(found)
        except OSError:
            return


def _sendable(error: Exception) -> Exception:
    """Itself, unless it cannot be pickled and read again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__} in a worker: {error}")
    return error
