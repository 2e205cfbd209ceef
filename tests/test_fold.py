"""The fold: what is learned is a function of the log, however often the folding was interrupted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from bandit import records
from bandit.config import Config, ConstantWeight, IpsWeight, LiveConfig
from bandit.learning.fold import Fold, Joined, Lesson, Record, closes_at
from bandit.records import ActivateRequest, Decision, Feedback, ItemFeedback, Slot
from bandit.store.configs import ConfigRecord, read_config

START = 1_000.0
REWARD = "min(watch_s, 60) / 60 + like + comment - skip / 2"


class Story:
    """A log in the making. Every method adds one record at the time at hand."""

    def __repr__(self) -> str:
        return "\n".join(f"{one.pos} {one.ts} {one.kind} {one.event_id} {one.payload.decode()}" for one in self.records)

    def __init__(self, **config: Any) -> None:
        self.records: list[Record] = []
        self.now = START
        self.n_configs = 0
        self.config(**config)

    def _add(self, kind: str, payload: Any, event_id: str | None = None) -> int:
        position = len(self.records) + 1
        self.records.append(Record(position, self.now, kind, event_id, records.encode(payload)))
        return position

    def config(self, **config: Any) -> int:
        self.n_configs += 1
        document = Config(**{"reward_window_s": 10.0, "reward": REWARD, **config})
        return self._add("config", ConfigRecord(self.n_configs, document))

    def decide(self, event_id: str, ids: str = "abc", *, deferred: bool = False, config: int = 0) -> int:
        slots = [Slot(item, 1 + ord(item), 1 / (2 + place), 0.5, False) for place, item in enumerate(ids)]
        decision = Decision(
            slots=slots, shared=Raw(b'{"S":{"slot":"0"}}'), config=config or self.n_configs, model=None, read_pos=0,
            scored=len(slots), n_slots=len(slots), deferred=deferred,
        )  # fmt: skip
        return self._add("decision", decision, event_id)

    def report(self, event_id: str, *items: ItemFeedback) -> int:
        return self._add("feedback", Feedback(event_id, list(items)), event_id)

    def activate(self, event_id: str, shown: list[str] | None = None) -> int:
        return self._add("activation", ActivateRequest(shown), event_id)

    def tick(self) -> int:
        return self._add("tick", records.Tick())

    def wait(self, seconds: float) -> None:
        self.now += seconds

    # ------------------------------------------------------------ folding it

    def payload_at(self, position: int) -> bytes:
        return self.records[position - 1].payload

    def fold(self, reads_from: int = 1) -> FoldAt:
        return FoldAt(self, reads_from)

    def lessons(self) -> list[Lesson]:
        return self.fold().to(len(self.records))

    def learned(self) -> dict[str, float | None]:
        """Reward of every learned item, by id; of one decision."""
        return {one.item_id: one.reward for one in self.lessons() if one.status == "learned"}

    def statuses(self) -> list[str]:
        return [one.status for one in self.lessons()]


class FoldAt:
    """A fold, and how far it has come."""

    def __init__(self, story: Story, reads_from: int) -> None:
        self.story = story
        self.position = reads_from - 1
        before = [one for one in story.records[: self.position] if one.kind == "config"]
        self.configs = {live.version: live for live in (read_config(one.payload) for one in before)}
        self.fold = Fold(self.configs, story.payload_at)

    def to(self, position: int) -> list[Lesson]:
        """Lessons of the records up to there."""
        lessons = []
        for record in self.story.records[self.position : position]:
            if record.kind == "config":
                live = read_config(record.payload)
                self.configs[live.version] = live
            lessons += self.fold.apply(record)
        self.position = max(self.position, min(position, len(self.story.records)))
        return lessons


def watched(item: str, seconds: float = 60.0, **more: Any) -> ItemFeedback:
    return ItemFeedback(id=item, signals={"watch_s": seconds}, **more)


# ---------------------------------------------------------------- any log


def a_story(rng: random.Random) -> Story:
    """Some seventy records, in which all meets all: much stands at the very end of a window, or comes early.

    Made from a seed, not from Hypothesis' own choices: those are mostly short and few, and what breaks a fold
    takes three or four records that fit together.
    """
    story = Story(reward_window_s=rng.choice([3.0, 10.0]))
    decided: list[str] = []
    activated: set[str] = set()
    for _ in range(70):
        # One of the last few, or one that is yet to come.
        event_id = f"e{max(0, len(decided) + rng.choice([-4, -3, -2, -1, -1, -1, 0]))}"
        match rng.choice(["decide", "report", "report", "report", "activate", "wait", "wait", "wait", "config"]):
            case "decide":
                # A worker may not have heard yet of the newest config.
                config = rng.choice([story.n_configs, story.n_configs, rng.randint(1, story.n_configs)])
                decided.append(f"e{len(decided)}")
                story.decide(
                    decided[-1], rng.choice(["a", "ab", "abc", "cab"]), deferred=rng.random() < 0.4, config=config
                )
            case "report":
                story.report(event_id, *(an_item(rng, one) for one in rng.sample("abcz", rng.choice([1, 1, 2, 3]))))
            case "activate" if event_id not in activated:
                activated.add(event_id)
                story.activate(event_id, rng.choice([None, None, ["a"], ["a", "b"], ["b"], ["c", "a", "b"]]))
            case "wait":
                story.wait(rng.choice([1.0, 1.0, 2.0, 3.0, 5.0]))
                if rng.random() < 0.3:
                    story.tick()
            case "config" if rng.random() < 0.4:
                story.config(
                    reward_window_s=rng.choice([2.0, 3.0, 5.0, 10.0]),
                    evidence=rng.choice(["viewport", "served"]),
                    learning_weight=rng.choice([IpsWeight(), ConstantWeight(2.0)]),
                )
    return story


def an_item(rng: random.Random, item_id: str) -> ItemFeedback:
    names = rng.sample(["watch_s", "like", "comment", "skip"], rng.choice([0, 1, 1, 2]))
    return ItemFeedback(
        id=item_id,
        signals={name: rng.choice([0.0, 1.0, 30.0]) for name in names},
        seen=rng.choice([None, None, True, False]),
        reward=rng.choice([None, None, None, 0.25, 7.0]),
        final=rng.random() < 0.3,
    )


def stories() -> st.SearchStrategy[Story]:
    return st.integers(0, 2**32).map(lambda seed: a_story(random.Random(seed)))


@given(stories())
def test_stopping_anywhere_and_resuming_gives_the_same_lessons_in_the_same_order(story: Story) -> None:
    expected = story.lessons()
    running = story.fold()
    n_before = 0
    for stop in range(len(story.records) + 1):
        n_before += len(running.to(stop))
        first = running.fold.reads_from(stop)
        assert 1 <= first <= stop + 1
        resumed = story.fold(first)
        resumed.to(stop)
        assert resumed.fold.n_open == running.fold.n_open
        assert resumed.fold.next_close() == running.fold.next_close()
        # A fold that stops again at once need not read from further back, or restarts would never end.
        assert resumed.fold.reads_from(stop) >= first
        assert resumed.to(len(story.records)) == expected[n_before:]


@given(stories(), st.sets(st.integers(0, 60), max_size=20))
def test_stopping_many_times_gives_the_same_lessons_in_the_same_order(story: Story, stops: set[int]) -> None:
    found = []
    running = story.fold()
    for stop in sorted(stops):
        found += running.to(stop)
        running = story.fold(running.fold.reads_from(running.position))
        running.to(stop)
    found += running.to(len(story.records))
    assert found == story.lessons()


@given(stories())
def test_the_fold_agrees_with_looking_at_each_decision_alone(story: Story) -> None:
    found = sorted(
        ((one.closed_pos, one.decision_pos, one.slot, one.status, one.reward, one.weight) for one in story.lessons()),
    )
    assert found == sorted(_looked_up(story))


@given(stories())
def test_lessons_come_in_order_and_each_slot_is_decided_once(story: Story) -> None:
    lessons = story.lessons()
    order = [(one.closed_pos, one.decision_pos, one.slot) for one in lessons]
    by_record: dict[int, list[Lesson]] = {}
    for one in lessons:
        by_record.setdefault(one.closed_pos, []).append(one)
    assert [one[0] for one in order] == sorted(one[0] for one in order)
    for closed_pos, together in by_record.items():
        closing = [one for one in together if not _is_final(story, closed_pos, one)]
        assert [(one.decision_pos, one.slot) for one in closing] == sorted(
            (one.decision_pos, one.slot) for one in closing
        )
    assert len({(one.decision_pos, one.slot) for one in lessons}) == len(lessons)


def _is_final(story: Story, closed_pos: int, lesson: Lesson) -> bool:
    record = story.records[closed_pos - 1]
    return record.kind == "feedback" and record.event_id == lesson.event_id


def _looked_up(story: Story) -> list[tuple[Any, ...]]:
    """The same lessons, found in another way: each decision alone against the whole log."""
    found = []
    configs: dict[int, LiveConfig] = {}
    in_force: dict[int, LiveConfig] = {}
    for record in story.records:
        if record.kind == "config":
            live = read_config(record.payload)
            configs[live.version] = live
        in_force[record.pos] = configs[max(configs)]
    for record in story.records:
        if record.kind == "decision":
            found += _lessons_of(story, record, configs, in_force)
    return found


def _lessons_of(
    story: Story, record: Record, configs: dict[int, LiveConfig], in_force: dict[int, LiveConfig]
) -> list[tuple[Any, ...]]:
    decision = msgspec.json.decode(record.payload, type=Decision)
    config = configs[decision.config]
    window_s = config.document.reward_window_s
    own = [
        one
        for one in story.records
        if one.event_id == record.event_id
        and one.kind != "decision"
        and (one.pos > record.pos or record.ts < one.ts + in_force[one.pos].document.reward_window_s)
    ]
    closes = record.ts + window_s
    activations = [one for one in own if one.kind == "activation"]
    shown_by = next((one for one in activations if one.pos < record.pos or one.ts < closes), None)
    if decision.deferred and shown_by is not None:
        closes = max(record.ts, shown_by.ts) + window_s
    closing = next((one for one in story.records if one.pos > record.pos and one.ts >= closes), None)
    own = [one for one in own if closing is None or one.pos < closing.pos]
    if shown_by is not None and shown_by not in own:
        shown_by = None
    shown = None if shown_by is None else msgspec.json.decode(shown_by.payload, type=ActivateRequest).shown
    ids = [slot.id for slot in decision.slots]
    altered = shown is not None and ids[: len(shown)] != shown

    lessons: list[tuple[Any, ...]] = []
    taught: set[int] = set()
    ends: list[Record] = [one for one in own if one.kind == "feedback" and one.pos > record.pos]
    for end in [*ends, *([closing] if closing is not None else [])]:
        whole = end is closing
        active = not decision.deferred or (shown_by is not None and shown_by.pos < end.pos)
        by_now = altered and shown_by is not None and shown_by.pos < end.pos
        known = [one for one in own if one.pos < end.pos or one is end]
        reports = [msgspec.json.decode(one.payload, type=Feedback) for one in known if one.kind == "feedback"]
        final = {item.id for item in reports[-1].items if item.final} if not whole else set()
        if not whole and (not active or by_now or not final):
            continue
        served = config.document.evidence == "served" and active and not by_now
        if whole and not reports and not served:
            continue
        n_shown = len(shown) if shown is not None and shown_by is not None and shown_by.pos < end.pos else len(ids)
        proofs = [_proof(reports, item, config, served_slot=served and at < n_shown) for at, item in enumerate(ids)]
        above = [_proves_above(reports, item, config) for item in ids]
        for at, item in enumerate(ids):
            if at in taught or (not whole and item not in final):
                continue
            later = whole and (any(proofs[at + 1 :]) or any(above[at + 1 :])) and proofs[at] is None
            seen = bool(proofs[at]) or later
            reward = _reward_of(reports, item, config)
            if not active:
                status = "not_activated"
            elif by_now:
                status = "altered"
            elif at >= n_shown:
                status = "not_shown"
            elif not seen:
                status = "unseen"
            else:
                status = "learned"
            if status == "learned":
                taught.add(at)
                weight = config.document.learning_weight.weight_of(decision.slots[at].propensity)
                lessons.append((end.pos, record.pos, at, status, reward, weight))
            elif whole:
                lessons.append((end.pos, record.pos, at, status, None, None))
    return lessons


def _proof(reports: Sequence[Feedback], item: str, config: LiveConfig, *, served_slot: bool) -> bool | None:
    """Whether an item was seen by what was said of itself; None if nothing tells."""
    told = [one for report in reports for one in report.items if one.id == item]
    declared = [one.seen for one in told if one.seen is not None]
    if declared:
        return declared[-1]
    signals = {name for one in told for name in one.signals}
    if signals & {name for name, signal in config.document.signals.items() if signal.evidence is True} or served_slot:
        return True
    return None


def _proves_above(reports: Sequence[Feedback], item: str, config: LiveConfig) -> bool:
    """Whether something was said of an item that proves the slots above it, unless it was declared unseen."""
    told = [one for report in reports for one in report.items if one.id == item]
    signals = {name for one in told for name in one.signals}
    above = {name for name, signal in config.document.signals.items() if signal.evidence == "above"}
    return bool(signals & above) and all(one.seen is None for one in told)


def _reward_of(reports: Sequence[Feedback], item: str, config: LiveConfig) -> float | None:
    told = [one for report in reports for one in report.items if one.id == item]
    explicit = [one.reward for one in told if one.reward is not None]
    low, high = config.document.reward_range
    if explicit:
        return min(max(explicit[-1], low), high)
    values: dict[str, float] = {}
    for name in ("watch_s", "like", "comment", "skip"):
        sent = [one.signals[name] for one in told if name in one.signals]
        if sent:
            how = config.document.signals[name].combine
            values[name] = {"sum": sum(sent), "max": max(sent), "last": sent[-1]}[how]
    if not values:
        return config.document.default_reward
    reward = config.formula(values)
    return None if reward is None else min(max(reward, low), high)


# ---------------------------------------------------------------- one behaviour each


def test_a_window_ends_at_its_very_second_and_what_comes_then_is_late() -> None:
    story = Story()
    story.decide("e")
    story.wait(10.0)
    story.report("e", watched("a"))
    story.wait(100.0)
    story.tick()
    assert story.lessons() == []


def test_feedback_just_before_the_end_of_the_window_is_learned_from() -> None:
    story = Story()
    story.decide("e")
    story.wait(9.999)
    story.report("e", watched("a"))
    story.wait(0.001)
    tick = story.tick()
    lessons = story.lessons()
    assert [(one.slot, one.status, one.closed_pos) for one in lessons] == [
        (0, "learned", tick), (1, "unseen", tick), (2, "unseen", tick),
    ]  # fmt: skip


def test_windows_that_end_with_the_same_record_are_learned_in_the_order_of_decisions() -> None:
    story = Story(reward_window_s=10.0)
    story.decide("slow", "ab")
    story.config(reward_window_s=2.0)
    story.decide("quick", "ab")
    for event_id in ("quick", "slow"):
        story.report(event_id, watched("a"), watched("b"))
    story.wait(30.0)
    story.tick()
    assert [(one.event_id, one.slot) for one in story.lessons()] == [
        ("slow", 0), ("slow", 1), ("quick", 0), ("quick", 1),
    ]  # fmt: skip


def test_a_decision_is_joined_under_the_config_that_made_it() -> None:
    story = Story(reward="2 * like")
    story.decide("e", "a")
    story.config(reward="like", reward_window_s=1_000.0)
    story.report("e", ItemFeedback("a", {"like": 1.0}, seen=True))
    story.wait(10.0)
    story.tick()
    assert story.learned() == {"a": 2.0}


def test_repeated_signals_combine_as_configured() -> None:
    story = Story(reward="100 * comment + 10 * watch_s + like", reward_range=(-1e6, 1e6))
    story.decide("e", "a")
    for watch_s, like, comment in ((3.0, 1.0, 2.0), (1.0, 0.0, 2.0)):
        story.report("e", ItemFeedback("a", {"watch_s": watch_s, "like": like, "comment": comment}))
    story.wait(10.0)
    story.tick()
    assert story.learned() == {"a": 100 * 4.0 + 10 * 3.0 + 0.0}


def test_a_like_alone_proves_nothing_seen() -> None:
    story = Story()
    story.decide("e")
    story.report("e", ItemFeedback("b", {"like": 1.0}))
    story.wait(10.0)
    story.tick()
    assert story.statuses() == ["unseen"] * 3


def test_a_skip_alone_proves_the_slots_above_and_not_its_own() -> None:
    """Sent only when it happens, it would teach that whatever is seen is skipped."""
    story = Story()
    story.decide("e", "abcd")
    story.report("e", ItemFeedback("b", {"skip": 1.0}), ItemFeedback("c", {"skip": 1.0}))
    story.wait(10.0)
    story.tick()
    assert [(one.status, one.evidence, one.reward) for one in story.lessons()] == [
        ("learned", "cascade", 0.0), ("learned", "cascade", -0.5), ("unseen", None, None), ("unseen", None, None),
    ]  # fmt: skip


def test_learned_slots_are_counted_by_their_evidence() -> None:
    story = Story()
    story.decide("e", "abcd")
    story.report("e", watched("b"), ItemFeedback("c", seen=True), watched("a", final=True))
    story.wait(10.0)
    story.tick()
    running = story.fold()
    running.to(len(story.records))
    counts = {what: n for what, n in running.fold.counts.items() if what.startswith("evidence")}
    assert counts == {"evidence signal:watch_s": 2, "evidence impression": 1}


def test_slots_above_a_seen_one_count_as_seen_unless_declared_otherwise() -> None:
    story = Story(default_reward=-1.0)
    story.decide("e", "abcd")
    story.report("e", watched("c"), ItemFeedback("a", seen=False))
    story.wait(10.0)
    story.tick()
    assert [(one.status, one.evidence, one.reward) for one in story.lessons()] == [
        ("unseen", None, None), ("learned", "cascade", -1.0), ("learned", "signal:watch_s", 1.0),
        ("unseen", None, None),
    ]  # fmt: skip


def test_a_final_slot_is_learned_at_once_and_once() -> None:
    story = Story()
    story.decide("e")
    first = story.report("e", watched("b", final=True))
    story.report("e", watched("b", 0.0, final=True), watched("c"))
    story.wait(10.0)
    last = story.tick()
    assert [(one.item_id, one.closed_pos) for one in story.lessons() if one.status == "learned"] == [
        ("b", first), ("a", last), ("c", last),
    ]  # fmt: skip


def test_feedback_before_its_decision_is_joined_if_the_decision_comes_within_the_window() -> None:
    for gap, joined in ((9.5, True), (10.0, False)):
        story = Story()
        story.report("e", watched("a", final=True))
        story.wait(gap)
        story.decide("e", "a")
        story.wait(10.0)
        story.tick()
        assert story.learned() == ({"a": 1.0} if joined else {}), gap


def test_a_deferred_decision_that_is_never_activated_teaches_nothing() -> None:
    story = Story()
    story.decide("e", "a", deferred=True)
    story.report("e", watched("a", final=True))
    story.wait(10.0)
    story.tick()
    assert story.statuses() == ["not_activated"]


def test_an_activation_starts_the_window_anew() -> None:
    story = Story()
    story.decide("e", "a", deferred=True)
    story.wait(8.0)
    story.activate("e")
    story.wait(8.0)
    story.report("e", watched("a"))
    assert story.lessons() == []
    story.wait(2.0)
    story.tick()
    assert story.learned() == {"a": 1.0}


def test_an_activation_after_the_window_is_too_late() -> None:
    story = Story()
    story.decide("e", "a", deferred=True)
    story.report("e", watched("a"))
    story.wait(10.0)
    story.activate("e")
    story.wait(10.0)
    story.tick()
    assert story.statuses() == ["not_activated"]


def test_an_activation_before_its_decision_shortens_no_window() -> None:
    story = Story()
    story.activate("e")
    story.wait(6.0)
    story.decide("e", "a", deferred=True)
    decided_at = story.now
    story.wait(7.0)
    story.report("e", watched("a"))
    story.wait(3.0)
    story.tick()
    assert story.learned() == {"a": 1.0}
    # Those who answer a client whether it was late must say the same.
    assert closes_at(decided_at, 10.0, decided_at - 6.0) == decided_at + 10.0


def test_another_list_than_ranked_teaches_nothing_and_a_prefix_teaches_itself() -> None:
    for shown, expected in (
        (["b", "a"], ["altered"] * 3),
        (["a", "b"], ["learned", "learned", "not_shown"]),
    ):
        story = Story()
        story.decide("e", "abc")
        story.activate("e", shown)
        story.report("e", *map(watched, "abc"))
        story.wait(10.0)
        story.tick()
        assert story.statuses() == expected


def test_served_evidence_takes_every_shown_slot_for_seen() -> None:
    story = Story(evidence="served", default_reward=0.5)
    story.decide("e", "abc", deferred=True)
    story.activate("e", ["a", "b"])
    story.wait(10.0)
    story.tick()
    assert [(one.status, one.evidence, one.reward) for one in story.lessons()] == [
        ("learned", "activation", 0.5), ("learned", "activation", 0.5), ("not_shown", None, None),
    ]  # fmt: skip


def test_a_reward_without_a_value_teaches_nothing() -> None:
    story = Story(reward="1 / like")
    story.decide("e", "a")
    story.report("e", ItemFeedback("a", {"like": 0.0}, seen=True))
    story.wait(10.0)
    story.tick()
    assert story.statuses() == ["undefined_reward"]


def test_a_propensity_rounded_above_one_still_weighs_one() -> None:
    assert IpsWeight().weight_of(1.0 + 2**-52) == 1.0
    assert IpsWeight(clamp=10.0).weight_of(0.01) == 10.0


def test_early_feedback_to_one_event_costs_no_more_than_to_many() -> None:
    story = Story()
    running = story.fold()
    for _ in range(20_000):
        story.report("never", watched("a"))
        story.wait(0.0001)
    story.wait(100.0)
    story.tick()
    running.to(len(story.records))
    assert running.fold.counts["unmatched"] == 20_000
    assert running.fold.reads_from(len(story.records)) == len(story.records) + 1


# ---------------------------------------------------------------- what it tells besides


@given(stories())
def test_every_decision_is_told_of_once_when_its_window_ends(story: Story) -> None:
    told: list[Joined] = []
    running = story.fold()
    running.fold = Fold(running.configs, story.payload_at, on_close=told.append)
    lessons = running.to(len(story.records))
    decided = {one.pos: one for one in story.records if one.kind == "decision"}
    still_open = [one.pos for one in running.fold.open_decisions()]
    assert sorted([one.pos for one in told] + still_open) == sorted(decided)
    assert still_open == sorted(still_open)
    assert all(decided[one.pos].event_id == one.event_id for one in told)
    # What its lessons say agrees; those that were taught before an altered list was heard of stay taught.
    by_pos = {one.pos: one for one in told}
    for lesson in lessons:
        if lesson.status in ("not_activated", "altered"):
            assert by_pos[lesson.decision_pos].activated == (lesson.status == "altered")
    assert {one.pos for one in told if not one.activated}.isdisjoint(
        one.decision_pos for one in lessons if one.status == "learned"
    )


def test_rewards_can_be_worked_out_otherwise() -> None:
    story = Story()
    story.decide("e1")
    story.report("e1", watched("a", 30.0), ItemFeedback("b", {"like": 1.0}, seen=True, reward=0.5))
    story.report("e1", ItemFeedback("c", seen=True))
    story.wait(20.0)
    story.tick()
    asked: list[Any] = []

    def reward_of(signals: Any, explicit: float | None, config: LiveConfig, length_s: float) -> float | None:
        asked.append((dict(signals), explicit, config.version, length_s))
        return None if not signals else 7.0

    running = story.fold()
    lengths = {1 + ord("a"): 8.0, 1 + ord("b"): 9.0}
    running.fold = Fold(
        running.configs,
        story.payload_at,
        lengths_of=lambda numbers: [lengths.get(number, 0.0) for number in numbers],
        reward_of=reward_of,
    )
    lessons = running.to(len(story.records))
    assert asked == [({"watch_s": 30.0}, None, 1, 8.0), ({"like": 1.0}, 0.5, 1, 9.0), ({}, None, 1, 0.0)]
    assert [(one.status, one.reward) for one in lessons] == [
        ("learned", 7.0), ("learned", 7.0), ("undefined_reward", None),
    ]  # fmt: skip
