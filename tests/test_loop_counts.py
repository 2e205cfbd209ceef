"""What the trainer counts of the loop: against counting by hand, across restarts, and made again from the log."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit.errors import LogUnavailable
from bandit.learning.one_sided import LowerBound
from bandit.loop.check import DAYS_A_FALSE_ALARM, Check
from bandit.loop.comparison import (
    GROUPS,
    SCALED_BY,
    Comparing,
    Difference,
    Scale,
    Sequence,
    effective,
    feeds_needed,
    ratio_of,
    weighted,
)
from bandit.loop.counts import (
    COMPARED,
    DAY,
    DRAWN,
    FEEDS,
    GROUP_COLUMNS,
    HOUR,
    KEPT_S,
    MINUTE,
    REWARD,
    SEEN,
    SLOT_COLUMNS,
    SLOT_REWARD,
    SLOTS,
    Stretch,
)
from bandit.records import ActivateRequest, Candidate, Decision, Feedback, ItemFeedback, RankRequest, User
from bandit.store.data import DataDirectory
from bandit.store.loop import loop_state, stretches
from tests.conftest import Clock, Loop

N_ITEMS = 12
# A model that is held takes its lessons back; what was earned stays.
TAUGHT = "status IN ('learned', 'held')"


def play(loop: Loop, n: int, *, seed: int = 1, learn_every: int = 25) -> None:
    """Feeds of every kind: answered, half answered, silent, late, never shown, shown altered; and orphans."""
    rng = random.Random(seed)
    service = loop.service
    late: list[Feedback] = []
    for number in range(n):
        kind = rng.choice(["whole", "whole", "part", "silent", "late", "unshown", "altered"])
        deferred = kind in ("unshown", "altered")
        user = User(f"u{rng.randrange(40)}") if rng.random() < 0.8 else None
        ids: list[str | Candidate] = [f"v{k}" for k in rng.sample(range(N_ITEMS), rng.randint(2, N_ITEMS))]
        reply = service.rank(RankRequest(candidates=ids, slots=3, user=user, defer_activation=deferred))
        shown = [one.id for one in reply.ranking]
        if kind == "altered":
            service.activate(reply.event_id, ActivateRequest(shown=shown[::-1]))
        items = [
            ItemFeedback(
                item, reward=float(rng.random() < 0.1 + int(item[1:]) / 20), seen=True, final=kind == "whole"
            )
            for item in (shown if kind != "part" else shown[:1])
        ]
        feedback = Feedback(reply.event_id, items)
        if kind in ("whole", "part", "altered"):
            service.feedback([feedback])
        elif kind == "late":
            late.append(feedback)
        if number % 10 == 0:
            service.feedback([Feedback(f"nobody-{seed}-{number}", items)])
        loop.clock.pass_(rng.choice([0.5, 20.0]))
        if number % learn_every == 0:
            loop.learn()
    loop.clock.pass_(700)
    loop.learn()
    service.feedback(late)
    loop.end_windows()
    loop.end_windows()


def whole(loop: Loop) -> Stretch:
    """All that was counted, over all days."""
    found = Stretch()
    for one in stretches(loop.data.log, DAY, since=0).values():
        found.add(one)
    return found


def rows(loop: Loop, sql: str) -> list[Any]:
    return loop.data.log.query(sql)


def test_counts_are_those_of_counting_by_hand(loop: Loop) -> None:
    play(loop, 240)
    counted = whole(loop).counts
    decisions = {
        pos: (event_id, msgspec.json.decode(payload, type=Decision))
        for pos, event_id, payload in rows(
            loop, "SELECT pos, event_id, payload FROM log WHERE kind = 'decision'"
        )
    }
    assert counted["decisions"] == len(decisions) == 240
    assert counted["slots"] == sum(len(one.slots) for _, one in decisions.values())
    assert counted["explored"] == sum(one.explored for _, one in decisions.values())
    assert counted["exploring"] == pytest.approx(
        sum((one.share or 0) * len(one.slots) for _, one in decisions.values())
    )
    inverse = [1 / slot.propensity for _, one in decisions.values() for slot in one.slots]
    chances = [n for _, one in decisions.values() for n in one.chances]
    assert counted["inverse"] == pytest.approx(sum(inverse))
    assert counted["chances"] == sum(chances)
    assert counted["even"] == pytest.approx(sum(i / n for i, n in zip(inverse, chances, strict=True)))

    shown = {event_id for (event_id,) in rows(loop, "SELECT event_id FROM log WHERE kind = 'activation'")}
    feedback = rows(loop, "SELECT event_id, ts FROM log WHERE kind = 'feedback'")
    known = {event_id: pos for pos, (event_id, _) in decisions.items()}
    at = dict(rows(loop, "SELECT pos, ts FROM log WHERE kind = 'decision'"))
    on_time = {e for e, ts in feedback if e in known and ts < at[known[e]] + 600}
    unshown = {e for e, one in decisions.values() if one.deferred and e not in shown}
    feeds = {e for e, _ in decisions.values()} - unshown - shown
    assert counted["feedback"] == len(feedback)
    assert counted["orphans"] == sum(e not in known for e, _ in feedback) == 24
    assert counted["late"] == sum(e in known and ts >= at[known[e]] + 600 for e, ts in feedback) > 15
    assert counted["not_activated"] == len(unshown) > 15
    assert counted["altered"] == len(shown) > 15
    assert counted["feeds"] == len(feeds)
    assert counted["answered"] == len(feeds & on_time)
    learned = rows(loop, f"SELECT decision_pos, slot, reward, evidence FROM outcomes WHERE {TAUGHT}")
    assert counted["slots learned"] == counted["seen"] == len(learned)
    assert counted["evidence impression"] == sum(evidence == "impression" for *_, evidence in learned)
    assert counted["reward"] == pytest.approx(sum(reward for *_, reward, _ in learned))


def by_hand(loop: Loop) -> list[tuple[list[float], list[float], list[float], list[float]]]:
    """Of every compared feed, in the order in which windows ended: w by chance, w of the caller's order, w of the
    best, rewards."""
    learned = {
        (pos, slot): reward
        for pos, slot, reward in rows(loop, f"SELECT decision_pos, slot, reward FROM outcomes WHERE {TAUGHT}")
    }
    shown = {event_id for (event_id,) in rows(loop, "SELECT event_id FROM log WHERE kind = 'activation'")}
    found = []
    for pos, event_id, payload in rows(
        loop, "SELECT pos, event_id, payload FROM log WHERE kind = 'decision'"
    ):
        one = msgspec.json.decode(payload, type=Decision)
        if one.deferred or event_id in shown or one.fallback:
            continue
        p = [slot.propensity for slot in one.slots]
        found.append(
            (
                [1 / (n * each) for n, each in zip(one.chances, p, strict=True)],
                [(k in one.as_caller) / each for k, each in enumerate(p)],
                [(k not in one.explored_at) / each for k, each in enumerate(p)],
                [learned.get((pos, k), 0.0) for k in range(len(p))],
            )
        )
    return found


def test_what_is_served_is_compared_as_by_hand(loop: Loop) -> None:
    play(loop, 300)
    feeds = by_hand(loop)
    counted = whole(loop)
    groups = counted.groups.sum(axis=0)
    w, first, best, reward = ([x for feed in feeds for x in feed[k]] for k in range(4))
    assert groups[COMPARED] == len(w)
    for column, values in ((5, w), (7, first), (9, best)):
        assert groups[column] == pytest.approx(sum(a * b for a, b in zip(values, reward, strict=True)))
        assert groups[column + 1] == pytest.approx(sum(values))
    assert counted.counts["weight2_chance"] == pytest.approx(sum(x * x for x in w))

    compared = loop_state(loop.data.log).compared
    assert compared is not None
    assert (compared.low, compared.high) == (0.0, 1.0)
    assert compared.feeds == len(feeds) - SCALED_BY
    bounds = {"more": LowerBound(), "less": LowerBound()}
    for w_, _, _, r_ in feeds[SCALED_BY:]:
        g, top = np.array(r_), np.full(len(r_), 1 / 0.02)
        bounds["more"].add(np.array(w_), g, top, np.array([0, len(r_)]))
        bounds["less"].add(np.array(w_), 1 - g, top, np.array([0, len(r_)]))
    found = compared.difference("chance")
    assert found.value == pytest.approx(-bounds["more"].estimate)  # type: ignore[operator]
    assert found.high == pytest.approx(-bounds["more"].lower(0.025), abs=1e-9)
    assert found.low == pytest.approx(bounds["less"].lower(0.025), abs=1e-9)


def test_slots_are_counted_one_by_one(loop: Loop) -> None:
    play(loop, 80)
    slots = whole(loop).slots
    for place in range(3):
        drawn = rows(
            loop,
            "SELECT count(*), total(json_extract(slot.value, '$[2]')) FROM log,"
            f" json_each(log.payload, '$.slots') AS slot WHERE kind = 'decision' AND slot.key = {place}",
        )[0]
        seen = rows(loop, f"SELECT count(*), total(reward) FROM outcomes WHERE {TAUGHT} AND slot = {place}")
        assert slots[place, DRAWN] == drawn[0]
        assert slots[place, 3] == pytest.approx(drawn[1])
        assert (slots[place, SEEN], slots[place, SLOT_REWARD]) == pytest.approx(seen[0])
    assert not slots[3:].any()


def test_minutes_hours_and_days_say_the_same(loop: Loop) -> None:
    play(loop, 80)
    sums = [np.zeros(2), np.zeros(2), np.zeros(2)]
    for place, span in enumerate((MINUTE, HOUR, DAY)):
        for start, one in stretches(loop.data.log, span, since=0).items():
            assert start % span == 0
            sums[place] += one.groups[:, [FEEDS, REWARD]].sum(axis=0)
    assert sums[0] == pytest.approx(sums[1])
    assert sums[0] == pytest.approx(sums[2])
    assert sums[0][0] > 0


def assert_same(one: Stretch, other: Stretch) -> None:
    # Who has seen what by now is no matter of the counts.
    unlike = {"never_seen": 0}
    assert one.counts | unlike == pytest.approx(other.counts | unlike)
    assert one.groups == pytest.approx(other.groups)
    assert one.slots == pytest.approx(other.slots)


def test_a_killed_trainer_counts_nothing_twice_and_leaves_nothing_out(
    data: DataDirectory, clock: Clock
) -> None:
    loop = Loop(data, clock)
    for seed in range(3):
        play(loop, 60, seed=seed)
        # Killed: without a word, in the middle of things.
        loop.trainer.close()
        loop = Loop(data, clock)
    loop.learn()
    interrupted, state = whole(loop), loop_state(data.log)
    loop.close()
    with closing(sqlite3.connect(data.log.path)) as log, log:
        for table in ("loop_state", "loop_stretches", "loop_arms"):
            log.execute(f"DELETE FROM {table}")
    again = Loop(data, clock)
    again.learn()
    assert_same(whole(again), interrupted)
    anew = loop_state(data.log)
    assert anew.compared is not None
    assert state.compared is not None
    assert anew.compared.difference("chance") == pytest.approx(state.compared.difference("chance"))
    assert anew.check.slots == state.check.slots
    assert anew.check.log_wealth == pytest.approx(state.check.log_wealth)
    again.close()


def test_counts_name_no_viewer(loop: Loop) -> None:
    name = "a-viewer-of-whom-nothing-stays"
    reply = loop.service.rank(RankRequest(candidates=["a", "b"], user=User(name)))
    loop.service.feedback([Feedback(reply.event_id, [ItemFeedback("a", reward=1.0, seen=True)])])
    loop.end_windows()
    assert whole(loop).counts["feeds"] == 1
    for table in ("loop_state", "loop_stretches", "loop_arms"):
        assert name not in repr(rows(loop, f"SELECT * FROM {table}"))
    loop.service.erase(name, wait_s=0)
    loop.learn()
    assert not rows(loop, "SELECT 1 FROM log WHERE kind = 'decision'")
    assert whole(loop).counts["feeds"] == 1


@pytest.mark.parametrize(
    "damage",
    [
        "groups = x'00'",
        f"groups = x'{np.full((GROUPS, GROUP_COLUMNS), 1e200).tobytes().hex()}'",
        f"slots = x'{np.full((SLOTS, SLOT_COLUMNS), np.nan).tobytes().hex()}'",
        "counts = '{\"feeds\": 1e308}'",
        "counts = '{\"feeds\": \"many\"}'",
        "gauges = '['",
    ],
)
def test_damaged_counts_are_told_as_such(loop: Loop, damage: str) -> None:
    play(loop, 20)
    loop.service.loop()
    with closing(sqlite3.connect(loop.data.path / "log.db")) as other, other:
        other.execute(f"UPDATE loop_stretches SET {damage}")
    with pytest.raises(LogUnavailable, match="damaged"):
        loop.service.loop()


def test_old_minutes_and_hours_are_deleted(loop: Loop, clock: Clock) -> None:
    for _ in range(3):
        loop.service.rank(RankRequest(candidates=["a", "b"]))
        loop.end_windows()
        clock.pass_(KEPT_S[HOUR] / 2 + HOUR)
    for span in (MINUTE, HOUR, DAY):
        kept = list(stretches(loop.data.log, span, since=0))
        assert kept[-1] - kept[0] <= KEPT_S[span]
        assert len(kept) >= (2 if span == DAY else 1)


# ---------------------------------------------------------------- the check of propensities


def draws(rng: np.random.Generator, n: int, *, phi: float = 0.02, items: int = 50) -> tuple[Any, Any, Any]:
    """Of n draws: p of what was drawn, how many could be, phi; from softmax-like probabilities over a floor."""
    q = rng.dirichlet(np.full(items, 0.2), size=n)
    p = (1 - phi) * q + phi / items
    drawn = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return p[np.arange(n), drawn], np.full(n, float(items)), np.full(n, phi)


def checked(p: Any, n: Any, phi: Any, *, at_once: int = 500) -> Check:
    check = Check()
    for start in range(0, len(p), at_once):
        part = slice(start, start + at_once)
        check.add(1.0 / (p[part] * n[part]), 1.0 / phi[part])
    return check


def test_true_propensities_raise_no_alarm() -> None:
    # One false alarm in 1,000 days: of 200 days 2 or more have a chance of 1 in 57 at most; the seeds are fixed.
    alarms = sum(checked(*draws(np.random.default_rng(seed), 1_000)).alarm for seed in range(200))
    assert alarms <= 1
    assert DAYS_A_FALSE_ALARM == 1_000


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
def test_propensities_that_are_not_those_of_the_draw_raise_it(factor: float) -> None:
    p, n, phi = draws(np.random.default_rng(5), 20_000)
    wrong = np.maximum(np.minimum(p * factor, 1.0), phi / n)
    assert checked(wrong, n, phi).alarm
    assert not checked(p, n, phi).alarm


def test_uniform_draws_logged_as_greedy_raise_it() -> None:
    n = np.full(500, 10.0)
    assert checked(np.full(500, 0.9), n, np.full(500, 0.1)).alarm


@pytest.mark.parametrize("p", [0.0, -0.1, float("nan"), 1e-9])
def test_what_is_no_propensity_raises_it_at_once(p: float) -> None:
    with np.errstate(divide="ignore"):
        assert checked(np.array([0.5, p]), np.array([2.0, 2.0]), np.array([0.1, 0.1])).impossible == 1


# ---------------------------------------------------------------- the comparison


def test_the_bounds_hold_the_truth_at_every_look() -> None:
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        worth = rng.random(8)
        comparing = Comparing(Sequence(0.0, 1.0, "r", 0.0))
        p = rng.dirichlet(np.full(8, 0.3)) * 0.9 + 0.1 / 8
        truth = float(p @ worth) - float(worth.mean())
        missed = False
        for _ in range(8):
            drawn = rng.choice(8, 100, p=p)
            w = 1 / (8 * p[drawn])
            reward = (rng.random(100) < worth[drawn]).astype(float)
            comparing.add({"chance": (w, np.full(100, 10.0))}, reward, np.arange(101))
            found = comparing.kept().difference("chance")
            assert found.low is not None
            assert found.high is not None
            missed |= not found.low <= truth <= found.high
        wrong += missed
    # At most 5 % of sequences ever miss: of 60, 8 or more have a chance of 1 in 90; the seeds are fixed.
    assert wrong <= 7


def test_a_comparison_goes_on_where_it_was_left() -> None:
    rng = np.random.default_rng(1)
    w, r = rng.exponential(size=60), rng.random(60)
    at_once, in_parts = (Comparing(Sequence(0.0, 1.0, "r", 0.0)) for _ in range(2))
    starts, top = np.arange(0, 61, 3), np.full(60, 20.0)
    at_once.add({"caller": (w, top)}, r, starts)
    in_parts.add({"caller": (w[:30], top[:30])}, r[:30], starts[:11])
    kept = msgspec.json.decode(msgspec.json.encode(in_parts.kept()), type=Sequence)
    again = Comparing(kept)
    again.add({"caller": (w[30:], top[30:])}, r[30:], starts[10:] - 30)
    assert again.kept().difference("caller") == pytest.approx(at_once.kept().difference("caller"))


def test_the_scale_is_found_feed_by_feed_however_they_come() -> None:
    rng = np.random.default_rng(2)
    rewards = np.where(rng.random(600) < 0.5, rng.normal(1.0, 0.5, 600), 0.0)
    starts = np.arange(0, 601, 3)
    at_once, one_by_one = Scale((-10.0, 10.0)), Scale((-10.0, 10.0))
    assert at_once.add(rewards, starts) == SCALED_BY
    needed = sum(one_by_one.add(rewards[s : s + 3], np.array([0, 3])) for s in starts[:-1])
    assert needed == SCALED_BY
    assert at_once.range == one_by_one.range
    assert at_once.range is not None
    assert -1.0 < at_once.range[0] <= 0 < 2.0 < at_once.range[1] < 3.0


def test_rewards_that_are_all_0_have_no_scale_until_one_is_not() -> None:
    scale = Scale((-10.0, 10.0))
    assert scale.add(np.zeros(900), np.arange(0, 901, 3)) == 300
    assert scale.range is None
    assert scale.add(np.array([0.0, 2.0, 0.0, 0.0]), np.array([0, 2, 4])) == 1
    assert scale.range == (0.0, 2.0)


def test_intervals_are_read_off_the_spread_between_groups_of_viewers() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(400):
        # Viewers differ, and each comes back ten times: that is not as good as ten viewers.
        taste = rng.normal(0.5, 0.3, 300)
        group = rng.integers(0, GROUPS, 300)
        total = np.bincount(group, taste * 10 + rng.normal(0, 0.3, 300), GROUPS)
        count = np.bincount(group, np.full(300, 10.0), GROUPS)
        mean = ratio_of(total.astype(float), count.astype(float))
        assert mean.low is not None
        assert mean.high is not None
        missed += not mean.low <= 0.5 <= mean.high
    # 95 % of 400: 20 are expected, more than 37 have a chance of 1 in 5,000.
    assert missed <= 37


def test_of_few_groups_there_is_no_interval() -> None:
    count = np.zeros(GROUPS)
    count[:3] = 5.0
    assert ratio_of(count * 0.5, count)[1:] == (None, None)
    assert weighted(count, count, count * 0.5, count).value == pytest.approx(1.0)


def test_feeds_needed_falls_as_the_difference_grows() -> None:
    assert feeds_needed(10, Difference(0.1, -0.1, 0.3)) is None
    assert feeds_needed(1_000, Difference(None, None, None)) is None
    few = feeds_needed(1_000, Difference(0.2, -0.1, 0.5))
    many = feeds_needed(1_000, Difference(0.1, -0.2, 0.4))
    assert few is not None
    assert many is not None
    assert 1_000 < few < many
    assert effective(10.0, 10.0) == 10.0
    assert effective(0.0, 0.0) == 0.0
