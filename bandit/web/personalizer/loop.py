"""Rank, reward, activate: what a Personalizer client asks all the time."""

from __future__ import annotations

import re
from itertools import chain, repeat
from typing import Final

import numpy as np
from msgspec import UNSET

from bandit import records
from bandit.errors import InvalidFeatures, InvalidRequest
from bandit.features.nested import flat, flat_action, with_slot
from bandit.ranking.personalized import PageSlot, Whole
from bandit.records import ActivateRequest, Decision, Explanation, Features, RankRequest
from bandit.service import Service
from bandit.web import metrics
from bandit.web.personalizer.types import (
    ActionExplanation,
    FeatureList,
    FeatureScore,
    MultiSlotRank,
    MultiSlotRanked,
    MultiSlotReward,
    PersonalizerRank,
    PersonalizerRanked,
    PersonalizerReward,
    RankableAction,
    RankedAction,
    SlotRequest,
    SlotResponse,
)
from bandit.web.routing import Answer, Incoming, check_event_id

_CONTEXT: Final = re.compile(r"^context(?=[ .])")
_OURS: Final = ("C.", "F.", "I.", "D.", "S.", "P.")


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
        whole = service.personalized.whole(asked, body_hash=body_hash)
    except InvalidRequest as error:
        raise in_their_words(error) from None
    _count(whole.decision, len(whole.ids))
    reply = PersonalizerRanked(_ranking(whole), whole.event_id, whole.decision.slots[0].id)
    if whole.explanation:
        reply.inference_explanation = [_explained(one) for one in whole.explanation]
    told = {"event_id": whole.event_id, "n_candidates": len(whole.ids), "fallback": whole.decision.fallback}
    return Answer(201, reply, told=told)


def personalizer_reward(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    request: PersonalizerReward = records.decode(http.body, PersonalizerReward)
    metrics.FEEDBACK.labels(service.reward(event_id, request.value).status).inc()
    return Answer(204)


def personalizer_activate(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    service.activate(event_id, ActivateRequest())
    return Answer(204)


# ---------------------------------------------------------------- several slots


def multislot_rank(service: Service, http: Incoming) -> Answer:
    request: MultiSlotRank = records.decode(http.body, MultiSlotRank)
    body_hash = records.body_hash(request)
    _check_slots(request)
    flatten(request.actions)
    context = context_of(request.context_features)
    slots = [_page_slot(request, slot, f"slots[{place}]", context) for place, slot in enumerate(request.slots)]
    try:
        page = service.personalized.page(slots, event_id=request.event_id, body_hash=body_hash)
    except InvalidRequest as error:
        raise in_their_words(error) from None
    for decision in page.decisions:
        _count(decision, len(request.actions))
    told = [SlotResponse(slot.id, chosen) for slot, chosen in zip(request.slots, page.chosen, strict=True)]
    about = {"event_id": page.event_id, "n_candidates": len(request.actions)}
    return Answer(201, MultiSlotRanked(told, page.event_id), told=about)


def multislot_reward(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    request: MultiSlotReward = records.decode(http.body, MultiSlotReward)
    for result in service.reward_slots(event_id, [(one.slot_id, one.value) for one in request.reward]):
        metrics.FEEDBACK.labels(result.status).inc()
    return Answer(204)


def multislot_activate(service: Service, http: Incoming, event_id: str) -> Answer:
    check_event_id(event_id)
    service.activate_page(event_id)
    return Answer(204)


def _check_slots(request: MultiSlotRank) -> None:
    """:raises InvalidRequest: names the slot whose id or baseline cannot be"""
    actions = {action.id for action in request.actions}
    slots: set[str] = set()
    baselines: set[str] = set()
    for place, slot in enumerate(request.slots):
        where = f"slots[{place}]"
        if slot.id in slots:
            raise InvalidRequest(f"{where} repeats the id {slot.id!r}; each slot may stand once", id=slot.id)
        for fault, found in (
            ("is no action", slot.baseline_action not in actions),
            ("is among its excludedActions", slot.baseline_action in (slot.excluded_actions or [])),
            ("is that of another slot too", slot.baseline_action in baselines),
        ):
            if found:
                raise InvalidRequest(
                    f"{where}.baselineAction {slot.baseline_action!r} {fault}; give each slot an action of its own "
                    "that it may show",
                    id=slot.baseline_action,
                )
        slots.add(slot.id)
        baselines.add(slot.baseline_action)


def _page_slot(request: MultiSlotRank, slot: SlotRequest, where: str, context: Features) -> PageSlot:
    # What the caller would show comes first: it is what stands there where nothing is known, or as an apprentice.
    baseline = [action for action in request.actions if action.id == slot.baseline_action]
    others = [action for action in request.actions if action.id != slot.baseline_action]
    raw = b"null" if slot.features is UNSET else bytes(slot.features)
    asked = RankRequest(
        candidates=[*baseline, *others],
        context=with_slot(context, slot.id, raw, path=f"{where}.features"),
        slots=1,
        exclude=slot.excluded_actions or [],
        defer_activation=bool(request.defer_activation),
    )
    return PageSlot(slot.id, asked)


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


def _count(decision: Decision, n: int) -> None:
    """Count a ranking as the native door does."""
    metrics.CANDIDATES.labels("yes").inc(decision.scored)
    if decision.scored < n:
        metrics.CANDIDATES.labels("no").inc(n - decision.scored)
    if decision.fallback is not None:
        metrics.FALLBACKS.labels(decision.fallback).inc()


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
