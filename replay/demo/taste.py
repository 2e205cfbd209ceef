"""What a client can know of a viewer's taste: which genres they liked more often than other films shown to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from bandit.records import Features, Scalar

#: The most frequent genres say something soon; each one more is one more number to learn about from few visits.
N_GENRES: Final = 5
#: With nothing known a viewer likes this share, and little known is drawn to it, or to no taste, as by so many films.
PRIOR_SHARE: Final = 0.55
PRIOR_FILMS: Final = 5.0
PRIOR_GENRE_FILMS: Final = 3.0
#: Brings the numbers to about the size of a feature that is there or not.
SCALE: Final = 5.0


class Tastes:
    """Every viewer's taste so far, from what they were shown and said to it.

    >>> tastes = Tastes({"m1": {"genre": {"Drama": True}}, "m2": {"genre": {"Comedy": True}}})
    >>> tastes.of("u1")
    {}
    >>> tastes.add("u1", {"m1": 1.0, "m2": 0.0})
    >>> tastes.of("u1")
    {'Drama': 0.58, 'Comedy': -0.67}

    :param films: features by id, with the film's genres as names under ``genre``
    """

    def __init__(self, films: Mapping[str, Features]) -> None:
        all_genres = {film: _genres(features) for film, features in films.items()}
        common = Counter(genre for genres in all_genres.values() for genre in genres).most_common(N_GENRES)
        self._names = [name for name, _ in common]
        self._genres = {film: [g for g in genres if g in self._names] for film, genres in all_genres.items()}
        self._seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._liked: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))

    def of(self, viewer: str) -> dict[str, Scalar]:
        """How much more (or less) often than other films they liked a genre's; of genres that they were shown."""
        seen, liked = self._seen[viewer], self._liked[viewer]
        share = (liked[""] + PRIOR_FILMS * PRIOR_SHARE) / (seen[""] + PRIOR_FILMS)
        return {
            genre: round(SCALE * (liked[genre] - seen[genre] * share) / (seen[genre] + PRIOR_GENRE_FILMS), 2)
            for genre in self._names
            if seen[genre]
        }

    def add(self, viewer: str, rewards: Mapping[str, float]) -> None:
        """They were shown these films, and liked each one or not."""
        for film, reward in rewards.items():
            # All films count under the empty name.
            for genre in ("", *self._genres[film]):
                self._seen[viewer][genre] += 1
                self._liked[viewer][genre] += reward


def _genres(features: Features) -> list[str]:
    genres = features.get("genre")
    return list(genres) if isinstance(genres, dict) else []
