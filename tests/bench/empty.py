"""An empty route under the same server, taking the same bodies: what HTTP and Flask cost before any ranking.

Run as ``python -m tests.bench.empty PORT``.
"""

from __future__ import annotations

import sys

from flask import Flask, Response, request

from bandit.config import Settings


def app() -> Flask:
    """One route, as `bandit.web.app` would have it if it did nothing."""
    flask = Flask("empty")

    @flask.post("/v1/rank")
    def rank() -> Response:
        request.get_data(cache=False)
        return Response(b"{}", 200, content_type="application/json")

    return flask


def main() -> None:
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    threads = Settings.threads
    Granian(
        "tests.bench.empty:app",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=threads,
        backpressure=max(64, 4 * threads),
        factory=True,
        websockets=False,
        log_level=LogLevels.warning,
    ).serve()


if __name__ == "__main__":
    main()
