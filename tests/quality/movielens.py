"""MovieLens-100K: each viewer's ratings in time order cut into runs of 20, each run one request, five slots.

Nobody is told the hour or the weekday. A film is shown 14 times on average: with `-q CI` the weight of each film at
each hour costs more than it brings here (.014 of mean reward, when it was tried).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.quality.data import Request, film_id, films, viewer_features
from tests.quality.peers import ask
from tests.quality.rankers import (
    SLOTS,
    Factors,
    LinUCB,
    Popular,
    Ranker,
    Vw,
    VwHistory,
    VwSlots,
    exact,
    play,
    requests_of,
)
from tests.quality.scenario import OURS, Measured, Policy, Scenario, Table, Target, Watched, at_least, beats
from tests.quality.stream import stream

#: CI plays the first so many requests.
QUICK: Final = 600
LEAST: Final = 0.665
SEEDS: Final = 5

FROM_HAND: Final[dict[str, Any]] = {
    "popularity": Popular,
    "VW epsilon-greedy, genre crosses": lambda seed: Vw(seed, "--cb_explore_adf --cb_type mtr --epsilon 0.05 -q UG"),
    "VW squarecb, genre crosses": lambda seed: Vw(seed, "--cb_explore_adf --cb_type mtr --squarecb -q UG"),
    "VW ccb_explore_adf, genre crosses": lambda seed: VwSlots(seed, "--epsilon 0.05 -q UG"),
    "VW softmax, history features": VwHistory,
    "matrix factorisation": Factors,
    "LinUCB, history features": LinUCB,
    "LinUCB, history features and offers": partial(LinUCB, offers=True),
}

#: Learners of other packages, by package; the best one of each is the peer.
PACKAGES: Final = {
    "mab2rec": ("egreedy", "ucb1", "ts"),
    "mabwiser": ("egreedy", "ucb1", "ts"),
    "obp": ("egreedy", "bernoullits", "linegreedy", "linucb"),
    "coba": ("egreedy", "softmax", "squarecb", "regcb", "bag", "cover"),
}
#: They can be asked for by ``--policy``; with an arm for each of 1,682 films a request takes them a third of a second.
SLOW: Final = {
    "mab2rec": ("lints", "lingreedy"),
    "mabwiser": ("linucb", "lints", "lingreedy"),
    "obp": ("lints",),
    "coba": ("linucb", "lints"),
}

TOO_SLOW: Final = "not measured: too slow"


def _requests(seed: int, quick: bool) -> list[Request]:
    return requests_of(seed, QUICK if quick else None)


def ours(seed: int, quick: bool) -> Measured:
    """The shipped service; each request is ranked by a model that has learned all before it."""
    requests = _requests(seed, quick)
    total = 0.0
    with stream(seed=seed, begins=requests[0].at) as feed:
        feed.put(films())
        for request in requests:
            names = [film_id(film) for film in request.films.tolist()]
            reply = feed.rank(
                names, now=request.at, slots=SLOTS, viewer=f"viewer-{request.viewer}",
                viewer_features=viewer_features(request.viewer),
            )  # fmt: skip
            liked = dict(zip(names, request.rewards.tolist(), strict=True))
            rewards = [liked[slot.id] for slot in reply.ranking]
            total += sum(rewards) / SLOTS
            feed.tell(reply, rewards)
            feed.learn()
    return {"reward": total / len(requests)}


def by_hand(name: str, seed: int, quick: bool) -> Measured:
    """A learner of `rankers`."""
    ranker: Ranker = FROM_HAND[name](seed)
    return {"reward": play(ranker, _requests(seed, quick))}


def known(which: int, seed: int, quick: bool) -> Measured:
    """0: drawing at random; 1: knowing everything."""
    return {"reward": exact(_requests(seed, quick))[which]}


def peer_task(seed: int, n: int | None) -> dict[str, Any]:
    """The same requests for the peers' program: viewers and films by number, what is known of both by name."""
    told = films()
    number = {name: place for place, name in enumerate(told)}
    viewers: dict[int, int] = {}
    requests = []
    for request in requests_of(seed, n):
        about = viewer_features(request.viewer)
        requests.append(
            {
                "viewer": viewers.setdefault(request.viewer, len(viewers)),
                "x": [f"{name}={value}" for name, value in about.items()],
                "films": [number[film_id(film)] for film in request.films.tolist()],
                "rewards": request.rewards.tolist(),
            }
        )
    listed = []
    for features in told.values():
        tags = features["tags"]
        assert isinstance(tags, list)
        listed.append({**{f"tags={tag}": 1 for tag in tags}, f"decade={features.get('decade', '')}": 1})
    for film, name in zip(listed, told, strict=True):
        film[f"id={name}"] = 1
    return {"requests": requests, "films": listed, "slots": SLOTS, "seed": seed}


def peer(learner: str, seed: int, quick: bool) -> Measured:
    """A learner of another package."""
    rewards = ask(learner, peer_task(seed, QUICK if quick else None))["rewards"]
    return {"reward": sum(rewards) / len(rewards)}


def targets(table: Table) -> list[Target]:
    found = [
        at_least(table, OURS, "reward", LEAST, text=f"mean reward at least {LEAST}, mean of {SEEDS} seeds"),
        beats(table, "reward", [name for name in FROM_HAND if name.startswith("VW")], text="beats VW on its own"),
        beats(
            table, "reward", ["popularity", "matrix factorisation", "LinUCB, history features",
                              "LinUCB, history features and offers"],
            text="beats popularity, matrix factorisation and LinUCB",
        ),
    ]  # fmt: skip
    for package, learners in PACKAGES.items():
        names = [f"{package}:{learner}" for learner in learners]
        found.append(beats(table, "reward", names, text=f"beats {package}'s best learner"))
    return found


SCENARIO: Final = Scenario(
    name="movielens",
    what="MovieLens-100K: each viewer's ratings in time order cut into runs of 20; each run one request of 20 "
    "candidates at the time of its first rating, requests in time order; 5 slots; reward 1 if rated 4 or more; only "
    "shown items teach. Mean reward over all 4,604 requests. All are told age band, gender and occupation of the "
    "viewer, genres and decade of the films, and no time of day. The service also counts how often a film was a "
    "candidate, which in these data says how well known it is; one LinUCB is given that too.",
    policies=[
        Policy(OURS, ours, SEEDS),
        Policy("uniform", partial(known, 0)),
        Policy("oracle", partial(known, 1)),
        *(Policy(name, partial(by_hand, name), 2 if name.startswith("VW") else SEEDS) for name in FROM_HAND),
        *(
            Policy(f"{package}:{learner}", partial(peer, f"{package}:{learner}"), package=package)
            for package, learners in PACKAGES.items()
            for learner in learners
        ),
        *(
            Policy(f"{package}:{learner}", partial(peer, f"{package}:{learner}"), package=package, note=TOO_SLOW)
            for package, learners in SLOW.items()
            for learner in learners
        ),
    ],
    figures=["reward"],
    targets=targets,
    quick=[OURS, "uniform", "popularity", "LinUCB, history features"],
    watched=[Watched(OURS, "reward", "higher", 0.012)],
    hold=lambda table: [beats(table, "reward", ["uniform", "popularity"], text="beats uniform and popularity")],
)
