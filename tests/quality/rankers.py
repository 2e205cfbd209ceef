"""Plain learners for the MovieLens requests, by hand: what a small team would build first. Each hears of the shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from vowpalwabbit import Workspace

from tests.quality.data import F64, I64, Request, film_id, films, movielens_requests, viewer_features

SLOTS: Final = 5

#: Tuned by hand on these very requests, which favours them.
PRIOR: Final = 10.0


class Ranker(Protocol):
    """Ranks requests one after the other, and hears what became of the shown."""

    def rank(self, request: Request) -> I64:
        """Places among the films, from the top; shape (SLOTS,)."""
        ...

    def hear(self, request: Request, shown: I64) -> None:
        """These places were shown; their rewards are the request's."""
        ...


def play(ranker: Ranker, requests: Sequence[Request]) -> float:
    """Mean reward of the shown."""
    total = 0.0
    for request in requests:
        shown = ranker.rank(request)
        total += float(request.rewards[shown].mean())
        ranker.hear(request, shown)
    return total / len(requests)


class History:
    """Five numbers of a viewer and a film, from what was shown before, each 0 for nothing known.

    The film's mean reward, how little is known of it, its genres' mean, the viewer's mean, and the mean of the viewer
    in its genres; all shrunk.
    """

    N: Final = 5

    def __init__(self) -> None:
        told = films()
        genres = sorted({str(tag) for features in told.values() for tag in _tags(features)})
        at = {genre: place for place, genre in enumerate(genres)}
        self._tags = {film: [at[tag] for tag in _tags(features)] for film, features in told.items()}
        n_films, n_viewers = len(told) + 1, 1_000
        self.film, self.viewer, self.genre = (np.zeros((n, 2)) for n in (n_films, n_viewers, len(genres)))
        self.taste = np.zeros((n_viewers, len(genres), 2))
        self.total = np.array([2.0, 1.0])
        self.offered = np.zeros(n_films)

    def of(self, request: Request) -> F64:
        """Shape (n_films, 5)."""
        mean = self.total[1] / self.total[0]
        own = self.viewer[request.viewer]
        viewer = _shrunk(own, mean, 5.0)
        rows = np.zeros((len(request.films), self.N))
        for row, film in enumerate(request.films.tolist()):
            tags = self._tags[film_id(film)]
            rows[row, 0] = _shrunk(self.film[film], mean, PRIOR)
            rows[row, 1] = PRIOR / (self.film[film, 0] + PRIOR) - 0.5
            rows[row, 3] = viewer
            if tags:
                rows[row, 2] = np.mean([_shrunk(self.genre[tag], mean, 50.0) for tag in tags])
                rows[row, 4] = np.mean([_shrunk(self.taste[request.viewer, tag], mean + viewer, 5.0) for tag in tags])
        return rows

    def add(self, request: Request, shown: I64) -> None:
        """These were shown, of the films that were offered."""
        self.offered[request.films] += 1.0
        for place in shown.tolist():
            film, one = int(request.films[place]), np.array([1.0, request.rewards[place]])
            self.film[film] += one
            self.viewer[request.viewer] += one
            self.total += one
            for tag in self._tags[film_id(film)]:
                self.genre[tag] += one
                self.taste[request.viewer, tag] += one


def _tags(features: object) -> list[str]:
    return list(features["tags"]) if isinstance(features, dict) else []


def _shrunk(counts: F64, mean: float, prior: float) -> float:
    return float((counts[1] - counts[0] * mean) / (counts[0] + prior))


class Popular:
    """The highest share liked so far, drawn to the mean of all."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._history = History()

    def rank(self, request: Request) -> I64:
        history = self._history
        mean = history.total[1] / history.total[0]
        scores = [_shrunk(history.film[film], mean, 5.0) for film in request.films.tolist()]
        return np.lexsort((self._rng.random(len(scores)), -np.array(scores)))[:SLOTS]

    def hear(self, request: Request, shown: I64) -> None:
        self._history.add(request, shown)


class LinUCB:
    """One linear model over the hand-made history features; upper bounds, the best shown."""

    def __init__(self, seed: int, *, alpha: float = 0.2, ridge: float = 1.0, offers: bool = False) -> None:
        self._history, self._alpha, self._offers = History(), alpha, offers
        d = 1 + History.N + offers
        self._inverse, self._b = np.eye(d) / ridge, np.zeros(d)
        self._rng = np.random.default_rng(seed)

    def rank(self, request: Request) -> I64:
        rows = self._rows(request)
        width = np.sqrt(np.einsum("ij,jk,ik->i", rows, self._inverse, rows))
        scores = rows @ self._inverse @ self._b + self._alpha * width
        self._last = rows
        return np.lexsort((self._rng.random(len(scores)), -scores))[:SLOTS]

    def _rows(self, request: Request) -> F64:
        parts = [np.ones((len(request.films), 1)), self._history.of(request)]
        if self._offers:
            parts.append(np.log1p(self._history.offered[request.films])[:, None] / 3.0 - 1.0)
        return np.concatenate(parts, axis=1)

    def hear(self, request: Request, shown: I64) -> None:
        for place in shown.tolist():
            row = self._last[place]
            half = self._inverse @ row
            self._inverse -= np.outer(half, half) / (1.0 + row @ half)
            self._b += row * request.rewards[place]
        self._history.add(request, shown)


class Factors:
    """Matrix factorisation with biases, one step of gradient descent for each shown film; epsilon-greedy."""

    def __init__(
        self, seed: int, *, k: int = 2, rate: float = 0.02, decay: float = 0.02, epsilon: float = 0.02
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._viewer, self._film = (self._rng.normal(0.0, 0.1, (n, k)) for n in (1_000, len(films()) + 1))
        self._bias_viewer, self._bias_film = np.zeros(1_000), np.zeros(len(films()) + 1)
        self._mean = np.array([2.0, 1.0])
        self._rate, self._decay, self._epsilon = rate, decay, epsilon

    def _scores(self, viewer: int, which: I64) -> F64:
        own: F64 = self._film[which] @ self._viewer[viewer] + self._bias_film[which]
        return own + self._bias_viewer[viewer] + self._mean[1] / self._mean[0]

    def rank(self, request: Request) -> I64:
        scores = self._scores(request.viewer, request.films)
        return _epsilon_greedy(scores, self._epsilon, self._rng)

    def hear(self, request: Request, shown: I64) -> None:
        viewer = request.viewer
        errors = request.rewards[shown] - self._scores(viewer, request.films[shown])
        for film, error, reward in zip(request.films[shown], errors, request.rewards[shown], strict=True):
            own, its = self._viewer[viewer].copy(), self._film[film].copy()
            self._viewer[viewer] += self._rate * (error * its - self._decay * own)
            self._film[film] += self._rate * (error * own - self._decay * its)
            self._bias_viewer[viewer] += self._rate * (error - self._decay * self._bias_viewer[viewer])
            self._bias_film[film] += self._rate * (error - self._decay * self._bias_film[film])
            self._mean += np.array([1.0, reward])


def _epsilon_greedy(scores: F64, epsilon: float, rng: np.random.Generator) -> I64:
    """Slot by slot: the best that is left, or any that is left."""
    order = np.lexsort((rng.random(len(scores)), -scores)).tolist()
    drawn = [order.pop(int(rng.integers(len(order))) if rng.random() < epsilon else 0) for _ in range(SLOTS)]
    return np.array(drawn)


def _plackett_luce(scores: F64, strength: float, rng: np.random.Generator) -> I64:
    """Slot by slot: softmax over what is left."""
    return np.argsort(-(strength * scores + rng.gumbel(size=len(scores))), kind="stable")[:SLOTS]


class Vw:
    """VW's own contextual bandit, one example of all candidates for each shown film, labelled with its chance.

    :param arguments: as VW reads them; `--cb_explore_adf` and an explorer among them
    """

    def __init__(self, seed: int, arguments: str) -> None:
        self._rng = np.random.default_rng(seed)
        self._vw = Workspace(f"--quiet --random_seed {seed} {arguments}")
        self._films = {int(name.rpartition("-")[2]): _film_line(name) for name in films()}
        self._drawn: list[tuple[list[int], int, float]] = []

    def _shared(self, request: Request) -> str:
        about = viewer_features(request.viewer)
        return f"shared |U id=v{request.viewer} " + " ".join(f"{name}={_plain(value)}" for name, value in about.items())

    def rank(self, request: Request) -> I64:
        self._head = self._shared(request)
        self._actions = [self._films[film] for film in request.films.tolist()]
        left = list(range(len(self._actions)))
        shown, self._drawn = [], []
        for _ in range(SLOTS):
            chances = np.array(self._vw.predict([self._head, *(self._actions[at] for at in left)]))
            at = int(self._rng.choice(len(left), p=chances / chances.sum()))
            self._drawn.append((list(left), at, float(chances[at])))
            shown.append(left.pop(at))
        return np.array(shown)

    def hear(self, request: Request, shown: I64) -> None:
        for (left, at, chance), place in zip(self._drawn, shown.tolist(), strict=True):
            lines = [self._actions[each] for each in left]
            lines[at] = f"0:{-request.rewards[place]}:{chance} {lines[at]}"
            self._vw.learn([self._head, *lines])


class VwHistory:
    """VW's regression on the hand-made history features alone, at a low rate; softmax slot by slot."""

    def __init__(self, seed: int, *, arguments: str = "-l 0.05", strength: float = 30.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._vw = Workspace(f"--quiet --random_seed {seed} {arguments}")
        self._history, self._strength = History(), strength

    def rank(self, request: Request) -> I64:
        self._lines = [
            "|H " + " ".join(f"h{place}:{value:.6f}" for place, value in enumerate(row))
            for row in self._history.of(request)
        ]
        scores = np.array([self._vw.predict(f"| {line}") for line in self._lines])
        return _plackett_luce(scores, self._strength, self._rng)

    def hear(self, request: Request, shown: I64) -> None:
        for place in shown.tolist():
            self._vw.learn(f"{request.rewards[place]} {self._lines[place]}")
        self._history.add(request, shown)


class VwSlots:
    """VW's own lists (`--ccb_explore_adf`)."""

    def __init__(self, seed: int, arguments: str) -> None:
        self._rng = np.random.default_rng(seed)
        self._vw = Workspace(f"--quiet --random_seed {seed} --ccb_explore_adf {arguments}")
        self._films = {int(name.rpartition("-")[2]): _film_line(name) for name in films()}

    def rank(self, request: Request) -> I64:
        about = viewer_features(request.viewer)
        words = " ".join(f"{name}={_plain(value)}" for name, value in about.items())
        self._head = [
            f"ccb shared |U id=v{request.viewer} {words}",
            *(f"ccb action {self._films[film]}" for film in request.films.tolist()),
        ]
        # VW draws each slot itself, and says what it drew first, with its chance.
        lists = self._vw.predict([*self._head, *(f"ccb slot |S s{slot}" for slot in range(SLOTS))])
        self._drawn = [(int(one[0][0]), [(int(action), float(chance)) for action, chance in one]) for one in lists]
        return np.array([action for action, _ in self._drawn])

    def hear(self, request: Request, shown: I64) -> None:
        slots = []
        for slot, (action, chances) in enumerate(self._drawn):
            cost = -request.rewards[action]
            told = ",".join(f"{each}:{chance}" for each, chance in chances)
            slots.append(f"ccb slot {action}:{cost}:{told.partition(':')[2]} |S s{slot}")
        self._vw.learn([*self._head, *slots])


def _film_line(name: str) -> str:
    features = films()[name]
    words = " ".join(f"tags={_plain(tag)}" for tag in _tags(features))
    return f"|I id={name} decade={features.get('decade', '')} |G {words}"


def _plain(value: object) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in str(value))


def exact(requests: Sequence[Request]) -> tuple[float, float]:
    """What drawing at random earns on average, and what who knows all rewards earns."""
    best = [min(1.0, request.rewards.sum() / SLOTS) for request in requests]
    return float(np.mean([request.rewards.mean() for request in requests])), float(np.mean(best))


def requests_of(seed: int, n: int | None) -> list[Request]:
    """The first n requests, or all."""
    found = movielens_requests(seed)
    assert math.prod(found[0].films.shape) == 20
    return found[:n]
