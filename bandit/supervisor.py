"""The parent process: holds the data directory, starts workers and trainer, restarts what dies.

It opens no database and loads no VW, so nothing that can corrupt or leak runs in it. Its children die with
it: each asks the kernel for SIGKILL at the parent's death and then looks whether the parent is still there.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit.config import Settings, is_loopback
from bandit.errors import AddressInUse, BanditError, DataDirectoryInUse, NoKeys
from bandit.logs import configure_logging

if TYPE_CHECKING:
    from bandit.store.keys import KeyRing

log = logging.getLogger("feed_bandit")

PARENT_VARIABLE = "_FEED_BANDIT_PARENT"
WORKER_STOP_S = 3
TRAINER_STOP_S = 2.0
# Bodies that may be on their way at the same time, beside the requests that are worked on; threads are made when
# they are needed, and end when they are not.
SLOW_CLIENTS = 124
# Connections that a worker holds, most of them idle; past that it accepts no more, and who comes then waits unheard.
CONNECTIONS = 4096
BACKLOG = 2048
# Files that a worker has open besides.
OTHER_FILES = 256
# A child that dies at once is started again at this rate, not as fast as it can die.
RESTART_PAUSE_S = 0.5
# One that says that it cannot start (an installation without replay) is not asked twice a second.
CANNOT_START_S = 60.0
GUARD_NICENESS = 10
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; end now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def hold_directory(settings: Settings) -> int:
    """A descriptor that marks the data directory as in use, until this process ends.

    :raises DataDirectoryInUse: another service holds it
    """
    descriptor = os.open(settings.data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise DataDirectoryInUse(
            f"{settings.data} is in use by the service with process id {holder or 'unknown'}; stop it, or start with "
            "another --data"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def check_address(settings: Settings) -> None:
    """Workers share the port among themselves, so a second service would silently share it too: look first.

    :raises AddressInUse: somebody listens there, or the address is not ours
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
            probe.listen(1)
        except (OSError, UnicodeError) as error:
            # UnicodeError: what no name server would take for a name.
            reason = error.strerror if isinstance(error, OSError) else "no such host"
            raise AddressInUse(
                f"cannot listen on {settings.host}:{settings.port} ({reason}); stop what does, or start with "
                "another --port"
            ) from None


def _quietly(target: Any, *arguments: Any) -> None:
    """Run a child's job; an error that a person can mend is one line on stderr, and exit status 2."""
    try:
        target(*arguments)
    except BanditError as error:
        print(f"feed-bandit: {error.message}", file=sys.stderr, flush=True)
        sys.exit(2)


def _check_data(settings: Settings, parent: int) -> None:
    die_with_parent(parent)
    configure_logging(settings.log_format)
    from bandit.store.data import DataDirectory

    data = DataDirectory(settings)
    try:
        check_keys(settings, data.keys, time.time())
    finally:
        data.close()


def check_keys(settings: Settings, keys: KeyRing, now: float) -> None:
    """Nobody listens where others can reach it unless somebody holds a key.

    :raises NoKeys: nobody does
    """
    if settings.needs_keys and not keys.usable(now):
        message = (
            "nobody holds a key yet; make one with `python server.py keys create --scopes rank,feedback "
            f"--data {settings.data}`"
        )
        if not is_loopback(settings.host):
            raise NoKeys(f"others may reach {settings.host}, and {message}, or listen on 127.0.0.1")
        log.warning(message)


def _trainer_job(settings: Settings, parent: int) -> None:
    die_with_parent(parent)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(settings.log_format)
    from bandit.learning.trainer import train

    train(settings, stopping.is_set)


def _guard_job(settings: Settings, parent: int) -> None:
    """Become ``python -m replay guard``: replay is built on the service, so the service only knows its command."""
    die_with_parent(parent)
    os.nice(GUARD_NICENESS)
    home = str(Path(__file__).resolve().parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # The kernel still ends it with its parent: that outlasts an exec.
    os.execve(sys.executable, [sys.executable, "-m", "replay", "guard", str(settings.data)], environ)


class Keeper:
    """Keeps one child running, from a thread that lasts as long as the parent.

    The thread matters: the kernel's signal at the parent's death comes when the *thread* that started the
    child ends.
    """

    def __init__(self, settings: Settings, name: str, job: Callable[[Settings, int], None]) -> None:
        self._settings = settings
        self._name = name
        self._job = job
        self._stopping = threading.Event()
        self._process: BaseProcess | None = None
        self._thread = threading.Thread(target=self._keep, name=f"{name}-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _keep(self) -> None:
        context = multiprocessing.get_context("spawn")
        while not self._stopping.is_set():
            arguments = (self._job, self._settings, os.getpid())
            process = context.Process(target=_quietly, args=arguments, name=self._name)
            process.start()
            self._process = process
            if self._stopping.is_set():
                process.terminate()
            log.info("%s started with process id %s", self._name, process.pid)
            process.join()
            if not self._stopping.is_set():
                log.error("%s ended with status %s; starting it again", self._name, process.exitcode)
                self._stopping.wait(CANNOT_START_S if process.exitcode == 2 else RESTART_PAUSE_S)

    def begin_stop(self) -> None:
        """Ask it to end: a trainer publishes what it has learned first. Safe in a signal handler."""
        self._stopping.set()
        process = self._process
        if process is not None and process.is_alive():
            process.terminate()

    def stop(self) -> None:
        """End it, at the latest after `TRAINER_STOP_S`."""
        self.begin_stop()
        process = self._process
        if process is not None:
            process.join(TRAINER_STOP_S)
            if process.is_alive():
                process.kill()
        if self._thread.is_alive():
            self._thread.join(1.0)


class _NeverRecent(dict[int, float]):
    """Granian gives up when a worker dies again soon after its restart; rankings matter more: pause instead."""

    def get(self, key: int, default: Any = 0) -> Any:
        if time.monotonic() - super().get(key, -1e9) < 5.0:
            time.sleep(RESTART_PAUSE_S)
        return -1e9


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises BanditError: it cannot start; nothing is left running
    """
    configure_logging(settings.log_format)
    # Until the server listens to signals, one of them ends this by the way out that every end takes.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    holding = hold_directory(settings)
    check_address(settings)
    multiprocessing.set_start_method("spawn", force=True)
    check = multiprocessing.get_context("spawn").Process(target=_quietly, args=(_check_data, settings, os.getpid()))
    check.start()
    # Loaded while the data are looked over.
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    check.join()
    if check.exitcode:
        raise SystemExit(check.exitcode)

    metrics = settings.data / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.environ.update(settings.environment())
    keepers = [Keeper(settings, "trainer", _trainer_job)]
    if settings.guard:
        keepers.append(Keeper(settings, "guard", _guard_job))
    server = Granian(
        "server:worker",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.workers,
        # Granian reads a body in the thread that answers: most of these are for clients that send slowly.
        blocking_threads=settings.threads + SLOW_CLIENTS,
        backpressure=_connections(),
        backlog=BACKLOG,
        respawn_failed_workers=True,
        workers_kill_timeout=WORKER_STOP_S,
        factory=True,
        websockets=False,
        log_level=LogLevels.error,
    )
    server.respawned_wrks = _NeverRecent()
    interrupted = server.signal_handler_interrupt

    def stop_all(*arguments: Any) -> None:
        # Trainer and workers end side by side, within the time of the slower.
        for keeper in keepers:
            keeper.begin_stop()
        interrupted(*arguments)  # type: ignore[no-untyped-call]

    server.signal_handler_interrupt = stop_all  # type: ignore[method-assign]
    try:
        for keeper in keepers:
            keeper.start()
        log.info(
            "serving on http://%s:%s with %s worker(s), data in %s", settings.host, settings.port, settings.workers,
            settings.data,
        )  # fmt: skip
        server.serve()
    finally:
        for keeper in keepers:
            keeper.stop()
        os.close(holding)


def _leave(number: int, frame: Any) -> None:
    """A signal's handler.

    :raises SystemExit: always, with status 0: whoever sent it wanted the end
    """
    raise SystemExit(0)


def _connections() -> int:
    """How many connections a worker can hold: one file each, as many as the system lets us have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(128, min(CONNECTIONS, soft - OTHER_FILES))
