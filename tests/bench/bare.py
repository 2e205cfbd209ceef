"""The same service without its doors: no keys, limits, metrics, turns, headers or logs; it decodes, ranks, encodes.

Run as ``python -m tests.bench.bare PORT DATA VW``; stops at SIGTERM.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit import records
from bandit.config import Settings, read_settings
from bandit.records import RankRequest
from bandit.service import Service
from bandit.supervisor import PARENT_VARIABLE, SLOW_CLIENTS, Keeper, _trainer_job

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

App = Callable[["WSGIEnvironment", "StartResponse"], Iterable[bytes]]


def worker() -> App:
    """The WSGI app of the one worker."""
    from bandit.worker import ready

    return ready(_app, read_settings({}, os.environ))


def _app(service: Service) -> App:
    working = threading.Semaphore(service.data.settings.threads)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body: Any = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with working:
            reply = service.rank(records.decode(body, RankRequest)) if body else None
            told = b"" if reply is None else records.encode(reply)
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(told)))])
        return [told]

    return app


def main() -> None:
    import multiprocessing

    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    port, data, vw = sys.argv[1:]
    settings = Settings(Path(data), vw=vw)
    multiprocessing.set_start_method("spawn", force=True)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.environ.update(settings.environment())
    trainer = Keeper(settings, "trainer", _trainer_job)
    trainer.start()
    try:
        Granian(
            "tests.bench.bare:worker",
            address="127.0.0.1",
            port=int(port),
            interface=Interfaces.WSGI,
            workers=1,
            blocking_threads=settings.threads + SLOW_CLIENTS,
            backpressure=settings.threads + SLOW_CLIENTS,
            factory=True,
            websockets=False,
            log_level=LogLevels.warning,
        ).serve()
    finally:
        trainer.stop()


if __name__ == "__main__":
    main()
