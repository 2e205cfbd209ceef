"""Rank, reward, activate: what a Personalizer client asks all the time."""

from __future__ import annotations

import re
from itertools import chain, repeat
from typing import Final

import numpy as np
from msgspec import UNSET

from bandit import records
from bandit.errors import InvalidFeatures, InvalidRequest
from bandit.ranker import Whole
from bandit.records import ActivateRequest, Explanation, Features, RankRequest
from bandit.service import Service
from bandit.web import metrics
from bandit.web.personalizer.features import flat, flat_action
from bandit.web.personalizer.types import (
    ActionExplanation,
    FeatureList,
    FeatureScore,
    PersonalizerRank,
    PersonalizerRanked,
    PersonalizerReward,
    RankableAction,
    RankedAction,
)
from bandit.web.routing import Answer, Incoming, check_event_id

_CONTEXT: Final = re.compile(r"^context(?=[ .])")
_OURS: Final = ("C.", "I.", "D.", "S.", "P.")


def personalizer_rank(service: Service, http: Incoming) -> Answer:
    request: PersonalizerRank = records.decode(http.body, PersonalizerRank)
    # Before features are rewritten: what came is what is compared.
    body_hash = None if request.event_id is None else records.body_hash(request)
    flatten(request.actions)
    asked = RankRequest(
        candidates=request.actions,  # type: ignore[arg-type]
        event_id=UNSET if request.event_id is None else request.event_id,
        context=context_of(request.context_features),
        slots=1,
        exclude=request.excluded_actions or [],
        defer_activation=bool(request.defer_activation),
    )
    try:
        whole = service.rank_whole(asked, body_hash=body_hash)
    except InvalidRequest as error:
        raise in_their_words(error) from None
    count(whole)
    reply = PersonalizerRanked(_ranking(whole), whole.event_id, whole.decision.slots[0].id)
    if whole.explanation:
        reply.inference_explanation = [_explained(one) for one in whole.explanation]
    return Answer(201, reply)


def personalizer_reward(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    request: PersonalizerReward = records.decode(http.body, PersonalizerReward)
    metrics.FEEDBACK.labels(service.reward(event_id, request.value).status).inc()
    return Answer(204)


def personalizer_activate(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    service.activate(event_id, ActivateRequest())
    return Answer(204)


# ---------------------------------------------------------------- between their words and ours


def flatten(actions: list[RankableAction]) -> None:
    """Put flat features in place of those that were sent.

    :raises InvalidFeatures: names the action and the feature
    """
    for place, action in enumerate(actions):
        if action.features is not UNSET:
            try:
                action.features = flat_action(bytes(action.features))
            except InvalidFeatures as error:
                where = f"actions[{place}].features"
                raise InvalidFeatures(
                    error.message.replace("features", where, 1), **error.detail | {"path": where}
                ) from None


def context_of(raw: FeatureList | object) -> Features:
    """The flat features of a context; none if none were sent."""
    return {} if raw is UNSET else flat(bytes(raw), path="contextFeatures")  # type: ignore[call-overload]


def in_their_words(error: InvalidRequest) -> InvalidRequest:
    """The same error, with their names for what was sent."""
    renamed = error.message.replace("candidates", "actions")
    return type(error)(_CONTEXT.sub("contextFeatures", renamed), **error.detail)


def count(whole: Whole) -> None:
    """Count a ranking as the native door does."""
    n, scored = len(whole.ids), whole.decision.scored
    metrics.CANDIDATES.labels("yes").inc(scored)
    if scored < n:
        metrics.CANDIDATES.labels("no").inc(n - scored)
    if whole.decision.fallback is not None:
        metrics.FALLBACKS.labels(whole.decision.fallback).inc()


def _ranking(whole: Whole) -> list[RankedAction]:
    order = whole.decision.order
    assert order is not None
    ids = whole.ids
    places = np.frombuffer(order.places, "<u2").tolist()
    drawn = zip(places, chain(order.probabilities, repeat(order.probabilities[-1])), strict=False)
    ranked = [RankedAction(ids[place], probability) for place, probability in drawn]
    if len(ranked) == len(ids):
        return ranked
    # What was excluded keeps the place at which it was sent.
    others = iter(ranked)
    out = {place for places in whole.decision.ineligible.values() for place in places}
    return [RankedAction(ids[place], 0.0) if place in out else next(others) for place in range(len(ids))]


def _explained(one: Explanation) -> ActionExplanation:
    return ActionExplanation(one.id, [FeatureScore(_crossed(name), score) for name, score in one.features])


def _crossed(name: str) -> str:
    """
    >>> _crossed("C.user.plan=free x I.topic=cats")
    'user.plan=free^topic=cats'
    """
    return "^".join(part[2:] if part.startswith(_OURS) else part for part in name.split(" x "))
