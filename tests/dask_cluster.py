"""A Dask cluster on the loopback, for tests and benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.service import ROOT, own_environ, wait_for


def environ() -> dict[str, str]:
    """Of its processes, and of those that ask it."""
    return {**own_environ(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Dask:
    """A scheduler and two workers on the loopback, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        """
        :param folder: for what they write
        """
        file = folder / "scheduler.json"
        self._log = (folder / "dask.log").open("wb")
        here = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
        self.scheduler = self._start("dask_scheduler", "--port", "0", "--scheduler-file", file, *here)
        wait_for(file.exists, what="the scheduler", timeout_s=60)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [
            self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", *here) for _ in range(2)
        ]

    def _start(self, module: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments)]
        return subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environ(), cwd=ROOT)

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self._log.close()

    @property
    def n_alive(self) -> int:
        return sum(worker.poll() is None for worker in self.workers)
