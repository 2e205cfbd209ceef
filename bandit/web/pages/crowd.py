"""Invented viewers who use the demo before anybody else, so that the service knows by then what a taste is worth.

They ask and answer as any client does: every feed of theirs is ranked, logged and learned from by the service.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import cache
from typing import Final, NamedTuple

from bandit.records import Candidate, Feedback, ItemFeedback, RankRequest, User, UserRequest
from bandit.service import Service
from bandit.store.events import find_decision
from bandit.web.pages.clips import PREFIX, TAGS, Clip, clips

VIEWERS: Final = 40
#: Each of them sees so many feeds, one in every round.
ROUNDS: Final = 8
SLOTS: Final = 5
#: So many tags each; VIEWERS is a multiple of len(TAGS) / LIKED.
LIKED: Final = 3
#: What they watch to the end of what they like, and of the rest.
LIKES: Final = 0.85
OTHERS: Final = 0.12
PRESSES_LIKE: Final = 0.4


class Invented(NamedTuple):
    """One of them."""

    id: str
    likes: tuple[str, ...]
    told: tuple[str, ...]


@cache
def crowd() -> tuple[Invented, ...]:
    """All of them; every second one says at sign-up what they like.

    Every tag is liked by equally many: what a newcomer likes should be no less popular than the rest.
    """
    rng = random.Random("the crowd of the demo")
    found: list[Invented] = []
    while len(found) < VIEWERS:
        tags = rng.sample(TAGS, len(TAGS))
        for start in range(0, len(tags), LIKED):
            likes, number = tuple(tags[start : start + LIKED]), len(found)
            found.append(Invented(f"{PREFIX}crowd-{number:02}", likes, likes[:2] if number % 2 else ()))
    return tuple(found)


def rounds_played(service: Service) -> int:
    """How many rounds are in the log."""
    last = crowd()[-1]
    log = service.data.log
    return next((n for n in range(ROUNDS) if find_decision(log, _event_id(n, last)) is None), ROUNDS)


def play(service: Service, number: int) -> None:
    """One round: a feed for everybody, and what they do with it.

    All ids follow from the round, so that playing it twice, or at once in two workers, adds nothing.
    """
    for viewer in crowd():
        if number == 0 and viewer.told:
            service.put_user(viewer.id, UserRequest(list(viewer.told)))
        _one_feed(service, number, viewer)


def _event_id(number: int, viewer: Invented) -> str:
    return f"{viewer.id}-feed-{number}"


def _one_feed(service: Service, number: int, viewer: Invented) -> None:
    event_id = _event_id(number, viewer)
    rng = random.Random(event_id)
    known = {clip.id: clip for clip in clips()}
    # In no order of ours: where nothing is known yet, the caller's decides.
    candidates: list[str | Candidate] = [*rng.sample(list(known), len(known))]
    request = RankRequest(candidates, event_id=event_id, user=User(viewer.id), slots=SLOTS)
    reply = service.rank(request)
    understood = service.config().document.signals
    items = [_does(viewer, known[placed.id], rng, understood) for placed in reply.ranking]
    if items:
        service.feedback([Feedback(event_id, items, feedback_id=f"{event_id}-seen")])


def _does(viewer: Invented, clip: Clip, rng: random.Random, understood: Collection[str]) -> ItemFeedback:
    """What a viewer does with a clip, as far as the config knows such signals."""
    drawn = max(LIKES if tag in viewer.likes else OTHERS for tag in clip.tags)
    if rng.random() < drawn:
        signals = {"watch_s": round(clip.length_s * rng.uniform(0.6, 1.0), 2)}
        if rng.random() < PRESSES_LIKE:
            signals["like"] = 1.0
    else:
        signals = {"watch_s": round(rng.uniform(0.8, 2.5), 2), "skip": 1.0}
    signals = {name: value for name, value in signals.items() if name in understood}
    return ItemFeedback(clip.id, signals, seen=True, final=True)
