"""Signing in to pages: sessions that are not keys, and changes that only our own pages can make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from bandit.config import Settings
from bandit.records import UserRequest
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.keys import changing, revoke_key
from bandit.web import app as app_module
from bandit.web.app import create_app
from bandit.web.pages import signin
from bandit.web.pages.look import page
from bandit.web.routes import ROUTES
from bandit.web.routing import HTML, Answer, Incoming, Route
from bandit.web.sessions import COOKIE, SESSION_S, issue
from tests.conftest import Api, Clock, Loop, make_key
from tests.service import Reply

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def _private(service: Service, http: Incoming) -> Answer:
    return page("signin.html", here="/", http=http, after="", message="private")


def _secrets(service: Service, http: Incoming) -> Answer:
    return _private(service, http)


def _change(service: Service, http: Incoming) -> Answer:
    service.put_user("v1", UserRequest(["cats"]))
    return Answer(204)


class Pages(NamedTuple):
    api: Api
    loop: Loop
    clock: Clock
    keys: dict[str, str]

    def sign_in(self, key: str, *, after: str = "/private", **headers: str) -> Reply:
        body = urlencode({"key": key, "next": after}).encode()
        return self.api.call("POST", "/signin", body, headers=FORM | headers)

    def session(self, key: str) -> dict[str, str]:
        cookie = self.sign_in(self.keys[key]).headers["Set-Cookie"].partition(";")[0]
        assert cookie.startswith(f"{COOKIE}={self.keys[key].split('_')[1]}.")
        return {"Cookie": f"other=1; {cookie}"}

    def token(self, session: dict[str, str]) -> str:
        html = self.api.call("GET", "/private", headers=BROWSER | session).content.decode()
        return html.partition('name="csrf-token" content="')[2].partition('"')[0]


@pytest.fixture
def pages(data: DataDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    keyed = DataDirectory(Settings(data.path, durable=False, keys="on"), clock=clock)
    loop = Loop(keyed, clock)
    more = (
        Route("GET", "/private", _private, "read", "A page", 200, media=HTML),
        Route("GET", "/secrets", _secrets, "admin", "A page for admins", 200, media=HTML),
        Route("POST", "/change", _change, "admin", "A form", 204, media=HTML),
    )
    monkeypatch.setattr(app_module, "ROUTES", (*ROUTES, *more))
    keys = {scope: make_key(keyed, scope, now=clock.now) for scope in ("read", "admin", "rank")}
    app = create_app(loop.service)
    yield Pages(Api(app.test_client(use_cookies=False)), loop, clock, keys)
    loop.close()
    keyed.close()


def where(reply: Reply) -> tuple[str, dict[str, list[str]]]:
    assert reply.status == 303
    parts = urlsplit(reply.headers["Location"])
    assert not parts.netloc
    return parts.path, parse_qs(parts.query)


def test_who_opens_a_page_is_led_to_sign_in_and_back(pages: Pages) -> None:
    reply = pages.api.call("GET", "/private?all=1", headers=BROWSER)
    assert where(reply) == ("/signin", {"next": ["/private?all=1"]})
    shown = pages.api.call("GET", reply.headers["Location"], headers=BROWSER)
    assert shown.status == 200
    assert 'value="/private?all=1"' in shown.content.decode()
    led = pages.sign_in(pages.keys["read"], after="/private?all=1")
    assert led.headers["Location"] == "/private?all=1"
    for attribute in ("HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_S}"):
        assert attribute in led.headers["Set-Cookie"]
    assert "Secure" not in led.headers["Set-Cookie"]
    assert "Secure" in pages.sign_in(pages.keys["read"], **{"X-Forwarded-Proto": "https"}).headers["Set-Cookie"]


def test_programs_are_told_as_everywhere(pages: Pages) -> None:
    assert pages.api.call("GET", "/private").status == 401
    assert pages.api.call("GET", "/private", headers={"X-API-Key": pages.keys["read"]}).status == 200


def test_a_session_shows_what_its_key_shows(pages: Pages) -> None:
    session = pages.session("read")
    assert pages.api.call("GET", "/private", headers=BROWSER | session).status == 200
    assert pages.api.call("GET", "/v1/model", headers=session).status == 200
    assert where(pages.api.call("GET", "/secrets", headers=BROWSER | session)) == (
        "/signin",
        {"next": ["/secrets"], "needed": ["admin"]},
    )
    assert pages.api.call("DELETE", "/v1/users/v1", headers=session).status == 403


def test_a_session_is_no_key_and_nothing_in_it_can_be_changed(pages: Pages) -> None:
    value = pages.session("admin")["Cookie"].partition("; ")[2].partition("=")[2]
    assert pages.keys["admin"].split("_")[2] not in value
    key_id, until, signature = value.split(".")
    other = pages.keys["read"].split("_")[1]
    forged = [
        f"{other}.{until}.{signature}",
        f"{key_id}.{int(until) + 1}.{signature}",
        f"{key_id}.{until}.{signature[:-1]}",
        f"{key_id}.{until}.",
        f"{key_id}..",
        f"{key_id}",
        "",
        "....",
        "\udcff",
        issue(key_id, b"another digest", secret=pages.loop.data.secret, now=pages.clock.now),
        issue(key_id, bytes(32), secret=b"another secret", now=pages.clock.now),
    ]
    assert pages.api.call("GET", "/v1/model", headers={"Cookie": f"{COOKIE}={value}"}).status == 200
    for one in forged:
        header = {"Cookie": f"{COOKIE}={one}".encode("utf-8", "surrogateescape").decode("latin-1")}
        assert pages.api.call("GET", "/v1/model", headers=header).status == 401, one


def test_a_session_ends_with_its_time_and_with_its_key(pages: Pages) -> None:
    session, other = pages.session("read"), pages.session("admin")
    pages.clock.pass_(SESSION_S - 1)
    assert pages.api.call("GET", "/v1/model", headers=session).status == 200
    with changing(pages.loop.data.path):
        pages.loop.data.log.append(lambda txn: revoke_key(txn, pages.keys["read"].split("_")[1], txn.now))
    assert pages.api.call("GET", "/v1/model", headers=session).status == 401
    assert pages.api.call("GET", "/v1/model", headers=other).status == 200
    pages.clock.pass_(1)
    assert pages.api.call("GET", "/v1/model", headers=other).status == 401


def test_a_change_needs_the_token_of_this_session(pages: Pages) -> None:
    session, other = pages.session("admin"), pages.session("read")
    token = pages.token(session)
    assert len(token) == 32
    before = pages.loop.data.log.last_position()
    for wrong in ("", token[:-1], pages.token(other), "ключ"):
        form = urlencode({"csrf": wrong}).encode()
        reply = pages.api.call("POST", "/change", form, headers=FORM | session)
        assert (reply.status, reply.body["error"]["code"]) == (403, "forbidden"), wrong
    assert pages.api.call("PUT", "/v1/users/v1", {"interests": []}, headers=session).status == 403
    assert pages.loop.data.log.last_position() == before
    assert pages.api.call("POST", "/change", urlencode({"csrf": token}).encode(), headers=FORM | session).status == 204
    headers = session | {"X-CSRF-Token": token}
    assert pages.api.call("PUT", "/v1/users/v1", {"interests": []}, headers=headers).status == 200
    assert pages.loop.data.log.last_position() == before + 2


def test_a_key_that_cannot_sign_in_is_told_why(pages: Pages) -> None:
    for key, problem in (("fb_nobody_s", "unaccepted"), ("", "unaccepted"), (pages.keys["rank"], "unreading")):
        reply = pages.sign_in(key)
        assert where(reply) == ("/signin", {"next": ["/private"], "problem": [problem]})
        assert "Set-Cookie" not in reply.headers
        shown = pages.api.call("GET", reply.headers["Location"]).content.decode()
        assert signin.PROBLEMS[problem] in shown
        assert not key or key not in shown


def test_signing_out_forgets_the_session(pages: Pages) -> None:
    reply = pages.api.call("POST", "/signout", headers=pages.session("read"))
    assert where(reply) == ("/signin", {})
    assert f"{COOKIE}=; " in reply.headers["Set-Cookie"]
    assert "Max-Age=0" in reply.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/signin", "/signout"])
def test_a_page_of_somebody_else_signs_nobody_in_or_out(pages: Pages, path: str) -> None:
    body = urlencode({"key": pages.keys["read"]}).encode()
    reply = pages.api.call("POST", path, body, headers=FORM | {"Sec-Fetch-Site": "cross-site"})
    assert reply.status == 403
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize(
    "after", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "", "/a\r\nSet-Cookie: a=b", "/é"]
)
def test_nobody_is_led_elsewhere(pages: Pages, after: str) -> None:
    assert pages.sign_in(pages.keys["read"], after=after).headers["Location"] == "/"


def test_a_form_may_not_have_fields_without_end(pages: Pages) -> None:
    reply = pages.api.call("POST", "/signin", b"&".join([b"a=b"] * 2_000), headers=FORM)
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")


# ---------------------------------------------------------------- headers of every reply


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/healthz", {}),
        ("GET", "/metrics", {}),
        ("GET", "/nothing", {}),
        ("PATCH", "/v1/rank", {}),
        ("GET", "/signin", {}),
        ("GET", "/private", BROWSER),
        ("POST", "/v1/rank", {}),
    ],
)
def test_every_reply_has_the_headers_that_keep_browsers_in_bounds(
    pages: Pages, method: str, path: str, headers: dict[str, str]
) -> None:
    got = pages.api.call(method, path, headers=headers).headers
    assert got["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in got["Content-Security-Policy"]
    assert "unsafe" not in got["Content-Security-Policy"]
    assert got["Referrer-Policy"] in ("no-referrer", "same-origin")
    assert got["Cache-Control"] == "no-store"
    assert len(got.getlist("Content-Security-Policy")) == len(got.getlist("Cache-Control")) == 1
