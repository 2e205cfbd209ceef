"""A crew of Dask workers, on other machines or on this one. Needs the extra ``replay-dask``."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Generator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

from replay.crews import AHEAD, Board, Done, Task, lost, work
from replay.errors import BadQuestion, WorkerLost

CONNECT_S: Final = 10.0
NO_WORKERS_S: Final = 60.0
"""So long is waited for workers, at the start and when the last one is gone."""
_POLL_S: Final = 1.0


class Cluster:
    """The workers of a Dask scheduler. They need this package, of the same version, and the log at the same path.

    :param address: such as ``tcp://10.0.0.1:8786``
    """

    def __init__(self, address: str) -> None:
        """
        :raises BadQuestion: Dask is not installed
        """
        try:
            import distributed
        except ImportError as error:
            raise BadQuestion(
                f"a Dask cluster needs {error.name or 'distributed'}, which is not installed; "
                "pip install 'feed-bandit[replay,replay-dask]' brings it"
            ) from None
        self._dask: Any = distributed
        self._address = address

    def run(self, sent: bytes, tasks: Sequence[Task]) -> Generator[tuple[int, Done], None, None]:
        """See `Crew.run`."""
        with self._client() as client:
            n_threads = self._wait_for_workers(client)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                # A task of its own: what is lost with a worker is then sent again.
                there = client.submit(bytes, sent, pure=False, priority=1)
                yield from self._run(client, there, tasks, Board(tasks, ahead=AHEAD * n_threads), n_threads)

    def _run(
        self, client: Any, there: Any, tasks: Sequence[Task], board: Board, n_threads: int
    ) -> Generator[tuple[int, Done], None, None]:
        doing: dict[Any, int] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        while not board.finished:
            while len(doing) < 2 * n_threads and (place := board.take()) is not None:
                future = client.submit(work, there, tasks[place], pure=False, retries=0)
                doing[future] = place
                future.add_done_callback(ended.put)
            future = self._next(client, ended)
            place = doing.pop(future)
            found = self._result(future, tasks[place])
            if found is None:
                board.died(place, "its worker was lost")
                continue
            board.done(place)
            yield place, found

    def _client(self) -> Any:
        """
        :raises BadQuestion: nobody answers there
        """
        try:
            return self._dask.Client(self._address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise BadQuestion(
                f"no Dask scheduler answers at {self._address} ({str(error).partition(chr(10))[0]}); give its address, "
                "such as tcp://127.0.0.1:8786"
            ) from None

    def _wait_for_workers(self, client: Any) -> int:
        """How many tasks they can do at a time.

        :raises WorkerLost: there are none for ``NO_WORKERS_S``
        """
        give_up_at = time.monotonic() + NO_WORKERS_S
        while True:
            try:
                n_threads = sum(client.nthreads().values())
            except (OSError, TimeoutError, AttributeError) as error:
                raise WorkerLost(f"the Dask scheduler at {self._address} is gone ({error})") from None
            if n_threads:
                return int(n_threads)
            if time.monotonic() > give_up_at:
                raise WorkerLost(
                    f"the Dask scheduler at {self._address} has had no worker for {NO_WORKERS_S:g} s; start some with "
                    f"dask worker {self._address}"
                )
            time.sleep(_POLL_S / 10)

    def _next(self, client: Any, ended: SimpleQueue[Any]) -> Any:
        """One that has come to an end; waits for it, as long as there are workers."""
        while True:
            with contextlib.suppress(Empty):
                return ended.get(timeout=_POLL_S)
            self._wait_for_workers(client)

    def _result(self, future: Any, task: Task) -> Done | None:
        """None if it is to be done again.

        :raises WorkerLost: its workers died again and again
        """
        if future.status in ("cancelled", "lost"):
            return None
        if future.status == "error":
            error = future.exception()
            if isinstance(error, self._dask.KilledWorker):
                raise lost(task, "Dask gave it up")
            if isinstance(error, ImportError):
                return BadQuestion(
                    f"a Dask worker cannot load what it is to do ({error}); it needs feed-bandit[replay,replay-dask], "
                    "of the same version as the one who asks"
                )
            return error if isinstance(error, Exception) else RuntimeError(f"a Dask worker stopped: {error!r}")
        found: Done = future.result()
        future.release()
        return found
