"""Decisions of a service's log in arrays: what was eligible, what was drawn, how likely anything was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numba import njit

from bandit.config import Drawing, LiveConfig
from bandit.features.hashing import HashedFeatures
from bandit.records import Decision
from bandit.slate.binding import NOTHING, Bound
from bandit.slate.drawing import ELIGIBLE, INELIGIBLE
from replay.errors import BadLog
from replay.events import F64, I64, U8, Candidates, event_of_slot
from replay.readers.service_items import I32, U32, ItemVersions
from replay.readers.service_past import F32, Past
from replay.readers.service_rules import Bools, bound_again, pools

#: Dense columns of so many candidates are kept for a batch: some 80 MB.
MOST_CELLS: Final = 1_000_000


class Entry(NamedTuple):
    """One decision that is to be evaluated, as it was read.

    :ivar rewards: by slot, of those that were seen
    """

    pos: int
    ts: float
    event_id: str
    decision: Decision
    versions: U32
    rewards: Mapping[int, float]


@dataclass(slots=True)
class Feeds:
    """What only policies over feeds understand of a batch: everything that another ranking would need."""

    entries: Sequence[Entry]
    configs: Mapping[int, LiveConfig]
    """Config versions of the log, as they were."""
    items: ItemVersions
    starts: I64
    """Shape (n + 1,): where each decision's slots begin."""
    of: I64
    """Shape (n + 1,): where each decision's candidates begin."""
    versions: U32
    """Shape (N,): item versions of all candidates, in the caller's order."""
    state: U8
    """Shape (N,): ELIGIBLE or INELIGIBLE, whatever stands above. What a deadline left unscored could have been shown:
    it is eligible."""
    at: I32
    """Shape (S,): what was shown, as a place among all of its decision's candidates."""
    floor: F64
    """Shape (S,): share of the draw that was uniform over all eligible."""
    least: F64
    """Shape (S,): no candidate of the slot had a smaller probability of being logged; 0 if nothing bounds it."""
    past: Past
    hashed: dict[int, HashedFeatures] = field(default_factory=dict)
    """Of decisions by their place, what all candidates share, once a policy has asked for it."""
    known: dict[int, F32 | BadLog | None] = field(default_factory=dict)
    """Of decisions by their place, the dense columns of all candidates or why there are none, once asked for."""
    whole: list[bytes] | None = None
    """Texts of candidates with their dense columns, once `service_texts.whole_texts` was asked for them."""
    bound: dict[int, Bound] = field(default_factory=dict)
    """Feed rules of decisions by their place; not of those to which no rule matters."""
    pools: dict[int, Bools] = field(default_factory=dict)
    """Of the same, shape (slots, n): what the rules left to be drawn at each slot."""

    def rules(self, i: int) -> Bound:
        """Feed rules of the decision at a place."""
        return self.bound.get(i, NOTHING)

    def dense(self, i: int, arm: str | None = None) -> F32 | None:
        """Dense columns of all candidates of a decision as they stood, shape (n, k); None if it had none.

        :param arm: as this other arm would have seen them, where arms learn apart
        :raises BadLog: the log gives others than the decision saw
        """
        if arm is not None and arm != self.entries[i].decision.arm:
            entry = self.entries[i]
            of_arm = self.past.columns([entry.decision], [entry.versions], [entry.pos], arm=arm)[0]
            if isinstance(of_arm, BadLog):
                raise of_arm
            return of_arm
        if i not in self.known:
            if len(self.known) * len(self.versions) > MOST_CELLS * len(self.entries):
                self.known.clear()
            # All at once where that is not too much: each in its turn would go back and forth in the log.
            all_of_them = range(len(self.entries)) if len(self.versions) <= MOST_CELLS else [i]
            found = self.past.columns(
                [self.entries[k].decision for k in all_of_them],
                [self.versions[self.of[k] : self.of[k + 1]] for k in all_of_them],
                [self.entries[k].pos for k in all_of_them],
            )
            self.known.update(zip(all_of_them, found, strict=True))
        dense = self.known[i]
        if isinstance(dense, BadLog):
            raise dense
        return dense


class Placed(NamedTuple):
    """What :func:`gather` makes of some decisions."""

    feeds: Feeds
    chosen: I64
    """Shape (S,): place among what was eligible and not placed above."""
    n_candidates: I64
    """Shape (S,): how many these were."""


def gather(entries: Sequence[Entry], configs: Mapping[int, LiveConfig], items: ItemVersions, past: Past) -> Placed:
    """Some decisions in arrays.

    :raises BadLog: a decision shows what it says was no candidate, or not eligible
    """
    starts = _offsets([len(one.decision.slots) for one in entries])
    of = _offsets([len(one.versions) for one in entries])
    versions = np.concatenate([one.versions for one in entries])
    state = np.full(len(versions), ELIGIBLE, np.uint8)
    for entry, begin, end in zip(entries, of[:-1].tolist(), of[1:].tolist(), strict=True):
        for places in entry.decision.ineligible.values():
            state[begin:end][places] = INELIGIBLE
    shown = np.array([slot.version for one in entries for slot in one.decision.slots], np.uint32)
    at, chosen, n_left, bad = _place(starts, of, versions, state, shown)
    if bad >= 0:
        wrong = entries[int(np.searchsorted(starts, bad, "right")) - 1]
        raise BadLog(
            f"the log is damaged: the decision at position {wrong.pos} (event {wrong.event_id!r}) shows at slot "
            f"{bad - starts[np.searchsorted(starts, bad, 'right') - 1]} what was not among its candidates"
        )
    floor = np.array([phi for one in entries for phi in floors_of(configs, one.decision)])
    feeds = Feeds(entries, configs, items, starts, of, versions, state, at, floor, np.empty(0), past)
    _apply_rules(feeds, chosen, n_left)
    feeds.least = _least(feeds, n_left)
    return Placed(feeds, chosen, n_left)


def candidates_of(feeds: Feeds) -> tuple[Candidates, I64]:
    """What could have been shown at each slot, and shape (C,): where each of these stands in ``feeds.versions``."""
    starts, places = _remaining(feeds.starts, feeds.of, feeds.state, feeds.at)
    if feeds.pools:
        starts, places = _as_ruled(feeds, starts, places)
    return Candidates(starts, feeds.items.keys(feeds.versions)[places]), places


def _apply_rules(feeds: Feeds, chosen: I64, n_left: I64) -> None:
    """Bind the rules of every decision again, and count at its slots only what they left there.

    :param chosen, n_left: see `Placed`; written
    :raises BadLog: a decision shows what its rules kept out
    """
    for i, entry in enumerate(feeds.entries):
        begin, end = int(feeds.of[i]), int(feeds.of[i + 1])
        rules = live_of(feeds.configs, entry.decision).document.rules_in_force
        bound = bound_again(entry.decision, rules, feeds.versions[begin:end], feeds.items)
        if bound is NOTHING:
            continue
        slots = slice(int(feeds.starts[i]), int(feeds.starts[i + 1]))
        at = feeds.at[slots]
        left = pools(feeds.state[begin:end], at, bound.restrictions)
        wrong = ~left[np.arange(len(at)), at]
        if wrong.any():
            raise BadLog(
                f"the log is damaged: the decision at position {entry.pos} (event {entry.event_id!r}) shows at slot "
                f"{int(np.argmax(wrong))} what its feed rules keep out"
            )
        feeds.bound[i], feeds.pools[i] = bound, left
        n_left[slots] = left.sum(1)
        chosen[slots] = [int(row[:place].sum()) for row, place in zip(left, at.tolist(), strict=True)]


def _as_ruled(feeds: Feeds, starts: I64, places: I64) -> tuple[I64, I64]:
    """What remained at each slot, without what rules kept out there."""
    parts: list[I64] = []
    for i in range(len(feeds.entries)):
        for slot in range(int(feeds.starts[i]), int(feeds.starts[i + 1])):
            if i in feeds.pools:
                parts.append(np.flatnonzero(feeds.pools[i][slot - feeds.starts[i]]) + feeds.of[i])
            else:
                parts.append(places[starts[slot] : starts[slot + 1]])
    return _offsets([len(part) for part in parts]), np.concatenate(parts) if parts else places


def policy_of(config: LiveConfig, decision: Decision) -> str:
    """Name of what drew a decision, as the reply said it."""
    if decision.fallback is not None or decision.apprentice is not None:
        return "caller_order"
    return str(config.document.explorer.__struct_config__.tag)


def live_of(configs: Mapping[int, LiveConfig], decision: Decision) -> LiveConfig:
    """The config that a decision was made by, as it is in its arm and at its door."""
    return configs[decision.config].of(decision.arm, decision.door)


def drawing_of(configs: Mapping[int, LiveConfig], decision: Decision) -> Drawing:
    """How a decision was drawn; with `Decision.strength` and the scores that is all but its rules."""
    document = live_of(configs, decision).document
    return document.drawing(decision.n_slots, decision.n_learned, fallback=decision.fallback is not None)


def floors_of(configs: Mapping[int, LiveConfig], decision: Decision) -> Sequence[float]:
    """phi of each slot that the decision has, as it was drawn with."""
    return drawing_of(configs, decision).floors[: len(decision.slots)]


def _least(feeds: Feeds, n_left: I64) -> F64:
    """What the draw's two parts give to even the least likely candidate.

    The explorer's part counts where it surely reached every candidate with a known share: epsilon-greedy
    and uniform ones, if all were scored and the shortlist cut nothing off.
    """
    n = len(feeds.entries)
    share, reach, most = np.zeros(n), np.zeros(n), np.ones(n)
    for i, entry in enumerate(feeds.entries):
        decision = entry.decision
        drawing = drawing_of(feeds.configs, decision)
        if drawing.by_caller or decision.scored == len(entry.versions):
            share[i], reach[i] = drawing.asked.spread, drawing.shortlist or np.inf
        most[i] = drawing.most
    event = event_of_slot(feeds.starts)
    # All but the best share what they get, limited, evenly.
    within = np.minimum(share[event], most[event] * n_left / np.maximum(n_left - 1, 1))
    sure = np.where(n_left <= reach[event], within, 0.0)
    least = (feeds.floor + (1.0 - feeds.floor) * sure) / n_left
    return np.asarray(np.where(n_left == 1, 1.0, least))


def _offsets(sizes: Sequence[int]) -> I64:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


@njit(cache=True, nogil=True)
def _place(starts, of, versions, state, shown):  # type: ignore[no-untyped-def]
    n_slots = len(shown)
    at = np.zeros(n_slots, np.int32)
    chosen = np.zeros(n_slots, np.int64)
    n_left = np.zeros(n_slots, np.int64)
    for i in range(len(starts) - 1):
        begin, end = of[i], of[i + 1]
        # How many eligible ones stand before each place.
        before = np.zeros(end - begin + 1, np.int32)
        for c in range(end - begin):
            before[c + 1] = before[c] + (state[begin + c] == 0)
        for s in range(starts[i], starts[i + 1]):
            found = -1
            for c in range(begin, end):
                if versions[c] == shown[s]:
                    found = c - begin
                    break
            if found < 0 or state[begin + found] != 0:
                return at, chosen, n_left, s
            place = before[found]
            for above in range(starts[i], s):
                if at[above] == found:
                    return at, chosen, n_left, s
                place -= at[above] < found
            at[s] = found
            chosen[s] = place
            n_left[s] = before[end - begin] - (s - starts[i])
    return at, chosen, n_left, -1


@njit(cache=True, nogil=True)
def _remaining(starts, of, state, at):  # type: ignore[no-untyped-def]
    total = 0
    out_starts = np.zeros(starts[-1] + 1, np.int64)
    for i in range(len(starts) - 1):
        eligible = 0
        for c in range(of[i], of[i + 1]):
            eligible += state[c] == 0
        for s in range(starts[i], starts[i + 1]):
            total += eligible - (s - starts[i])
            out_starts[s + 1] = total
    places = np.empty(total, np.int64)
    to = 0
    for i in range(len(starts) - 1):
        free = state[of[i] : of[i + 1]] == 0
        for s in range(starts[i], starts[i + 1]):
            for c in range(len(free)):
                if free[c]:
                    places[to] = of[i] + c
                    to += 1
            free[at[s]] = False
    return out_starts, places
