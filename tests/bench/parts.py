"""Replay by many: a log of 80 files read by one process, by two, and by a Dask cluster of two workers.

Each side asks in a process of its own that has asked a small question before; the cluster stands already, and two
processes are started anew for each question. In one more repetition a worker of the cluster is killed midway.
"""

from __future__ import annotations

import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.bench.evaluation import ours
from tests.bench.results import Result
from tests.bench.session import Session
from tests.dask_cluster import Dask

FILES: Final = 80


def parts(session: Session) -> list[Result]:
    """One process against two, and against two Dask workers; the answers are the same, bit by bit."""
    folder = session.folder / "parts"
    _write(folder, session.scale.n_part_rows)
    here = find_spec("distributed") is not None
    cluster = Dask(session.folder) if here else None
    seconds: dict[str, list[float]] = {"one": [], "two": [], "dask": []}
    killed: dict[str, Any] = {}
    try:
        for _ in range(session.scale.part_repetitions):
            asked = {"one": ours("parts", folder, "one"), "two": ours("parts", folder, "two")}
            if cluster is not None:
                asked["dask"] = ours("parts", folder, cluster.address)
            assert len({each["answer"] for each in asked.values()}) == 1, asked
            for name, each in asked.items():
                seconds[name].append(each["seconds"])
        if cluster is not None:
            killer = threading.Thread(target=_kill, args=(folder, cluster.workers[0], asked["dask"]["seconds"] / 2))
            killer.start()
            killed = ours("parts", folder, cluster.address)
            killer.join()
            assert killed["answer"] == asked["one"]["answer"]
    finally:
        if cluster is not None:
            cluster.stop()
    rows = FILES * session.scale.n_part_rows
    what = f"{FILES} Parquet files of {rows:,} rows in all, 3 policies, by day and by country"
    found = []
    for name, by in (("dask", "two Dask workers"), ("two", "two processes, started anew")):
        if seconds[name]:
            ratios = [one / other for one, other in zip(seconds["one"], seconds[name], strict=True)]
            measured = {f"{each}_s": float(np.median(times)) for each, times in seconds.items() if times}
            note = "the same bits from all"
            if name == "dask":
                measured["killed_s"] = killed["seconds"]
                note += "; also with one worker killed midway, which took killed_s"
            found.append(
                Result(name=f"parts_{name}", what=f"{what}: {by} against one process", ratios=ratios, limit=1.6,
                       side="at least", unit="x faster", measured=measured, note=note)
            )  # fmt: skip
    return found


def _kill(folder: Path, worker: subprocess.Popen[bytes], after_s: float) -> None:
    """So long after the question was asked."""
    asked = folder.with_suffix(".asked")
    asked.unlink()
    while not asked.exists():
        time.sleep(0.01)
    time.sleep(after_s)
    worker.kill()
    worker.wait()


def _write(folder: Path, n: int) -> None:
    """Ten actions, 300 viewers a thousand rows, three countries, a row a second."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rng = np.random.default_rng(4)
    for k in range(FILES):
        table = {
            "reward": (rng.random(n) < 0.05).astype(float),
            "propensity": np.full(n, 0.1),
            "action": rng.integers(0, 10, n),
            "target": rng.random(n) * 0.2,
            "other": rng.random(n) * 0.2,
            "viewer": rng.integers(0, 3 * FILES * n // 10, n),
            "country": rng.choice(["in", "us", "br"], n),
            "time": 1.7e9 + k * n + np.arange(n, dtype=float),
        }
        pq.write_table(pa.table(table), folder / f"{k:02}.parquet")
