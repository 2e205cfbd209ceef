"""What every test gets."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from flask.testing import FlaskClient
from hypothesis import settings

from bandit.access.keys import ID_BYTES, SECRET_BYTES, Key, digest_of, new_key
from bandit.config import Settings
from bandit.learning.trainer import Trainer
from bandit.reward.signals import Watch, WatchTable
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.keys import add_key, changing
from bandit.warming import warm_up
from bandit.web.app import create_app
from tests.service import Reply, RunningService

if TYPE_CHECKING:
    from playwright.sync_api import Browser

if not os.environ.get("CI"):  # There Hypothesis brings a profile of its own: the same examples every time.
    settings.register_profile("here", deadline=None)  # A busy machine is no failure.
    settings.load_profile("here")

_GRACE_S = 2.0


def pytest_configure(config: pytest.Config) -> None:
    """Before several processes run the tests the kernels are compiled, so that not each of them does it."""
    if config.getoption("numprocesses", None):
        with TemporaryDirectory() as folder:
            warm_up(Path(folder))


def watch_worth(seconds: float) -> float:
    """What the default formula makes of `watch_s` alone, of an item whose length nobody said."""
    table = WatchTable()
    return Watch(table).position(seconds, table.typical_s)


def make_key(data: DataDirectory, *scopes: str, now: float, **about: Any) -> str:
    """A new key of these scopes."""
    key_id, key = new_key(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
    kept = Key(key_id, about.pop("app", ""), frozenset(scopes), digest_of(key), now, **about)
    with changing(data.path):
        data.log.append(lambda txn: add_key(txn, kept))
    return key


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the pages of a module; see `tests.browser.Watched`."""
    from tests.browser import chromium

    with chromium() as started:
        yield started


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails a test that leaves threads running: they would trouble later tests, unnamed."""
    before = set(threading.enumerate())
    yield
    give_up_at = time.monotonic() + _GRACE_S
    leaked = [t for t in threading.enumerate() if t not in before]
    for thread in leaked:
        thread.join(timeout=max(0.0, give_up_at - time.monotonic()))
    alive = [t.name for t in leaked if t.is_alive()]
    assert not alive, f"threads left running: {alive}; close what the test opened"


# ---------------------------------------------------------------- the service, in this process


class Clock:
    """UTC seconds that pass only when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class Loop:
    """Service and trainer over one data directory, with the trainer stepped by hand."""

    def __init__(self, data: DataDirectory, clock: Clock) -> None:
        self.data = data
        self.clock = clock
        self.trainer = Trainer(data, clock=clock)
        self.trainer.step()
        self.service = Service(data, clock=clock)
        self.service.ranker.refresh()

    def learn(self) -> None:
        """Fold all there is, publish, and serve what was published."""
        while self.trainer.step():
            pass
        self.clock.pass_(1.0)
        while self.trainer.step():
            pass
        self.service.ranker.refresh()

    def end_windows(self, seconds: float = 1_000.0) -> None:
        """Let all open windows end, and learn from them."""
        self.clock.pass_(seconds)
        self.learn()
        self.learn()

    def close(self) -> None:
        self.trainer.run(lambda: True)


class Api:
    """The Flask test client with the face of `tests.service.call`."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client

    def call(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        response = self._client.open(path, method=method, data=data, headers=dict(headers or {}))
        return Reply(response.status_code, response.headers, response.get_data())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path: Path, clock: Clock) -> Iterator[DataDirectory]:
    """A new data directory."""
    path = tmp_path / "data"
    path.mkdir()
    directory = DataDirectory(Settings(path, durable=False), clock=clock)
    yield directory
    directory.close()


@pytest.fixture
def loop(data: DataDirectory, clock: Clock) -> Iterator[Loop]:
    """A service that serves a first, empty model, and its trainer."""
    opened = Loop(data, clock)
    yield opened
    opened.close()


@pytest.fixture
def service(loop: Loop) -> Service:
    return loop.service


@pytest.fixture
def client(service: Service) -> FlaskClient:
    """Flask's test client over the native API."""
    return create_app(service).test_client()


@pytest.fixture
def api(client: FlaskClient) -> Api:
    return Api(client)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The real thing with two workers, shared by all tests that leave it as it was."""
    # On a busy machine requests that come at once may wait for longer than a tenth of a second.
    with RunningService(tmp_path_factory.mktemp("running") / "data", workers=2, queue_ms=5_000) as started:
        yield started
