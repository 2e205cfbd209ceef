"""The simulated world: fitted to what is public, true to its own truth, the same for the same seed."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

from bandit.config import Config
from replay.errors import BadQuestion
from replay.simulate import facts, viewing
from replay.simulate.catalogue import make_catalogue
from replay.simulate.kernels import Choices, Effects, slate_logits
from replay.simulate.play import Played, Table, Visited, play, policies_of
from replay.simulate.policies import Heard, NothingTwice
from replay.simulate.report import describe, gini, recovery, summary
from replay.simulate.truth import Truth, reward_of
from replay.simulate.world import BEGINS, DAY_S, History, Scenario, World, hour_of

WINDOW_S = 600.0


@cache
def world_of(**changes: object) -> World:
    return World(Scenario(**{"feeds": 400, "viewers": 30, "items": 400, "candidates": 50, "slots": 5, **changes}))  # type: ignore[arg-type]


@cache
def truth_of(world: World) -> Truth:
    return Truth(world.effects, world.lengths_s, reward_of(Config()))


def played(world: World, name: str) -> Played:
    table = Table(world, truth_of(world))
    return play(table, policies_of(table)[name](), window_s=WINDOW_S)


# ---------------------------------------------------------------- what is public


@cache
def large_world() -> World:
    return World(Scenario(feeds=20_000, viewers=150, seed=3))


def test_lengths_and_tags_are_as_known() -> None:
    made = make_catalogue(20_000, np.random.default_rng(1))
    assert np.quantile(made.length_s, (0.5, 0.9)) == pytest.approx(facts.LENGTH_S, rel=0.05)
    n_tags = np.bitwise_count(made.tags)
    assert np.bincount(n_tags, minlength=4) / len(n_tags) == pytest.approx(facts.TAGS_A_VIDEO, abs=0.015)
    given = np.sort([(made.tags >> np.uint64(tag) & np.uint64(1)).sum() for tag in range(facts.N_TAGS)])[::-1]
    assert given[0] / given.sum() == pytest.approx(facts.FREQUENT_TAGS[0], abs=0.03)
    assert given[:10].sum() / given.sum() == pytest.approx(facts.FREQUENT_TAGS[1], abs=0.05)


def test_a_catalogue_is_invented_whole_and_skewed() -> None:
    made = make_catalogue(500, np.random.default_rng(2))
    assert make_catalogue(500, np.random.default_rng(2)).titles == made.titles
    assert np.bincount(made.creator).max() > 3 * 500 / len(made.creator_names)
    features = made.features(0)
    assert {"creator", "sound", "language", "length_s"} <= features.keys()
    assert np.unique(made.sound, return_counts=True)[1].max() > 5


def test_sessions_and_hours_are_as_known() -> None:
    world = large_world()
    viewer, at, _, begins = world._requests
    old = ~world.is_new[viewer]
    days = (at[-1] - BEGINS) / DAY_S
    a_day = begins[old].sum() / (~world.is_new).sum() / days
    assert a_day == pytest.approx(facts.SESSIONS[0] / facts.DAYS, rel=0.15)
    # Half of the sessions' pauses are below a minute, as known; nobody is asked for at the hours of the night.
    own = [np.diff(at[viewer == each])[~begins[viewer == each][1:]] for each in range(150)]
    pauses = np.concatenate(own)
    assert (pauses < 60).mean() == pytest.approx(sum(facts.PAUSES[:2]), abs=0.02)
    hours = np.bincount([hour_of(each) for each in at[at < BEGINS + int(days) * DAY_S]], minlength=24)
    assert np.abs(hours / hours.sum() - facts.HOURS).sum() < 0.25


def test_videos_shown_at_random_are_played_as_known() -> None:
    # 6,000 slots that their viewers had never seen: one standard error is .005; .02 is four of them.
    world = large_world()
    history = History(world.scenario)
    rng = np.random.default_rng(4)
    outcomes = []
    for number in range(900):
        feed = world.feed(number)
        choices = world.choices(feed, history)
        slate = rng.permutation(len(feed.candidates))[:10]
        lived = world.live(choices, feed, slate)
        items = feed.candidates[slate[: lived.n_seen]]
        outcomes.append(lived.valid[np.isneginf(history.seen_at(feed.viewer)[items])])
        history.add(feed, items)
    valid = np.concatenate(outcomes)
    assert len(valid) > 5_000
    assert valid.mean() == pytest.approx(facts.VALID_PLAYS, abs=0.02)


def test_videos_differ_as_known() -> None:
    world = large_world()
    items = np.arange(world.scenario.items)
    usual = world.everybody(items, 0, BEGINS + DAY_S / 2)
    usual -= usual.mean() - np.log(facts.VALID_PLAYS / (1 - facts.VALID_PLAYS))
    a_video = viewing.sigmoid(usual).mean(axis=0)
    a_video *= facts.VALID_PLAYS / a_video.mean()
    middle, high = np.quantile(a_video, (0.5, 0.9))
    assert middle == pytest.approx(facts.VALID_PLAYS_OF_A_VIDEO[0], abs=0.015)
    # What is known counts some 160 plays a video: their luck is part of the spread.
    luck = np.sqrt(high * (1 - high) / 160)
    assert high == pytest.approx(facts.VALID_PLAYS_OF_A_VIDEO[1], abs=luck)


def test_watch_time_has_its_kinks_where_they_belong() -> None:
    quantiles = np.linspace(0.001, 0.999, 999)
    long = viewing.watch_s(quantiles, np.full(999, 27.0), True)
    assert (np.diff(long) >= 0).all()
    assert long.min() >= facts.VALID_FROM_S
    assert long.max() <= 2 * 27.0
    assert (viewing.watch_s(quantiles, np.full(999, 27.0), False) < facts.VALID_FROM_S).all()
    assert (viewing.watch_s(quantiles, np.full(999, 4.0), True) >= 4.0).all()
    assert (viewing.watch_s(quantiles, np.full(999, 4.0), False) < 4.0).all()


# ---------------------------------------------------------------- the truth


@pytest.mark.parametrize("leave", ["independent", "reward"])
def test_the_truth_is_the_mean_over_luck(leave: str) -> None:
    world = world_of(leave=leave)
    truth = truth_of(world)
    feed = world.feed(20)
    choices = world.choices(feed, History(world.scenario))
    slate = truth.best(choices, 5)
    rng = np.random.default_rng(5)
    sums, n_seen = [], []
    for _ in range(4_000):
        lived = world.live(choices, feed._replace(luck=rng.random((5, viewing.N_RANDOM))), slate)
        lengths = world.catalogue.length_s[feed.candidates[slate]]
        sums.append(sum(truth.reward(said, length) for said, length in zip(lived.said, lengths, strict=False)))
        n_seen.append(lived.n_seen)
    expected, seen = truth.slots(choices, slate)
    error = np.std(sums) / np.sqrt(len(sums))
    # Seeded; a true one fails at four standard errors in one of 16,000 seeds.
    assert np.mean(sums) == pytest.approx(expected.sum(), abs=4 * error)
    assert np.mean(n_seen) == pytest.approx(seen.sum(), abs=4 * np.std(n_seen) / np.sqrt(len(n_seen)))


def test_over_a_run_rewards_and_their_truth_agree() -> None:
    once = played(world_of(), "uniform")
    off = once.reward - once.value
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(len(off))


def test_what_stands_above_takes_away() -> None:
    choices = Choices(
        logits=np.zeros(3), creator=np.array([1, 1, 2]), sound=np.array([1, 2, 3]),
        tags=np.array([1, 2, 1], np.uint64), length=np.zeros(3, np.int64),
    )  # fmt: skip
    effects = Effects(position=0.1, fatigue=0.0, neighbour=1.0, tag_again=0.5)
    assert slate_logits(choices, effects, np.array([0, 1, 2])) == pytest.approx([0.0, -1.1, -0.7])


def test_no_feed_of_two_is_better_than_the_best_by_more_than_its_order() -> None:
    world = world_of(candidates=12)
    truth = truth_of(world)
    choices = world.choices(world.feed(3), History(world.scenario))
    best = truth.value(choices, truth.best(choices, 2))
    all_of_two = [truth.value(choices, np.array(pair)) for pair in itertools.permutations(range(12), 2)]
    assert max(all_of_two) - best < 0.02 * abs(best)
    assert best > np.quantile(all_of_two, 0.97)


def test_the_value_of_another_ranking_is_asked_where_this_one_went() -> None:
    world = world_of()
    table = Table(world, truth_of(world))
    visited: list[Visited] = []
    once = play(table, policies_of(table)["popularity"](), window_s=WINDOW_S, watch=visited.append)
    at = visited[50]
    assert table.truth.value_of(at.choices, at.slate[None, :]) == pytest.approx(once.value[50])
    rng = np.random.default_rng(6)
    draws = np.array([rng.permutation(50)[:5] for _ in range(200)])
    assert table.truth.value_of(at.choices, draws) < once.best[50]


def test_seen_videos_and_long_sessions_are_liked_less() -> None:
    world = world_of()
    feed = world.feed(30)._replace(begins=False)
    history = History(world.scenario)
    fresh = world.choices(feed, history).logits
    history.add(feed, feed.candidates[:10])
    again = world.choices(feed, history).logits
    assert (again[:10] < fresh[:10] - 1.0).all()
    assert ((again[10:] < fresh[10:]) & (again[10:] > fresh[10:] - 0.1)).all()


def test_tastes_change_when_they_are_told_to() -> None:
    world, same = world_of(drift=0.5), world_of()
    items = np.arange(400)
    assert (world.everybody(items, 0, BEGINS) - world.base == same.everybody(items, 0, BEGINS) - same.base).all()
    before, after = (world.everybody(items, number, BEGINS) for number in (199, 200))
    assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.75
    assert (same.everybody(items, 199, BEGINS) == same.everybody(items, 200, BEGINS)).all()


# ---------------------------------------------------------------- playing


def test_equal_seeds_play_equally() -> None:
    scenario = Scenario(feeds=120, viewers=10, items=300, candidates=30, slots=4, seed=7, silent=0.2, shuffled=True)
    first, second = (played(World(scenario), "popularity") for _ in range(2))
    assert all(map(np.array_equal, first[1:], second[1:]))


def test_policies_rank_as_they_must() -> None:
    world = world_of()
    values = {name: played(world, name).value.mean() for name in ("uniform", "popularity", "constant", "oracle")}
    assert values["uniform"] < values["popularity"] < values["oracle"]
    assert values["uniform"] < values["constant"] < values["oracle"]


class _Listener:
    """Shows the first ones, and remembers what it heard."""

    name = "listener"

    def __init__(self) -> None:
        self.heard: list[tuple[float, Heard]] = []

    def rank(self, feed: object, n_slots: int) -> np.ndarray:
        return np.arange(n_slots)

    def hear(self, heard: Heard, *, now: float) -> None:
        self.heard.append((now, heard))


def heard_in(**changes: object) -> list[tuple[float, Heard]]:
    world = world_of(**changes)
    listener = _Listener()
    play(Table(world, truth_of(world)), listener, window_s=WINDOW_S)
    assert [now for now, _ in listener.heard] == sorted(now for now, _ in listener.heard)
    return listener.heard


def test_viewers_who_are_silent_are_not_heard() -> None:
    assert heard_in(silent=1.0) == []
    told = heard_in(silent=0.5)
    assert 0.4 < len({heard.feed.number for _, heard in told}) / 400 < 0.6


def test_feedback_comes_late_twice_and_in_parts() -> None:
    late = heard_in(late=1.0)
    assert all(heard.late and now > heard.feed.at + WINDOW_S for now, heard in late)
    twice = heard_in(duplicate=1.0)
    assert len(twice) == 2 * len({heard.feed.number for _, heard in twice})
    parts = heard_in(shuffled=True)
    assert all(len(heard.items) == len(heard.said) == 1 for _, heard in parts)


def test_who_asks_for_more_was_heard_before() -> None:
    world = world_of()
    viewer, at, nth, _ = world._requests
    when = {heard.feed.number: now for now, heard in heard_in()}
    next_at = {(viewer[number], nth[number]): at[number] for number in range(400)}
    for number, now in when.items():
        assert now <= next_at.get((viewer[number], nth[number] + 1), np.inf)


def test_a_report_says_it_all() -> None:
    world = world_of()
    plays = [played(world, "uniform"), played(world, "oracle")]
    text = describe(plays, world.scenario, world.is_new)
    assert "oracle" in text
    assert "400 feeds of 30 simulated viewers" in text
    numbers = summary(plays[1], world.scenario, world.is_new)
    assert numbers["regret_per_feed"] == pytest.approx(0.0, abs=1e-9)
    assert 1 <= numbers["creators_per_feed"] <= 5
    assert gini(np.array([1, 1, 1, 1])) == 0.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"slots": 60, "candidates": 50}, "60 slots cannot be filled from 50"),
        ({"candidates": 350}, "350 candidates cannot be drawn from 280 videos; raise --items"),
        ({"drift": 1.5}, "--drift is 1.5"),
        ({"silent": -0.1, "feeds": 0}, "--feeds is 0"),
    ],
)
def test_what_cannot_be_played_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(BadQuestion, match=told):
        world_of(**changes)


def test_lists_of_vw_itself_play_the_same_twice() -> None:
    scenario = Scenario(feeds=250, viewers=4, items=30, candidates=20, slots=3, new_items=0)
    world = World(scenario)
    once = played(world, "ccb")
    assert once.value.shape == (250,)
    # The best feed is found slot by slot: one in another order can be a shade better.
    assert (once.value - once.best).max() < 0.1
    assert (once.reward == played(world, "ccb").reward).all()


def test_peers_without_a_rule_of_their_own_are_offered_nothing_twice() -> None:
    table = Table(world_of(), truth_of(world_of()))
    listener = _Listener()
    once = play(table, NothingTwice(listener, table.unseen), window_s=WINDOW_S)
    assert once.again[:100].sum() == 0
    assert all(len(heard.feed.candidates) <= 50 for _, heard in listener.heard)
    for _, heard in listener.heard[:50]:
        assert (heard.feed.candidates[: len(heard.items)] == heard.items).all()


def test_recovery_is_told_beside_showing_anything() -> None:
    world = world_of(drift=0.5)
    random, best = played(world, "uniform"), played(world, "oracle")
    found = recovery(best, random, 0.5)
    # The oracle knows of the change at once.
    assert found.recovered == pytest.approx(found.later / found.before)
    assert min(found.before, found.after, found.later) > 0
    assert recovery(random, random, 0.5) == (0.0, 0.0, 0.0, None)
    assert "Gain over uniform" in describe([best, random], world.scenario, world.is_new)
    assert best.age_shown.sum() == best.shown.sum() == 400 * 5
    assert random.age_offered.sum() == 400 * 50
