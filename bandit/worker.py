"""A rank worker: opens the data directory, warms up, and keeps its model fresh from a thread of its own."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time

import numpy as np
from flask import Flask

from bandit import attributes, candidates, columns, rules, slate
from bandit.config import read_settings
from bandit.errors import BanditError
from bandit.features import hash_resolved, resolve_shared
from bandit.item_table import ItemTable
from bandit.model_args import ModelArgs
from bandit.scorer import score
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.supervisor import PARENT_VARIABLE, configure_logging, die_with_parent
from bandit.web.app import create_app

log = logging.getLogger("feed_bandit")

REFRESH_S = 0.02
SWITCH_S = 0.0005
FIRST_MODEL_S = 10.0


def make_app() -> Flask:
    """The app of this worker process; settings come from the environment that the parent left."""
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    configure_logging()
    log.info("loading the scoring kernels (compiled at the first start, which takes a while)")
    warm_up()
    service = Service(DataDirectory(read_settings({}, os.environ)))
    until = time.monotonic() + FIRST_MODEL_S
    while service.ranker.snapshot is None and time.monotonic() < until:
        # Only ever in a new data directory: the trainer is about to publish its empty model.
        time.sleep(REFRESH_S)
        service.ranker.refresh()
    threading.Thread(target=_keep_fresh, args=(service,), name="refresh", daemon=True).start()
    app = create_app(service)
    # What lives now lives for ever; collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # A thread that comes back from its fsync waits at most this long for the interpreter; with Python's own 5 ms
    # a second request in the worker made that the tail of the first.
    sys.setswitchinterval(SWITCH_S)
    log.info("worker ready, model %s", service.model().version)
    return app


def warm_up() -> None:
    """Compile every kernel of the rank path, or load it from numba's cache, before the first request."""
    slate.warm_up()
    rules.warm_up()
    candidates.warm_up()
    attributes.warm_up()
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
