"""The real service in processes of its own: started on a free port, looked into, stopped by process id."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
from werkzeug.datastructures import Headers

from bandit.commands.keys import main as keys_command

ROOT = Path(__file__).resolve().parents[1]
START_S = 90.0
_TRAINER = re.compile(r"trainer started with process id (\d+)")


class Reply(NamedTuple):
    """What came back; header names as in any case."""

    status: int
    headers: Headers
    content: bytes

    @property
    def body(self) -> Any:
        """The content, read as JSON."""
        return json.loads(self.content)


class Pids(NamedTuple):
    """Processes of one service, as they are now; a process that is just being restarted is missing."""

    parent: int
    workers: list[int]
    trainer: int | None


def own_environ() -> dict[str, str]:
    """This process's environment without what a service takes for settings, or refuses as misspelt ones."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEED_BANDIT_")}


def made_key(data: Path, scopes: str) -> str:
    """A new key for a data directory, by the command that makes them."""
    told = StringIO()
    with redirect_stdout(told):
        assert keys_command(["create", "--scopes", scopes, "--data", str(data)]) == 0
    return told.getvalue().strip()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def call(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 20.0,
) -> Reply:
    """One request over a connection of its own, so that any worker may get it.

    :param body: bytes as they are; anything else as JSON; None for none
    :raises OSError: no reply
    :raises http.client.HTTPException: half a reply
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout_s)
    try:
        return send(connection, method, path, body, headers=headers)
    finally:
        connection.close()


def send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """`call` over a connection that is kept, and so to the same worker every time."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    return Reply(response.status, Headers(response.getheaders()), response.read())


def wait_for(
    condition: Callable[[], Any], *, timeout_s: float = 20.0, what: str = "it", every_s: float = 0.02
) -> Any:
    """The first truthy value of ``condition``; no connection, or half a reply, counts as not yet.

    :raises AssertionError: it did not come
    """
    give_up_at = time.monotonic() + timeout_s
    last: BaseException | None = None
    while time.monotonic() < give_up_at:
        try:
            value = condition()
            if value:
                return value
        except (OSError, http.client.HTTPException, psutil.Error) as error:
            last = error
        time.sleep(every_s)
    raise AssertionError(f"{what} did not come within {timeout_s:g} s (last error: {last!r})")


class RunningService:
    """``python server.py`` on a data directory and a free port; all its settings but these two as given.

    A context manager: it starts, waits until every worker answers from a model, and is stopped at the end.
    After `stop` or `kill` it can be started again, on the same port.

    :param data: the data directory
    :param environ: variables of its environment besides this process's own
    :param settings: as in `bandit.config.SETTINGS`, such as ``workers=2``
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.data = data
        self.port = free_port() if port is None else port
        self.settings = {"workers": 1, **settings}
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = data.parent / f"{data.name}.stderr"
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_before = 0

    def command(self) -> list[str]:
        """What is run."""
        command = [sys.executable, "server.py", "--data", str(self.data), "--port", str(self.port)]
        for name, value in self.settings.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return command

    # ------------------------------------------------------------ starting and stopping

    def start(self, *, ready: bool = True) -> Self:
        """Start it; with ``ready`` wait until it ranks from a model.

        :raises AssertionError: it ended, or was not ready in time; the message holds what it said
        """
        assert self._process is None, "it runs already"
        environ = own_environ() | self._environ
        self._logged_before = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if ready:
            try:
                wait_for(self._is_ready, timeout_s=START_S, what="the service", every_s=0.05)
            except BaseException:
                self.kill()
                raise
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{self.log()}"
        # A worker listens before it is ready, and each says so when it is.
        n_ready = self.log().count("worker ready")
        return n_ready >= int(self.settings["workers"]) and self.call("GET", "/readyz").status == 200

    def stop(self, *, timeout_s: float = 10.0) -> int:
        """Ask it to end, by SIGTERM; its exit status. Harmless when it has ended."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log = self.log()
            self.kill()
            raise AssertionError(f"it did not end within {timeout_s:g} s:\n{log}") from None
        self._process = None
        return status

    def wait(self, *, timeout_s: float = 10.0) -> int:
        """Exit status, once it has ended by itself."""
        assert self._process is not None
        status = self._process.wait(timeout_s)
        self._process = None
        return status

    def kill(self) -> None:
        """``kill -9`` of the parent, and then of whatever is left of it. Harmless when it has ended."""
        if self._process is None:
            return
        family = self._family()
        self._process.kill()
        self._process.wait()
        self._process = None
        for process in family:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(family, timeout=5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            sys.stderr.write(self.log()[-8_000:])
            self.kill()
        self.stop()

    # ------------------------------------------------------------ looking into it

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        """`call` of this service."""
        return call(self.url, method, path, body, **options)

    def connect(self, *, timeout_s: float = 20.0) -> http.client.HTTPConnection:
        """A connection to keep, for `send`."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def log(self) -> str:
        """What it wrote to stderr and stdout since its last start."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[self._logged_before :].decode(errors="replace")

    def pids(self) -> Pids:
        """Its processes now."""
        assert self._process is not None
        children = [
            process.pid
            for process in self._family()[1:]
            if process.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(process.cmdline())
        ]
        started = _TRAINER.findall(self.log())
        trainer = int(started[-1]) if started else None
        return Pids(
            self._process.pid,
            [pid for pid in children if pid != trainer],
            trainer if trainer in children else None,
        )

    def _family(self) -> list[psutil.Process]:
        """The parent, then its children."""
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
