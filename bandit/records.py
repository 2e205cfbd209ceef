"""What travels: the API's requests and replies, and the log's records.

The structs validate requests, write and read the log, and generate the OpenAPI
document; there is no second description of any of them.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit.errors import InvalidRequest, LogUnavailable

MAX_CANDIDATES = 10_000
MAX_SLOTS = 100
MAX_ITEMS_A_CALL = 10_000
MAX_EVENTS_A_CALL = 1_000

# No control characters: an id ends up in logs, URLs and terminals.
Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        # The look-ahead: Python's $ would let a newline at the end pass.
        pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)",
        description="1 to 256 characters, no control characters",
    ),
]
# The same, checked by `check_ids` when first seen: a regular expression a candidate costs 0.6 ms a thousand.
CandidateId = Annotated[
    str, Meta(min_length=1, max_length=256, description="1 to 256 characters, no control characters")
]
Scalar = str | int | float | bool | list[str]
Features = dict[str, str | int | float | bool | list[str] | dict[str, Scalar]]
# Raw: most are seen again, so the text itself is the key and is parsed only once.
FeaturesText = Annotated[
    msgspec.Raw,
    Meta(
        description="names to strings, numbers, booleans, lists of strings; one level of namespaces",
        extra_json_schema=msgspec.json.schema(Features),
    ),
]


class Candidate(Struct, forbid_unknown_fields=True):
    """A candidate that brings its own features for this one request."""

    id: CandidateId
    features: FeaturesText | UnsetType = UNSET


class User(Struct, forbid_unknown_fields=True):
    """Whose feed it is."""

    id: Id
    features: Features | UnsetType = UNSET


Pins = Annotated[
    dict[Annotated[int, Meta(ge=0, lt=MAX_SLOTS)], CandidateId],
    Meta(max_length=MAX_SLOTS, description="candidates by the slot at which they are wanted, counted from 0"),
]


class RankRequest(Struct, forbid_unknown_fields=True):
    """Which of these candidates, in which order?

    :param candidates: ids of the catalogue, or ids with features of their own; no id twice
    :param event_id: names the decision; the same id with the same body gets the same answer. Made if missing
    :param user: whose feed it is; without, nothing is known of the viewer
    :param context: features of the moment, such as the hour or the device
    :param slots: how many are wanted; else the config's
    :param exclude: candidates that may not be shown this time
    :param deadline_ms: by when the answer is wanted; what is not scored by then can still be drawn by chance
    :param pins: candidates by the slot at which they are wanted
    :param defer_activation: it is fetched ahead: its window begins when it is activated, and never if it is not
    :param explain: say what made each score, and what rules kept out
    """

    candidates: Annotated[list[CandidateId | Candidate], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    event_id: Id | UnsetType = UNSET
    user: User | None = None
    context: Features | UnsetType = UNSET
    slots: Annotated[int, Meta(ge=1, le=MAX_SLOTS)] | UnsetType = UNSET
    exclude: Annotated[list[CandidateId], Meta(max_length=MAX_CANDIDATES)] = []
    deadline_ms: Annotated[float, Meta(gt=0, le=60_000)] | UnsetType = UNSET
    pins: Pins = {}
    defer_activation: bool = False
    explain: bool = False


class Placement(Struct):
    """One slot of a ranking.

    `propensity` is the probability that this id was drawn at this slot given the slots above.
    """

    slot: int
    id: str
    propensity: float
    score: float | None


class Explanation(Struct):
    """Why an item stands where it stands.

    `exploratory`: it was outside the shortlist, so chance put it there. `features`: the largest parts of its
    score, by name; crosses are `a x b`. `rules`: which feed rules moved it, in words.
    """

    id: str
    exploratory: bool
    features: list[tuple[str, float]]
    rules: list[str] = []


class KeptOut(Struct):
    """A candidate that feed rules kept out of the ranking, and why."""

    id: str
    rules: list[str]


class RankReply(Struct, omit_defaults=False):
    """The ranking, and what made it.

    `relaxed`: slots at which a feed rule gave way because it left nothing, by the rule's name; `pins` names slots
    whose pinned item may not be shown. `kept_out`: with `explain`, what rules kept out of the ranking.
    """

    event_id: str
    ranking: list[Placement]
    model_version: str | None
    config_version: int
    policy: str
    scored: int
    unknown: list[str]
    fallback: str | None
    relaxed: dict[str, list[int]] = {}
    explanation: list[Explanation] | UnsetType = UNSET
    experiment: str | UnsetType = UNSET
    arm: str | UnsetType = UNSET
    kept_out: list[KeptOut] | UnsetType = UNSET


Finite = Annotated[float, Meta(ge=-1e6, le=1e6, description="between -1e6 and 1e6")]


About = Annotated[
    str,
    Meta(
        max_length=256,
        pattern=r"^(creator|sound|tag:[^\x00-\x1f\x7f]+)$(?!\n)",
        description="creator, sound or tag:NAME: what else of the item the viewer is not interested in",
    ),
]


class ItemFeedback(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the viewer did with one item of a ranking.

    :param id: of the item, as it was ranked
    :param signals: by the names that the config lists, and ``length_s``
    :param seen: whether it was on the screen, if the client knows
    :param reward: instead of what the config's formula makes of the signals
    :param final: no more will come for it, so it is learned at once
    :param about: of a "not interested": what else of the item the viewer does not want
    """

    id: Id
    signals: dict[str, Finite] = {}
    seen: bool | None = None
    reward: Finite | None = None
    final: bool = False
    about: Annotated[list[About], Meta(max_length=8)] = []


class Feedback(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the viewer did with a ranking, or with a part of it.

    :param event_id: of the ranking; it may come before the ranking does
    :param items: only those that there is something to say of
    :param feedback_id: names the feedback, so that it may be sent again; without, it counts each time
    """

    event_id: Id
    items: Annotated[list[ItemFeedback], Meta(min_length=1, max_length=MAX_SLOTS)]
    feedback_id: Id | UnsetType = UNSET


class LoggedFeedback(Feedback, forbid_unknown_fields=True, omit_defaults=True):
    """A feedback as the log holds it.

    :param reward: of whatever stands first in the ranking, for those who need not know what that is
    :param said_by: the viewer, if it came after the window and says what they are (not) interested in: that holds all
        the same, and whoever folds the log may have forgotten the decision, or it may be deleted by then
    :param said_of: item versions by id, of what it says that of
    """

    items: list[ItemFeedback] = []
    reward: Finite | None = None
    said_by: str | None = None
    said_of: dict[str, int] = {}


class FeedbackBatch(Struct, forbid_unknown_fields=True):
    """Many at once; all are stored, or none."""

    events: Annotated[list[Feedback], Meta(min_length=1, max_length=MAX_EVENTS_A_CALL)]


FeedbackStatus = Literal["accepted", "duplicate", "late", "pending"]


class FeedbackResult(Struct, omit_defaults=True):
    """What became of one feedback.

    `unknown` names items that were not in the ranking; what was said of them is kept, but joins nothing.
    """

    event_id: str
    status: FeedbackStatus
    feedback_id: str | None = None
    unknown: list[str] = []


class FeedbackResults(Struct):
    """What became of each, in the order sent."""

    events: list[FeedbackResult]


class ActivateRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The feed was shown; `shown` if it was not shown as ranked."""

    shown: Annotated[list[Id], Meta(min_length=1, max_length=MAX_SLOTS)] | None = None


class ActivateReply(Struct):
    """`learns` is false when another list was shown than a prefix of the ranking."""

    event_id: str
    status: Literal["activated", "duplicate", "late", "pending"]
    learns: bool | None


MAX_INTERESTS = 64
Interest = Annotated[str, Meta(min_length=1, max_length=256)]


class UserRequest(Struct, forbid_unknown_fields=True):
    """What a viewer said of themselves: tags that they picked at sign-up."""

    interests: Annotated[list[Interest], Meta(max_length=MAX_INTERESTS)]


class Taste(Struct):
    """How much better than usual the viewer takes what has this attribute.

    `long` and `lately` are rewards, drawn to 0 while little is known; `slots` is how many seen slots it rests on,
    older ones counting less.
    """

    attribute: str
    value: str
    long: float
    lately: float
    slots: float


class UserReply(Struct):
    """What the service believes of a viewer, as of `position`: the strongest tastes either way."""

    id: str
    position: int
    seen_slots: int
    interests: list[str]
    tastes: list[Taste]
    not_interested: int
    recently_shown: int


class ErasureReply(Struct):
    """How far the erasure of a viewer is: what was found of them, and what remains.

    `status`: `erased` (nothing was known of them, or nothing is any more), or `erasing`: ask again. `at` is the log
    time at which it was asked for, and `position` that record's, which holds a keyed hash of the id; null where nothing
    was known. Counts are of deleted records; `profile` is whether there was one.
    """

    status: Literal["erased", "erasing"]
    position: int | None
    at: float | None
    decisions: int
    feedback: int
    activations: int
    sign_ups: int
    outcomes: int
    profile: bool
    remains: list[str]


class Item(Struct, forbid_unknown_fields=True):
    """A video of the catalogue."""

    id: CandidateId
    features: FeaturesText | UnsetType = UNSET


class ItemsRequest(Struct, forbid_unknown_fields=True):
    """Bulk upsert: features replace the ones known; a withdrawn item returns."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=MAX_ITEMS_A_CALL)]


class ItemsReply(Struct):
    """All are durable, and ranked with these features from the next request on."""

    upserted: int
    unchanged: int


class ItemReply(Struct):
    """An item as the catalogue holds it."""

    id: str
    features: FeaturesText
    withdrawn: bool
    updated_at: float


Reason = Annotated[str, Meta(min_length=1, max_length=500)]


class RollbackRequest(Struct, forbid_unknown_fields=True):
    """Serve an earlier model: `to` is a kept version, or how it begins (at least four characters)."""

    to: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Reason = "asked for"


class ReleaseRequest(Struct, forbid_unknown_fields=True):
    """Serve the newest model again; a held one is then no longer held for how far scores moved."""

    reason: Reason = "asked for"


class HoldReply(Struct):
    """The newest snapshot that failed a check and did not go live; `arm` whose it was, where arms learn apart."""

    version: str | None
    position: int
    at: float
    failed: str
    reason: str
    lessons: int
    arm: str | None = None


class ComparisonReply(Struct):
    """What the slow guard found at its last look: (running - champion) in reward a slot, and its upper bound."""

    release: int
    champion: str
    feeds: int
    estimate: float | None
    upper: float | None
    alpha: float | None
    at: float


class ServingReply(Struct):
    """Which model serves, and why.

    `serves`: `newest`, or `pinned` since a rollback. `newest` is the newest version that was published. `by`,
    `reason` and `at` are of the last rollback or release, null before the first. `hold` is the newest snapshot that
    was held, and `holding` whether nothing was published since. `kept`: versions that can be rolled back to.
    `compared`: by the slow guard, null if it never ran.
    """

    serves: Literal["newest", "pinned"]
    pinned: str | None
    newest: str | None
    by: str | None
    reason: str | None
    at: float | None
    release: int
    champion: str | None
    holds: int
    holding: bool
    hold: HoldReply | None
    kept: list[str]
    compared: ComparisonReply | None


class ModelReply(Struct):
    """The model that this worker serves, and how far behind the log the trainer is.

    `evidence`: slots learned since the trainer started, by what proved that they were seen.
    """

    version: str | None
    position: int | None
    published_at: float | None
    learned_slots: int
    arguments: str
    log_position: int
    trainer_position: int
    trainer_at: float | None
    lag_records: int
    problem: str | None
    serving: ServingReply
    evidence: dict[str, int] = {}


class ArmReply(Struct):
    """How one arm does. The means are of decisions whose windows are over, unseen slots counting 0.

    `low` and `high`: 95 % interval of the mean, for one look at it; for a verdict that holds however often one looks
    ask `replay evaluate --slice arm`. `model_version`: what this worker serves the arm.
    """

    name: str
    share: float
    champion: bool
    decisions: int
    closed: int
    viewers: int
    learned_slots: int
    mean_reward: float | None
    low: float | None
    high: float | None
    model_version: str | None = None


class ApprenticeReply(Struct):
    """What an apprentice would have earned per seen slot, had one slot at a time been its own choice.

    `measured`: the caller's order was explored, so `own` is an estimate without bias; else it is the model's opinion
    wherever it disagrees with the caller. `low` and `high`: 95 % interval of `own - caller`.
    """

    slots: int
    viewers: int
    measured: bool
    agreement: float
    caller: float
    says_caller: float
    says_own: float
    own: float
    low: float | None
    high: float | None


class ExperimentReply(Struct):
    """The experiment in force and how its arms do; how an apprentice does, if there is one."""

    name: str | None
    learn_from: str | None
    arms: list[ArmReply]
    apprentice: ApprenticeReply | None


class SlotStory(Struct):
    """One slot, from its draw to its lesson.

    `status`: `open` (its window has not ended), `learned`, or why it taught nothing: `unseen`,
    `undefined_reward`, `altered`, `not_shown`, `not_activated`, `pinned`, `held` (what had learned it did not go
    live). `model` is the first published one that holds it.
    """

    slot: int
    id: str
    propensity: float
    score: float | None
    exploratory: bool
    status: str
    evidence: str | None = None
    reward: float | None = None
    weight: float | None = None
    learned_at: float | None = None
    model: str | None = None


class FeedbackStory(Struct):
    """A feedback or activation as it stands in the log; `late` ones are kept and not learned."""

    at: float
    kind: Literal["feedback", "activation"]
    late: bool
    body: msgspec.Raw


class EventReply(Struct):
    """A decision, what came back, and what was learned from it; `app` is that of the key that asked for it.

    What feed rules did: `ineligible` counts candidates that could not be shown, by reason; `relaxed` lists slots at
    which a rule gave way; `passed` (slot, id) of the best candidate that a rule kept away though it was better than
    all that was left; `reserved` slots that a quota set aside.
    """

    event_id: str
    position: int
    at: float
    window_ends_at: float
    user: str | None
    shared: msgspec.Raw
    n_candidates: int
    ineligible: dict[str, int]
    relaxed: dict[str, list[int]]
    passed: dict[str, list[tuple[int, str]]]
    reserved: dict[str, list[int]]
    scored: int
    model_version: str | None
    config_version: int
    fallback: str | None
    deferred: bool
    slots: list[SlotStory]
    follow_ups: list[FeedbackStory]
    app: str = ""


class ErrorBody(Struct, omit_defaults=True):
    """`code` is for programs, `message` for people; `detail` holds what was given and what is allowed."""

    code: str
    message: str
    detail: dict[str, Any] = {}


class ErrorReply(Struct):
    """Every reply that is not a success has this shape."""

    error: ErrorBody


class HealthReply(Struct, omit_defaults=True):
    """`status` is `ok`, or what is wrong."""

    status: str
    problems: list[str] = []


# ---------------------------------------------------------------- the log's records


class Slot(Struct, array_like=True):
    """One drawn slot, as logged.

    :param version: number of the item version (features as they were) in ``item_versions``
    :param propensity: probability of this draw given the slots above
    :param score: None if a deadline cut the item off
    :param exploratory: outside the shortlist when it was drawn
    :param dense: the item's dense columns, as `bandit.statistics.columns` lists them; none before there were any
    """

    id: str
    version: int
    propensity: float
    score: float | None
    exploratory: bool
    dense: list[float] = []


class StatisticsStamp(Struct, array_like=True):
    """What a decision knew of items and viewer beyond their features.

    :param epoch: the statistics of items hold the log up to this position
    :param at: log time of the epoch
    :param viewer_pos: what was published of the viewer holds the log up to this position
    :param read_to: the last record of the viewer's own that was read beyond it, for what they saw and do not want
    :param digest: of the dense columns of all candidates, `bandit.statistics.columns.digest_of`
    """

    epoch: int
    at: float
    viewer_pos: int
    read_to: int
    digest: str


#: Whose rules of the game a decision follows, if not the service's own; see `bandit.config.at_door`.
Door = Literal["personalizer"]


class Order(Struct, array_like=True):
    """All that could be drawn at the first slot, in the order in which they were answered, what was drawn first.

    :param places: little-endian uint16 places among the candidates; by score below the first
    :param probabilities: of being drawn at the slot, in that order; the last one holds for all that follow
    """

    places: bytes
    probabilities: list[float]


class Decision(Struct, omit_defaults=True):
    """Everything that made a ranking, and enough to learn from it.

    The candidates stand beside it in the row's ``candidates`` column: little-endian uint32 numbers
    of item versions, in the caller's order. ``ineligible`` maps a reason to the places in that list.

    :param shared: resolved features of viewer and context, VW JSON text
    :param read_pos: control position that this decision had applied
    :param strength: the explorer's gamma, epsilon or lambda as it was drawn with, if a budget made it another than
        the config's; see `bandit.slate.drawing.limited`
    :param share: expected share of exploratory placements; see `bandit.slate.exploration`
    :param explored: how many placements were exploratory in fact, and ``explored_at`` at which slots
    :param chances: at each slot, how many candidates could be drawn there, given the slots above
    :param as_caller: slots at which the first in the caller's order of all that could stand there does
    :param experiment: the one that it is part of, and ``arm`` its arm
    :param apprentice: in apprentice mode, for each slot what the config's own draw, under its rules, would have been
        given the slots above: the probability of what was shown, and its expected score; empty if nothing could be
        scored, or be shown by its rules
    :param pins: place by slot, as the caller wanted it; ``pinned`` are the slots where such an item stands
    :param marks: by rule's name a bit for each candidate, first candidate first: seen before, or of a quota's kind
    :param reserved: slots that each quota set aside
    :param relaxed: slots at which each rule gave way
    :param passed: (slot, place) of the best candidate that a rule kept away though it was better than all left
    :param door: through which it was asked for
    :param order: the whole reply, where all candidates were answered and not only those that were drawn
    """

    slots: list[Slot]
    shared: msgspec.Raw
    config: int
    model: str | None
    read_pos: int
    scored: int
    n_slots: int
    n_learned: int = 0
    fallback: str | None = None
    user: str | None = None
    unknown: list[int] = []
    ineligible: dict[str, list[int]] = {}
    deferred: bool = False
    strength: float | None = None
    share: float | None = None
    explored: int = 0
    explored_at: list[int] = []
    chances: list[int] = []
    as_caller: list[int] = []
    statistics: StatisticsStamp | None = None
    experiment: str | None = None
    arm: str | None = None
    apprentice: list[tuple[float, float]] | None = None
    pins: dict[int, int] = {}
    pinned: list[int] = []
    marks: dict[str, bytes] = {}
    reserved: dict[str, list[int]] = {}
    relaxed: dict[str, list[int]] = {}
    passed: dict[str, list[tuple[int, int]]] = {}
    door: Door | None = None
    order: Order | None = None


class Withdraw(Struct):
    """The item is not to be ranked from here on."""

    id: str


class ItemsRecord(Struct):
    """Item versions that are current from here on: (id, version)."""

    items: list[tuple[str, int]]


class Tick(Struct):
    """Time has passed; windows that ended before this record's ``ts`` are over."""


class Publish(Struct, omit_defaults=True):
    """A model that holds all the log up to ``position``.

    :param digest: BLAKE2b-128 of the saved VW model, hex
    :param position: position of the last record folded into it
    :param reads_from: the earliest record that a trainer resuming here must read again to know what was
        open at ``position``
    :param experiment: whose arms learn apart; ``digest`` is then the champion's
    :param arms: the others' models by arm: digest, and how many slots were learned. All hold the log up to ``position``
    """

    digest: str
    position: int
    reads_from: int
    learned: int
    experiment: str | None = None
    arms: dict[str, tuple[str, int]] = {}


class Hold(Struct, omit_defaults=True):
    """A snapshot did not go live: it failed a check. What it had learned since the last good one is in no model.

    Learning goes on from the last good model: lessons of records in (``after``, ``position``] are not taught, by
    whoever folds the log. The records stay, and joins and statistics are as they would be without it.

    :param digest: of the model as VW saved it
    :param position: of the last record folded into it
    :param after: position of the last good model
    :param failed: the check, see `bandit.learning.guard`
    :param lessons: how many are not taught
    :param probe: anchor of the probe that it was looked at with
    :param arm: whose snapshot it was, where arms learn apart; None: the lessons of every model are not taught
    """

    digest: str | None
    position: int
    after: int
    failed: str
    reason: str
    lessons: int
    probe: int = 0
    arm: str | None = None


class Rollback(Struct, omit_defaults=True):
    """An earlier model serves from here on, in every worker, whatever is published, until a release.

    It moves what serves and nothing else: learning goes on.

    :param to: digest of a published model
    :param position: that this model holds
    :param by: ``operator`` or ``guard``
    :param release: what the guard compared, if it was the guard: number of the release, feeds, the upper bound of
        (running - champion) in reward a slot, and the chance of a false alarm that it spent
    """

    to: str
    position: int
    by: str
    reason: str
    release: int = 0
    feeds: int = 0
    upper: float | None = None
    alpha: float | None = None


class Release(Struct, omit_defaults=True):
    """The newest model serves from here on, and is compared with a champion that is frozen here.

    :param number: how many releases there are with this one
    :param champion: digest of the published model that served before this record
    :param position: that the champion holds
    """

    number: int
    champion: str
    position: int
    by: str
    reason: str


class Reset(Struct):
    """A fresh model is to serve and learn from here on; the trainer begins it, at a base."""

    reason: str


class Epoch(Struct):
    """Statistics of items and viewers that hold all the log up to ``position``.

    :param digest: of all that changed since the epoch before, chained to its digest
    """

    position: int
    digest: str


class UserRecord(Struct):
    """What a viewer said of themselves."""

    id: str
    interests: list[str] = []


class Base(Struct, omit_defaults=True):
    """Where a fold begins: a model with these VW arguments, the first one fresh, later ones as they are at a position.

    Records before ``reads_from`` may be missing from then on; those of ``erased`` viewers are.

    :param cause: ``begin``, ``erasure``, ``retention``, ``retrain``, ``warm-start`` or ``reset``
    :param position: what the model and the statistics hold: the log up to here, as it was
    :param reads_from: the earliest record needed to know what was open at ``position``
    :param model: digest of the model as VW saved it; None: a fresh one
    :param statistics: digest of the file with the statistics; None: nothing was counted yet
    :param epoch: position of the last epoch, which these statistics are
    :param epoch_digest: of that epoch, to which the next one is chained
    :param erased: positions of the erasures that this base carries out
    :param experiment, arms: as `Publish`
    """

    arguments: str
    cause: str = "begin"
    position: int = 0
    reads_from: int = 1
    model: str | None = None
    learned: int = 0
    statistics: str | None = None
    epoch: int = 0
    epoch_digest: str = ""
    erased: list[int] = []
    experiment: str | None = None
    arms: dict[str, tuple[str, int]] = {}


class Erase(Struct):
    """A viewer is to be erased; the trainer does it.

    :param who: keyed hash of their id, `bandit.access.privacy.who_of`: whoever lacks the secret cannot tell whose it is
    """

    who: str


def decode(data: bytes, type_: type[Any], *, what: str = "request body") -> Any:
    """Typed value of JSON text.

    :raises InvalidRequest: not JSON, or not of this type; the message names the place and what is allowed
    """
    try:
        return _decoder(type_).decode(data)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{what}: {error}") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest(f"{what} is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is not valid UTF-8: {error}") from None


def read_stored(data: bytes, type_: type[Any], *, what: str) -> Any:
    """Typed value of JSON text that this service wrote.

    :raises LogUnavailable: it is not what was written; no fault of the one who asks
    """
    try:
        return _decoder(type_).decode(data)
    except (ValueError, RecursionError) as error:
        raise LogUnavailable(f"{what} in the log is damaged ({error}); mend the log, or restore a copy of it") from None


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_ids(ids: Iterable[str], *, where: str) -> None:
    """Refuse control characters in ids.

    :raises InvalidRequest: names the first such id
    """
    if _CONTROL.search("".join(ids)) is not None:
        bad = next(id_ for id_ in ids if _CONTROL.search(id_))
        raise InvalidRequest(f"{where}: the id {bad!r} has a control character; ids are printable text", id=bad)


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_making_a_decoder = threading.Lock()


def _decoder(type_: type[Any]) -> msgspec.json.Decoder[Any]:
    decoder = _decoders.get(type_)
    if decoder is None:
        # msgspec fills in what it knows of a struct type at its first use, and a second thread that uses the
        # type meanwhile reads null pointers: the process is gone.
        with _making_a_decoder:
            decoder = _decoders.get(type_) or msgspec.json.Decoder(type_)
            _decoders[type_] = decoder
    return decoder


encode = msgspec.json.Encoder().encode


def body_hash(body: Struct) -> bytes:
    """BLAKE2b-128 of a request as it was understood: the order of names in its JSON does not matter."""
    return hashlib.blake2b(msgspec.json.encode(body, order="deterministic"), digest_size=16).digest()
