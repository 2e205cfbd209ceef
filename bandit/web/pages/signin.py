"""Signing in to pages with a key, and out again."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from bandit.access.keys import SCOPES
from bandit.errors import Forbidden
from bandit.service import Service
from bandit.web.gate import accepted
from bandit.web.pages.look import page
from bandit.web.routing import HTML, Answer, Incoming, Route
from bandit.web.sessions import cookie, issue

#: A key for pages may at least read.
READS: Final = frozenset({"read", "admin"})
PROBLEMS: Final = {
    "unaccepted": "This key is not accepted: unknown, revoked or expired.",
    "unneeded": "No key is needed here: only this machine can ask.",
    "unreading": "This key may not read; pages need one with the scope read or admin.",
}


def sign_in_page(service: Service, http: Incoming) -> Answer:
    asked = http.query()
    needed, problem = asked.get("needed", ""), asked.get("problem", "")
    if not service.data.settings.needs_keys:
        problem = "unneeded"
    message = f"That page needs a key with the scope {needed}." if needed in SCOPES else PROBLEMS.get(problem, "")
    return page("signin.html", here="/signin", http=http, after=local(asked.get("next", "")), message=message)


def sign_in(service: Service, http: Incoming) -> Answer:
    _check_page(http)
    form = http.form()
    after, now = local(form.get("next", "")), service.clock()
    # Pasted, with whatever came along.
    key = accepted(service.data.keys, form.get("key", "").strip(), now)
    if key is None or not key.scopes & READS:
        problem = {"next": after, "problem": "unaccepted" if key is None else "unreading"}
        return Answer(303, None, {"Location": f"/signin?{urlencode(problem)}"}, HTML)
    session = issue(key.id, key.digest, secret=service.data.secret, now=now)
    return Answer(303, None, {"Location": after, "Set-Cookie": cookie(session, http.environ)}, HTML)


def sign_out(service: Service, http: Incoming) -> Answer:
    _check_page(http)
    return Answer(303, None, {"Location": "/signin", "Set-Cookie": cookie("", http.environ)}, HTML)


def local(path: str) -> str:
    """The path if it is one of this service, else the first page.

    >>> local("/models?all=1"), local("//evil.example"), local("https://evil.example"), local("/\\\\evil.example")
    ('/models?all=1', '/', '/', '/')
    """
    fine = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if fine and path.isascii() else "/"


def _check_page(http: Incoming) -> None:
    """Nobody is signed in or out by a page of somebody else's.

    :raises Forbidden: that is what the browser says
    """
    site = http.header("Sec-Fetch-Site")
    if site not in (None, "same-origin", "none"):
        raise Forbidden("sign in and out at /signin; another page cannot do it for you", site=str(site)[:40])


ROUTES: Final = (
    Route("GET", "/signin", sign_in_page, None, "Sign in to the pages with a key", 200, media=HTML),
    Route("POST", "/signin", sign_in, None, "A form with the key: keeps a session, and leads on", 303,
          errors=(403,), media=HTML),
    Route("POST", "/signout", sign_out, None, "End the session", 303, errors=(403,), media=HTML),
)  # fmt: skip
