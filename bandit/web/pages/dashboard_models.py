"""Models on the dashboard: which are kept, which one serves; and forms that roll back and release."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from bandit.errors import InvalidRequest
from bandit.learning.serving import with_files
from bandit.records import ReleaseRequest, RollbackRequest, ServingReply
from bandit.service import Service
from bandit.store.models import PublishedModel
from bandit.store.serving import kept_models
from bandit.web.pages.curves import when
from bandit.web.routing import HTML, Answer, Incoming, Route
from bandit.wording import lasting

T = TypeVar("T")

#: So many are listed; the command lists all.
LISTED: Final = 6


class ModelRow(NamedTuple):
    """A kept model.

    :ivar tags: (word, mood)
    :ivar serves: it does now
    """

    version: str
    at: str
    age: str
    learned: str
    tags: list[tuple[str, str]]
    serves: bool


def view(service: Service, now: float) -> dict[str, Any]:
    """What the page says of models.

    :raises LogUnavailable: the log cannot be read
    """
    reply = service.serving()
    kept = with_files(kept_models(service.data.log, service.data.settings.keep_models), service.data.models)
    serves = reply.pinned or reply.newest
    # The one that serves is told whatever else there is.
    listed = [one for place, one in enumerate(kept) if place < LISTED or one.digest in (serves, reply.champion)]
    held = reply.hold
    return {
        "rows": [_row(one, reply, serves, now) for one in listed],
        "more": len(kept) - len(listed),
        "pinned": reply.pinned,
        "why": "" if reply.pinned is None else f"rolled back by the {reply.by}: {reply.reason}",
        "since": "" if reply.at is None else when(reply.at),
        "held": f"{held.reason}" if reply.holding and held is not None else "",
        "releasable": reply.pinned is not None or reply.holding,
    }


def _row(model: PublishedModel, reply: ServingReply, serves: str | None, now: float) -> ModelRow:
    tags = []
    if model.digest == serves:
        tags.append(("serves, pinned", "warning") if reply.pinned else ("serves", "ok"))
    if model.digest == reply.newest:
        tags.append(("newest", ""))
    if model.digest == reply.champion:
        tags.append(("champion", ""))
    if model.arm is not None:
        tags.append((f"arm {model.arm}", ""))
    return ModelRow(
        version=model.digest,
        at=when(model.published_at),
        age=lasting(max(now - model.published_at, 0.0)),
        learned=f"{model.learned:,}",
        tags=tags,
        serves=model.digest == serves,
    )


def roll_back_by_form(service: Service, http: Incoming) -> Answer:
    form = http.form()
    service.rollback(_read({"to": form.get("to", ""), **_reason(form)}, RollbackRequest))
    return _back("rolled-back")


def release_by_form(service: Service, http: Incoming) -> Answer:
    service.release(_read(_reason(http.form()), ReleaseRequest))
    return _back("released")


def _reason(form: dict[str, str]) -> dict[str, str]:
    """What was typed; without anything the request's own default holds."""
    given = " ".join(form.get("reason", "").split())
    return {"reason": given} if given else {}


def _read(fields: dict[str, str], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the form: {error}") from None


def _back(notice: str) -> Answer:
    return Answer(303, None, {"Location": f"/?notice={notice}#models"}, HTML)


ROUTES: Final = (
    Route("POST", "/models/rollback", roll_back_by_form, "admin", "A form: serve an earlier model, and lead back", 303,
          errors=(404, 413), media=HTML),
    Route("POST", "/models/release", release_by_form, "admin", "A form: serve the newest model, and lead back", 303,
          errors=(409, 413), media=HTML),
)  # fmt: skip
