"""What one worker can be asked, without HTTP: ranking, feedback, activation, catalogue, config, stories."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET, Raw
from msgspec.structs import replace

from bandit import records
from bandit.access.apps import SEPARATOR
from bandit.access.privacy import names_of, pseudonym_of, who_of
from bandit.config import Config, LiveConfig, check_config
from bandit.errors import (
    CorruptModel,
    InvalidRequest,
    LogUnavailable,
    UnknownDecision,
    UnknownItem,
    UnknownModel,
    UnknownUser,
)
from bandit.experiments import ArmSums, Experiment, apprenticeship, mean_of
from bandit.features.hashing import resolve_item
from bandit.features.item_table import parse_features
from bandit.health import TRAINER_SILENT_S, counted_of, facts_of, loop_reply
from bandit.learning.fold import EVIDENCE, closes_at
from bandit.learning.serving import release, roll_back, serving_reply
from bandit.loop.report import Counted, LoopReply, total
from bandit.ranking.candidates import NO_FEATURES
from bandit.ranking.personalized import Personalized, slot_event
from bandit.ranking.ranker import Ranker
from bandit.records import (
    ActivateReply,
    ActivateRequest,
    ApprenticeReply,
    ArmReply,
    Decision,
    ErasureReply,
    EventReply,
    ExperimentReply,
    Feedback,
    FeedbackResult,
    FeedbackStory,
    ItemReply,
    ItemsReply,
    ItemsRequest,
    LoggedFeedback,
    ModelReply,
    RankReply,
    RankRequest,
    ReleaseRequest,
    RollbackRequest,
    ServingReply,
    SlotStory,
    UserRecord,
    UserReply,
    UserRequest,
)
from bandit.reward.signals import LENGTH
from bandit.statistics.viewers import user_story
from bandit.store.arms import ArmCounts, counts_by_arm, watched_slots
from bandit.store.bases import bases
from bandit.store.configs import append_config
from bandit.store.data import DataDirectory
from bandit.store.erasures import ask_erasure, erasure_at
from bandit.store.events import (
    StoredDecision,
    append_activation,
    append_feedback,
    check_feedback_ids,
    find_decision,
    first_activation,
    follow_ups,
    outcomes,
    slots_of,
)
from bandit.store.items import current_items, upsert_items, versions, withdraw_item
from bandit.store.latest import Newest, newest_decisions
from bandit.store.log import AppLog, Txn
from bandit.store.models import TrainerState, arm_models, first_with, trainer_state
from bandit.store.serving import serving
from bandit.store.statistics import put_user

# Of a bulk upsert, so many in one transaction: the lock is held for some 10 ms, and rankings wait for it.
ITEMS_A_TRANSACTION = 500
# So many slots and no lesson: the clients send nothing that is evidence.
UNPROVEN = 1_000
# Who asks for an erasure hears of its end if it comes so soon.
ERASE_WAIT_S = 2.0
ERASE_LOOK_S = 0.05
# Who resets the model hears of it if it comes so soon.
RESET_WAIT_S = 2.0
RESET_LOOK_S = 0.02
#: What an erasure leaves, and why.
REMAINS = (
    "weights: what models learned from this viewer is part of their weights, until `python server.py retrain` learns "
    "a fresh model from what remains in the log",
    "tallies: items, creators and tags are counted over all viewers, and these sums stay",
    "the record of this erasure, which holds a keyed hash of the id",
)


#: Causes of bases that began a model.
FRESH = ("begin", "retrain", "warm-start", "reset")


class Since(NamedTuple):
    """UTC seconds: of the oldest record and the newest, of the config in force, of the model's beginning and end."""

    log: float
    record: float
    config: float
    model: float
    learned: float


class Behind(NamedTuple):
    """What made a decision.

    :ivar config: as it was in the decision's arm
    :ivar items: (id, features text) of the item versions that were drawn, by number
    """

    decision: Decision
    config: LiveConfig
    items: dict[int, tuple[str, bytes]]


class Service:
    """One worker's door to a data directory; safe to share between threads.

    What it is for an app, `of` gives: event ids are then the app's own, and lead to no other's decisions.
    """

    def __init__(self, data: DataDirectory, *, clock: Callable[[], float] = time.time) -> None:
        self.data = data
        self.ranker = Ranker(data, clock=clock)
        self._log = data.log
        self._bind("", sees_all=True)
        self.clock = self._clock = clock
        self._hidden = data.settings.pseudonymise
        self._for: dict[tuple[str, bool], Service] = {}

    # ------------------------------------------------------------ whose it is

    def of(self, app: str, *, sees_all: bool) -> Service:
        """The same for an app.

        :param sees_all: events of other apps can be read too
        """
        found = self if (app, sees_all) == (self.app, self._sees_all) else self._for.get((app, sees_all))
        if found is None:
            found = copy.copy(self)
            found._bind(app, sees_all=sees_all)
            self._for[app, sees_all] = found
        return found

    def _bind(self, app: str, *, sees_all: bool) -> None:
        self.app = app
        self._sees_all = sees_all
        self._own = AppLog(self._log, app)
        self.personalized = Personalized(self.ranker, self._own)

    # ------------------------------------------------------------ ranking

    def rank(self, request: RankRequest, *, received: float | None = None) -> RankReply:
        """`Ranker.decide`, which never hears the id of a viewer who goes by a pseudonym."""
        if self._hidden and request.user is not None:
            request = replace(request, user=replace(request.user, id=self._name(request.user.id)))
        return self.ranker.decide(request, received=received, app=self.app)

    # ------------------------------------------------------------ viewers' names

    def _name(self, user: str) -> str:
        """What stands for a viewer in everything that is stored."""
        return pseudonym_of(user, self.data.secret) if self._hidden else user

    # ------------------------------------------------------------ Personalizer's door

    def reward(self, event_id: str, value: float) -> FeedbackResult:
        """Log a reward of what stands first in a ranking, whether or not that is known yet.

        :raises InvalidRequest: it is out of range, or the event is a page whose slots are rewarded one by one
        :raises LogUnavailable: nothing was stored
        """
        slots = slots_of(self._own, event_id) if find_decision(self._own, event_id) is None else []
        if slots:
            raise InvalidRequest(
                f"event {event_id!r} has {len(slots)} slots, and a reward is of one of them: use "
                "/personalizer/v1.1-preview.1/multislot/events/{eventId}/reward",
                slots=slots,
            )
        return self._reward([(event_id, value)])[0]

    def reward_slots(self, event_id: str, rewards: Sequence[tuple[str, float]]) -> list[FeedbackResult]:
        """Log rewards of a page by (slot id, value), all of them or none.

        :raises InvalidRequest: one is out of range, or of a slot that the page does not have
        :raises LogUnavailable: nothing was stored
        """
        known = slots_of(self._own, event_id)
        names = [slot_event(event_id, slot_id) for slot_id, _ in rewards]
        strange = [slot_id for (slot_id, _), name in zip(rewards, names, strict=True) if name not in known]
        if known and strange:
            raise InvalidRequest(
                f"event {event_id!r} has no slot {strange[0]!r}; its slots are those that were ranked",
                slot=strange[0],
                slots=known,
            )
        return self._reward([(name, value) for name, (_, value) in zip(names, rewards, strict=True)])

    def _reward(self, rewards: Sequence[tuple[str, float]]) -> list[FeedbackResult]:
        self.ranker.sync()
        for event_id, value in rewards:
            self._check_reward(value, f"event {event_id!r}")
        sent = [LoggedFeedback(event_id=event_id, reward=value) for event_id, value in rewards]
        hashed = [(one, records.body_hash(one)) for one in sent]
        return self._own.append(
            lambda txn: [append_feedback(txn, one, body_hash, self._window_s) for one, body_hash in hashed]
        )

    def activate_page(self, event_id: str) -> None:
        """Log that a page was shown: each of its slots, or the page if its slots are not known yet.

        :raises LogUnavailable: nothing was stored
        """
        self.ranker.sync()
        shown = ActivateRequest()
        body_hash = records.body_hash(shown)

        def write(txn: Txn) -> None:
            for name in slots_of(txn, event_id) or [event_id]:
                append_activation(txn, name, shown, body_hash, self._window_s)

        self._own.append(write)

    # ------------------------------------------------------------ feedback

    def feedback(self, sent: list[Feedback]) -> list[FeedbackResult]:
        """Log what viewers did: all of it, or nothing.

        :raises InvalidRequest: a signal that the config does not know, or a reward out of range
        :raises IdConflict: a feedback id that was used before with another body
        :raises LogUnavailable: nothing was stored
        """
        self.ranker.sync()
        for place, feedback in enumerate(sent):
            self._check_feedback(feedback, f"events[{place}]" if len(sent) > 1 else "feedback")
        hashed = [(feedback, records.body_hash(feedback)) for feedback in sent]

        def write(txn: Txn) -> list[FeedbackResult]:
            check_feedback_ids(txn, hashed)
            return [append_feedback(txn, feedback, body_hash, self._window_s) for feedback, body_hash in hashed]

        return self._own.append(write)

    def _check_feedback(self, feedback: Feedback, where: str) -> None:
        document = self.ranker.config.document
        for item in feedback.items:
            # The length of a video is a fact about it, not an outcome: no config need list it.
            unknown = sorted(item.signals.keys() - document.signals.keys() - {LENGTH})
            if unknown:
                raise InvalidRequest(
                    f"{where}: item {item.id!r} has the signal {unknown[0]!r}, which the config does not list, only "
                    f"{', '.join(sorted(document.signals))}: add the signal to the config first",
                    signal=unknown[0],
                    allowed=sorted(document.signals),
                )
            if item.reward is not None:
                self._check_reward(item.reward, f"{where}: item {item.id!r}")

    def _check_reward(self, reward: float, where: str) -> None:
        low, high = self.ranker.config.document.reward_range
        if not low <= reward <= high:
            raise InvalidRequest(
                f"{where}: reward {reward} is outside [{low}, {high}]; rescale it, or widen reward_range in the config",
                reward=reward,
                allowed=[low, high],
            )

    def _window_s(self, version: int) -> float:
        return self.ranker.config_of(version).document.reward_window_s

    def activate(self, event_id: str, request: ActivateRequest) -> ActivateReply:
        """Log that a feed was shown.

        :raises IdConflict: it was activated before with another list
        :raises LogUnavailable: nothing was stored
        """
        self.ranker.sync()
        body_hash = records.body_hash(request)
        return self._own.append(lambda txn: append_activation(txn, event_id, request, body_hash, self._window_s))

    # ------------------------------------------------------------ one decision's story

    def event(self, event_id: str, *, app: str | None = None) -> EventReply:
        """A decision with its feedback and what became of each slot.

        :param app: whose; None: one's own, or if there is none, and those may be seen, another's
        :raises UnknownDecision: no decision bears this id that may be seen
        """
        own, found = self._find(event_id, app)
        self.ranker.sync()
        decision: Decision = records.read_stored(found.payload, Decision, what="this decision")
        window_s = self.ranker.config_of(decision.config).document.reward_window_s
        activated = first_activation(own, event_id) if decision.deferred else None
        ends = closes_at(found.ts, window_s, None if activated is None else activated[0])
        known = {outcome.slot: outcome for outcome in outcomes(self._log, found.pos)}
        state = trainer_state(self._log)
        closed = state is not None and self._log.time_at(state.position) >= ends
        waiting = "open"
        if closed:
            waiting = "not_activated" if decision.deferred and activated is None else "unseen"
        slots = []
        for place, slot in enumerate(decision.slots):
            story = SlotStory(place, slot.id, slot.propensity, slot.score, slot.exploratory, waiting)
            outcome = known.get(place)
            if outcome is not None:
                story.status, story.evidence = outcome.status, outcome.evidence
                story.reward, story.weight = outcome.reward, outcome.weight
                if outcome.status == "learned":
                    story.learned_at = outcome.closed_at
                    story.model = self._model_with(decision, outcome.closed_pos)
            slots.append(story)
        return EventReply(
            event_id=event_id,
            app=own.app,
            position=found.pos,
            at=found.ts,
            window_ends_at=ends,
            user=decision.user,
            shared=decision.shared,
            n_candidates=len(found.candidates) // 4,
            ineligible={reason: len(places) for reason, places in decision.ineligible.items()},
            relaxed=decision.relaxed,
            passed=self._passed(decision, found.candidates),
            reserved=decision.reserved,
            scored=decision.scored,
            model_version=decision.model,
            config_version=decision.config,
            fallback=decision.fallback,
            deferred=decision.deferred,
            slots=slots,
            follow_ups=[
                FeedbackStory(one.ts, one.kind, one.ts >= ends, Raw(one.payload))  # type: ignore[arg-type]
                for one in follow_ups(own, event_id)
            ],
        )

    def behind(self, event: EventReply) -> Behind:
        """What made a decision, beyond what its story says.

        :raises UnknownDecision: it is gone
        """
        _, found = self._find(event.event_id, event.app)
        decision: Decision = records.read_stored(found.payload, Decision, what="this decision")
        config = self.ranker.config_of(decision.config).of(decision.arm)
        return Behind(decision, config, versions(self._log, [slot.version for slot in decision.slots]))

    def newest(self, *, user: str | None = None, limit: int) -> list[Newest]:
        """The newest decisions that may be seen, the newest first.

        :param user: of this viewer alone
        """
        app = None if self._sees_all else self.app
        return newest_decisions(self._log, app=app, user=None if user is None else self._name(user), limit=limit)

    def _find(self, event_id: str, app: str | None) -> tuple[AppLog, StoredDecision]:
        seen = list(dict.fromkeys([self.app, "", *self.data.keys.apps()])) if self._sees_all else [self.app]
        looked_at = [each for each in seen if app in (None, each) and SEPARATOR not in event_id]
        for own in (AppLog(self._log, each) for each in looked_at):
            found = find_decision(own, event_id)
            if found is not None:
                return own, found
        raise UnknownDecision(
            f"no decision has the event id {event_id!r}; ids are those that /v1/rank answered", event_id=event_id
        )

    def _model_with(self, decision: Decision, closed_pos: int) -> str | None:
        """The first published model that holds the lessons of a record, as it is for the decision's arm."""
        model = first_with(self._log, closed_pos)
        if model is None:
            return None
        own = arm_models(self._log, model.published_pos).get(decision.arm or "")
        return model.digest if own is None or own.experiment != decision.experiment else own.digest

    def _passed(self, decision: Decision, candidates: bytes) -> dict[str, list[tuple[int, str]]]:
        """What rules passed over, with ids."""
        numbers = np.frombuffer(candidates, np.uint32)
        places = {place for pairs in decision.passed.values() for _, place in pairs}
        known = versions(self._log, [int(numbers[place]) for place in places])
        return {
            name: [(slot, known[int(numbers[place])][0]) for slot, place in pairs]
            for name, pairs in decision.passed.items()
        }

    # ------------------------------------------------------------ catalogue

    def put_items(self, request: ItemsRequest) -> ItemsReply:
        """Upsert items; all are checked before the first is stored.

        :raises InvalidFeatures: names the item and the feature; nothing was stored
        :raises LogUnavailable: what was stored before it stays; send all again
        """
        items: list[tuple[str, bytes]] = []
        records.check_ids([item.id for item in request.items], where="items")
        for place, item in enumerate(request.items):
            text = NO_FEATURES if item.features is UNSET else bytes(item.features)
            where = f"items[{place}].features"
            # The reader that scoring uses: what it refuses would spoil every ranking of the item.
            resolve_item(item.id, parse_features(text, path=where), traits=self.data.args.traits, path=where)
            items.append((item.id, text))
        if len(dict(items)) != len(items):
            ids = [item_id for item_id, _ in items]
            twice = next(item_id for place, item_id in enumerate(ids) if item_id in ids[:place])
            raise InvalidRequest(f"items repeats the id {twice!r}; each may stand once in a call", id=twice)
        changed = 0
        for start in range(0, len(items), ITEMS_A_TRANSACTION):
            part = items[start : start + ITEMS_A_TRANSACTION]
            changed += self._log.append(lambda txn, part=part: upsert_items(txn, part))  # type: ignore[misc]
        return ItemsReply(upserted=changed, unchanged=len(items) - changed)

    def item(self, item_id: str) -> ItemReply:
        """An item of the catalogue.

        :raises UnknownItem: it was never put
        """
        found = current_items(self._log, [item_id]).get(item_id)
        if found is None:
            raise _unknown_item(item_id)
        return ItemReply(item_id, Raw(found.features), found.withdrawn, found.updated_at)

    def withdraw(self, item_id: str) -> None:
        """Take an item out of every ranking, from the next request on.

        :raises UnknownItem: it was never put
        """
        if not self._log.append(lambda txn: withdraw_item(txn, item_id)):
            raise _unknown_item(item_id)

    # ------------------------------------------------------------ viewers

    def put_user(self, user: str, request: UserRequest) -> UserReply:
        """Keep what a viewer said of themselves; it counts from their next feed on.

        :raises LogUnavailable: nothing was stored
        """
        record = UserRecord(self._name(user), list(dict.fromkeys(request.interests)))
        self._log.append(lambda txn: put_user(txn, record))
        return self.user(user)

    def user(self, user: str) -> UserReply:
        """What the service believes of a viewer.

        :raises UnknownUser: nobody ever heard of them
        """
        found = user_story(self._log, self._name(user))
        if found is None:
            raise UnknownUser(f"nothing is known of the user {user!r}: no ranking and no sign-up named them", id=user)
        found.id = user
        return found

    # ------------------------------------------------------------ erasing a viewer

    def erase(self, user: str, *, wait_s: float = ERASE_WAIT_S) -> ErasureReply:
        """Have everything deleted that is known of a viewer up to now; the trainer does it.

        :param user: their id, or the pseudonym that stands in the log
        :param wait_s: how long to wait for it; it goes on whether or not somebody waits
        :raises LogUnavailable: nothing was asked for
        """
        secret = self.data.secret
        names, who = names_of(user, secret), who_of(user, secret)
        found = self._log.append(lambda txn: ask_erasure(txn, names, who))
        if found is None:
            return ErasureReply("erased", None, None, 0, 0, 0, 0, 0, False, [])
        until = time.monotonic() + wait_s
        while found.state != "done" and time.monotonic() < until:
            time.sleep(ERASE_LOOK_S)
            found = erasure_at(self._log, found.erase_pos)
        return ErasureReply(
            status="erased" if found.state == "done" else "erasing",
            position=found.erase_pos,
            at=found.asked_at,
            decisions=found.decisions,
            feedback=found.feedback,
            activations=found.activations,
            sign_ups=found.sign_ups,
            outcomes=found.outcomes,
            profile=found.profile,
            remains=list(REMAINS),
        )

    # ------------------------------------------------------------ config and model

    def config(self) -> LiveConfig:
        """The config in force."""
        self.ranker.sync()
        return self.ranker.config

    def put_config(self, document: Config, *, expected: int) -> LiveConfig:
        """Put a config in force, in every worker from its next request on.

        :raises InvalidConfig: lists every fault; the old one stays
        :raises VersionMismatch: ``expected`` is not in force
        """
        check_config(document)
        live = self._log.append(lambda txn: append_config(txn, document, expected=expected))
        self.ranker.sync()
        return live

    def model(self) -> ModelReply:
        """The model served by this worker, and the trainer's lag behind the log."""
        snapshot = self.ranker.snapshot
        published = None if snapshot is None else snapshot.published
        state = trainer_state(self._log)
        last = self._log.last_position()
        position = 0 if state is None else state.position
        problem = self.ranker.model_problem or (None if state is None else state.problem)
        return ModelReply(
            version=None if published is None else published.digest,
            position=None if published is None else published.position,
            published_at=None if published is None else published.published_at,
            learned_slots=0 if published is None else published.learned,
            arguments=self.data.args.text,
            log_position=last,
            trainer_position=position,
            trainer_at=None if state is None else state.at,
            lag_records=max(0, last - position),
            problem=problem,
            serving=self.serving(),
            evidence={
                what.removeprefix(EVIDENCE): count
                for what, count in sorted(_counts_of(state).items())
                if what.startswith(EVIDENCE)
            },
        )

    def model_file(self) -> bytes:
        """The model that this worker serves, as VW saved it.

        :raises UnknownModel: none was published yet, or its file cannot be read
        """
        snapshot = self.ranker.snapshot
        if snapshot is None:
            raise UnknownModel("no model has been published yet; ask again in a second")
        try:
            return self.data.models.read(snapshot.published.digest)
        except CorruptModel as error:
            raise UnknownModel(error.message, version=snapshot.published.digest) from None

    def reset_model(self, *, wait_s: float | None = None) -> bool:
        """Have a fresh model serve and learn from here on; the trainer begins it. Whether it has, by now.

        :param wait_s: how long to wait for it, `RESET_WAIT_S` unless said; it goes on whether or not somebody waits
        :raises LogUnavailable: nothing was asked for
        """
        payload = records.encode(records.Reset(reason="reset"))
        asked = self._log.append(lambda txn: txn.append("reset", payload))
        until = time.monotonic() + (RESET_WAIT_S if wait_s is None else wait_s)
        while True:
            newest = bases(self._log)[-1]
            if newest.base_pos > asked and newest.base.cause == "reset":
                self.ranker.refresh()
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(RESET_LOOK_S)

    def since(self) -> Since:
        """When what there is began, and when it was last changed.

        :raises LogUnavailable: the log cannot be read
        """
        config = self._log.read_kinds(["config"])[-1]
        base = next(one for one in reversed(bases(self._log)) if one.base.cause in FRESH)
        snapshot = self.ranker.snapshot
        begun = self._log.time_at(base.base_pos)
        return Since(
            log=self._log.first_time(),
            record=self._log.time_at(self._log.last_position()),
            config=config.ts,
            model=begun,
            learned=begun if snapshot is None else max(begun, snapshot.published.published_at),
        )

    def serving(self) -> ServingReply:
        """Which model the log says serves, and why."""
        return serving_reply(self._log, self.data.models, self.data.settings.keep_models)

    def rollback(self, request: RollbackRequest) -> ServingReply:
        """Serve an earlier model from here on: this worker at once, every other from its next request on.

        :raises UnknownModel: no such version is kept
        :raises CorruptModel: its file is not whole; nothing changed
        """
        roll_back(self._log, self.data.models, self.data.settings.keep_models, request)
        self.ranker.sync()
        return self.serving()

    def release(self, request: ReleaseRequest) -> ServingReply:
        """Serve the newest model from here on, in every worker.

        :raises NothingPublished: there is none
        """
        release(self._log, request.reason)
        self.ranker.sync()
        return self.serving()

    def experiment(self) -> ExperimentReply:
        """The experiment in force and how its arms do, from what the trainer has folded so far."""
        live = self.config()
        state = trainer_state(self._log)
        window_s = live.document.reward_window_s
        over = float("-inf") if state is None else self._log.time_at(state.position) - window_s
        running = live.document.experiment
        documents = [live.document, *(each.document for each in live.arms.values())]
        arms = [] if running is None else self._arms(running, over, window_s)
        watching = any(document.mode == "apprentice" for document in documents)
        return ExperimentReply(
            name=None if running is None else running.name,
            learn_from=None if running is None else running.learn_from,
            arms=arms,
            apprentice=self._apprentice(over) if watching else None,
        )

    def _arms(self, experiment: Experiment, over: float, window_s: float) -> list[ArmReply]:
        known = counts_by_arm(self._log, experiment.name, over=over, window_s=window_s)
        nothing = ArmCounts(0, 0, ArmSums(0, 0, 0.0, 0.0, 0.0, 0.0))
        snapshot = self.ranker.snapshot
        found = []
        for arm in experiment.arms:
            counts = known.get(arm.name, nothing)
            mean = mean_of(counts.sums)
            found.append(
                ArmReply(
                    name=arm.name,
                    share=arm.share,
                    champion=arm.name == experiment.champion,
                    decisions=counts.decisions,
                    closed=counts.sums.n,
                    viewers=counts.sums.viewers,
                    learned_slots=counts.learned_slots,
                    model_version=None if snapshot is None else snapshot.of(experiment, arm.name).published.digest,
                    mean_reward=mean.value,
                    low=mean.low,
                    high=mean.high,
                )
            )
        return found

    def _apprentice(self, over: float) -> ApprenticeReply | None:
        slots = list(watched_slots(self._log, over=over))
        found = apprenticeship(slots)
        if found is None:
            return None
        return ApprenticeReply(measured=all(one.propensity < 1.0 for one in slots), **found._asdict())

    def fold_counts(self) -> dict[str, int]:
        """What the trainer counted since it started: decisions, slots by what became of them, and so on."""
        return _counts_of(trainer_state(self._log))

    # ------------------------------------------------------------ health

    def problems(self) -> list[str]:
        """What ails the service, in words; empty if nothing does."""
        found = []
        if self._log.last_error is not None:
            found.append(f"the log last failed with {self._log.last_error}")
        try:
            state, pinned = trainer_state(self._log), serving(self._log)
            counts = _counts_of(state)
        except LogUnavailable as error:
            return [*found, error.message]
        if state is None:
            found.append("no trainer has run yet; rankings are in the caller's order")
        elif self._clock() - state.at > TRAINER_SILENT_S:
            found.append(
                f"the trainer has said nothing for {self._clock() - state.at:.0f} s; rankings go on, unlearning"
            )
        if state is not None and state.problem is not None:
            found.append(state.problem)
        if self.ranker.model_problem is not None:
            found.append(self.ranker.model_problem)
        if pinned.pinned is not None:
            found.append(
                f"rolled back to model {pinned.pinned} by the {pinned.by} ({pinned.reason}); newer ones wait for "
                "POST /v1/model/release"
            )
        if counts.get("unseen", 0) >= UNPROVEN and "learned" not in counts:
            found.append(
                f"feedback came for {counts['unseen']} slots since the trainer started, and nothing of it proves that "
                "one was seen, so nothing is learned; send watch_s or 'seen' of every seen slot"
            )
        return found

    def loop(self) -> LoopReply:
        """Is it learning? From what the trainer has counted: the log itself is not read.

        :raises LogUnavailable: the log cannot be read
        """
        return self.loop_and_counts()[0]

    def loop_and_counts(self) -> tuple[LoopReply, dict[str, float]]:
        """The same, and what was counted since the log began.

        :raises LogUnavailable: the log cannot be read
        """
        reply, counted = self.loop_and_counted()
        return reply, total(counted.days.values()).counts

    def loop_and_counted(self) -> tuple[LoopReply, Counted]:
        """The same, and all that it was read from.

        :raises LogUnavailable: the log cannot be read
        """
        counted = counted_of(self.data)
        return loop_reply(counted, facts_of(self.data, self.ranker, now=self._clock())), counted

    def unready(self) -> list[str]:
        """Why this worker should get no traffic yet; empty if it should."""
        found = []
        if self.ranker.snapshot is None:
            found.append("no model has been published yet")
        try:
            self._log.last_position()
        except LogUnavailable as error:
            found.append(error.message)
        return found


def _counts_of(state: TrainerState | None) -> dict[str, int]:
    """:raises LogUnavailable: the log is damaged there"""
    return {} if state is None else records.read_stored(state.counts, dict[str, int], what="the trainer's state")


def _unknown_item(item_id: str) -> UnknownItem:
    return UnknownItem(f"the catalogue has no item {item_id!r}; put it with PUT /v1/items", id=item_id)
