"""Plays visits, one after the other, against a service and against two policies that need none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bandit.records import Features
from replay.demo.client import Client, ServiceFailed
from replay.demo.data import MovieLens, Visit, time_features
from replay.demo.taste import Tastes

#: After so many visits the player waits until the served model has learned them all. The real viewers came an hour
#: and a half apart: at a hundred a second the model would be that far behind each of them, and earn less.
MOST_AHEAD: Final = 5
CATCH_UP_S: Final = 60.0
#: A film that was never shown counts as if so many showings had gone as they go on average.
PRIOR_SHOWINGS: Final = 5.0

F64 = npt.NDArray[np.float64]


class Played(NamedTuple):
    """What every policy earned, by visit; each array's first axis has one entry a visit.

    A reward is the share of the shown films that the viewer liked.

    :ivar uniform: exactly what drawing at random earns on average: the share liked among all candidates
    :ivar popular: what `MostPopular` earned
    :ivar service: what the service earned
    :ivar n_candidates: how many films there were to draw from
    :ivar slot_rewards: shape (n, slots): 1 where the film that the service put there was liked
    :ivar propensities: shape (n, slots): how likely each was, as the service said
    :ivar fallbacks: rankings that did not come from the model, by reason
    """

    uniform: F64
    popular: F64
    service: F64
    n_candidates: npt.NDArray[np.int64]
    slot_rewards: F64
    propensities: F64
    fallbacks: Counter[str]


class MostPopular:
    """Ranks by the share of its own earlier showings that were liked, whoever the viewer is.

    It learns from what it showed itself and from nothing else, at once. Films that it has shown little are
    drawn to the average of all its showings, as if shown `PRIOR_SHOWINGS` times more; ties go by chance.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._showings: Counter[str] = Counter()
        self._likes: Counter[str] = Counter()
        self._all_showings = 0.0
        self._all_likes = 0.0

    def show(self, visit: Visit, slots: int) -> float:
        """Share liked among the films that it puts into this visit's slots."""
        average = (self._all_likes + 1.0) / (self._all_showings + 2.0)
        shares = np.array(
            [
                (self._likes[film] + PRIOR_SHOWINGS * average) / (self._showings[film] + PRIOR_SHOWINGS)
                for film in visit.films
            ]
        )
        chance = self._rng.permutation(len(shares))
        shown = np.lexsort((chance, -shares))[:slots]
        for place in shown:
            self._showings[visit.films[place]] += 1
            self._likes[visit.films[place]] += int(visit.rewards[place])
        self._all_showings += len(shown)
        self._all_likes += float(visit.rewards[shown].sum())
        return float(visit.rewards[shown].mean())


def play(
    client: Client,
    visits: Sequence[Visit],
    data: MovieLens,
    *,
    slots: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None],
) -> Played:
    """Play all visits in their order; one is answered for before the next one comes.

    The service hears of the shown films alone: liked or not, all of them seen, and at once final. With each
    request goes what that tells of the viewer's taste.

    :param data: features of the viewers and of the films; these must be in the service's catalogue
    :param rng: settles the ties of `MostPopular`
    :raises ServiceFailed: it failed, or its trainer does not keep up
    """
    popular = MostPopular(rng)
    tastes = Tastes(data.films)
    by_popularity = np.empty(len(visits))
    rewards = np.empty((len(visits), slots))
    propensities = np.empty((len(visits), slots))
    fallbacks: Counter[str] = Counter()
    learned_before = client.n_learned()
    for place, visit in enumerate(visits):
        if place % MOST_AHEAD == 0:
            catch_up(client, learned_before + place * slots)
        by_popularity[place] = popular.show(visit, slots)
        features: Features = {**data.viewers[visit.viewer], "taste": tastes.of(visit.viewer)}
        reply = _rank(client, visit, features, slots)
        liked = dict(zip(visit.films, visit.rewards, strict=True))
        ranking = reply["ranking"]
        shown = {slot["id"]: float(liked[slot["id"]]) for slot in ranking}
        rewards[place] = list(shown.values())
        propensities[place] = [slot["propensity"] for slot in ranking]
        if reply["fallback"] is not None:
            fallbacks[reply["fallback"]] += 1
        _tell(client, reply["event_id"], shown)
        tastes.add(visit.viewer, shown)
        progress(place + 1, len(visits))
    return Played(
        uniform=np.array([visit.rewards.mean() for visit in visits]),
        popular=by_popularity,
        service=rewards.mean(axis=1),
        n_candidates=np.array([len(visit.films) for visit in visits]),
        slot_rewards=rewards,
        propensities=propensities,
        fallbacks=fallbacks,
    )


def _rank(client: Client, visit: Visit, features: Features, slots: int) -> Any:
    request = {
        "user": {"id": visit.viewer, "features": features},
        "context": time_features(visit.at),
        "candidates": visit.films,
        "slots": slots,
    }
    reply, _ = client.call("POST", "/v1/rank", request)
    if reply["unknown"] or len(reply["ranking"]) != slots:
        raise ServiceFailed(
            f"a ranking has {len(reply['ranking'])} of {slots} slots and {len(reply['unknown'])} unknown films; "
            "does anybody else change this service's catalogue?"
        )
    return reply


def _tell(client: Client, event_id: str, rewards: Mapping[str, float]) -> None:
    items = [{"id": film, "reward": reward, "seen": True, "final": True} for film, reward in rewards.items()]
    # The id makes it harmless that a broken connection has it sent twice.
    client.call("POST", "/v1/feedback", {"feedback_id": event_id, "event_id": event_id, "items": items})


def catch_up(client: Client, n_learned: int) -> None:
    """Wait until the served model has learned so many slots.

    :raises ServiceFailed: it does not
    """
    until = time.monotonic() + CATCH_UP_S
    while client.n_learned() < n_learned:
        if time.monotonic() > until:
            raise ServiceFailed(
                f"after {CATCH_UP_S:.0f} s the served model has not learned what it was told; see {client.url}/healthz"
            )
        time.sleep(0.01)
