"""What the benchmarks of one run share: how much to do, a workload, and data directories that are copies of one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bandit.store.models import newest_models
from tests.bench.load import LoadGenerator, write_bodies
from tests.bench.workload import VW, Workload, make_data, make_workload, opened
from tests.service import RunningService


class Scale(NamedTuple):
    """How much is done. The ratios mean the same at either scale; the quick one's are only rougher."""

    n_items: int = 5_000
    n_requests: int = 200
    n_candidates: int = 1_000
    n_events: int = 300
    repetitions: int = 15
    http_repetitions: int = 7
    load_repetitions: int = 5
    load_s: float = 6.0
    freshness_s: float = 20.0
    overload_s: float = 60.0
    n_memory: int = 200_000
    n_swaps: int = 100
    n_logged: int = 3_000
    n_slots: int = 300
    n_feeds: int = 1_000_000
    n_counted_items: int = 100_000
    ope_repetitions: int = 3
    n_ope: int = 1_000_000
    n_ope_slates: int = 20_000
    n_ope_rows: int = 10_000_000
    n_ope_lines: int = 100_000
    n_part_rows: int = 125_000
    part_repetitions: int = 5


QUICK = Scale(
    n_items=1_000,
    n_requests=20,
    n_candidates=200,
    n_events=30,
    repetitions=3,
    http_repetitions=2,
    load_repetitions=1,
    load_s=1.0,
    freshness_s=6.0,
    overload_s=3.0,
    n_memory=2_000,
    n_swaps=3,
    n_logged=100,
    n_slots=40,
    n_feeds=3_000,
    n_counted_items=1_000,
    ope_repetitions=1,
    n_ope=20_000,
    n_ope_slates=500,
    n_ope_rows=200_000,
    n_ope_lines=2_000,
    n_part_rows=4_000,
    part_repetitions=1,
)


class Session:
    """One run.

    :param folder: where everything that is written goes
    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.scale = scale
        self._n_copies = 0

    @cached_property
    def workload(self) -> Workload:
        scale = self.scale
        return make_workload(n_items=scale.n_items, n_requests=scale.n_requests, n_candidates=scale.n_candidates)

    @cached_property
    def _base(self) -> Path:
        self.say("making a catalogue and a first model")
        path = self.folder / "base"
        make_data(path, self.workload, n_events=self.scale.n_events, durable=False)
        return path

    def data(self) -> Path:
        """A fresh data directory: the catalogue, and a model that has learned something."""
        self._n_copies += 1
        path = self.folder / f"data-{self._n_copies}"
        shutil.copytree(self._base, path)
        return path

    @cached_property
    def model(self) -> Path:
        """The published regressor of every `data`, as VW saved it."""
        with opened(self._base, durable=False) as service:
            digest = newest_models(service.data.log)[0].digest
        return self._base / "models" / f"{digest}.vw"

    @cached_property
    def bodies(self) -> Path:
        """The workload's requests, for the load generator."""
        path = self.folder / "bodies"
        write_bodies(path, self.workload.bodies)
        return path

    @cached_property
    def load(self) -> LoadGenerator:
        return LoadGenerator(self.folder)

    @contextmanager
    def serving(self, **settings: Any) -> Iterator[RunningService]:
        """The real service on a data directory of its own. Unless told otherwise it lets everybody wait: how fast it
        is at most is measured with more connections than it would answer in time."""
        with RunningService(self.data(), vw=VW, **{"queue_ms": 60_000, "queue": 10_000} | settings) as service:
            yield service

    def say(self, text: str) -> None:
        """Progress, apart from the results."""
        print(text, file=sys.stderr, flush=True)
