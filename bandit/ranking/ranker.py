"""The rank path: candidates in, a slate drawn with exact propensities out, and the record that proves it."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Raw
from numpy.typing import NDArray

from bandit import records
from bandit.config import Config, LiveConfig, own_label, own_labels
from bandit.errors import CorruptModel, EmptySlate, LogUnavailable
from bandit.experiments import Experiment
from bandit.features.hashing import hash_resolved, resolve_item, resolve_shared, with_dense
from bandit.ranking.candidates import UNKNOWN, WITHDRAWN, CandidateCache, Catalogued, Resolved
from bandit.ranking.entry import Entry
from bandit.ranking.explain import contributions
from bandit.ranking.scorer import dense_indices, prepare, score, score_prepared, weights_from_model
from bandit.records import (
    Candidate,
    CandidateId,
    Decision,
    Door,
    Explanation,
    Features,
    Order,
    Placement,
    RankReply,
    RankRequest,
    Slot,
    StatisticsStamp,
)
from bandit.slate import ruling
from bandit.slate.binding import Restrictions
from bandit.slate.drawing import (
    ELIGIBLE,
    INELIGIBLE,
    UNSCORED,
    draw_slate,
    limited,
    score_order,
    seed_of,
    slot_probabilities,
)
from bandit.slate.exploration import expected_share
from bandit.statistics.columns import NAMES, dense_columns, digest_of, viewer_features
from bandit.statistics.knowledge import EVERYTHING, Read
from bandit.statistics.viewers import NOBODY, ViewerReader
from bandit.store.configs import all_configs, newest_config
from bandit.store.data import DataDirectory
from bandit.store.events import StoredDecision, find_decision, same_body
from bandit.store.items import current_items
from bandit.store.items import versions as stored_versions
from bandit.store.log import AppLog, Txn
from bandit.store.models import PublishedModel, arm_models, newest_models, published_as
from bandit.store.serving import serving
from bandit.store.statistics import changed_tallies

# Under a deadline candidates are scored so many at a time, and the clock is read between.
CHUNK = 128
# Of a deadline, what drawing, logging and answering are left.
RESERVE_MS = 1.0
# A damaged model is read again, in case it was mended, no more often than this.
LOOK_AGAIN_S = 1.0
# Of an explanation, so many of the largest parts are told.
EXPLAINED = 12
DENSE_IDX = dense_indices(NAMES)


class Snapshot(NamedTuple):
    """A model as a worker serves it.

    :ivar weights: shape (2 ** bits,), mapped from the published file
    :ivar arms: those of the other arms, where arms learn apart; this is then the champion's
    """

    published: PublishedModel
    weights: NDArray[np.float32]
    arms: Mapping[str, Snapshot] = {}

    def of(self, experiment: Experiment | None, arm: str | None) -> Snapshot:
        """What serves an arm: until its own model is there, that which it begins with."""
        own = self.arms.get(arm or "")
        return self if own is None or experiment is None or own.published.experiment != experiment.name else own


class Ranked(NamedTuple):
    """A ranking that is not logged yet: nobody may see it before `Ranker.log` returns."""

    reply: RankReply
    decision: Decision
    resolved: Resolved
    body_hash: bytes | None
    log: AppLog


class Ranker:
    """Ranks for one worker; safe to share between threads.

    :param clock: UTC seconds, for event ids only
    :param monotonic: seconds, for deadlines only
    """

    def __init__(
        self,
        data: DataDirectory,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data = data
        self._log = data.log
        self._clock = clock
        self._monotonic = monotonic
        self._control_pos = self._log.last_position()
        self.configs = all_configs(self._log)
        self._labels = frozenset(own_labels(self.configs))
        self._label: dict[tuple[int, str | None], str | None] = {}
        self._cache = CandidateCache(
            self._look_up, self._version_text, self._read_tallies, data.settings.cache_items, traits=data.args.traits
        )
        self._viewers = ViewerReader(self._log)
        self.config: LiveConfig = self.configs[max(self.configs)]
        self.snapshot: Snapshot | None = None
        self.model_problem: str | None = None
        self._pinned: str | None = None
        self._damaged: int | None = None
        self._look_again_at = 0.0
        self._swap = threading.Lock()
        self._event_key = secrets.token_bytes(32)
        self._counter = itertools.count()
        self.refresh()

    # ------------------------------------------------------------ what is served

    def _look_up(self, ids: Any) -> dict[str, Catalogued]:
        return {
            item_id: Catalogued(item.version, item.features, item.withdrawn)
            for item_id, item in current_items(self._log, ids).items()
        }

    def _read_tallies(self, after: int, keys: Sequence[int], known: Container[str]) -> Read:
        labels = self._labels
        wanted = {label: after if label in known else 0 for label in labels}
        epoch, tallies, own = changed_tallies(self._log, after=after, keys=keys, labels=wanted)
        return Read(epoch.position, epoch.at, tallies, labels, own)

    def _label_of(self, config: LiveConfig) -> str | None:
        key = config.version, config.arm
        if key not in self._label:
            self._label[key] = own_label(self.configs, *key)
        return self._label[key]

    def _version_text(self, version: int) -> bytes:
        return stored_versions(self._log, [version])[version][1]

    def sync(self) -> None:
        """Apply what changed since the last request: config, catalogue, withdrawals.

        :raises LogUnavailable: the log cannot be read
        """
        if not self._log.read_control(self._control_pos):
            return
        with self._cache.lock:
            rows = self._log.read_control(self._control_pos)
            for row in rows:
                if row.kind == "items":
                    changed = records.read_stored(row.payload, records.ItemsRecord, what="a change of items")
                    self._cache.forget(item_id for item_id, _ in changed.items)
                elif row.kind == "withdraw":
                    withdrawn = records.read_stored(row.payload, records.Withdraw, what="a withdrawal")
                    self._cache.forget([withdrawn.id])
            config = newest_config(rows)
            if config is not None:
                configs = all_configs(self._log)
                # Requests that are under way may go by the config before.
                self._labels = frozenset([*own_labels(self.configs), *own_labels(configs)])
                self.configs = configs
                self.config = configs[config.version]
            if any(row.kind in ("rollback", "release") for row in rows):
                # First, so that no request that has read so far ranks with another model.
                self.refresh()
            if rows:
                self._control_pos = rows[-1].pos

    def config_of(self, version: int) -> LiveConfig:
        """The config that a decision in the log names; another worker may just have put it in force.

        :raises LogUnavailable: the log holds no such config
        """
        if version not in self.configs:
            self.sync()
        if version not in self.configs:
            raise LogUnavailable(f"the log is damaged: it names config version {version}, and holds no such config")
        return self.configs[version]

    def refresh(self) -> bool:
        """Serve what the trainer published last: the newest epoch of statistics, and the newest model that is whole, or
        the one a rollback names; True if the model is another.

        Called off the request path. A model that is damaged is passed over: the last good one serves on, or at
        a start the newest one that is whole.

        :raises LogUnavailable: the log cannot be read
        """
        self._cache.refresh()
        with self._swap:
            pinned = serving(self._log).pinned
            newest = self._wanted(1, pinned)
            current = self.snapshot
            same = current is not None and newest and newest[0].published_pos == current.published.published_pos
            if not newest or (same and pinned == self._pinned):
                return False
            if self._damaged == newest[0].published_pos and self._monotonic() < self._look_again_at:
                return False
            if current is None:
                newest = self._wanted(self._data.settings.keep_models, pinned)
            problem = None
            for published in newest:
                try:
                    self.snapshot, self._pinned = self._open(published, pinned), pinned
                    break
                except CorruptModel as error:
                    problem = problem or f"{error.message}; an older one serves"
            self.model_problem = problem
            if problem is not None:
                self._damaged = newest[0].published_pos
                self._look_again_at = self._monotonic() + LOOK_AGAIN_S
            return self.snapshot is not current

    def _wanted(self, n: int, pinned: str | None) -> list[PublishedModel]:
        """What to serve, best first: the newest ``n``, before them the one that a rollback named."""
        named = None if pinned is None else published_as(self._log, pinned)
        if named is None:
            return newest_models(self._log, n)
        return [named] if n == 1 else [named, *newest_models(self._log, n)]

    def _open(self, published: PublishedModel, pinned: str | None) -> Snapshot:
        """:raises CorruptModel: a file of it is not whole"""
        # What a rollback names serves every arm.
        arms = {} if published.digest == pinned else arm_models(self._log, published.published_pos)
        return Snapshot(
            published,
            self._weights_of(published),
            {arm: Snapshot(one, self._weights_of(one)) for arm, one in arms.items()},
        )

    def _weights_of(self, published: PublishedModel) -> NDArray[np.float32]:
        current = self.snapshot
        for known in () if current is None else (current, *current.arms.values()):
            if published.weights_digest == known.published.weights_digest:
                return known.weights
        try:
            return self._data.models.map_weights(published.weights_digest, 1 << self._data.args.bits)
        except CorruptModel:
            return weights_from_model(self._data.models.read(published.digest), self._data.args)

    # ------------------------------------------------------------ ranking

    def rank(
        self,
        request: RankRequest,
        *,
        received: float | None = None,
        door: Door | None = None,
        whole: bool = False,
        dealt_by: str | None = None,
        app: str = "",
    ) -> Ranked:
        """Draw a ranking; nothing is logged yet.

        :param received: monotonic seconds at which the request arrived; its deadline counts from there
        :param door: through which it came
        :param whole: the decision, of one slot, holds the order of all candidates
        :param app: whose it is: event ids are its own
        :param dealt_by: what settles the arm of an experiment in place of the event id
        :raises InvalidRequest: the candidates or features cannot be used; the message names the place
        :raises EmptySlate: no candidate may be shown
        :raises LogUnavailable: the log cannot be read
        """
        started = self._monotonic() if received is None else received
        self.sync()
        snapshot, read_pos, experiment = self.snapshot, self._control_pos, self.config.document.experiment
        event_id = self.new_event_id() if request.event_id is UNSET else request.event_id
        user = request.user
        own = AppLog(self._log, app)
        dealt_by = own.stored(event_id if dealt_by is None else dealt_by)
        config = self.config.serving(viewer=None if user is None else user.id, event_id=dealt_by)
        document = config.document if door is None else config.personalizer.document
        if snapshot is not None:
            snapshot = snapshot.of(experiment, config.arm)
        resolved = self._cache.resolve(request.candidates)
        label = self._label_of(config)
        if label is not None and label not in resolved.known.epoch.own_at:
            # The experiment has just begun: what is known of it has not been read yet.
            self._cache.refresh()
            resolved = self._cache.resolve(request.candidates)
        n = len(resolved.rows)
        seed = seed_of(own.stored(event_id), self._data.secret)

        viewer = NOBODY if user is None else self._viewers.read(user.id)
        epoch = resolved.known.epoch
        places, tallies = resolved.known.to(label)
        dense = dense_columns(resolved.known.attributes, places, tallies, viewer.tastes, epoch.at)
        profile = viewer_features(viewer.tastes, tallies[EVERYTHING])
        shared = resolve_shared(
            None if user is None else user.id,
            {} if user is None or user.features is UNSET else user.features,
            {} if request.context is UNSET else request.context,
            profile=profile,
            traits=self._data.args.traits,
        )
        state = np.full(n, ELIGIBLE, np.uint8)
        n_slots = document.slots if request.slots is UNSET else request.slots
        facts = ruling.Facts(
            epoch.at, viewer.seen, viewer.seen_at, viewer.blocked, viewer.tastes, tallies, places.item,
            profile.get("mean", 0.0),
        )  # fmt: skip
        apply_rules = partial(
            ruling.rule,
            attributes=resolved.known.attributes,
            facts=facts,
            ids=resolved.ids,
            withdrawn=resolved.standing == WITHDRAWN if resolved.standing.any() else None,
            exclude=request.exclude,
            pins=request.pins,
            n_slots=n_slots,
            seed=seed,
        )
        ruled = apply_rules(document.rules_in_force, state=state)
        rules = ruled.bound.restrictions

        scores = np.zeros(n, np.float32)
        fallback = None
        n_scored = 0
        if snapshot is None:
            fallback = "no_model"
        else:
            hashed = hash_resolved(shared)
            view, rows, weights, args = resolved.view, resolved.rows, snapshot.weights, self._data.args
            if request.deadline_ms is UNSET:
                score(view, rows, hashed, weights, args, scores, dense_idx=DENSE_IDX, dense=dense)
                n_scored = n
            else:
                until = started + (request.deadline_ms - min(RESERVE_MS, request.deadline_ms / 2)) / 1000
                in_turn = score_order(seed, n)
                prepared = prepare(view, hashed, weights, args, DENSE_IDX)
                part = np.empty(CHUNK, np.float32)
                while n_scored < n and self._monotonic() < until:
                    chosen = in_turn[n_scored : n_scored + CHUNK]
                    score_prepared(prepared, view, rows[chosen], weights, part[: len(chosen)], dense[chosen])
                    scores[chosen] = part[: len(chosen)]
                    n_scored += len(chosen)
                left = in_turn[n_scored:]
                state[left[state[left] == ELIGIBLE]] = UNSCORED
                if n_scored == 0:
                    fallback = "deadline"

        n_learned = 0 if fallback is not None or snapshot is None else snapshot.published.learned
        drawing = document.drawing(n_slots, n_learned, fallback=fallback is not None)
        drawn_by = scores
        if drawing.by_caller:
            drawn_by = -np.arange(n, dtype=np.float32)
            state[state == UNSCORED] = ELIGIBLE
        explorer = limited(drawn_by, state, drawing.asked, shortlist=drawing.shortlist, most=drawing.most, rules=rules)
        slate = draw_slate(
            drawn_by, state, n_slots=n_slots, explorer=explorer, shortlist=drawing.shortlist,
            floor=np.array(drawing.floors), seed=seed, rules=rules,
        )  # fmt: skip
        order = None
        if whole:
            p = slot_probabilities(
                drawn_by, state, slate.chosen[:0], slot=0, explorer=explorer, shortlist=drawing.shortlist,
                floor=np.array(drawing.floors), rules=rules,
            )  # fmt: skip
            order = _order(drawn_by, state, slate.chosen, p)
        apprentice = None
        if document.mode == "apprentice":
            apprentice = []
            if fallback is None and n_scored == n:
                # What it would do it would do under its own rules, though the caller's order is served without them.
                with suppress(EmptySlate):
                    own_state = np.full(n, ELIGIBLE, np.uint8)
                    own_rules = apply_rules(document.rules, state=own_state).bound.restrictions
                    apprentice = _would_draw(document, scores, own_state, slate.chosen, n_learned, n_slots, own_rules)
            # The caller's order is what was asked for, so nothing was fallen back to.
            fallback = None

        chosen_at = slate.chosen.tolist()
        propensities = slate.propensity.tolist()
        slot_scores: list[float | None]
        if fallback is not None or (drawing.by_caller and n_scored < n):
            slot_scores = [None] * len(chosen_at)
        elif n_scored == n:
            # + 0.0: a cost of zero is no score of minus zero.
            slot_scores = (scores[slate.chosen] + np.float32(0.0)).tolist()
        else:
            slot_scores = [float(scores[at]) if state[at] == ELIGIBLE else None for at in chosen_at]
        versions = resolved.versions[slate.chosen].tolist()
        ids = resolved.ids
        unknown = np.flatnonzero(resolved.standing == UNKNOWN).tolist() if resolved.standing.any() else []
        decision = Decision(
            slots=[
                Slot(ids[at], version, propensity, value, bool(exploratory), columns)
                for at, version, propensity, value, exploratory, columns in zip(
                    chosen_at,
                    versions,
                    propensities,
                    slot_scores,
                    slate.exploratory.tolist(),
                    dense[slate.chosen].tolist(),
                    strict=True,
                )
            ],
            shared=Raw(shared),
            config=config.version,
            model=None if fallback is not None or snapshot is None else snapshot.published.digest,
            read_pos=read_pos,
            scored=n_scored,
            n_slots=n_slots,
            n_learned=n_learned,
            fallback=fallback,
            user=None if user is None else user.id,
            unknown=unknown,
            deferred=request.defer_activation,
            strength=None if explorer.a == drawing.asked.a else explorer.a,
            share=expected_share(slate.exploring.tolist()),
            explored=int(slate.explored.sum()),
            explored_at=slate.explored.nonzero()[0].tolist(),
            chances=slate.chances.tolist(),
            as_caller=slate.first.nonzero()[0].tolist(),
            statistics=StatisticsStamp(epoch.position, epoch.at, viewer.position, viewer.read_to, digest_of(dense)),
            experiment=None if experiment is None else experiment.name,
            arm=config.arm,
            apprentice=apprentice,
            door=door,
            order=order,
        )
        ruled.write(decision, slate)
        reply = _reply(event_id, decision, [ids[at] for at in unknown], self.configs)
        if request.explain or (door is not None and document.explain):
            told = ruling.reasons(ruled, slate, drawn_by)
            reply.explanation = self._explain(decision, resolved, chosen_at, shared, snapshot, told)
            reply.kept_out = ruling.kept_out(ruled, slate, ids, drawn_by)
        return Ranked(reply, decision, resolved, None, own)

    def _explain(
        self,
        decision: Decision,
        resolved: Resolved,
        chosen_at: list[int],
        shared: bytes,
        snapshot: Snapshot | None,
        rules: list[list[str]],
    ) -> list[Explanation]:
        """What made the score of each drawn item, and which rules moved it; without a score only how it was drawn."""
        told = []
        for slot, at, moved in zip(decision.slots, chosen_at, rules, strict=True):
            parts: list[tuple[str, float]] = []
            if slot.score is not None and snapshot is not None:
                features = records.decode(self._cache.text_of(resolved, at), Features, what="features")
                item = with_dense(resolve_item(slot.id, features, traits=self._data.args.traits), NAMES, slot.dense)
                parts = contributions(shared, item, snapshot.weights, self._data.args)
            told.append(Explanation(slot.id, slot.exploratory, parts[:EXPLAINED], moved))
        return told

    def new_event_id(self) -> str:
        """One that nobody can guess."""
        # Time first, so that neighbours in time are neighbours in the index; then 80 bits that nobody can guess
        # (a keyed hash of a counter: the system's generator takes ten times as long).
        unguessable = hashlib.blake2b(b"%d" % next(self._counter), digest_size=10, key=self._event_key).hexdigest()
        return f"{int(self._clock() * 1000):012x}{unguessable}"

    def withdrawn(self, candidates: Sequence[CandidateId | Candidate]) -> list[str]:
        """Ids of those that the catalogue has withdrawn.

        :raises InvalidRequest: as `rank`
        """
        self.sync()
        resolved = self._cache.resolve(candidates)
        return [resolved.ids[place] for place in np.flatnonzero(resolved.standing == WITHDRAWN).tolist()]

    # ------------------------------------------------------------ logging

    def decide(self, request: RankRequest, *, received: float | None = None, app: str = "") -> RankReply:
        """Rank and log: the reply may be sent. A repeated event id gets the reply it got before.

        :param app: whose it is: event ids are its own
        :raises IdConflict: the event id answered another request
        :raises LogUnavailable: nothing was logged, so nothing may be shown
        """
        if request.event_id is UNSET:
            return self.log(self.rank(request, received=received, app=app))
        body_hash = records.body_hash(request)
        found = find_decision(AppLog(self._log, app), request.event_id)
        if found is not None:
            return self._stored_reply(request.event_id, same_body(found, body_hash, request.event_id))
        return self.log(self.rank(request, received=received, app=app)._replace(body_hash=body_hash))

    def log(self, ranked: Ranked) -> RankReply:
        """The reply, once its decision is durable.

        :raises LogUnavailable: nothing was logged
        """
        reply, decision, resolved, body_hash, log = ranked
        entry = Entry(reply.event_id, decision, resolved, body_hash)

        def write(txn: Txn) -> StoredDecision | None:
            found = None if body_hash is None else find_decision(txn, reply.event_id)
            if body_hash is not None and found is not None:
                return same_body(found, body_hash, reply.event_id)
            entry.write(txn)
            return None

        found = log.append(write)
        if found is not None:
            return self._stored_reply(reply.event_id, found)
        entry.written()
        return reply

    def _stored_reply(self, event_id: str, found: StoredDecision) -> RankReply:
        # Another worker may have written it a moment ago, and not be back from its fsync.
        self._log.sync()
        decision = records.read_stored(found.payload, Decision, what="this decision")
        numbers = np.frombuffer(found.candidates, np.uint32)
        unknown = [int(numbers[place]) for place in decision.unknown]
        known = stored_versions(self._log, unknown)
        self.config_of(decision.config)
        return _reply(event_id, decision, [known[number][0] for number in unknown], self.configs)


def _order(
    scores: NDArray[np.float32], state: NDArray[np.uint8], chosen: NDArray[np.int32], p: NDArray[np.float64]
) -> Order:
    """What may be shown, best first below what was drawn, and how likely each was to be drawn.

    :param chosen: shape (1,)
    :param p: shape (n,)
    """
    places = np.argsort(-scores, kind="stable")
    places = places[(state[places] != INELIGIBLE) & (places != chosen[0])]
    places = np.concatenate([chosen, places])
    probabilities = p[places]
    # Below the shortlist all have the same.
    last = np.flatnonzero(probabilities != probabilities[-1])
    n = int(last[-1]) + 2 if len(last) else 1
    return Order(places.astype("<u2").tobytes(), probabilities[:n].tolist())


def _would_draw(
    document: Config, scores: NDArray[np.float32], state: NDArray[np.uint8], chosen: NDArray[np.int32], n_learned: int,
    n_slots: int, rules: Restrictions,
) -> list[tuple[float, float]]:  # fmt: skip
    """How the config's own draw would stand to what was shown; see `Decision.apprentice`.

    Where its rules leave nothing for a slot it would show nothing, and earn nothing.
    """
    own = msgspec.structs.replace(document, mode="serve").drawing(n_slots, n_learned, fallback=False)
    explorer = limited(scores, state, own.asked, shortlist=own.shortlist, most=own.most, rules=rules)
    floor = np.array(own.floors)
    found = []
    for slot, shown in enumerate(chosen.tolist()):
        p = slot_probabilities(
            scores,
            state,
            chosen[:slot],
            slot=slot,
            explorer=explorer,
            shortlist=own.shortlist,
            floor=floor,
            rules=rules,
        )
        found.append((float(p[shown]), float(p @ scores)))
    return found


def _reply(event_id: str, decision: Decision, unknown: list[str], configs: dict[int, LiveConfig]) -> RankReply:
    policy = configs[decision.config].of(decision.arm, decision.door).document.explorer.__struct_config__.tag
    by_caller = decision.fallback is not None or decision.apprentice is not None
    return RankReply(
        event_id=event_id,
        ranking=[
            Placement(slot, placed.id, placed.propensity, placed.score) for slot, placed in enumerate(decision.slots)
        ],
        model_version=decision.model,
        config_version=decision.config,
        policy="caller_order" if by_caller else str(policy),
        scored=decision.scored,
        unknown=unknown,
        fallback=decision.fallback,
        experiment=UNSET if decision.experiment is None else decision.experiment,
        arm=UNSET if decision.arm is None else decision.arm,
        relaxed=decision.relaxed,
    )
