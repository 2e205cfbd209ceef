"""The fold: log records in, lessons out. Pure; the only clock is the records' own ``ts``.

A decision is open until its reward window ends. When a record with a later ``ts`` arrives, the window
is over: each slot that was seen is taught with its reward, in the order of decision position and slot.
A slot reported ``final`` is taught at once. The same records always give the same lessons in the same
order, wherever the fold was resumed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from bandit.config import LiveConfig, own_label, own_labels
from bandit.records import ActivateRequest, Decision, Door, Feedback, ItemFeedback, LoggedFeedback, Slot, UserRecord
from bandit.reward.formula import aggregate, combine
from bandit.reward.signals import Counted, LengthsOf, no_lengths, stayed, worth

#: How counts of learned slots by their evidence begin.
EVIDENCE: Final = "evidence "


class Record(NamedTuple):
    """A log record as the fold reads it; ``payload`` is JSON text."""

    pos: int
    ts: float
    kind: str
    event_id: str | None
    payload: bytes
    candidates: bytes | None = None


class Lesson(NamedTuple):
    """What became of one slot when its time was over.

    :ivar status: ``learned``, or why not: ``unseen``, ``undefined_reward`` (the formula has no value
        there), ``altered`` (another list was shown), ``not_shown``, ``not_activated``, ``pinned`` (not drawn);
        from the trainer ``held`` (what had learned it did not go live, and no other model holds it)
    :ivar evidence: why it counts as seen: ``impression``, ``signal:<name>``, ``activation`` or
        ``cascade`` (a later slot was seen)
    :ivar shared: resolved features of viewer and context, as the decision stored them
    :ivar dense: the item's dense columns, as the decision stored them
    :ivar experiment, arm: that the decision was part of
    """

    decision_pos: int
    slot: int
    event_id: str
    item_id: str
    version: int
    status: str
    evidence: str | None
    reward: float | None
    weight: float | None
    closed_pos: int
    closed_at: float
    shared: bytes
    dense: Sequence[float] = ()
    experiment: str | None = None
    arm: str | None = None


class Observer(Protocol):
    """Who is told what happened, as it happens: `bandit.statistics.folding`."""

    def apart(self, labels: Collection[str]) -> None:
        """The arms that learn apart are these from here on; see `bandit.config.own_label`."""

    def served(self, decision: Decision, candidates: bytes, ts: float, position: int, label: str | None) -> None:
        """A feed was drawn from these item versions, in this arm if it learns apart."""

    def seen(
        self, user: str | None, slot: Slot, ts: float, outcome: Counted, before: Counted | None,
        signals: Mapping[str, float], label: str | None,
    ) -> None:  # fmt: skip
        """A slot was seen, and this came of it as far as is known; ``before`` is what was said to have come of it."""

    def unseen(self, user: str, slots: Sequence[Slot], served_at: float) -> None:
        """The window of these has ended, and they were not seen."""

    def said(self, user: str, slot: Slot, feedback: ItemFeedback, ts: float) -> None:
        """The viewer said something of an item; whether it was seen is another matter."""

    def signed_up(self, record: UserRecord) -> None:
        """A viewer said what they are interested in."""


class Ended(NamedTuple):
    """A decision whose window is over.

    :ivar answered: feedback came in time
    :ivar activated, altered: see `Joined`
    :ivar rewards: by slot, of those that were seen
    """

    pos: int
    answered: bool
    activated: bool
    altered: bool
    rewards: Mapping[int, float]


class Watcher(Protocol):
    """Who counts how the loop does: `bandit.loop.counts`."""

    def decided(self, pos: int, event_id: str, decision: Decision, candidates: bytes, config: LiveConfig) -> None:
        """A feed was drawn, with this config; of its arm, if there are any."""

    def ended(self, feed: Ended) -> None:
        """A feed's window is over; its lessons follow."""

    def forgotten(self, pos: int) -> None:
        """A decision is gone from the log before its window ended."""

    def reported(self, event_id: str, *, is_open: bool) -> None:
        """Feedback came, for a window that is open or for none."""

    def unmatched(self, event_id: str) -> None:
        """Feedback has waited for its decision as long as a window lasts."""


class Joined(NamedTuple):
    """A decision as the fold knows it, whether or not anything of it was taught.

    :ivar activated: it was shown, or was never waiting to be
    :ivar altered: another list was shown
    """

    pos: int
    event_id: str
    activated: bool
    altered: bool


def closes_at(ts: float, window_s: float, activated_at: float | None) -> float:
    """When a decision's window ends: an activation in time starts it anew (the feed was fetched early).

    One that was logged before its decision counts from there: the window is never shorter than it would be.

    >>> closes_at(100.0, 10.0, None), closes_at(100.0, 10.0, 104.0), closes_at(100.0, 10.0, 95.0)
    (110.0, 114.0, 110.0)
    >>> closes_at(100.0, 10.0, 110.0)
    110.0
    """
    end = ts + window_s
    return max(ts, activated_at) + window_s if activated_at is not None and activated_at < end else end


class _ItemState:
    """What was reported of one item so far."""

    __slots__ = ("rewards", "seen", "signals")

    def __init__(self) -> None:
        self.signals: dict[str, float] = {}
        self.seen: bool | None = None
        self.rewards: list[float] = []


class _Open:
    """A decision whose window is open."""

    __slots__ = (
        "activated", "altered", "arm", "closes", "config", "counted", "door", "event_id", "items", "n_shown", "pos",
        "taught", "ts", "user",
    )  # fmt: skip

    def __init__(
        self, *, pos: int, ts: float, event_id: str, user: str | None, config: int, arm: str | None, door: Door | None,
        activated: bool, closes: float,
    ) -> None:  # fmt: skip
        self.pos = pos
        self.ts = ts
        self.user = user
        self.event_id = event_id
        self.config = config
        self.arm = arm
        self.door = door
        self.activated = activated
        self.closes = closes
        self.items: dict[str, _ItemState] | None = None
        self.taught: set[int] | None = None
        # By slot: what statistics have counted.
        self.counted: dict[int, Counted] | None = None
        self.n_shown: int | None = None
        self.altered = False

    def joined(self) -> Joined:
        return Joined(self.pos, self.event_id, self.activated, self.altered)

    def ended(self) -> Ended:
        earned = {place: counted.reward for place, counted in (self.counted or {}).items()}
        return Ended(self.pos, self.items is not None, self.activated, self.altered, earned)


class _Header(msgspec.Struct):
    """The part of a decision that joining needs; the rest is not even parsed."""

    config: int
    deferred: bool = False
    user: str | None = None
    arm: str | None = None
    door: Door | None = None


#: (combined signals, explicit reward, the decision's config, length of the item version in seconds or 0) to a reward.
RewardOf = Callable[[Mapping[str, float], float | None, LiveConfig, float], float | None]

_SAID_BY = b'"said_by"'
_header = msgspec.json.Decoder(_Header).decode
_decision = msgspec.json.Decoder(Decision).decode
_feedback = msgspec.json.Decoder(LoggedFeedback).decode
_activation = msgspec.json.Decoder(ActivateRequest).decode
_user = msgspec.json.Decoder(UserRecord).decode


class Fold:
    """State of the join between decisions and what came back.

    :param configs: config versions of the log before the record at hand, and none after it: the newest of them
        is in force. The caller adds each as its record comes
    :param payload_at: payload of the decision at a position, read again only when a slot of it is closed
    :param lengths_of: lengths of item versions, for rewards that ask for them
    :param reward_of: reward of a seen slot by its combined signals, its explicit reward, the decision's config and
        the length of its item
    :param observer: told what was served, seen and said; only while `observing`, of what is not known to it already
    :param watcher: told how the loop does; only beside an observer
    :param on_close: told of every decision whose window ends, before the record that ended it returns its lessons
    """

    def __init__(
        self,
        configs: Mapping[int, LiveConfig],
        payload_at: Callable[[int], bytes],
        *,
        lengths_of: LengthsOf = no_lengths,
        reward_of: RewardOf | None = None,
        on_close: Callable[[Joined], None] | None = None,
        observer: Observer | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._configs = configs
        self._payload_at = payload_at
        self._lengths_of = lengths_of
        self._reward_of = reward_of or configured_reward
        self._on_close = on_close
        self._observer = observer
        self._watcher = watcher
        self.observing = True
        self._open: dict[str, _Open] = {}
        self._closing: list[tuple[float, int, str]] = []
        # First position of what came before the decision that is now open.
        self._early: dict[str, int] = {}
        self._pending: dict[str, dict[int, Record]] = {}
        self._expiring: list[tuple[float, int, str]] = []
        self._labels: dict[tuple[int, str], str | None] = {}
        self.counts: Counter[str] = Counter()

    # ------------------------------------------------------------ what the trainer asks

    @property
    def n_open(self) -> int:
        """Decisions whose window is open."""
        return len(self._open)

    def open_decisions(self) -> list[Joined]:
        """Those whose window is open, oldest first."""
        return [decision.joined() for decision in self._open.values()]

    def next_close(self) -> float | None:
        """Log time at which the next open window ends; None if none is open."""
        while self._closing:
            closes, _, event_id = self._closing[0]
            decision = self._open.get(event_id)
            if decision is not None and decision.closes == closes:
                return closes
            heapq.heappop(self._closing)
        return None

    def reads_from(self, position: int) -> int:
        """Where a fold that resumes after ``position`` must begin to read, to know what is open there."""
        # Decisions enter in the order of their positions, so the first one is the oldest.
        oldest = next(iter(self._open.values()), None)
        firsts = [position + 1] if oldest is None else [oldest.pos]
        firsts += self._early.values()
        firsts += [next(iter(kept)) for kept in self._pending.values()]
        return min(firsts)

    def forget(self, users: Collection[str], before: int) -> int:
        """Viewers were erased: their open decisions from before a position are gone; how many those were.

        Called when every record up to one that is not earlier was folded, so that the fold stands as it would
        without the records of these viewers.
        """
        gone = [one for one in self._open.values() if one.user in users and one.pos < before]
        for decision in gone:
            del self._open[decision.event_id]
            self._early.pop(decision.event_id, None)
            if self._watcher is not None:
                self._watcher.forgotten(decision.pos)
        return len(gone)

    # ------------------------------------------------------------ folding

    def apply(self, record: Record) -> list[Lesson]:
        """Fold one record; what closed because of it, in the order in which it is to be learned."""
        lessons = self._close_due(record)
        self._expire(record.ts)
        if record.kind == "decision":
            self._decide(record)
        elif record.kind == "feedback":
            lessons += self._feedback(record)
        elif record.kind == "activation":
            self._activate(record)
        elif record.kind == "user" and self._observer is not None and self.observing:
            self._observer.signed_up(_user(record.payload))
        elif record.kind == "config" and self._observer is not None and self.observing:
            self._observer.apart(own_labels(self._configs))
        return lessons

    def _close_due(self, record: Record) -> list[Lesson]:
        if not self._closing or self._closing[0][0] > record.ts:
            return []
        due = []
        while self._closing and self._closing[0][0] <= record.ts:
            closes, _, event_id = heapq.heappop(self._closing)
            decision = self._open.get(event_id)
            # A window that was started anew stands in the heap twice; the old entry is void.
            if decision is not None and decision.closes == closes:
                del self._open[event_id]
                self._early.pop(event_id, None)
                due.append(decision)
        due.sort(key=lambda decision: decision.pos)
        return [lesson for decision in due for lesson in self._close(decision, record)]

    def _decide(self, record: Record) -> None:
        assert record.event_id is not None
        header = _header(record.payload)
        window_s = self._configs[header.config].document.reward_window_s
        decision = _Open(
            pos=record.pos,
            ts=record.ts,
            event_id=record.event_id,
            user=header.user,
            config=header.config,
            arm=header.arm,
            door=header.door,
            activated=not header.deferred,
            closes=closes_at(record.ts, window_s, None),
        )
        self._open[record.event_id] = decision
        heapq.heappush(self._closing, (decision.closes, decision.pos, decision.event_id))
        self.counts["decisions"] += 1
        stored = None
        if self._observer is not None and self.observing:
            stored = _decision(record.payload)
            self._observer.served(stored, record.candidates or b"", record.ts, record.pos, self._label(decision))
        if self._watcher is not None:
            stored = stored or _decision(record.payload)
            config = self._configs[header.config].of(header.arm)
            self._watcher.decided(record.pos, record.event_id, stored, record.candidates or b"", config)
        for earlier in self._pending.pop(record.event_id, {}).values():
            self._early.setdefault(record.event_id, earlier.pos)
            self.counts["joined_early"] += 1
            if earlier.kind == "feedback":
                # Its lessons, if final, wait for the window: they cannot be taught before this record.
                feedback = _feedback(earlier.payload)
                if self._observer is not None or feedback.reward is not None:
                    stored = stored or _decision(record.payload)
                    feedback = _by_item(feedback, stored)
                self._report(decision, feedback)
                if self._observer is not None:
                    assert stored is not None
                    self._observe(decision, stored, record.ts, feedback)
            else:
                self._show(decision, _activation(earlier.payload), record.ts)

    def _feedback(self, record: Record) -> list[Lesson]:
        decision = self._open.get(record.event_id or "")
        self.counts["feedback"] += 1
        if self._watcher is not None:
            self._watcher.reported(record.event_id or "", is_open=decision is not None)
        if decision is None:
            if _SAID_BY in record.payload and self._observer is not None and self.observing:
                self._said_late(_feedback(record.payload), record.ts)
            self._keep(record)
            return []
        feedback = _feedback(record.payload)
        final = {item.id for item in feedback.items if item.final}
        if not final and self._observer is None and feedback.reward is None:
            self._report(decision, feedback)
            return []
        stored = _decision(self._payload_at(decision.pos))
        feedback = _by_item(feedback, stored)
        self._report(decision, feedback)
        if self._observer is not None:
            self._observe(decision, stored, record.ts, feedback)
        if not final or not decision.activated or decision.altered:
            return []
        return [lesson for lesson in self._lessons(decision, stored, record, only=final) if lesson.status == "learned"]

    def _said_late(self, feedback: LoggedFeedback, ts: float) -> None:
        """What a viewer does not want they do not want, however old the feed is of which they say so."""
        assert self._observer is not None
        for item in feedback.items:
            if feedback.said_by is not None and item.id in feedback.said_of:
                slot = Slot(item.id, feedback.said_of[item.id], 1.0, None, False)
                self._observer.said(feedback.said_by, slot, item, ts)

    def _activate(self, record: Record) -> None:
        decision = self._open.get(record.event_id or "")
        self.counts["activations"] += 1
        if decision is None:
            self._keep(record)
            return
        self._show(decision, _activation(record.payload), record.ts)

    def _keep(self, record: Record) -> None:
        """Keep what came before its decision, for one window; what came after the window is merely late."""
        assert record.event_id is not None
        newest = self._configs[max(self._configs)] if self._configs else None
        window_s = newest.document.reward_window_s if newest is not None else 0.0
        self._pending.setdefault(record.event_id, {})[record.pos] = record
        heapq.heappush(self._expiring, (record.ts + window_s, record.pos, record.event_id))

    def _expire(self, now: float) -> None:
        while self._expiring and self._expiring[0][0] <= now:
            _, position, event_id = heapq.heappop(self._expiring)
            kept = self._pending.get(event_id)
            waited = None if kept is None else kept.pop(position, None)
            if kept is None or waited is None:
                continue
            self.counts["unmatched"] += 1
            if self._watcher is not None and waited.kind == "feedback":
                self._watcher.unmatched(event_id)
            if not kept:
                del self._pending[event_id]

    # ------------------------------------------------------------ one decision

    def _show(self, decision: _Open, request: ActivateRequest, ts: float) -> None:
        if not decision.activated:
            decision.activated = True
            window_s = self._configs[decision.config].document.reward_window_s
            decision.closes = closes_at(ts, window_s, ts)
            heapq.heappush(self._closing, (decision.closes, decision.pos, decision.event_id))
        if request.shown is not None:
            stored = _decision(self._payload_at(decision.pos))
            ranked = [slot.id for slot in stored.slots[: len(request.shown)]]
            decision.altered = ranked != request.shown
            decision.n_shown = len(request.shown)
            if decision.altered:
                self.counts["altered"] += 1

    def _report(self, decision: _Open, feedback: Feedback) -> None:
        signals = self._configs[decision.config].document.signals
        if decision.items is None:
            decision.items = {}
        for item in feedback.items:
            state = decision.items.setdefault(item.id, _ItemState())
            for name, value in item.signals.items():
                how = signals[name].combine if name in signals else "last"
                state.signals[name] = combine(how, state.signals.get(name), value)
            if item.seen is not None:
                state.seen = item.seen
            if item.reward is not None:
                state.rewards.append(item.reward)

    def _observe(self, decision: _Open, stored: Decision, ts: float, feedback: Feedback) -> None:
        """Tell the observer at once what a report says; what only the window's end can say, `_close` tells it."""
        assert self._observer is not None
        place_of = {slot.id: place for place, slot in enumerate(stored.slots)}
        told = [(place_of[item.id], item) for item in feedback.items if item.id in place_of]
        if decision.user is not None and self.observing:
            # Whatever list was shown: what they do not want, they do not want.
            for place, item in told:
                self._observer.said(decision.user, stored.slots[place], item, ts)
        if not decision.activated or decision.altered:
            return
        config = self._config_of(decision)
        evidences = self._evidence(decision, stored, config, cascade=False)
        lengths = self._lengths_of([slot.version for slot in stored.slots])
        for place, item in told:
            if evidences[place] is None or (decision.n_shown is not None and place >= decision.n_shown):
                continue
            state = decision.items[item.id] if decision.items is not None else _ItemState()
            reward = self._worth(state, config, lengths[place])
            if reward is not None:
                self._count(decision, place, stored.slots[place], ts, reward, state.signals, lengths[place])

    def _count(
        self, decision: _Open, place: int, slot: Slot, ts: float, reward: float, signals: Mapping[str, float],
        length_s: float,
    ) -> None:  # fmt: skip
        if decision.counted is None:
            decision.counted = {}
        before = decision.counted.get(place)
        outcome = Counted(reward, stayed(signals, length_s, self._config_of(decision).document.stayed_s))
        decision.counted[place] = outcome
        if self.observing:
            assert self._observer is not None
            self._observer.seen(decision.user, slot, ts, outcome, before, signals, self._label(decision))

    def _label(self, decision: _Open) -> str | None:
        """Whose statistics it counts for, beside those of all."""
        if decision.arm is None:
            return None
        key = decision.config, decision.arm
        if key not in self._labels:
            self._labels[key] = own_label(self._configs, *key)
        return self._labels[key]

    def _close(self, decision: _Open, record: Record) -> Iterator[Lesson]:
        if self._on_close is not None:
            self._on_close(decision.joined())
        served = self._config_of(decision).document.evidence == "served"
        if decision.items is None and not (served and decision.activated and not decision.altered):
            # Nothing was heard of it: it teaches nothing, and needs no row to say so.
            self.counts["silent" if decision.activated else "not_activated"] += 1
            if self._observer is not None and decision.user is not None and self.observing:
                stored = _decision(self._payload_at(decision.pos))
                self._observer.unseen(decision.user, stored.slots, decision.ts)
            if self._watcher is not None:
                self._watcher.ended(decision.ended())
            return
        stored = _decision(self._payload_at(decision.pos))
        unseen = []
        for lesson in self._lessons(decision, stored, record, only=None):
            yield lesson
            slot = stored.slots[lesson.slot]
            if lesson.status in ("unseen", "not_shown", "not_activated"):
                unseen.append(slot)
            elif lesson.status == "learned" and self._observer is not None:
                state = decision.items.get(slot.id) if decision.items is not None else None
                assert lesson.reward is not None
                self._count(
                    decision, lesson.slot, slot, record.ts, lesson.reward,
                    state.signals if state is not None else {}, self._lengths_of([slot.version])[0],
                )  # fmt: skip
        if unseen and self._observer is not None and decision.user is not None and self.observing:
            self._observer.unseen(decision.user, unseen, decision.ts)
        if self._watcher is not None:
            self._watcher.ended(decision.ended())

    def _lessons(self, decision: _Open, stored: Decision, record: Record, *, only: set[str] | None) -> Iterator[Lesson]:
        config = self._config_of(decision)
        evidences = self._evidence(decision, stored, config, cascade=only is None)
        lengths = self._lengths_of([slot.version for slot in stored.slots])
        for index, (slot, evidence) in enumerate(zip(stored.slots, evidences, strict=True)):
            if only is not None and slot.id not in only:
                continue
            if decision.taught is not None and index in decision.taught:
                continue
            state = decision.items.get(slot.id) if decision.items is not None else None
            reward = weight = None
            if not decision.activated:
                status = "not_activated"
            elif decision.altered:
                status = "altered"
            elif decision.n_shown is not None and index >= decision.n_shown:
                status = "not_shown"
            elif evidence is None:
                status = "unseen"
            else:
                reward = self._worth(state, config, lengths[index])
                status = "undefined_reward" if reward is None else "pinned" if index in stored.pinned else "learned"
            if status == "learned":
                weight = config.document.learning_weight.weight_of(slot.propensity)
                if decision.taught is None:
                    decision.taught = set()
                decision.taught.add(index)
            if only is None or status == "learned":
                self.counts[status] += 1
                if status == "learned":
                    self.counts[f"{EVIDENCE}{evidence}"] += 1
            yield Lesson(
                decision_pos=decision.pos,
                slot=index,
                event_id=decision.event_id,
                item_id=slot.id,
                version=slot.version,
                status=status,
                evidence=evidence,
                reward=reward,
                weight=weight,
                closed_pos=record.pos,
                closed_at=record.ts,
                shared=bytes(stored.shared),
                dense=slot.dense,
                experiment=stored.experiment,
                arm=stored.arm,
            )

    def _config_of(self, decision: _Open) -> LiveConfig:
        """As it is in the decision's arm and at its door."""
        return self._configs[decision.config].of(decision.arm, decision.door)

    def _worth(self, state: _ItemState | None, config: LiveConfig, length_s: float) -> float | None:
        """What a seen slot earned by all that was reported of it."""
        if state is None:
            return self._reward_of({}, None, config, length_s)
        explicit = aggregate(config.document.reward_aggregation or "last", state.rewards)
        return self._reward_of(state.signals, explicit, config, length_s)

    @staticmethod
    def _evidence(decision: _Open, stored: Decision, config: LiveConfig, *, cascade: bool) -> list[str | None]:
        """Why each slot counts as seen, or None; never from the slot's own reward."""
        document = config.document
        found: list[str | None] = []
        # The last slot that a signal speaks of which proves those above it, and not its own.
        proves_above = -1
        for index, slot in enumerate(stored.slots):
            state = decision.items.get(slot.id) if decision.items is not None else None
            shown = decision.n_shown is None or index < decision.n_shown
            evidence = None
            if state is not None and state.seen is not None:
                evidence = "impression" if state.seen else "declared unseen"
            elif state is not None:
                proofs = {n: document.signals[n].evidence for n in state.signals if n in document.signals}
                evidence = min((f"signal:{n}" for n, proof in proofs.items() if proof is True), default=None)
                if "above" in proofs.values():
                    proves_above = index
            if evidence is None and document.evidence == "served" and decision.activated and shown:
                evidence = "activation"
            found.append(evidence)
        later_seen = False
        for index in range(len(found) - 1, -1, -1):
            later_seen = later_seen or index < proves_above
            if found[index] is None and later_seen and cascade:
                found[index] = "cascade"
            elif found[index] == "declared unseen":
                found[index] = None
                continue
            later_seen = later_seen or found[index] is not None
        return found


def _by_item(feedback: LoggedFeedback, stored: Decision) -> LoggedFeedback:
    """The feedback with its reward given to the item that it is of."""
    if feedback.reward is None or not stored.slots:
        return feedback
    first = ItemFeedback(id=stored.slots[0].id, reward=feedback.reward)
    return msgspec.structs.replace(feedback, items=[*feedback.items, first], reward=None)


def configured_reward(
    signals: Mapping[str, float], explicit: float | None, config: LiveConfig, length_s: float
) -> float | None:
    """Reward of a seen slot as served: the explicit one, else the formula's, else (no signal) the default.

    :returns: within the config's reward range; None where the formula has no value
    """
    low, high = config.document.reward_range
    if explicit is not None:
        return min(max(explicit, low), high)
    if not signals:
        return config.document.default_reward
    reward = worth(config.formula, signals, length_s, config.watch, own=config.document.signals)
    return None if reward is None else min(max(reward, low), high)
