"""The frame of every page: templates, the files they need, and the headers they are sent with."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment

import bandit
from bandit.errors import NotFound
from bandit.service import Service
from bandit.web.pages import STYLESHEET, TEMPLATES, environment_of
from bandit.web.routing import HTML, Answer, Incoming, Route

FILES: Final = STYLESHEET.parent
_MEDIA: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Nothing inline, nothing from elsewhere: what an id or a title holds can never run.
POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
#: The origin is told to ourselves, which is how forms show that they are ours.
HEADERS: Final = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}


class Place(NamedTuple):
    """An entry of the navigation."""

    path: str
    name: str


NAVIGATION: Final[tuple[Place, ...]] = (
    Place("/", "Dashboard"),
    Place("/feed", "Feed"),
    Place("/events", "Decisions"),
    Place("/openapi.json", "API"),
)


def page(template: str, *, here: str, http: Incoming | None = None, status: int = 200, **values: Any) -> Answer:
    """A template of `templates/`, rendered and ready to be sent.

    :param here: path of the entry of the navigation that it belongs to
    :param http: what it answers: gives the template `token`, for `parts.csrf(token)` in each form that changes
        something, and the way to sign out
    :param values: what the template asks for; one that is missing is an error
    """
    token = "" if http is None else http.caller.token
    text = _templates().get_template(template).render(here=here, token=token, **values)
    return Answer(status, text.encode("utf-8", "backslashreplace"), HEADERS, HTML)


@cache
def _templates() -> Environment:
    environment = environment_of(TEMPLATES)
    environment.globals |= {"nav": NAVIGATION, "static": url_of, "version": bandit.__version__}
    return environment


def warm_up() -> None:
    """Compile every template: whoever opens the first page need not wait for it."""
    templates = _templates()
    for name in templates.list_templates():
        templates.get_template(name)


# ---------------------------------------------------------------- files


@cache
def _files() -> dict[str, bytes]:
    """Everything in `static/`, by name."""
    return {path.name: path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix in _MEDIA}


@cache
def edition() -> str:
    """What all files together are, in few letters: it stands in their addresses, so browsers may keep them for ever.

    One for all, so that scripts can import each other by plain names.
    """
    told = sha256()
    for name, content in _files().items():
        told.update(b"%s %d " % (name.encode(), len(content)) + content)
    return told.hexdigest()[:12]


def url_of(name: str) -> str:
    """Where a file of `static/` is served.

    :raises KeyError: there is none of that name
    """
    if name not in _files():
        raise KeyError(f"no file {name!r} in {FILES}")
    return f"/static/{edition()}/{name}"


def static_file(service: Service, http: Incoming, name: str) -> Answer:
    wanted, _, file = name.partition("/")
    content = _files().get(file) if wanted == edition() else None
    if content is None:
        raise NotFound(f"there is no file {name!r} of this release; load the page again", name=name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Answer(200, content, headers, _MEDIA[Path(file).suffix])


ROUTES: Final = (
    Route("GET", "/static/<path:name>", static_file, None, "A file that the pages need", 200, errors=(404,),
          media="text/css"),
)  # fmt: skip
