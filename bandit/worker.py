"""A rank worker: opens the data directory, warms up, and keeps its model fresh from a thread of its own."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from flask import Flask

from bandit import attribute_table, binding, candidates, columns, slate
from bandit.config import Settings, read_settings
from bandit.errors import BanditError
from bandit.features import hash_resolved, resolve_shared
from bandit.item_table import ItemTable
from bandit.logs import configure_logging
from bandit.model_args import ModelArgs
from bandit.scorer import score
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.supervisor import PARENT_VARIABLE, die_with_parent
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
    with _one_at_a_time(settings):
        warm_up()
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


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Of several workers that start together, one compiles and the others load what it compiled."""
    descriptor = os.open(settings.data / "compiling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def warm_up() -> None:
    """Compile every kernel of the rank path, or load it from numba's cache, before the first request."""
    slate.warm_up()
    binding.warm_up()
    candidates.warm_up()
    attribute_table.warm_up()
    columns.warm_up()
    args = ModelArgs.parse("-b 8 -q UI")
    table = ItemTable(2)
    rows = table.add(["a", "b"], [b"{}", b'{"x":1,"y":"z"}'])
    shared = hash_resolved(resolve_shared("u", {}, {}))
    weights = np.zeros(256, np.float32)
    # Published weights are mapped read-only, which to numba is another type.
    weights.setflags(write=False)
    score(table.view(), rows, shared, weights, args, np.zeros(2, np.float32))


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
