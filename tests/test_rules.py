"""Feed rules: kept at every slot or reported as relaxed, with propensities that are exact all the same.

`Feed.pool` says in plain Python what may stand at a slot; the drawing kernel must agree with it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandit.slate.binding import BLOCKED_BY, NOTHING, Bound, Marks, bind, blocked_mask, off_interest_mask, seen_mask
from bandit.slate.drawing import (
    ELIGIBLE,
    INELIGIBLE,
    UNSCORED,
    Slate,
    draw_slate,
    reserve,
    slate_propensity,
    slot_probabilities,
)
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform
from bandit.slate.rules import (
    Cap,
    Duplicates,
    NotInterested,
    Quota,
    Rule,
    Seen,
    Spacing,
    default_rules,
    name_of,
    rule_faults,
)
from bandit.statistics.attribute_table import attributes_of
from bandit.statistics.attributes import Attributes, key_of

Array = NDArray[Any]
unhurried = settings(deadline=None)


@dataclass
class Feed:
    """A decision under rules, small enough to be reasoned about."""

    scores: Array
    state: Array
    attributes: Attributes
    marks: Marks
    rules: list[Rule]
    n_slots: int
    explorer: Explorer
    shortlist: int
    floor: Array
    pins: dict[int, int] = field(default_factory=dict)
    reserved: dict[str, list[int]] = field(default_factory=dict)

    @property
    def bound(self) -> Bound:
        return bind(
            self.rules, self.attributes, self.marks, n_slots=self.n_slots, reserved=self.reserved, pins=self.pins
        )

    @property
    def how(self) -> dict[str, Any]:
        return {
            "explorer": self.explorer,
            "shortlist": self.shortlist,
            "floor": self.floor,
            "rules": self.bound.restrictions,
        }

    def draw(self, seed: int) -> Slate:
        return draw_slate(self.scores, self.state, n_slots=self.n_slots, seed=seed, **self.how)

    def propensity(self, slate: Any) -> Array:
        return slate_propensity(self.scores, self.state, np.array(slate, np.int32), **self.how)

    def at(self, slot: int, above: Any) -> Array:
        return slot_probabilities(self.scores, self.state, np.array(above, np.int32), slot=slot, **self.how)

    # ------------------------------------------------------------ in plain Python

    def keys(self, of: str, i: int) -> set[int]:
        if of == "tag":
            start = self.attributes.tag_start
            return set(self.attributes.tags[start[i] : start[i + 1]].tolist())
        return {int(getattr(self.attributes, of)[i])} - {0}

    def breaks(self, rule: Rule, i: int, slot: int, placed: dict[int, int]) -> bool:
        if isinstance(rule, Seen):
            return self.marks.seen is not None and bool(self.marks.seen[i])
        if isinstance(rule, Quota):
            kind = self.marks.new if rule.of == "new" else self.marks.off_interest
            return kind is not None and slot in self.reserved.get(name_of(rule), ()) and not kind[i]
        if isinstance(rule, Cap):
            return any(
                sum(key in self.keys(rule.of, other) for other in placed.values()) >= rule.most
                for key in self.keys(rule.of, i)
            )
        if isinstance(rule, Spacing):
            near = [other for at, other in placed.items() if 0 < abs(at - slot) <= rule.slots]
            return any(self.keys(rule.of, i) & self.keys(rule.of, other) for other in near)
        return False

    def pool(self, slot: int, above: list[int]) -> tuple[list[int], set[str]]:
        """What may be drawn at a slot, and the rules that gave way there."""
        placed = {**self.pins, **dict(enumerate(above))}
        gone = {*above, *self.pins.values(), *np.flatnonzero(self.state == INELIGIBLE).tolist()}
        if any(isinstance(rule, Duplicates) for rule in self.rules):
            taken = {self.attributes.identity[i] for i in placed.values()}
            gone |= {i for i, identity in enumerate(self.attributes.identity) if identity in taken}
        left = [i for i in range(len(self.scores)) if i not in gone]
        relaxed = set()
        for rule in self.rules:
            kept = [i for i in left if not self.breaks(rule, i, slot, placed)]
            if kept:
                left = kept
            elif left:
                relaxed.add(name_of(rule))
        return left, relaxed

    def expected(self, slot: int, above: list[int]) -> dict[int, float]:
        """Probability of everything that can stand at a slot, by the formula."""
        left, _ = self.pool(slot, above)
        pins = [at for at in sorted(self.pins) if at >= slot and self.pins[at] not in above]
        if pins and (pins[0] == slot or not left):
            return {self.pins[pins[0]]: 1.0}
        scored = [i for i in left if self.state[i] == ELIGIBLE and np.isfinite(self.scores[i])]
        best = sorted(scored, key=lambda i: (-self.scores[i], i))[: self.shortlist or None]
        if not best:
            return {i: 1 / len(left) for i in left}
        q = self._explore([float(self.scores[i]) for i in best])
        phi = float(self.floor[slot])
        return {i: (1 - phi) * dict(zip(best, q, strict=True)).get(i, 0.0) + phi / len(left) for i in left}

    def _explore(self, values: list[float]) -> list[float]:
        n = len(values)
        return slot_probabilities(
            np.array(values, np.float32), np.zeros(n, np.uint8), np.empty(0, np.int32), slot=0,
            explorer=self.explorer, shortlist=0, floor=np.zeros(1),
        ).tolist()  # fmt: skip

    def slates(self) -> dict[tuple[int, ...], float]:
        """Every slate that can be drawn, with its probability."""
        found: dict[tuple[int, ...], float] = {}

        def extend(above: list[int], p: float) -> None:
            options = self.expected(len(above), above) if len(above) < self.n_slots else {}
            options = {i: q for i, q in options.items() if q > 0}
            if not options:
                found[tuple(above)] = p
            for i, q in options.items():
                extend([*above, i], p * q)

        extend([], 1.0)
        return found


EXPLORERS = st.one_of(
    st.builds(squarecb, gamma_scale=st.floats(0, 1e3), n_learned=st.integers(0, 10**4)),
    st.builds(epsilon_greedy, epsilon=st.floats(0, 1)),
    st.builds(softmax, lambda_=st.floats(0, 30)),
    st.just(greedy()),
    st.just(uniform()),
)
RULES = st.one_of(
    st.just(Duplicates()),
    st.just(NotInterested()),
    st.just(Seen()),
    st.builds(Cap, of=st.sampled_from(["creator", "sound", "tag"]), most=st.integers(1, 3)),
    st.builds(Spacing, of=st.sampled_from(["creator", "sound"]), slots=st.integers(1, 3)),
    st.builds(Quota, of=st.sampled_from(["new", "off_interest"]), share=st.floats(0.01, 0.5)),
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "creator": st.sampled_from("abc"),
        "sound": st.sampled_from("xyz"),
        "group": st.sampled_from("gh"),
        "tags": st.lists(st.sampled_from("pqr"), max_size=2),
    },
)


def attributes(items: list[dict[str, Any]]) -> Attributes:
    return attributes_of([(f"v{i}", msgspec.json.encode(item)) for i, item in enumerate(items)])


@st.composite
def feeds(draw: st.DrawFn, most: int = 14, slots: int = 8) -> Feed:
    items = draw(st.lists(ITEM, min_size=1, max_size=most))
    n, n_slots = len(items), draw(st.integers(0, slots))
    state = np.array(draw(st.lists(st.sampled_from([0] * 6 + [1, 2]), min_size=n, max_size=n)), np.uint8)
    rules = draw(st.lists(RULES, max_size=7, unique_by=name_of))

    def mask() -> Array | None:
        one = st.one_of(st.none(), st.lists(st.integers(0, 1), min_size=n, max_size=n))
        bits = draw(one)
        return None if bits is None else np.array(bits, np.uint8)

    pins: dict[int, int] = {}
    if n_slots and draw(st.booleans()):
        may = [i for i in range(n) if state[i] != INELIGIBLE]
        places = draw(st.lists(st.sampled_from(may), max_size=3, unique=True)) if may else []
        at = draw(st.lists(st.integers(0, n_slots - 1), min_size=len(places), max_size=len(places), unique=True)) if (
            len(places) <= n_slots
        ) else []  # fmt: skip
        pins = dict(zip(at, places, strict=False))
        found = attributes(items).identity
        pins = {slot: i for slot, i in pins.items() if sum(found[i] == found[j] for j in pins.values()) == 1}
    free = [slot for slot in range(n_slots) if slot not in pins]
    quotas = [rule for rule in rules if isinstance(rule, Quota)]
    reserved = reserve(draw(SEED), free, [rule.share for rule in quotas])
    return Feed(
        scores=np.array(draw(st.lists(st.floats(-1, 1, width=16), min_size=n, max_size=n)), np.float32),
        state=state,
        attributes=attributes(items),
        marks=Marks(seen=mask(), new=mask(), off_interest=mask()),
        rules=rules,
        n_slots=n_slots,
        explorer=draw(EXPLORERS),
        shortlist=draw(st.integers(0, 6)),
        floor=np.array(draw(st.lists(st.floats(0, 1), min_size=n_slots, max_size=n_slots)), np.float64),
        pins=pins,
        reserved={name_of(rule): slots for rule, slots in zip(quotas, reserved, strict=True)},
    )


SEED = st.integers(0, 2**64 - 1)


def names(bound: Bound, bits: int) -> set[str]:
    return {name for r, name in enumerate(bound.names) if bits & (2 << r)}


# ---------------------------------------------------------------- any composition


@unhurried
@given(feeds(), SEED)
def test_every_slot_is_drawn_from_what_the_rules_leave_and_what_gave_way_is_told(feed: Feed, seed: int) -> None:
    slate, bound = feed.draw(seed), feed.bound
    above: list[int] = []
    for slot, item in enumerate(slate.chosen.tolist()):
        left, relaxed = feed.pool(slot, above)
        if slate.pinned[slot]:
            assert item in feed.pins.values()
            assert slate.propensity[slot] == 1.0
        else:
            assert item in left
            assert names(bound, int(slate.relaxed[slot])) == relaxed
            placed = {**feed.pins, **dict(enumerate(above))}
            for rule in feed.rules:
                assert feed.breaks(rule, item, slot, placed) == (name_of(rule) in relaxed)
        above.append(item)


@unhurried
@given(feeds(), SEED)
def test_a_feed_is_only_short_when_nothing_is_left_that_may_be_shown(feed: Feed, seed: int) -> None:
    chosen = feed.draw(seed).chosen.tolist()
    assert len(set(chosen)) == len(chosen)
    assert all(feed.state[i] != INELIGIBLE for i in chosen)
    if len(chosen) < feed.n_slots:
        assert feed.pool(len(chosen), chosen)[0] == []
        assert set(feed.pins.values()) <= set(chosen)
    for slot, item in feed.pins.items():
        assert item in chosen[: slot + 1] if slot < len(chosen) else True


@unhurried
@given(feeds(), SEED)
def test_probabilities_are_those_of_the_formula(feed: Feed, seed: int) -> None:
    chosen = feed.draw(seed).chosen.tolist()
    for slot in range(len(chosen)):
        expected = np.zeros(len(feed.scores))
        for item, each in feed.expected(slot, chosen[:slot]).items():
            expected[item] = each
        p = feed.at(slot, chosen[:slot])
        assert p == pytest.approx(expected, abs=1e-12)
        assert math.fsum(p) == pytest.approx(1, abs=1e-12)


@unhurried
@given(feeds(), SEED)
def test_drawing_looking_up_and_listing_agree_bit_for_bit(feed: Feed, seed: int) -> None:
    slate = feed.draw(seed)
    assert (slate.propensity > 0).all()
    assert feed.propensity(slate.chosen).tobytes() == slate.propensity.tobytes()
    for slot, item in enumerate(slate.chosen):
        p = feed.at(slot, slate.chosen[:slot])
        assert p[item] == slate.propensity[slot]
        assert slate.chances[slot] == np.count_nonzero(p)
        if slate.pinned[slot] or feed.how["floor"][slot] > 1e-300:
            assert slate.first[slot] == (item == np.flatnonzero(p)[0])
    for ours, theirs in zip(slate, feed.draw(seed), strict=True):
        assert np.array_equal(ours, theirs)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(feeds(most=6, slots=3), SEED)
def test_all_slates_together_have_probability_one(feed: Feed, seed: int) -> None:
    slates = feed.slates()
    products = {slate: math.prod(feed.propensity(slate)) for slate in slates}
    assert math.fsum(products.values()) == pytest.approx(1, abs=1e-9)
    for slate, p in slates.items():
        assert products[slate] == pytest.approx(p, abs=1e-12)
    assert tuple(feed.draw(seed).chosen.tolist()) in slates


@settings(deadline=None, max_examples=60)
@given(feeds(most=6, slots=3))
def test_what_cannot_be_drawn_has_no_propensity(feed: Feed) -> None:
    slates = feed.slates()
    size = len(next(iter(slates)))
    for slate in itertools.permutations(range(len(feed.scores)), size):
        if slate not in slates:
            assert math.prod(feed.propensity(slate)) == 0.0


@unhurried
@given(feeds(), SEED)
def test_what_a_rule_passed_over_was_better_than_all_that_was_left(feed: Feed, seed: int) -> None:
    slate, bound = feed.draw(seed), feed.bound
    rules = {name_of(rule): rule for rule in feed.rules}
    for slot in range(len(slate.chosen)):
        above = slate.chosen[:slot].tolist()
        left, _ = feed.pool(slot, above)
        for r, name in enumerate(bound.names):
            item = int(slate.passed[slot, r])
            if item >= 0:
                assert feed.breaks(rules[name], item, slot, {**feed.pins, **dict(enumerate(above))})
                assert item not in left
                scored = [feed.scores[i] for i in left if feed.state[i] == ELIGIBLE]
                assert feed.scores[item] >= max(scored, default=-np.inf)


@unhurried
@given(feeds(), SEED)
def test_without_rules_nothing_changes(feed: Feed, seed: int) -> None:
    plain = Feed(
        feed.scores, feed.state, feed.attributes, Marks(), [], feed.n_slots, feed.explorer, feed.shortlist, feed.floor
    )
    assert plain.bound is NOTHING
    # Rules that no candidate can break draw the very same.
    bare = plain.attributes._replace(identity=plain.attributes.item)
    idle = Feed(
        feed.scores, feed.state, bare, Marks(seen=np.zeros(len(feed.scores), np.uint8)),
        [Duplicates(), Seen(), Cap(of="tag", most=100)], feed.n_slots, feed.explorer, feed.shortlist, feed.floor,
    )  # fmt: skip
    ours, theirs = plain.draw(seed), idle.draw(seed)
    for part in ("chosen", "propensity", "exploratory"):
        assert getattr(ours, part).tobytes() == getattr(theirs, part).tobytes()


# ---------------------------------------------------------------- each rule, plainly


def feed_of(items: list[dict[str, Any]], rules: list[Rule], **given: Any) -> Feed:
    """Greedy, the first the best."""
    n = len(items)
    return Feed(
        **{
            "scores": -np.arange(n, dtype=np.float32), "state": np.zeros(n, np.uint8), "attributes": attributes(items),
            "marks": Marks(), "rules": rules, "n_slots": n, "explorer": greedy(), "shortlist": 0, "floor": np.zeros(n),
            **given,
        }
    )  # fmt: skip


def test_no_two_in_a_row_by_the_same_creator() -> None:
    items = [{"creator": c} for c in "aabbc"]
    feed = feed_of(items, [Spacing(of="creator")])
    slate = feed.draw(1)
    assert slate.chosen.tolist() == [0, 2, 1, 3, 4]
    assert slate.passed[:, 0].tolist() == [-1, 1, -1, -1, -1]


def test_no_two_within_n_slots_of_each_other() -> None:
    items = [{"sound": s} for s in "aaabcde"]
    assert feed_of(items, [Spacing(of="sound", slots=3)]).draw(1).chosen.tolist() == [0, 3, 4, 5, 1, 6, 2]


def test_spacing_gives_way_where_there_is_nothing_else() -> None:
    feed = feed_of([{"creator": "a"}, {"creator": "a"}, {"creator": "b"}], [Spacing(of="creator", slots=2)])
    slate = feed.draw(1)
    assert slate.chosen.tolist() == [0, 2, 1]
    assert [names(feed.bound, bits) for bits in slate.relaxed.tolist()] == [set(), set(), {"spacing:creator"}]


def test_items_without_the_attribute_are_not_kept_apart() -> None:
    assert feed_of([{}, {}, {"tags": []}], default_rules()).draw(1).chosen.tolist() == [0, 1, 2]


def test_at_most_m_of_a_tag() -> None:
    items = [{"tags": ["p"]}, {"tags": ["p", "q"]}, {"tags": ["q"]}, {"tags": ["r", "p"]}, {"tags": ["r"]}]
    feed = feed_of(items, [Cap(of="tag", most=1)], n_slots=4)
    slate = feed.draw(1)
    # 0 takes p, 2 takes q, 4 takes r; then the cap gives way.
    assert slate.chosen.tolist() == [0, 2, 4, 1]
    assert names(feed.bound, int(slate.relaxed[3])) == {"cap:tag"}


def test_one_group_is_one_video() -> None:
    items = [{"group": "g"}, {"group": "g"}, {}, {"group": "g"}]
    slate = feed_of(items, [Duplicates()]).draw(1)
    assert slate.chosen.tolist() == [0, 2]
    # Duplicates never give way, not even for a feed that is too short.
    assert not slate.relaxed.any()


def test_seen_items_come_last_and_it_is_said() -> None:
    feed = feed_of([{}, {}, {}], [Seen()], marks=Marks(seen=np.array([1, 0, 1], np.uint8)))
    slate = feed.draw(1)
    assert slate.chosen.tolist() == [1, 0, 2]
    assert [names(feed.bound, bits) for bits in slate.relaxed.tolist()] == [set(), {"seen"}, {"seen"}]


def test_the_weakest_rule_gives_way_first() -> None:
    items: list[dict[str, Any]] = [{"creator": "a"}, {"creator": "a"}, {"creator": "b"}]
    seen = Marks(seen=np.array([0, 0, 1], np.uint8))
    rules: list[Rule] = [Seen(), Spacing(of="creator")]
    assert feed_of(items, rules, marks=seen).draw(1).chosen.tolist() == [0, 1, 2]
    assert feed_of(items, rules[::-1], marks=seen).draw(1).chosen.tolist() == [0, 2, 1]


def test_a_reserved_slot_takes_one_of_its_kind() -> None:
    feed = feed_of(
        [{}] * 4, [Quota(of="new")], marks=Marks(new=np.array([0, 0, 0, 1], np.uint8)), reserved={"quota:new": [1, 2]}
    )
    slate = feed.draw(1)
    assert slate.chosen.tolist() == [0, 3, 1, 2]
    assert [names(feed.bound, bits) for bits in slate.relaxed.tolist()] == [set(), set(), {"quota:new"}, set()]


def test_a_pinned_item_stands_where_it_is_wanted_and_nowhere_else() -> None:
    items = [{"creator": c} for c in "abca"]
    feed = feed_of(items, [Spacing(of="creator")], pins={1: 3})
    slate = feed.draw(1)
    # 0 is by the creator of the pinned one: kept apart from it though it would stand above.
    assert slate.chosen.tolist() == [1, 3, 2, 0]
    assert slate.pinned.tolist() == [0, 1, 0, 0]
    assert slate.propensity.tolist() == [1.0] * 4


def test_a_pin_below_the_last_candidate_moves_up() -> None:
    slate = feed_of([{}, {}], [], pins={7: 0}, n_slots=10, floor=np.zeros(10)).draw(1)
    assert (slate.chosen.tolist(), slate.pinned.tolist()) == ([1, 0], [0, 1])


def test_a_short_shortlist_reaches_past_what_the_rules_keep_out() -> None:
    """The explorer sees the best M of what may be drawn, not what is left of the best M."""
    items = [{"creator": "a"}] * 300 + [{"creator": "b"}] * 5
    feed = feed_of(items, [Spacing(of="creator")], n_slots=4, shortlist=3, explorer=uniform(), floor=np.zeros(4))
    for seed in range(5):
        slate = feed.draw(seed)
        assert slate.propensity.tolist() == [1 / 3] * 4
        assert [i < 300 for i in slate.chosen.tolist()] in ([True, False] * 2, [False, True] * 2)


def test_restrictions_of_other_candidates_are_refused() -> None:
    feed = feed_of([{"creator": "a"}] * 3, [Spacing(of="creator")])
    feed.scores, feed.state = feed.scores[:2], feed.state[:2]
    with pytest.raises(ValueError, match="rules are bound"):
        feed.draw(1)
    with pytest.raises(ValueError, match="rules are bound"):
        feed.propensity([0])
    with pytest.raises(ValueError, match="rules are bound"):
        feed.at(0, [])


# ---------------------------------------------------------------- quotas by lot


def test_slots_are_reserved_in_proportion_and_never_twice() -> None:
    total = [0, 0]
    for seed in range(4_000):
        new, off = reserve(seed, [0, 2, 3, 5, 6, 7, 8], [0.1, 0.25])
        assert not set(new) & set(off)
        assert set(new) | set(off) <= {0, 2, 3, 5, 6, 7, 8}
        total[0] += len(new)
        total[1] += len(off)
    # 4,000 draws of a fraction: within five standard errors of .7 and 1.75 slots.
    assert total[0] / 4_000 == pytest.approx(0.7, abs=5 * math.sqrt(0.21 / 4_000))
    assert total[1] / 4_000 == pytest.approx(1.75, abs=5 * math.sqrt(0.1875 / 4_000))
    assert {len(reserve(seed, list(range(10)), [0.3])[0]) for seed in range(200)} == {3}
    assert reserve(1, [], [0.5]) == [[]]
    assert len({*itertools.chain(*reserve(1, [4, 5, 6], [0.5, 0.5]))}) in (2, 3)


# ---------------------------------------------------------------- masks


def test_seen_is_what_was_shown_since() -> None:
    rng = np.random.default_rng(3)
    identity = np.array([key_of("item", f"v{i}") for i in range(500)], np.int64)
    seen = {int(key): float(rng.uniform(0, 100)) for key in rng.choice(identity, 200, replace=False)}
    seen |= {key_of("item", f"other{i}"): 99.0 for i in range(300)}
    expected = [seen.get(int(key), -1.0) >= 40.0 for key in identity]
    keys = np.array([*seen, *seen], np.int64)
    times = np.array([*seen.values(), *([0.0] * len(seen))])
    assert seen_mask(identity, keys, times, 40.0).astype(bool).tolist() == expected
    keys.flags.writeable = False
    assert seen_mask(identity, keys, times, 40.0).astype(bool).tolist() == expected
    assert not seen_mask(identity, keys[:0], times[:0], 0.0).any()


def test_not_interested_holds_for_item_creator_sound_and_tag() -> None:
    found = attributes_of(
        [
            ("v0", b"{}"),
            ("v1", b'{"creator":"a"}'),
            ("v2", b'{"sound":"a"}'),
            ("v3", b'{"tags":["x","a"]}'),
            ("v4", b'{"group":"a"}'),
            ("v5", b'{"creator":"b","sound":"b","tags":["b"],"group":"b"}'),
        ]
    )

    def why(*blocked: int) -> list[str]:
        return [BLOCKED_BY[code] for code in blocked_mask(found, np.array(blocked, np.int64)).tolist()]

    assert why() == [""] * 6
    assert why(key_of("creator", "a")) == ["", "creator", "", "", "", ""]
    assert why(key_of("sound", "a"), key_of("tag", "a")) == ["", "", "sound", "tag", "", ""]
    assert why(key_of("group", "a"), key_of("item", "v0"), key_of("item", "v5")) == ["item", "", "", "", "item", "item"]


def test_off_interest_is_what_has_tags_and_none_that_is_liked() -> None:
    found = attributes_of([("a", b'{"tags":["p","q"]}'), ("b", b'{"tags":["r"]}'), ("c", b"{}")])
    assert off_interest_mask(found, np.array([key_of("tag", "q")])).tolist() == [0, 1, 0]
    assert off_interest_mask(found, np.zeros(0, np.int64)).tolist() == [1, 1, 0]


# ---------------------------------------------------------------- config


def test_rules_that_do_not_go_together_are_named() -> None:
    assert rule_faults(default_rules()) == []
    assert rule_faults([Quota(of="new", share=0.6), Quota(of="off_interest", share=0.6)]) == [
        "the quotas in rules take 1.2 of all slots; together they may take 1"
    ]
    assert len(rule_faults([Seen(), Cap(of="tag", most=1), Seen(window_s=5), Cap(of="tag", most=2)])) == 2


def test_states_are_those_of_the_slate() -> None:
    assert (ELIGIBLE, UNSCORED, INELIGIBLE) == (0, 1, 2)
