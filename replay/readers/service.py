"""The service's own log, a live one too: whole decisions with what was seen and what it earned.

Records are joined by the trainer's own fold, so replay and trainer agree on what was seen and what it was worth.
A decision becomes an event when its window has ended, by the log's own time; events come in the order in which
windows end, and those that end at the same record in the order of their positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bandit import records
from bandit.config import LiveConfig
from bandit.errors import LogUnavailable
from bandit.features.model_args import ModelArgs
from bandit.learning.fold import Fold, Joined, RewardOf
from bandit.learning.lessons import READ_AT_ONCE
from bandit.records import Decision
from bandit.reward.signals import Lengths
from bandit.store.configs import all_configs, read_config
from bandit.store.events import decisions_at
from bandit.store.items import versions
from bandit.store.models import ModelFiles, PublishedModel, every_model, newest_models
from bandit.store.reading import ReadOnlyLog
from bandit.store.retention import cut_of
from replay.errors import BadLog, BadQuestion
from replay.events import Batch, Needs, Problems, Texts, hash_key
from replay.readers import service_fields
from replay.readers.service_feeds import Entry, candidates_of, gather, live_of, policy_of
from replay.readers.service_fold import Payloads, folded
from replay.readers.service_items import ItemVersions
from replay.readers.service_past import Past
from replay.readers.service_reward import asked_reward

A_BATCH: Final = 512
# Of a batch that lists candidates: so many, at most (one decision may have more).
MOST_LISTED: Final = 1_000_000
MOST_EXAMPLES: Final = 10

STILL_OPEN: Final = "window still open at the end of the log"
NOT_SHOWN: Final = "never shown: it was to be activated, and was not"
ALTERED: Final = "another list was shown than the ranking's beginning"
UNDEFINED: Final = "the reward formula has no value for a slot that was seen"
BEFORE: Final = "before the position that was asked for"


class ServiceLog:
    """A service's data directory, read only; the log as it stood when it was opened.

    A slot that nothing says was seen has reward 0. A decision all of whose slots were reported ``final`` has no
    more to say: at the end of the log, where windows are open, such decisions count up to the first one that
    still waits.

    :param path: the data directory, or the ``log.db`` in it
    :param reward: formula over the raw signals as logged, in place of the configured one. Signals are combined as
        configured and nothing is clipped to the configured range. It goes before rewards that the client sent
        itself; those it may use by the name ``reward``. What was seen without a signal gets its value with all
        signals 0
    :param window_s: reward window in seconds, in place of the configured ones
    :param after: only decisions after this position: those that a model of that position has not learned from
    :raises BadLog: there is no log, or it is none of this release
    :raises BadQuestion: the formula cannot be used with this log
    """

    kind = "service"
    marginals = False

    def __init__(
        self, path: str | Path, *, reward: str | None = None, window_s: float | None = None, after: int = 0
    ) -> None:
        self.name = str(path)
        given = Path(path)
        self.path = given.parent if given.name == "log.db" else given
        if not (self.path / "log.db").is_file():
            raise BadLog(f"{given} is no data directory of a service: it holds no log.db")
        self.log = ReadOnlyLog(self.path)
        try:
            self.args = self._read_arguments()
            self.configs = all_configs(self.log)
            self.end = self.log.last_position()
        except LogUnavailable as error:
            self.log.close()
            raise BadLog(f"{given} cannot be read as a service's log: {error.message}") from None
        self.reward = reward
        if window_s is not None and not window_s > 0:
            raise BadQuestion(f"a reward window of {window_s} s is not possible; it must be above 0")
        self._window_s = window_s
        if after < 0:
            raise BadQuestion(f"after={after} is no position of a log; they begin at 1")
        self._after = after
        self._reward_of = None if reward is None else asked_reward(reward, self.configs)
        self.items = ItemVersions(self.log, traits=self.args.traits)
        self.past = Past(self.log, self.items, self.path)
        self.models = ModelFiles(self.path)
        self._counts: Counter[str] = Counter()
        self._examples: list[str] = []
        self._position = 0

    def _read_arguments(self) -> ModelArgs:
        bases = self.log.read_kinds(["base"])
        if not bases:
            raise BadLog(f"the log in {self.path} has no base; a log of this release begins with one")
        base: records.Base = records.read_stored(bases[0].payload, records.Base, what="the first record")
        return ModelArgs.parse(base.arguments)

    def close(self) -> None:
        """Close the log's connections; it can be read again."""
        self.past.close()
        self.log.close()

    # ------------------------------------------------------------ what a log tells

    @cached_property
    def reward_range(self) -> tuple[float, float] | None:
        """What any feed could have earned: the configured range of a slot, over as many slots as feeds have.

        Of the configs that decisions were made under. None with an asked formula, which nothing bounds, and for a
        log without decisions.
        """
        if self._reward_of is not None:
            return None
        # Reads every decision, so only when asked.
        rows = self.log.query(
            "SELECT json_extract(payload, '$.config'), max(json_array_length(payload, '$.slots')) FROM log"
            " WHERE kind = 'decision' AND pos <= ? GROUP BY 1",
            (self.end,),
        )
        ranges = [(n, self.configs[config].document.reward_range) for config, n in rows]
        if not ranges:
            return None
        return min(n * min(0.0, low) for n, (low, _) in ranges), max(n * max(0.0, high) for n, (_, high) in ranges)

    @property
    def deleted_before(self) -> int:
        """Position before which records were deleted for their age or number; 1: none was."""
        try:
            return cut_of(self.log)
        except LogUnavailable:
            # Of a release that deleted none.
            return 1

    def problems(self) -> Problems:
        """Decisions that were left out in the last full reading."""
        return Problems(dict(self._counts), tuple(self._examples))

    def size(self) -> int:
        """Records."""
        return self.end

    def done(self) -> int:
        """Of these, how many the current reading has passed."""
        return self._position

    def published(self) -> list[PublishedModel]:
        """Models that the log says were published, those of arms too; newest first, whether or not files are kept."""
        try:
            return every_model(self.log, until=self.end)
        except LogUnavailable:
            # Of a release whose arms learned together.
            return [one for one in newest_models(self.log, limit=1 << 31) if one.published_pos <= self.end]

    # ------------------------------------------------------------ reading

    def batches(self, needs: Needs) -> Iterator[Batch]:
        """Events in the order in which their windows ended; see the module.

        :raises BadLog: the log is damaged, or cannot be read now
        :raises BadQuestion: a field that no decision has; a formula that does not fit the feedback
        """
        self._counts, self._examples, self._position = Counter(), [], 0
        try:
            if any(name not in service_fields.OWN for name in needs.fields):
                service_fields.check(needs.fields, self._sample())
            group: list[tuple[Joined, Verdicts]] = []
            for whole in self._joined():
                group.append(whole)
                if len(group) >= A_BATCH:
                    yield from self._batches_of(group, needs)
                    group = []
            if group:
                yield from self._batches_of(group, needs)
        except LogUnavailable as error:
            raise BadLog(error.message) from None

    def told(self, reward_of: RewardOf) -> Iterator[Joined]:
        """Every decision whose time is over; ``reward_of`` is asked of each slot that was seen, once.

        :raises BadLog: the log is damaged, or cannot be read now
        """
        self._counts, self._examples, self._position = Counter(), [], 0
        own, self._reward_of = self._reward_of, reward_of
        try:
            for joined, _ in self._joined():
                yield joined
        except LogUnavailable as error:
            raise BadLog(error.message) from None
        finally:
            self._reward_of = own

    def _joined(self) -> Iterator[tuple[Joined, Verdicts]]:
        """Every decision whose time is over, and what became of its slots."""
        configs: dict[int, LiveConfig] = {}
        kept = Payloads(self.log)
        closed: list[Joined] = []
        fold = Fold(
            configs,
            kept.at,
            lengths_of=Lengths(lambda numbers: versions(self.log, numbers)),
            reward_of=self._reward_of,
            on_close=closed.append,
        )
        verdicts: dict[int, Verdicts] = {}
        while self._position < self.end:
            rows = self.log.read(self._position, min(READ_AT_ONCE, self.end - self._position))
            rows = [row for row in rows if row.pos <= self.end]
            if not rows:
                break
            for row in rows:
                if row.kind == "config":
                    live = read_config(row.payload)
                    configs[live.version] = self._asked_window(live)
                elif row.kind == "decision":
                    kept.keep(row.pos, row.payload)
                for lesson in folded(fold, row):
                    verdicts.setdefault(lesson.decision_pos, {})[lesson.slot] = (lesson.status, lesson.reward)
                for one in closed:
                    kept.drop(one.pos)
                    yield one, verdicts.pop(one.pos, {})
                closed.clear()
            self._position = rows[-1].pos
        yield from self._settled(fold.open_decisions(), verdicts)

    def _settled(self, waiting: list[Joined], verdicts: dict[int, Verdicts]) -> Iterator[tuple[Joined, Verdicts]]:
        """Open decisions that are wholly reported, up to the first that is not.

        All those of the log's end, wherever they stand, would be a choice by what viewers did: who leaves early is
        not reported in full.
        """
        for place, one in enumerate(waiting):
            found = verdicts.get(one.pos, {})
            header = msgspec.json.decode(self.log.payload_at(one.pos), type=_Slots)
            if one.altered or len(found) < len(header.slots):
                self._leave_out(STILL_OPEN, waiting[place], n=len(waiting) - place)
                return
            yield one, found

    def _asked_window(self, live: LiveConfig) -> LiveConfig:
        if self._window_s is None:
            return live
        return replace(live, document=msgspec.structs.replace(live.document, reward_window_s=self._window_s))

    def _sample(self) -> list[Decision]:
        """Some of the oldest and newest decisions."""
        rows = []
        for order in ("ASC", "DESC"):
            rows += self.log.query(
                f"SELECT CAST(payload AS BLOB) FROM log WHERE kind = 'decision' AND pos <= ? ORDER BY pos {order}"
                " LIMIT 200",
                (self.end,),
            )
        return [records.read_stored(bytes(row[0]), Decision, what="a decision") for row in rows]

    # ------------------------------------------------------------ events

    def _batches_of(self, group: Sequence[tuple[Joined, Verdicts]], needs: Needs) -> Iterator[Batch]:
        found = decisions_at(self.log, [joined.pos for joined, _ in group])
        entries: list[Entry] = []
        n_listed = 0
        listed = needs.candidates or needs.texts
        for joined, verdicts in group:
            if joined.pos <= self._after:
                self._leave_out(BEFORE, joined)
                continue
            if not joined.activated or joined.altered:
                self._leave_out(ALTERED if joined.altered else NOT_SHOWN, joined)
                continue
            if any(status == "undefined_reward" for status, _ in verdicts.values()):
                self._leave_out(UNDEFINED, joined)
                continue
            row = found[joined.pos]
            decision: Decision = records.read_stored(row.payload, Decision, what=f"the decision at {joined.pos}")
            for slot in decision.slots:
                if not 0.0 < slot.propensity <= 1.0 + 1e-9:
                    raise BadLog(
                        f"the decision at position {joined.pos} has a propensity of {slot.propensity}; "
                        "nothing can be estimated without the probability that was drawn with"
                    )
            versions = np.frombuffer(row.candidates, "<u4")
            listing = len(versions) * len(decision.slots) if listed else 0
            if entries and n_listed + listing > MOST_LISTED:
                yield self._batch(entries, needs)
                entries, n_listed = [], 0
            n_listed += listing
            rewards = {slot: reward for slot, (status, reward) in verdicts.items() if status in ("learned", "pinned")}
            entries.append(Entry(joined.pos, row.ts, joined.event_id, decision, versions, rewards))  # type: ignore[arg-type]
        if entries:
            yield self._batch(entries, needs)

    def _batch(self, entries: Sequence[Entry], needs: Needs) -> Batch:
        feeds, chosen, n_candidates = gather(entries, self.configs, self.items, self.past)
        decisions = [one.decision for one in entries]
        slots = [slot for decision in decisions for slot in decision.slots]
        reward, seen = np.zeros(len(slots)), np.zeros(len(slots), np.uint8)
        for begin, entry in zip(feeds.starts.tolist(), entries, strict=False):
            for slot, earned in entry.rewards.items():
                reward[begin + slot] = earned
                seen[begin + slot] = 1
        policies = [policy_of(live_of(self.configs, one), one) for one in decisions]
        sizes = [len(one.versions) for one in entries]
        candidates = texts = None
        if needs.candidates or needs.texts:
            candidates, places = candidates_of(feeds)
            if needs.texts:
                every = np.array([*self.items.texts(feeds.versions.tolist()), None], object)[:-1]
                texts = Texts([bytes(one.shared) for one in decisions], every[places].tolist())
        return Batch(
            starts=feeds.starts,
            item=feeds.items.keys(np.array([slot.version for slot in slots], np.uint32)),
            chosen=chosen,
            propensity=np.minimum([slot.propensity for slot in slots], 1.0),
            reward=reward,
            n_candidates=n_candidates,
            viewer=np.array(
                [hash_key(one.event_id if one.decision.user is None else one.decision.user) for one in entries],
                np.uint64,
            ),
            time=np.array([one.ts for one in entries]),
            place=np.array([one.pos for one in entries]),
            seen=seen,
            fields={name: service_fields.column(name, decisions, policies, sizes) for name in needs.fields},
            columns={"least_propensity": feeds.least, "floor": feeds.floor},
            candidates=candidates,
            texts=texts,
            source=feeds,
        )

    def _leave_out(self, reason: str, joined: Joined, n: int = 1) -> None:
        self._counts[reason] += n
        if len(self._examples) < MOST_EXAMPLES:
            self._examples.append(f"position {joined.pos}, event {joined.event_id}: {reason}")


Verdicts = dict[int, tuple[str, float | None]]


class _Slots(msgspec.Struct):
    """Of a decision, only how many slots it has."""

    slots: list[msgspec.Raw]
