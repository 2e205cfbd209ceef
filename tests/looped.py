"""Feeds that are ranked, answered and learned from, for tests of what is said of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from bandit.loop.report import LoopReply
from bandit.records import Candidate, Feedback, ItemFeedback, RankRequest
from tests.conftest import Loop

ITEMS: list[str | Candidate] = [f"v{k}" for k in range(10)]
Worth = Callable[[str], float]


def clearly(item: str) -> float:
    """What a model finds at once: v9 is liked, v0 is not."""
    return float(int(item[1:]) >= 7)


def ranked(loop: Loop, n: int, *, worth: Worth | None = clearly, seed: int = 0, **parts: Any) -> None:
    """Feeds, answered at once; without ``worth`` not at all.

    :param parts: of every item's feedback
    """
    rng = random.Random(seed)
    for number in range(n):
        reply = loop.service.rank(RankRequest(candidates=rng.sample(ITEMS, len(ITEMS)), slots=3))
        if worth is not None:
            items = [
                ItemFeedback(one.id, **({"reward": worth(one.id), "seen": True, "final": True} | parts))
                for one in reply.ranking
            ]
            loop.service.feedback([Feedback(reply.event_id, items)])
        loop.clock.pass_(0.2)
        if number % 50 == 49:
            loop.learn()


def put(loop: Loop, **change: Any) -> None:
    """Put a config with these fields in force."""
    live = loop.service.config()
    loop.service.put_config(replace(live.document, **change), expected=live.version)


def over(loop: Loop) -> LoopReply:
    """What is said once all windows have ended."""
    loop.end_windows()
    loop.end_windows()
    return loop.service.loop()
