"""Candidates are hashed once, kept in bounded memory, and never outlive a change of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bandit.errors import InvalidFeatures, InvalidRequest
from bandit.ranking.candidates import CATALOGUED, UNKNOWN, WITHDRAWN, CandidateCache, Catalogued, number, unnumbered
from bandit.records import Candidate
from bandit.statistics.knowledge import Read


class Catalogue:
    """Stands for the store; counts how often it is asked."""

    def __init__(self) -> None:
        self.items: dict[str, Catalogued] = {}
        self.asked: list[str] = []

    def look_up(self, ids: Sequence[str]) -> dict[str, Catalogued]:
        self.asked += ids
        return {item_id: self.items[item_id] for item_id in ids if item_id in self.items}

    def version_text(self, version: int) -> bytes:
        return next(item.features for item in self.items.values() if item.version == version)

    def put(self, item_id: str, version: int, features: bytes = b'{"creator":"c1"}', withdrawn: bool = False) -> None:
        self.items[item_id] = Catalogued(version, features, withdrawn)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


def cache_of(catalogue: Catalogue, capacity: int = 100) -> CandidateCache:
    return CandidateCache(
        catalogue.look_up, catalogue.version_text, lambda after, keys, known: Read(0, 0.0, {}, (), {}), capacity
    )


def inline(item_id: str, features: bytes) -> Candidate:
    return Candidate(id=item_id, features=msgspec.Raw(features))


def test_a_known_candidate_is_looked_up_once(catalogue: Catalogue) -> None:
    catalogue.put("a", 7)
    cache = cache_of(catalogue)
    first, second = cache.resolve(["a"]), cache.resolve(["a"])
    assert catalogue.asked == ["a"]
    assert first.rows.tolist() == second.rows.tolist()
    assert first.versions.tolist() == [7]
    assert first.standing.tolist() == [CATALOGUED]


def test_the_catalogues_word_on_an_id_is_known_however_the_candidate_is_sent(catalogue: Catalogue) -> None:
    catalogue.put("gone", 1, withdrawn=True)
    cache = cache_of(catalogue)
    resolved = cache.resolve(["new", "gone", inline("inline", b'{"x":1}')])
    assert resolved.standing.tolist() == [UNKNOWN, WITHDRAWN, CATALOGUED]
    assert cache.resolve([inline("gone", b'{"x":1}')]).standing.tolist() == [WITHDRAWN]


def test_inline_features_are_another_row_than_the_catalogues(catalogue: Catalogue) -> None:
    catalogue.put("a", 1)
    cache = cache_of(catalogue)
    bare, own, other = (cache.resolve([one]).rows[0] for one in ("a", inline("a", b'{"x":1}'), inline("a", b'{"x":2}')))
    assert len({int(bare), int(own), int(other)}) == 3
    assert cache.resolve([inline("a", b'{"x":1}')]).rows[0] == own


def test_what_the_catalogue_changed_is_forgotten_and_read_again(catalogue: Catalogue) -> None:
    catalogue.put("a", 1)
    cache = cache_of(catalogue)
    cache.resolve(["a"])
    cache.resolve([inline("a", b'{"x":1}')])
    catalogue.put("a", 2, withdrawn=True)
    with cache.lock:
        cache.forget(["a", "never seen"])
    assert cache.resolve(["a"]).versions.tolist() == [2]
    assert cache.resolve(["a"]).standing.tolist() == [WITHDRAWN]
    assert cache.resolve([inline("a", b'{"x":1}')]).standing.tolist() == [WITHDRAWN]


@pytest.mark.parametrize(
    "twice", [["a", "b", "a"], ["a", inline("a", b'{"x":1}')], [inline("a", b"{}"), inline("a", b'{"x":1}')]]
)
def test_an_id_that_stands_twice_is_refused_by_name(catalogue: Catalogue, twice: list[str | Candidate]) -> None:
    cache = cache_of(catalogue)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="repeats the id 'a'"):
            cache.resolve(twice)
        # And once more when all of them are known.
        for one in twice:
            cache.resolve([one])


def test_bad_features_name_the_candidates_place_in_the_request(catalogue: Catalogue) -> None:
    cache = cache_of(catalogue)
    cache.resolve(["a"])
    with pytest.raises(InvalidFeatures, match=r"candidates\[2\]\.features"):
        cache.resolve(["a", "b", inline("c", b'{"_label":1}')])
    assert cache.resolve(["b"]).standing.tolist() == [UNKNOWN]


def test_a_control_character_in_an_id_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidRequest, match="control character"):
        cache_of(catalogue).resolve(["ok", "bad\nid"])


def test_memory_is_bounded_by_beginning_again(catalogue: Catalogue) -> None:
    cache = cache_of(catalogue, capacity=100)
    held = cache.resolve([f"first-{i}" for i in range(60)])
    for start in range(0, 3_000, 50):
        cache.resolve([f"{start + i}" for i in range(50)])
        assert cache.size <= 100
    assert held.view.n_rows == 60, "a request that runs keeps the rows it was given"


def test_one_request_may_be_larger_than_the_cache(catalogue: Catalogue) -> None:
    cache = cache_of(catalogue, capacity=10)
    assert len(cache.resolve([f"{i}" for i in range(1_000)]).rows) == 1_000


def test_numbers_that_the_log_gave_are_remembered(catalogue: Catalogue) -> None:
    cache = cache_of(catalogue)
    resolved = cache.resolve(["new", inline("own", b'{"x":1}')])
    assert unnumbered(resolved) == [(0, ("new", b"{}")), (1, ("own", b'{"x":1}'))]
    number(resolved, [0, 1], [11, 12])
    again = cache.resolve(["new", inline("own", b'{"x":1}')])
    assert unnumbered(again) == []
    assert again.versions.tolist() == [11, 12]


def test_a_number_given_meanwhile_by_another_request_is_used(catalogue: Catalogue) -> None:
    cache = cache_of(catalogue)
    mine, theirs = cache.resolve(["new"]), cache.resolve(["new"])
    number(theirs, [0], [11])
    assert unnumbered(mine) == []
    assert mine.versions.tolist() == [11]
