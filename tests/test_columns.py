"""The dense columns: the kernel against the same formulas written out once more, in plain Python."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest

from bandit.reward.signals import Counted
from bandit.statistics.attribute_table import attributes_of
from bandit.statistics.attributes import ItemAttributes, attributes_of_item, key_of
from bandit.statistics.columns import COLUMNS, NAMES, Places, dense_columns, digest_of, told_tastes, viewer_features
from bandit.statistics.folding import TALLY_WIDTH
from bandit.statistics.profiles import (
    LONG_HALF_LIFE,
    MAX_SEEN,
    MAX_TASTES,
    NO_TASTES,
    SHORT_HALF_LIFE,
    TASTE_WIDTH,
    Glimpse,
    Tastes,
    Viewer,
    length_key,
)

NOW = 1_800_000_000.0


def plain(
    item: ItemAttributes, tally: list[float], creator: list[float], tags: list[list[float]], total: list[float],
    viewer: Viewer, interests: set[int],
) -> dict[str, float]:  # fmt: skip
    """What the table says, one column after the other."""
    shown, seen, reward, watched, completion, negative, first_at, timed, stayed, offered = tally
    mean = total[2] / (total[1] + 1)
    cold = 10 / (10 + seen)
    told = {
        "item_reward": (reward - seen * mean) / (seen + 10),
        "item_cold": cold,
        "item_completion": (completion - watched * total[4] / (total[3] + 1)) / (watched + 20),
        "item_negative": (negative - seen * total[5] / (total[1] + 1)) / (seen + 20),
        "item_offered": math.log(1 + offered) - 3,
        "cold_offered": cold * (math.log(1 + offered) - 3),
        "item_stayed": (stayed - timed * total[8] / (total[7] + 1)) / (timed + 10),
        "item_new": 0.5 ** ((NOW - first_at) / 86_400) if shown else 1.0,
    }
    kinds = [(one[2] - one[1] * mean) / (one[1] + 50) for one in tags]
    told["tags_reward"] = sum(kinds) / len(kinds) if kinds else 0.0
    told["cold_tags"] = cold * told["tags_reward"]
    told["creator_reward"] = (creator[2] - creator[1] * mean) / (creator[1] + 50) if item.creator else 0.0
    told["cold_creator"] = cold * told["creator_reward"]

    def decayed(key: int, lately: bool) -> tuple[float, float]:
        since, long_n, long_sum, short_n, short_sum, *_ = viewer.tastes.get(key, [0.0] * TASTE_WIDTH)
        half_life = SHORT_HALF_LIFE if lately else LONG_HALF_LIFE
        keep = 0.5 ** ((viewer.n - since) / half_life)
        return (short_n * keep, short_sum * keep) if lately else (long_n * keep, long_sum * keep)

    n_whole, whole = decayed(0, lately=False)
    own = mean + (whole - n_whole * mean) / (n_whole + 5)

    def taste(key: int, lately: bool = False) -> float:
        if key == 0 or key not in viewer.tastes:
            return 0.0
        count, total_reward = decayed(key, lately)
        return (total_reward - count * own) / (count + (3 if lately else 5))

    def times(key: int) -> tuple[float, float]:
        since, *_, timed, stayed = viewer.tastes.get(key, [0.0] * TASTE_WIDTH)
        keep = 0.5 ** ((viewer.n - since) / LONG_HALF_LIFE)
        return timed * keep, stayed * keep

    n_timed, n_stayed = times(0)
    usually = total[8] / (total[7] + 1)
    usually += (n_stayed - n_timed * usually) / (n_timed + 5)

    def stays(key: int) -> float:
        n, stayed = times(key) if key else (0.0, 0.0)
        return (stayed - n * usually) / (n + 5)

    def tags_mean(lately: bool) -> float:
        return sum(taste(tag, lately) for tag in item.tags) / len(item.tags) if item.tags else 0.0

    told |= {
        "taste_tags": tags_mean(False), "lately_tags": tags_mean(True),
        "taste_creator": taste(item.creator), "lately_creator": taste(item.creator, True),
        "taste_sound": taste(item.sound), "taste_language": taste(item.language),
        "taste_length": taste(length_key(item.length_s)),
        "stayed_tags": sum(map(stays, item.tags)) / len(item.tags) if item.tags else 0.0,
        "stayed_creator": stays(item.creator), "stayed_language": stays(item.language),
        "stayed_length": stays(length_key(item.length_s)),
        "interest": sum(tag in interests for tag in item.tags) / len(item.tags) if item.tags else 0.0,
    }  # fmt: skip
    return told


def some_items(rng: random.Random, n: int) -> list[tuple[str, bytes]]:
    items = []
    for k in range(n):
        features = {
            "creator": rng.choice(["c1", "c2", "c3", None]), "sound": rng.choice(["s1", None]),
            "language": rng.choice(["en", "de", None]), "length_s": rng.choice([None, 5, 29.9, 30, 4000]),
            "tags": rng.sample(["t1", "t2", "t3", "t4"], rng.randrange(4)),
        }  # fmt: skip
        items.append((f"v{k}", msgspec.json.encode({name: one for name, one in features.items() if one is not None})))
    return items


@pytest.mark.parametrize("seed", range(5))
def test_the_kernel_computes_what_the_table_says(seed: int) -> None:
    rng = random.Random(seed)
    items = some_items(rng, 40)
    attributes = attributes_of(items)
    parsed = [attributes_of_item(*item) for item in items]
    viewer = Viewer()
    for _ in range(rng.choice([0, 1, 30, 400])):
        viewer.observe(rng.choice(parsed), Counted(rng.gauss(0.2, 1), rng.choice([None, 0.0, 1.0])))
    if viewer.n:
        viewer.amend(parsed[0], Counted(1.0, 1.0), Counted(0.5, rng.choice([None, 0.0])))
    viewer.interests = ("t1", "t9")
    tallies = np.array([[abs(rng.gauss(0, 50)) for _ in range(TALLY_WIDTH)] for _ in range(60)])
    tallies[1] = 0.0
    tallies[:, 6] = NOW - tallies[:, 6] * 5_000
    places = Places(
        np.array([rng.randrange(1, 60) for _ in parsed]),
        np.array([rng.randrange(2, 60) if one.creator else 1 for one in parsed]),
        np.array([rng.randrange(2, 60) for one in parsed for _ in one.tags], np.int64),
    )
    found = dense_columns(attributes, places, tallies, Tastes.of(viewer), NOW)
    rows = tallies.tolist()
    interests = {key_of("tag", tag) for tag in viewer.interests}
    for i, one in enumerate(parsed):
        tags = [rows[at] for at in places.tags[attributes.tag_start[i] : attributes.tag_start[i + 1]]]
        expected = plain(one, rows[places.item[i]], rows[places.creator[i]], tags, rows[0], viewer, interests)
        assert expected.keys() == set(NAMES)
        np.testing.assert_allclose(found[i], [expected[name] for name in NAMES], rtol=1e-5, atol=1e-6)


def test_nothing_known_is_the_same_for_all() -> None:
    places = Places(np.ones(3, np.int64), np.ones(3, np.int64), np.ones(2, np.int64))
    items = [("a", b'{"tags":["x","y"],"creator":"c"}'), ("b", b"{}"), ("c", b'{"length_s":20}')]
    found = dense_columns(attributes_of(items), places, np.zeros((2, TALLY_WIDTH)), NO_TASTES, NOW)
    assert (found == found[0]).all()
    named = dict(zip(NAMES, found[0].tolist(), strict=True))
    known = {name: value for name, value in named.items() if value}
    assert known == pytest.approx({"item_cold": 1.0, "item_offered": -3.0, "cold_offered": -3.0, "item_new": 1.0})


def test_a_digest_sees_every_bit() -> None:
    dense = np.zeros((3, len(COLUMNS)), np.float32)
    before = digest_of(dense)
    dense[2, 4] = np.float32(1e-30)
    assert digest_of(dense) != before


def test_what_is_told_of_tastes_is_what_the_columns_say() -> None:
    liked, other = (
        attributes_of_item("a", b'{"creator":"c1","tags":["t"]}'),
        attributes_of_item("b", b'{"creator":"c2"}'),
    )
    viewer = Viewer()
    for _ in range(20):
        viewer.observe(liked, Counted(1.0, None))
        viewer.observe(other, Counted(0.0, None))
    total = [0.0] * TALLY_WIDTH
    total[1], total[2] = 40.0, 20.0
    tastes = Tastes.of(viewer)
    told = {one.key: one for one in told_tastes(tastes, total)}
    assert told[liked.creator].long > 0.3 > -0.3 > told[other.creator].long
    places = Places(np.ones(1, np.int64), np.ones(1, np.int64), np.ones(1, np.int64))
    tallies = np.zeros((2, TALLY_WIDTH))
    tallies[0] = total
    found = dense_columns(attributes_of([("a", b'{"creator":"c1","tags":["t"]}')]), places, tallies, tastes, NOW)
    named = dict(zip(NAMES, found[0].tolist(), strict=True))
    assert named["taste_creator"] == pytest.approx(told[liked.creator].long, rel=1e-5)
    assert named["lately_tags"] == pytest.approx(told[key_of("tag", "t")].lately, rel=1e-5)
    assert abs(viewer_features(tastes, np.array(total))["mean"]) < 0.02


# ---------------------------------------------------------------- a viewer


def test_a_viewer_survives_being_stored() -> None:
    rng = random.Random(3)
    viewer = Viewer()
    for item in some_items(rng, 200):
        viewer.observe(attributes_of_item(*item), Counted(rng.gauss(0, 1), rng.choice([None, 0.0, 1.0])))
        viewer.served([attributes_of_item(*item).identity], rng.random())
    viewer.block([5, 7], 3.0)
    viewer.unblock([5])
    viewer.interests = ("a", "b")
    data = viewer.encode()
    again = Viewer.decode(data)
    assert again.encode() == data
    assert (again.n, again.tastes, again.seen, again.blocked) == (viewer.n, viewer.tastes, viewer.seen, {7: 3.0})
    glimpse = Glimpse.of(data)
    assert glimpse.seen.tolist() == list(viewer.seen)
    assert glimpse.tastes.values.tolist() == [viewer.tastes[key] for key in sorted(viewer.tastes)]


def test_what_is_kept_of_a_viewer_is_bounded() -> None:
    viewer = Viewer()
    for k in range(3_000):
        viewer.observe(attributes_of_item(f"v{k}", b'{"creator":"c%d","sound":"s%d"}' % (k, k)), Counted(1.0, 1.0))
        viewer.served([k + 1], float(k))
    assert len(viewer.tastes) <= MAX_TASTES
    assert 0 in viewer.tastes
    assert len(viewer.seen) == MAX_SEEN
    assert min(viewer.seen) == 3_001 - MAX_SEEN
    # The newest creators weigh most.
    assert key_of("creator", "c2999") in viewer.tastes


def test_what_was_never_seen_may_be_served_again() -> None:
    viewer = Viewer()
    viewer.served([1, 2], 10.0)
    viewer.served([2], 20.0)
    viewer.unserved(1, 10.0)
    viewer.unserved(2, 10.0)
    assert viewer.seen == {2: 20.0}
