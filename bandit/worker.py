"""A rank worker: opens the data directory, warms up, and keeps its model fresh from a thread of its own."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from flask import Flask

from bandit.config import Settings, read_settings
from bandit.errors import BanditError
from bandit.logs import configure_logging
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.supervisor import PARENT_VARIABLE, die_with_parent
from bandit.warming import warm_up
from bandit.web.app import create_app
from bandit.web.pages import look
from bandit.web.request_log import RequestLog, to_stderr

log = logging.getLogger("feed_bandit")
App = TypeVar("App")

REFRESH_S = 0.02
SWITCH_S = 0.0005
FIRST_MODEL_S = 10.0


def make_app() -> Flask:
    """The app of this worker process; settings come from the environment that the parent left."""
    settings = read_settings({}, os.environ)

    def app_of(service: Service) -> Flask:
        # Four fifths of the dashboard's first view were this.
        look.warm_up()
        return create_app(service, requests=_request_log(settings))

    return ready(app_of, settings)


def _request_log(settings: Settings) -> RequestLog | None:
    return RequestLog(to_stderr).start() if settings.log_format == "json" else None


def ready(app_of: Callable[[Service], App], settings: Settings) -> App:
    """The app of a service that ranks from a model, in a process that is tuned for it.

    :param app_of: makes the app
    """
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    configure_logging(settings.log_format)
    log.info("loading the scoring kernels (compiled at the first start, which takes a while)")
    warm_up(settings.data)
    service = Service(DataDirectory(settings))
    until = time.monotonic() + FIRST_MODEL_S
    while service.ranker.snapshot is None and time.monotonic() < until:
        # Only ever in a new data directory: the trainer is about to publish its empty model.
        time.sleep(REFRESH_S)
        service.ranker.refresh()
    threading.Thread(target=_keep_fresh, args=(service,), name="refresh", daemon=True).start()
    app = app_of(service)
    # What lives now lives for ever; collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # A thread that comes back from its fsync waits at most this long for the interpreter; with Python's own 5 ms
    # a second request in the worker made that the tail of the first.
    sys.setswitchinterval(SWITCH_S)
    log.info("worker ready, model %s", service.model().version)
    return app


def _keep_fresh(service: Service) -> None:
    """Off the request path: map new models, see new epochs, and hear of catalogue changes early."""
    while True:
        time.sleep(REFRESH_S)
        try:
            service.ranker.refresh()
            service.ranker.sync()
            service.data.keys.refresh()
        except BanditError:
            # The log is away: requests say so themselves; look again.
            time.sleep(0.2)
