"""The service as the demo uses it: over HTTP, and started for it if none is given."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from bandit.errors import BanditError, InvalidSetting

TIMEOUT_S: Final = 30.0
#: The first start of all compiles the kernels; later ones find them in a cache.
START_S: Final = 120.0
STOP_S: Final = 10.0
ITEMS_A_CALL: Final = 1_000
#: Viewers of half a year come within a minute, so the model must be fresh sooner than is usual.
PUBLISH_MS: Final = 20
#: The longest time without a record, by default: the log's clock while nothing else happens.
TICK_S: Final = 1.0


class ServiceFailed(BanditError):
    """The service is not there, or did not do what was asked of it."""

    code = "service_failed"


class Client:
    """One connection to a service, kept open; not for several threads.

    :raises InvalidSetting: not an ``http://`` address
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise InvalidSetting(f"{url!r} is no address of a service; write for example http://127.0.0.1:8080")
        self.url = f"http://{parts.netloc}"
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, http.client.HTTPMessage]:
        """The reply's JSON and its headers.

        :raises ServiceFailed: no reply, or one that is no success; the message holds what the service said
        """
        try:
            status, text, replied = self._send(method, path, body, headers or {})
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServiceFailed(f"{method} {self.url}{path} had no reply ({error!r}); is it running?") from None
        if not 200 <= status < 300:
            raise ServiceFailed(f"{method} {self.url}{path} was answered with {status}: {text[:500].decode()}")
        return json.loads(text) if text else None, replied

    def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        content = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            try:
                self._connection.request(method, path, content, {"Content-Type": "application/json", **headers})
                reply = self._connection.getresponse()
                return reply.status, reply.read(), reply.headers
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A worker that was replaced closes what it kept open. Whatever is sent here may come twice.
                self._connection.close()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    # ------------------------------------------------------------ what the demo asks

    def put_items(self, features: Mapping[str, Any]) -> None:
        """Put items with these features into the catalogue, by id."""
        items = [{"id": item_id, "features": each} for item_id, each in features.items()]
        for start in range(0, len(items), ITEMS_A_CALL):
            self.call("PUT", "/v1/items", {"items": items[start : start + ITEMS_A_CALL]})

    @contextlib.contextmanager
    def config(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """The service with these parts of its config changed; puts the old ones back in the end."""
        before, headers = self.call("GET", "/v1/config")
        _, headers = self.call("PUT", "/v1/config", {**before, **changes}, {"If-Match": headers["ETag"]})
        try:
            yield
        finally:
            # Somebody else's later change is not undone: its ETag is another, and the service refuses.
            with contextlib.suppress(ServiceFailed):
                self.call("PUT", "/v1/config", before, {"If-Match": headers["ETag"]})

    def until_closed(self, window_s: float) -> None:
        """Wait until the windows of all that was ranked have ended, by the log's time."""
        time.sleep(window_s + 2 * TICK_S)

    def n_learned(self) -> int:
        """Slots that the model now served has learned."""
        model, _ = self.call("GET", "/v1/model")
        return int(model["learned_slots"])


@contextlib.contextmanager
def own_service(*, vw: str, data: Path | None = None) -> Iterator[str]:
    """The address of a service on a free port.

    :param vw: arguments of its learner
    :param data: its data directory, which stays; None for one that lasts as long as the service does
    :raises ServiceFailed: it did not start; the message ends with what it last said
    """
    server = importlib.util.find_spec("server")
    if server is None or server.origin is None:
        raise ServiceFailed("server.py is not installed here; start a service and name it with --url")
    with tempfile.TemporaryDirectory(prefix="feed-bandit-demo-") as directory:
        port = _free_port()
        where = f"{directory}/data" if data is None else str(data.absolute())
        command = [sys.executable, server.origin, "--data", where, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--vw", vw, "--publish-ms", str(PUBLISH_MS)]
        log = Path(directory, "log")
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={name: value for name, value in os.environ.items() if not name.startswith("FEED_BANDIT_")},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # Ctrl-C is for the demo, which then stops the service.
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with Client(url) as client, contextlib.suppress(ServiceFailed):
            client.call("GET", "/readyz")
            return
        time.sleep(0.1)
    last = " | ".join(log.read_text(errors="replace").splitlines()[-5:])
    raise ServiceFailed(f"the service did not start within {START_S:.0f} s; it said: {last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
