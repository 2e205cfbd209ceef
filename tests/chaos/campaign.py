"""The campaign: load, kills at random moments, restarts of what an operator restarts, and the audit."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

from bandit.store.models import trainer_state
from bandit.store.reading import ReadOnlyLog
from tests.chaos.audit import Findings, audit
from tests.chaos.ledger import Ledger
from tests.chaos.load import WINDOWS_S, Operator, Viewer
from tests.service import RunningService, wait_for

#: After the parent's death nothing of it may answer for longer.
PORT_S = 2.0
#: The kernel kills its processes at once, but one that waits for the disk ends only when that has answered.
ORPHANS_S = 5.0
#: A child that was killed while it was starting knows only a moment later that its parent is gone.
STARTING_ORPHANS_S = 10.0
STARTING_S = 5.0
#: On a busy machine it may still be starting after that: it has not had its turn.
STARTING_CPU_S = 1.0
_READY = re.compile(r"\[(\d+)\] worker ready")
TARGETS = {"worker": 35, "trainer": 35, "parent": 12, "several": 10, "all": 3, "parent at its start": 5}


class Report(Struct):
    """What a campaign did and found; `violations` is empty if every promise was kept."""

    seed: int
    kills: int
    processes_killed: int
    by_target: dict[str, int]
    seconds: float
    restarts: int
    port_worst_s: float
    orphans_worst_s: float
    young_worst_s: float
    load: dict[str, int]
    records: int
    published: int
    matched: int
    learned: int
    checked: dict[str, int]
    violations: list[str]
    stop_s: float


class Campaign:
    """One service, its clients, and the one who kills.

    :param data: an empty place for the data directory
    :param limit_s: no more kills after so long
    """

    def __init__(self, data: Path, *, seed: int, workers: int = 2, clients: int = 4, limit_s: float = 1e9) -> None:
        self._rng = random.Random(seed)
        self._seed = seed
        self._limit_s = limit_s
        self.ledger = Ledger()
        self._service = RunningService(
            data, workers=workers, threads=2, publish_ms=20, tick_s=0.2, vw="-b 16 -q UI -q CI", keep_models=5
        )
        self._stopping = threading.Event()
        self._n_clients = clients
        self._clients: list[Viewer | Operator] = []
        self.by_target: Counter[str] = Counter()
        self.n_processes = 0
        self.n_restarts = 0
        self.port_worst_s = self.orphans_worst_s = self.young_worst_s = 0.0

    # ------------------------------------------------------------ the whole

    def run(self, kills: int, *, progress: Callable[[int, int], None] = lambda done, of: None) -> Report:
        """Kill so many times, let all come to rest, and compare."""
        started = time.monotonic()
        done = 0
        try:
            self._service.start()
            self._begin_load()
            while done < kills and time.monotonic() - started < self._limit_s:
                time.sleep(self._rng.choice([0.0, 0.05, 0.3, 1.0]) * self._rng.random() * 2)
                if self._kill_some():
                    done += 1
                    progress(done, kills)
            stop_s = self._come_to_rest()
        finally:
            self._stopping.set()
            for client in self._clients:
                client.join(60.0)
            self._service.kill()
        findings, rebuilt = audit(self._service.data, self.ledger)
        self._enough(findings, done)
        return Report(
            seed=self._seed,
            kills=done,
            processes_killed=self.n_processes,
            by_target=dict(self.by_target),
            seconds=round(time.monotonic() - started, 1),
            restarts=self.n_restarts,
            port_worst_s=round(self.port_worst_s, 3),
            orphans_worst_s=round(self.orphans_worst_s, 3),
            young_worst_s=round(self.young_worst_s, 3),
            load=dict(sorted(self.ledger.counts.items())),
            records=rebuilt.records,
            published=rebuilt.published,
            matched=rebuilt.matched,
            learned=rebuilt.learned,
            checked=dict(findings.checked),
            violations=findings.violations,
            stop_s=round(stop_s, 2),
        )

    def _begin_load(self) -> None:
        found = self._service.call("GET", "/v1/config")
        document = {**found.body, "reward_window_s": WINDOWS_S[1]}
        put = self._service.call("PUT", "/v1/config", document, headers={"If-Match": found.headers["ETag"]})
        assert put.status == 200, put
        kinds: list[type[Viewer] | type[Operator]] = [*[Viewer] * self._n_clients, Operator]
        for number, kind in enumerate(kinds):
            rng = random.Random(self._rng.random())
            self._clients.append(kind(f"c{number}", self._service.port, self.ledger, rng, self._stopping))
        for client in self._clients:
            client.start()

    # ------------------------------------------------------------ killing

    def _kill_some(self) -> bool:
        """Kill as chance has it; False if there was nobody to kill at that moment."""
        target = self._rng.choices(list(TARGETS), list(TARGETS.values()))[0]
        if target == "parent at its start":
            self._kill_parent([])
            self._start(ready=False)
            time.sleep(self._rng.uniform(0.0, 2.5))
            self._kill_parent([])
            self._start()
        elif target in ("parent", "all"):
            self._kill_parent(self._children() if target == "all" else [])
            self._start()
        else:
            victims = self._victims(target)
            if not victims:
                return False
            killed_at = time.time()
            self._kill(victims)
            # Else whatever comes next meets a service that is just mending itself.
            if self._rng.random() < 0.8:
                self._until_mended(killed_at)
        self.by_target[target] += 1
        return True

    def _victims(self, target: str) -> list[int]:
        pids = self._service.pids()
        if target == "worker":
            ready = self._ready_workers()
            among = ready if ready and self._rng.random() < 0.8 else pids.workers
            return [self._rng.choice(among)] if among else []
        if target == "trainer":
            return [pids.trainer] if pids.trainer is not None else []
        children = self._children()
        return self._rng.sample(children, self._rng.randint(2, len(children))) if len(children) > 1 else []

    def _children(self) -> list[int]:
        pids = self._service.pids()
        return [*pids.workers, *([pids.trainer] if pids.trainer is not None else [])]

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                self.n_processes += 1
            except ProcessLookupError:
                continue

    def _kill_parent(self, others: list[int]) -> None:
        """``kill -9`` of the parent, then look how long anything of it stays."""
        parent = self._service.pids().parent
        try:
            family = psutil.Process(parent).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        young = [process for process in family if _is_starting(process)]
        # In any order: the parent may see some of its children die, or not.
        victims = [parent, *others]
        self._rng.shuffle(victims)
        self._kill(victims)
        self._service.wait()
        died = time.monotonic()
        grown = [process for process in family if process not in young]
        self.port_worst_s = max(self.port_worst_s, self._until(died, PORT_S, "the port answers", self._listens))
        took = self._until(died, ORPHANS_S, "a process of it lives", lambda: any(map(_runs, grown)))
        if took > ORPHANS_S:
            self.ledger.broken(f"these lived: {[str(process) for process in grown if _runs(process)]}")
        self.orphans_worst_s = max(self.orphans_worst_s, took)
        took = self._until(died, STARTING_ORPHANS_S, "a process just started lives", lambda: any(map(_runs, young)))
        self.young_worst_s = max(self.young_worst_s, took)

    def _until(self, since: float, limit_s: float, what: str, holds: Callable[[], bool]) -> float:
        """Seconds from ``since`` until it holds no more; a broken promise if that takes too long."""
        while holds():
            if time.monotonic() - since > limit_s:
                self.ledger.broken(f"{what} {limit_s:.0f} s after the parent's death")
                break
            time.sleep(0.005)
        return time.monotonic() - since

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self._service.port)) == 0

    # ------------------------------------------------------------ mending

    def _start(self, *, ready: bool = True) -> None:
        """What is the operator's to start again: the parent."""
        self.n_restarts += 1
        self._service.start(ready=ready)

    def _until_mended(self, killed_at: float) -> None:
        """Until a worker answers and the trainer works; a second worker may still be starting."""
        log = ReadOnlyLog(self._service.data)

        def whole() -> bool:
            state = trainer_state(log)
            return bool(self._ready_workers()) and state is not None and state.at > killed_at

        try:
            wait_for(whole, timeout_s=60.0, what="a new process in place of the killed one")
        finally:
            log.close()

    def _ready_workers(self) -> list[int]:
        ready = {int(pid) for pid in _READY.findall(self._service.log())}
        return [pid for pid in self._service.pids().workers if pid in ready]

    def _come_to_rest(self) -> float:
        """Everyone goes home, every window ends, all is learned; then it is stopped as an operator stops it.

        :returns: seconds from SIGTERM to the end
        """
        self._stopping.set()
        for client in self._clients:
            client.join(120.0)
        log = ReadOnlyLog(self._service.data)
        try:
            wait_for(lambda: self._rested(log), timeout_s=120.0, what="the trainer's last lesson", every_s=0.1)
        finally:
            log.close()
        started = time.monotonic()
        status = self._service.stop()
        took = time.monotonic() - started
        if status != 0:
            self.ledger.broken(f"SIGTERM ended it with status {status}")
        return took

    def _rested(self, log: ReadOnlyLog) -> bool:
        state = trainer_state(log)
        return (
            state is not None
            and state.open_decisions == 0
            # Its own publish may stand behind what it has folded.
            and state.position >= log.last_position() - 1
        )

    def _enough(self, findings: Findings, kills: int) -> None:
        """A campaign that compared nothing proves nothing."""
        for what, least in (
            ("acknowledged rankings logged exactly as acknowledged", 5 * kills),
            ("acknowledged feedback logged once", 5 * kills),
            ("outcomes that follow from the log, each once", 5 * kills),
            ("models rebuilt byte for byte", kills),
        ):
            found = findings.checked[what]
            if found < least:
                findings.violations.append(f"too little to compare: {what}: {found}, expected at least {least}")


def _is_starting(process: psutil.Process) -> bool:
    try:
        used = process.cpu_times()
        return bool(time.time() - process.create_time() < STARTING_S or used.user + used.system < STARTING_CPU_S)
    except psutil.Error:
        return True


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def summary(report: Report) -> list[tuple[str, Any]]:
    """The report, line by line."""
    targets = ", ".join(f"{n} {target}" for target, n in sorted(report.by_target.items()))
    lines: list[tuple[str, Any]] = [
        ("seed", report.seed),
        ("kills", f"{report.kills} ({targets}); {report.processes_killed} processes"),
        ("restarts of the parent", report.restarts),
        ("time", f"{report.seconds:.0f} s"),
        (
            "after the parent's death",
            f"nothing answered after {report.port_worst_s:.2f} s at most (allowed: {PORT_S:.0f} s); its processes were "
            f"gone within {report.orphans_worst_s:.2f} s, those just started within {report.young_worst_s:.2f} s",
        ),
        ("clean stop at the end", f"{report.stop_s:.1f} s"),
        ("log", f"{report.records:,} records, {report.learned:,} slots learned"),
        ("models", f"{report.matched:,} of {report.published:,} rebuilt byte for byte"),
    ]
    lines += [(f"load: {what}", f"{n:,}") for what, n in report.load.items()]
    lines += [(f"compared: {what}", f"{n:,}") for what, n in report.checked.items()]
    return lines
