"""The OpenAPI document: complete, true, and held against the service by schemathesis."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from bandit.access.keys import ID_BYTES, SECRET_BYTES, Key, digest_of, new_key
from bandit.config import Settings
from bandit.records import ErrorReply
from bandit.store.data import DataDirectory
from bandit.store.keys import add_key
from bandit.web.app import create_app
from bandit.web.routes import ROUTES
from bandit.web.routing import Route
from tests.conftest import Api, Clock, Loop


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    reply = api.call("GET", "/openapi.json")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = reply.body
    return found


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The app over a log that is looked over at the end."""
    path = tmp_path_factory.mktemp("openapi") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False, keys="on"), clock=clock)
    loop = Loop(data, clock)
    key_id, key = new_key(bytes(ID_BYTES + SECRET_BYTES))
    data.log.append(lambda txn: add_key(txn, Key(key_id, "", frozenset({"admin"}), digest_of(key), clock.now)))
    data.keys.refresh()
    with pytest.MonkeyPatch.context() as patch:
        # Nobody steps the trainer meanwhile.
        patch.setattr("bandit.service.RESET_WAIT_S", 0.0)
        yield create_app(loop.service)
    loop.end_windows()
    assert data.log.query("PRAGMA integrity_check") == [("ok",)]
    assert loop.service.model().lag_records <= 2
    loop.close()
    data.close()


@pytest.fixture(scope="module")
def described(app: Flask) -> Any:
    return schemathesis.openapi.from_wsgi("/openapi.json", app)


# The document cannot say all that is refused: an id that stands twice, a signal the config does not list.
EXCLUDED: list[Any] = [positive_data_acceptance]


CASES = [
    pytest.param(route, mode, id=f"{route.handler.__name__}-{mode.value}")
    for route in ROUTES
    for mode in GenerationMode
    # Nothing can be wrong where there is nothing to send.
    if mode is GenerationMode.POSITIVE or route.request is not None or "<" in route.path
]


@pytest.mark.parametrize(("route", "mode"), CASES)
def test_the_service_does_what_its_document_says(described: Any, route: Route, mode: GenerationMode) -> None:
    operation = described[_described(route)][route.method]

    @settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.explicit])
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=EXCLUDED, headers=AUTHORIZED)

    check()


AUTHORIZED = {"Authorization": f"Bearer {new_key(bytes(ID_BYTES + SECRET_BYTES))[1]}"}


def _described(route: Route) -> str:
    """The route's path as the document has it."""
    return re.sub(r"<path:(\w+)>", r"{\1}", route.path)


def test_every_route_is_described_with_its_bodies_and_errors(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    served = {(route.method, _described(route)) for route in ROUTES}
    assert described == served
    for route in ROUTES:
        operation = document["paths"][_described(route)][route.method.lower()]
        assert {"400", "403", "503", str(route.status), *map(str, route.errors)} <= set(operation["responses"])
        assert ("requestBody" in operation) == (route.request is not None)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names
    assert names <= set(document["components"]["schemas"])
    assert ErrorReply.__name__ in names
