"""What is worked out from signals: pure, rising, the same at every length; and the shipped table and formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.config import Config, LiveConfig, Signal, check_config
from bandit.errors import InvalidConfig
from bandit.learning.fold import configured_reward
from bandit.reward.formula import Formula
from bandit.reward.presets import DEFAULT, PRESETS, resolved
from bandit.reward.signals import MOST_REWATCH, Lengths, Watch, WatchRow, WatchTable, derive, faults_of, stayed, worth
from tests.conftest import Api, Loop, watch_worth
from tests.test_config_api import get, put
from tests.test_feedback import rank, send, slots_of

SHIPPED = Watch(WatchTable())
seconds = st.floats(0, 1e6)
lengths = st.floats(0.001, 86_400)

# ---------------------------------------------------------------- the model behind reference-1

SKIPS, AGAIN = 0.4, 0.25


def _skipping(t: float) -> float:
    return 1.0 if t <= 0 else 0.5 * math.erfc(math.log(t / 1.5) / (0.6 * math.sqrt(2)))


def _staying(t: float) -> float:
    return math.exp(-((max(t, 0.0) / 30) ** 0.8))


def watched_longer(watch_s: float, length_s: float) -> float:
    """P(a play of a video of this length lasts longer)."""
    ends, rest = divmod(watch_s, length_s)
    if ends < 1:
        return SKIPS * _skipping(rest) + (1 - SKIPS) * _staying(rest)
    finished = SKIPS * _skipping(length_s) + (1 - SKIPS) * _staying(length_s)
    return finished * AGAIN * (_staying(length_s) * AGAIN) ** (ends - 1) * _staying(rest)


def quantile(level: float, length_s: float) -> float:
    """The least time that so many plays do not pass."""
    low, high = 0.0, 100.0 * length_s
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - watched_longer(middle, length_s) < level else (low, middle)
    return high


def plays(length_s: float, n: int) -> list[float]:
    """Quantiles at the middles of n equal parts: a sample without chance."""
    return [quantile((i + 0.5) / n, length_s) for i in range(n)]


def test_the_shipped_table_is_what_its_model_says() -> None:
    table = WatchTable()
    for row in table.rows:
        assert row.watch_s == [round(quantile(level, row.length_s), 2) for level in table.levels]


@pytest.mark.parametrize("length_s", [3.0, 5.0, 7.5, 12.0, 15.0, 22.0, 27.0, 45.0, 60.0, 90.0, 200.0, 300.0, 900.0])
def test_neither_short_nor_long_videos_win_for_their_length(length_s: float) -> None:
    """The mean of `watch` is the same at every length, between the table's lengths too."""
    told = [derive({"watch_s": watch_s}, length_s, SHIPPED) for watch_s in plays(length_s, 400)]
    assert np.mean([one["watch"] for one in told]) == pytest.approx(0.5, abs=0.025)


def test_seconds_and_completion_do_favour_a_length() -> None:
    means = {}
    for length_s in (10.0, 120.0):
        told = plays(length_s, 400)
        completed = [derive({"watch_s": watch_s}, length_s, SHIPPED)["completion"] for watch_s in told]
        means[length_s] = np.mean(told), np.mean(completed)
    assert means[120.0][0] > 1.7 * means[10.0][0]
    assert means[10.0][1] > 3 * means[120.0][1]


# ---------------------------------------------------------------- any table, any play


@st.composite
def tables(draw: st.DrawFn) -> WatchTable:
    """Any table that is accepted."""
    levels = sorted(draw(st.sets(st.floats(0.001, 0.999), min_size=2, max_size=6)))
    rows = [
        WatchRow(length_s, sorted(draw(st.lists(seconds, min_size=len(levels), max_size=len(levels)))))
        for length_s in sorted(draw(st.sets(lengths, min_size=1, max_size=4)))
    ]
    table = WatchTable("drawn", draw(lengths), levels, rows)
    assert faults_of(table) == []
    return table


@given(tables(), lengths, st.lists(seconds, min_size=2, max_size=8))
def test_a_position_is_a_share_and_never_falls_as_more_is_watched(
    table: WatchTable, length_s: float, watched: list[float]
) -> None:
    found = [Watch(table).position(watch_s, length_s) for watch_s in sorted(watched)]
    assert all(0 <= one <= 1 for one in found)
    assert all(b >= a - 1e-12 for a, b in pairwise(found))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 86_400))
def test_all_that_is_derived_has_a_value_in_its_range(watch_s: float, sent_length_s: float, length_s: float) -> None:
    for signals in ({}, {"watch_s": watch_s}, {"watch_s": watch_s, "length_s": sent_length_s}):
        found = derive(signals, length_s, SHIPPED)
        assert 0 <= found["completion"] <= 1
        assert found["rewatch"] in range(MOST_REWATCH + 1)
        assert 0 <= found["watch"] <= 1
        assert found["length_s"] >= 0


@pytest.mark.parametrize(
    ("signals", "length_s", "completion", "rewatch"),
    [
        ({}, 10.0, 0.0, 0), ({"watch_s": -3.0}, 10.0, 0.0, 0), ({"watch_s": 5.0}, 10.0, 0.5, 0),
        ({"watch_s": 10.0}, 10.0, 1.0, 0), ({"watch_s": 19.7}, 10.0, 1.0, 0), ({"watch_s": 19.9}, 10.0, 1.0, 1),
        ({"watch_s": 35.0}, 10.0, 1.0, 2), ({"watch_s": 1e6}, 10.0, 1.0, 10),
        # What the client says of the length goes before the item.
        ({"watch_s": 10.0, "length_s": 20.0}, 10.0, 0.5, 0), ({"watch_s": 10.0, "length_s": 20.0}, 0.0, 0.5, 0),
        # Nobody knows the length: as the typical one, and never watched again.
        ({"watch_s": 13.5}, 0.0, 0.5, 0), ({"watch_s": 270.0}, 0.0, 1.0, 0),
        ({"watch_s": 13.5, "length_s": -1.0}, 0.0, 0.5, 0), ({"watch_s": 13.5, "length_s": 0.0}, 90.0, 0.5, 0),
    ],
)  # fmt: skip
def test_completion_and_rewatch(
    signals: dict[str, float], length_s: float, completion: float, rewatch: float
) -> None:
    found = derive(signals, length_s, SHIPPED)
    assert found["completion"] == pytest.approx(completion)
    assert found["rewatch"] == rewatch


def test_the_end_of_a_video_is_the_end_a_little_early_or_late() -> None:
    at_the_end = SHIPPED.position(15.0, 15.0)
    assert SHIPPED.position(14.6, 15.0) < at_the_end < SHIPPED.position(15.4, 15.0)
    assert SHIPPED.position(14.999, 15.0) == pytest.approx(at_the_end, abs=0.005)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (WatchTable(levels=[0.5, 0.2], rows=[WatchRow(1.0, [1.0, 2.0])]), "levels must rise"),
        (WatchTable(levels=[0.2, 0.5], rows=[WatchRow(1.0, [2.0, 1.0])]), "falls"),
        (WatchTable(levels=[0.2, 0.5], rows=[WatchRow(1.0, [1.0, 2.0, 3.0])]), "3 values for 2 levels"),
        (WatchTable(levels=[0.2, 0.5], rows=[WatchRow(2.0, [1.0, 2.0]), WatchRow(1.0, [1.0, 2.0])]), "rise in length"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(table: WatchTable, told: str) -> None:
    with pytest.raises(InvalidConfig, match=told):
        check_config(Config(watch=table))


# ---------------------------------------------------------------- formulas


def test_a_formula_knows_the_derived_names() -> None:
    config = LiveConfig(1, Config(reward="10 * completion + rewatch + length_s / 1000"))
    assert configured_reward({"watch_s": 5.0}, None, config, 10.0) == pytest.approx(5.01)
    assert configured_reward({"like": 1.0}, None, config, 10.0) == pytest.approx(0.01)


def test_a_signal_of_the_callers_own_goes_before_a_derived_name() -> None:
    formula = Formula("completion")
    assert worth(formula, {"watch_s": 5.0, "completion": 0.1}, 10.0, SHIPPED, own={"completion"}) == 0.1
    assert worth(formula, {"watch_s": 5.0}, 10.0, SHIPPED, own={"completion"}) == 0.0
    assert worth(formula, {"watch_s": 5.0}, 10.0, SHIPPED, own={"watch_s"}) == 0.5


def test_a_formula_over_watch_needs_the_signal_that_it_is_worked_out_from() -> None:
    with pytest.raises(InvalidConfig, match="watch_s, which signals does not list"):
        check_config(Config(reward="watch", signals={"like": Signal()}))
    check_config(Config(reward="watch", signals={"watch": Signal()}))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_put_in_force_as_it_is(name: str) -> None:
    preset = PRESETS[name]
    config = Config(reward=f"preset:{name}")
    assert config.reward == preset.formula
    formula = check_config(config)
    assert set(preset.signals) <= config.signals.keys()
    assert formula.names & config.signals.keys() <= set(preset.signals)
    live = LiveConfig(1, config)
    low, _ = config.reward_range
    for signal, least in (("not_interested", -1.0), ("report", -2.0)):
        liked = {"watch_s": 30.0, "like": 1.0, signal: 1.0}
        reward = configured_reward(liked, None, live, 30.0)
        assert reward is not None
        assert low <= reward < min(0.0, least + 2)
    bare = worth(formula, {"report": 1.0}, 0.0, SHIPPED, own=config.signals)
    assert bare is not None
    assert bare >= low


def test_the_engagement_preset_has_the_published_ratios() -> None:
    formula = Formula(PRESETS["engagement"].formula)

    def of(**signals: float) -> float:
        found = worth(formula, signals, 10.0, SHIPPED, own=())
        assert found is not None
        return found

    assert of(comment=1.0) / of(like=1.0) == pytest.approx(27)
    assert of(not_interested=1.0) / of(like=1.0) == pytest.approx(-148)
    assert of(report=1.0) == pytest.approx(-10)
    assert of(watch_s=5.0) / of(like=1.0) == pytest.approx(0.01)


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfig, match="'hype'; there are balanced, watch"):
        resolved("preset:hype")


def test_the_default_is_the_balanced_preset() -> None:
    assert Config().reward == DEFAULT == PRESETS["balanced"].formula


# ---------------------------------------------------------------- lengths of items


def test_lengths_are_read_once_and_what_is_not_given_is_zero() -> None:
    asked: list[Sequence[int]] = []

    def versions_of(numbers: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        asked.append(list(numbers))
        texts = {1: b'{"length_s":12.5}', 2: b"{}", 3: b'{"length_s":"long"}', 4: b'{"length_s":-1}'}
        return {number: ("v", texts[number]) for number in numbers if number in texts}

    of = Lengths(versions_of)
    assert of([1, 2, 3]) == [12.5, 0.0, 0.0]
    assert of([3, 4, 1, 5]) == [0.0, 0.0, 12.5, 0.0]
    assert asked == [[1, 2, 3], [4, 5]]


# ---------------------------------------------------------------- over HTTP


def test_the_model_says_on_what_evidence_it_has_learned(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, "a", "b", "c")
    send(api, event_id, {"id": ids[1], "signals": {"watch_s": 5}}, {"id": ids[2], "seen": True})
    loop.end_windows()
    expected = {"cascade": 1, "impression": 1, "signal:watch_s": 1}
    assert api.call("GET", "/v1/model").body["evidence"] == expected
    assert b'feed_bandit_folded_total{what="evidence cascade"} 1.0' in api.call("GET", "/metrics").content


def test_health_says_when_feedback_proves_nothing(api: Api, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.service.UNPROVEN", 5)

    def likes(n: int) -> Any:
        for _ in range(n):
            event_id, ids = rank(api, "a", "b", "c")
            send(api, event_id, {"id": ids[0], "signals": {"like": 1}})
        loop.end_windows()
        return api.call("GET", "/healthz").body

    assert likes(1)["status"] == "ok"
    told = likes(1)
    assert told["status"] == "degraded"
    assert "feedback came for 6 slots" in told["problems"][0]
    event_id, ids = rank(api, "a", "b", "c")
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 5}})
    assert likes(1)["status"] == "ok"


def test_the_length_of_the_item_that_was_shown_counts(api: Api, loop: Loop) -> None:
    document, etag = get(api)
    assert put(api, document | {"reward": "completion"}, etag).status == 200
    api.call("PUT", "/v1/items", {"items": [{"id": "a", "features": {"length_s": 40}}]})
    event_id, _ = rank(api, "a", "b", "c")
    # Features that come later are those of another version.
    api.call("PUT", "/v1/items", {"items": [{"id": "a", "features": {"length_s": 80}}]})
    items = [{"id": "a", "signals": {"watch_s": 10}}, {"id": "b", "signals": {"watch_s": 10, "length_s": 10}}]
    send(api, event_id, *items, {"id": "c", "signals": {"watch_s": 13.5}})
    loop.end_windows()
    rewards = {slot["id"]: slot["reward"] for slot in slots_of(api, event_id)}
    assert rewards == {"a": 0.25, "b": 1.0, "c": 0.5}


def test_what_is_stored_of_a_preset_is_its_formula(api: Api) -> None:
    document, etag = get(api)
    reply = put(api, document | {"reward": "preset:watch"}, etag)
    assert (reply.status, reply.body["reward"]) == (200, PRESETS["watch"].formula)
    refused = put(api, document | {"reward": "preset:hype"}, '"2"')
    assert (refused.status, refused.body["error"]["code"]) == (400, "invalid_config")
    assert "satisfaction" in refused.body["error"]["detail"]["allowed"]
    assert get(api)[0]["reward"] == PRESETS["watch"].formula


def test_presets_are_listed_with_their_reasons(api: Api) -> None:
    body = api.call("GET", "/v1/presets").body
    assert [one["name"] for one in body["presets"]] == list(PRESETS)
    assert all(one["about"] and one["source"] and one["signals"] for one in body["presets"])


def test_a_config_of_before_has_the_first_table() -> None:
    stored: dict[str, Any] = msgspec.to_builtins(Config())
    del stored["watch"]
    assert msgspec.convert(stored, Config).watch == WatchTable()


def test_watch_time_without_any_length_is_compared_with_the_typical_one(api: Api, loop: Loop) -> None:
    event_id, ids = rank(api, "a", "b", "c")
    send(api, event_id, {"id": ids[0], "signals": {"watch_s": 5}})
    loop.end_windows()
    assert slots_of(api, event_id)[0]["reward"] == watch_worth(5)


@pytest.mark.parametrize(
    ("signals", "length_s", "enough_s", "expected"),
    [
        ({"watch_s": 7.0}, 0.0, 7.0, 1.0),
        ({"watch_s": 6.0}, 0.0, 7.0, 0.0),
        ({"watch_s": 4.9}, 5.0, 7.0, 1.0),
        ({"watch_s": 4.9}, 30.0, 7.0, 0.0),
        ({"watch_s": 4.9, "length_s": 5.0}, 30.0, 7.0, 1.0),
        ({"watch_s": 0.0}, 0.0, 7.0, 0.0),
        ({"like": 1.0}, 30.0, 7.0, None),
        ({"watch_s": 9.0}, 30.0, 0.0, None),
    ],
)
def test_who_watches_long_enough_or_to_the_end_stays(
    signals: dict[str, float], length_s: float, enough_s: float, expected: float | None
) -> None:
    assert stayed(signals, length_s, enough_s) == expected
