"""The native API, ``/v1``: what feed servers and operators ask, and what the service answers."""

from __future__ import annotations

import time
from typing import Final

import msgspec
from msgspec import UNSET

from bandit import records
from bandit.config import Config, LiveConfig
from bandit.errors import InvalidRequest, VersionMismatch, VersionRequired
from bandit.loop.report import LoopReply
from bandit.records import (
    ActivateReply,
    ActivateRequest,
    ErasureReply,
    EventReply,
    ExperimentReply,
    Feedback,
    FeedbackBatch,
    FeedbackResult,
    FeedbackResults,
    HealthReply,
    ItemReply,
    ItemsReply,
    ItemsRequest,
    ModelReply,
    RankReply,
    RankRequest,
    ReleaseRequest,
    RollbackRequest,
    ServingReply,
    UserReply,
    UserRequest,
)
from bandit.reward.presets import PRESETS, PresetsReply
from bandit.service import Service
from bandit.web import metrics
from bandit.web.routing import Answer, Incoming, Route, check_event_id

_scored, _unscored = metrics.CANDIDATES.labels("yes"), metrics.CANDIDATES.labels("no")


def rank(service: Service, http: Incoming) -> Answer:
    received = time.monotonic()
    request: RankRequest = records.decode(http.body, RankRequest)
    reply = service.rank(request, received=received)
    _scored.inc(reply.scored)
    if reply.scored < len(request.candidates):
        _unscored.inc(len(request.candidates) - reply.scored)
    if reply.fallback is not None:
        metrics.FALLBACKS.labels(reply.fallback).inc()
    told = {"event_id": reply.event_id, "n_candidates": len(request.candidates), "fallback": reply.fallback}
    return Answer(200, reply, told=told)


class _OneOrMany(msgspec.Struct):
    """Tells the two forms of a feedback body apart before the right one is checked strictly."""

    events: msgspec.Raw | msgspec.UnsetType = UNSET


def feedback(service: Service, http: Incoming) -> Answer:
    body = http.body
    many = records.decode(body, _OneOrMany).events is not UNSET
    sent = records.decode(body, FeedbackBatch).events if many else [records.decode(body, Feedback)]
    results = service.feedback(sent)
    for result in results:
        metrics.FEEDBACK.labels(result.status).inc()
    if many:
        return Answer(202, FeedbackResults(results), told={"n_events": len(results)})
    return Answer(202, results[0], told={"event_id": results[0].event_id})


def activate(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    request = records.decode(http.body, ActivateRequest) if http.body else ActivateRequest()
    return Answer(202, service.activate(event_id, request))


def event(service: Service, http: Incoming, event_id: str) -> Answer:
    return Answer(200, service.event(event_id, app=http.query().get("app")))


def put_items(service: Service, http: Incoming) -> Answer:
    return Answer(200, service.put_items(records.decode(http.body, ItemsRequest)))


def get_item(service: Service, http: Incoming, item_id: str) -> Answer:
    return Answer(200, service.item(item_id))


def delete_item(service: Service, http: Incoming, item_id: str) -> Answer:
    service.withdraw(item_id)
    return Answer(204)


def put_user(service: Service, http: Incoming, user_id: str) -> Answer:
    _check_user_id(user_id)
    return Answer(200, service.put_user(user_id, records.decode(http.body, UserRequest)))


def get_user(service: Service, http: Incoming, user_id: str) -> Answer:
    _check_user_id(user_id)
    return Answer(200, service.user(user_id))


def _check_user_id(user_id: str) -> None:
    if not 0 < len(user_id) <= 256:
        raise InvalidRequest(f"the user id has {len(user_id)} characters; 1 to 256 are allowed")
    records.check_ids([user_id], where="path")


def delete_user(service: Service, http: Incoming, user_id: str) -> Answer:
    _check_user_id(user_id)
    reply = service.erase(user_id)
    return Answer(200 if reply.status == "erased" else 202, reply)


def get_config(service: Service, http: Incoming) -> Answer:
    return _config(service.config())


def _config(live: LiveConfig) -> Answer:
    """The document as it is, so that it can be put back; what it costs is said beside it."""
    headers = {"ETag": live.etag}
    told = live.document.warnings()
    if told:
        headers["Warning"] = ", ".join(f'299 feed-bandit "{text}"' for text in told)
    return Answer(200, live.document, headers)


def put_config(service: Service, http: Incoming) -> Answer:
    document = records.decode(http.body, Config)
    given = http.header("If-Match")
    if given is None:
        raise VersionRequired(
            "a config is replaced only by one who has read it: send the ETag of GET /v1/config as If-Match"
        )
    try:
        expected = int(given.strip().removeprefix("W/").strip('"'))
        if not 0 < expected < 1 << 62:
            raise ValueError
    except ValueError:
        raise VersionMismatch(
            f'If-Match {given[:80]!r} is no config version; send the ETag of GET /v1/config, such as "1"'
        ) from None
    return _config(service.put_config(document, expected=expected))


def presets(service: Service, http: Incoming) -> Answer:
    return Answer(200, PresetsReply(list(PRESETS.values())))


def model(service: Service, http: Incoming) -> Answer:
    return Answer(200, service.model())


def rollback(service: Service, http: Incoming) -> Answer:
    return Answer(200, service.rollback(records.decode(http.body, RollbackRequest)))


def release(service: Service, http: Incoming) -> Answer:
    request = records.decode(http.body, ReleaseRequest) if http.body else ReleaseRequest()
    return Answer(200, service.release(request))


def experiment(service: Service, http: Incoming) -> Answer:
    return Answer(200, service.experiment())


def healthz(service: Service, http: Incoming) -> Answer:
    problems = service.problems()
    return Answer(200, HealthReply("degraded" if problems else "ok", problems))


def loop(service: Service, http: Incoming) -> Answer:
    return Answer(200, service.loop())


def readyz(service: Service, http: Incoming) -> Answer:
    problems = service.unready()
    return Answer(503 if problems else 200, HealthReply("not ready" if problems else "ok", problems))


ROUTES: Final = (
    Route("POST", "/v1/rank", rank, "rank", "Rank candidates for a viewer", 200, RankRequest, RankReply, (409, 413),
          hot=True),
    Route("POST", "/v1/feedback", feedback, "feedback", "Tell what viewers did", 202, Feedback | FeedbackBatch,
          FeedbackResult | FeedbackResults, (409, 413), hot=True),
    Route("POST", "/v1/events/<path:event_id>/activate", activate, "feedback", "Tell that a feed was shown", 202,
          ActivateRequest, ActivateReply, (409, 413)),
    Route("GET", "/v1/events/<path:event_id>", event, "read", "A decision and what became of it", 200, None,
          EventReply, (404,)),
    Route("PUT", "/v1/items", put_items, "admin", "Put items into the catalogue", 200, ItemsRequest, ItemsReply,
          (413,)),
    Route("GET", "/v1/items/<path:item_id>", get_item, "read", "An item of the catalogue", 200, None, ItemReply,
          (404,)),
    Route("DELETE", "/v1/items/<path:item_id>", delete_item, "admin", "Withdraw an item from every ranking", 204,
          None, None, (404,)),
    Route("PUT", "/v1/users/<path:user_id>", put_user, "feedback", "Keep what a viewer picked at sign-up", 200,
          UserRequest, UserReply, (413,)),
    Route("GET", "/v1/users/<path:user_id>", get_user, "read", "What is believed of a viewer", 200, None, UserReply,
          (404,)),
    Route("DELETE", "/v1/users/<path:user_id>", delete_user, "admin", "Erase all that is known of a viewer", 200,
          None, ErasureReply, (), 202),
    Route("GET", "/v1/config", get_config, "read", "The config in force, and its version as ETag", 200, None, Config),
    Route("PUT", "/v1/config", put_config, "admin", "Replace the config", 200, Config, Config, (412, 413, 428)),
    Route("GET", "/v1/presets", presets, "read", "Reward formulas to begin with, and what each wants", 200, None,
          PresetsReply),
    Route("GET", "/v1/model", model, "read", "The model that is served", 200, None, ModelReply),
    Route("POST", "/v1/model/rollback", rollback, "admin", "Serve an earlier model, until a release", 200,
          RollbackRequest, ServingReply, (404, 413)),
    Route("POST", "/v1/model/release", release, "admin", "Serve the newest model again", 200, ReleaseRequest,
          ServingReply, (409, 413)),
    Route("GET", "/v1/experiment", experiment, "read", "How the arms of the experiment in force do", 200, None,
          ExperimentReply),
    Route("GET", "/healthz", healthz, None, "Is this worker alive, and what ails it", 200, None, HealthReply),
    Route("GET", "/healthz/loop", loop, "read", "Is it learning, in sentences and numbers", 200, None, LoopReply),
    Route("GET", "/readyz", readyz, None, "Can this worker rank from a model", 200, None, HealthReply),
)  # fmt: skip
