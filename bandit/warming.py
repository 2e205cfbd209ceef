"""Kernels are compiled at the first start and loaded at every later one, before there are requests."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bandit.features.hashing import hash_resolved, resolve_shared
from bandit.features.item_table import ItemTable
from bandit.features.model_args import ModelArgs
from bandit.ranking import candidates
from bandit.ranking.scorer import score
from bandit.slate import binding, drawing
from bandit.statistics import attribute_table, columns
from bandit.supervisor import die_with_parent


def warm_up(data: Path) -> None:
    """Compile every kernel of the rank path, or load it from numba's cache.

    Whoever comes first compiles, in two processes (numba uses one core of each), and the others wait and load.

    :param data: where processes that start together wait for each other
    """
    with _one_at_a_time(data):
        attribute_table.warm_up()
        helper = multiprocessing.get_context("spawn").Process(target=_help, args=(os.getpid(),))
        first = attribute_table.was_compiled()
        if first:
            helper.start()
        _scoring()
        if first:
            helper.join()
        _drawing()


@contextmanager
def _one_at_a_time(data: Path) -> Iterator[None]:
    descriptor = os.open(data / "compiling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _help(parent: int) -> None:
    die_with_parent(parent)
    _drawing()


def _drawing() -> None:
    drawing.warm_up()
    binding.warm_up()
    columns.warm_up()


def _scoring() -> None:
    candidates.warm_up()
    args = ModelArgs.parse("-b 8 -q UI")
    table = ItemTable(2)
    rows = table.add(["a", "b"], [b"{}", b'{"x":1,"y":"z"}'])
    shared = hash_resolved(resolve_shared("u", {}, {}))
    weights = np.zeros(256, np.float32)
    # Published weights are mapped read-only, which to numba is another type.
    weights.setflags(write=False)
    score(table.view(), rows, shared, weights, args, np.zeros(2, np.float32))
