"""The numbers of the loop, from counts and from what the service knows besides; `bandit.loop.words` says them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, isfinite, log, sqrt
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit.loop.check import DAYS_A_FALSE_ALARM
from bandit.loop.comparison import (
    ALPHA,
    TARGETS,
    Difference,
    Mean,
    Sequence,
    Target,
    effective,
    feeds_needed,
    ratio_of,
    weighted,
)
from bandit.loop.counts import (
    COMPARED,
    COMPARED_REWARD,
    DAY,
    FEEDS,
    HOUR,
    MINUTE,
    N_SLOTS,
    REWARD,
    WEIGHED,
    LoopState,
    Stretch,
)

F64 = NDArray[np.float64]

#: So many feeds are enough for rates; the shortest stretch of time that holds them is told of.
RECENT_FEEDS: Final = 300
EVIDENCE: Final = "evidence "

Spanned = Literal["the last hour", "the last day", "all that was counted"]


class Sentence(Struct):
    """`about`: what it is about. `state`: `ok`, `waiting` (it needs time), `warning` (look at it), `broken`. `do`:
    what to do about it, empty if there is nothing to do.
    """

    about: str
    state: Literal["ok", "waiting", "warning", "broken"]
    text: str
    do: str = ""


class Recent(Struct):
    """The stretch of time that rates are of: the shortest of hour, day and all that holds 300 feeds whose windows
    have ended. `slot_reward` with its 95 % interval: what a slot earned, unseen ones 0.
    """

    of: Spanned
    decisions: int
    feeds: int
    feed_reward: float | None
    slot_reward: float | None
    low: float | None
    high: float | None


class Joins(Struct):
    """`rate`: share of the feeds that were shown, and whose windows have ended, of which any feedback came in time.
    `late`, `orphans`: shares of feedback that came after the window, or for a feed that was never ranked. `seen`:
    share of slots that were proven to be seen. `evidence`: learned slots by what proved it.
    """

    rate: float | None
    late: float | None
    orphans: float | None
    seen: float | None
    feedback: int
    not_activated: float | None
    evidence: dict[str, int]


class Propensities(Struct):
    """Are recorded propensities those of the draw? The mean of 1/p over what was drawn must be the mean number of
    candidates that had a chance (`expected`), and the mean of 1/(p * chances) must be 1: `ratio`, with its standard
    error. `alarm` is a test that may be looked at all the time, of this day of the log and the one before; where
    propensities are true it is raised on one day in `days_a_false_alarm` at most. `evidence`: 1 raises it.
    """

    slots: int
    mean_inverse: float | None
    expected: float | None
    ratio: float | None
    error: float | None
    alarm: bool
    evidence: float
    impossible: int
    days_a_false_alarm: int


class LoopComparison(Struct):
    """What is served against chance (any candidate that could stand at the slot, alike) or the caller's own order,
    one slot at a time, given what stands above it; in reward a slot.

    `low` and `high` hold at every look together, with 95 % confidence, whatever was learned meanwhile. `effective`:
    slots of the target's own that the log is worth. `feeds_needed`: about so many more would decide, if the difference
    is what it seems; null where that cannot be said. A comparison begins anew after seven days.
    """

    against: Target
    verdict: Literal["better", "worse", "undecided"]
    feeds: int
    since: float | None
    served: float | None
    target: float | None
    difference: float | None
    low: float | None
    high: float | None
    effective: float
    feeds_needed: int | None


class Explored(Struct):
    """Share of slots where another item stands than the best that could, as expected from the draw and as found.
    `cost`: what a slot would earn more if the best stood there, with a 95 % interval for one look.
    """

    expected: float | None
    found: float | None
    cost: float | None
    low: float | None
    high: float | None
    fallbacks: float | None


class Drift(Struct):
    """`never_seen`: share of candidates that no viewer has seen yet. `new_weights`: weights that came into use within
    a day. `weights` are in use of 2 ** `bits`; `shared` is the share of features that share theirs with another one
    (estimated: hashes fall evenly).
    """

    never_seen: float | None
    new_weights: int | None
    weights: int
    bits: int
    in_use: float
    features: int
    shared: float


class Model(Struct):
    """The model that this worker serves; `lag_s` and `lag_records`: how far the trainer is behind the log."""

    version: str | None
    learned_slots: int
    age_s: float | None
    lag_records: int
    lag_s: float
    open_feeds: int
    held: bool
    pinned: bool


class LoopReply(Struct):
    """Is it learning? `sentences` say it, the verdict first; the numbers that they rest on follow.

    `since`: of the log's time; what came before is not counted. `position`: every record up to it is.
    """

    verdict: Literal["learning", "not_yet", "broken"]
    sentences: list[Sentence]
    at: float
    since: float | None
    position: int
    recent: Recent
    joins: Joins
    propensities: Propensities
    comparisons: list[LoopComparison]
    exploration: Explored
    drift: Drift
    model: Model


class Facts(NamedTuple):
    """What the service knows besides the counts.

    :ivar problems: of the log, the trainer and the model, in words
    :ivar pinned: why an earlier model serves, in a sentence
    :ivar trainer_at: when it last said something; None if none ever ran
    :ivar model: newest one and when it was published, None before the first
    :ivar window_s: reward window of the config in force
    :ivar floors: of the config in force, slot by slot
    :ivar learned: slots that the trainer has learned, published or not
    """

    now: float
    problems: list[str]
    pinned: str | None
    trainer_at: float | None
    trainer_silent: bool
    model: Model
    learned: int
    bits: int
    window_s: float
    floors: list[float]
    apprentice: bool
    reward: str


class Counted(NamedTuple):
    """Stretches of the log, by when they begin, of the last hour, the last days, and all."""

    state: LoopState
    minutes: Mapping[int, Stretch]
    hours: Mapping[int, Stretch]
    days: Mapping[int, Stretch]


def total(stretches: Iterable[Stretch]) -> Stretch:
    """All of them as one."""
    found = Stretch()
    for one in stretches:
        found.add(one)
    return found


def since(stretches: Mapping[int, Stretch], moment: float) -> Stretch:
    """All that begin at or after a moment."""
    return total(one for start, one in stretches.items() if start >= moment)


def recent_of(counted: Counted) -> tuple[Spanned, Stretch]:
    """The shortest stretch that tells enough."""
    at = counted.state.at
    hour = since(counted.minutes, at - at % MINUTE - HOUR)
    if hour.counts.get("feeds", 0) >= RECENT_FEEDS:
        return "the last hour", hour
    day = since(counted.hours, at - at % HOUR - DAY)
    if day.counts.get("feeds", 0) >= RECENT_FEEDS:
        return "the last day", day
    return "all that was counted", total(counted.days.values())


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def reward_of(stretch: Stretch) -> Mean:
    """What a slot earned, unseen ones 0."""
    return ratio_of(stretch.groups[:, REWARD], stretch.groups[:, N_SLOTS])


def compared_reward_of(stretch: Stretch) -> Mean:
    """What a slot of the compared feeds earned."""
    return ratio_of(stretch.groups[:, COMPARED_REWARD], stretch.groups[:, COMPARED])


def target_of(stretch: Stretch, target: str) -> Mean:
    """What a slot would have earned with a target's choice there: chance, caller, or best."""
    product, weight = WEIGHED[target]
    groups = stretch.groups
    return weighted(groups[:, product], groups[:, weight], groups[:, COMPARED_REWARD], groups[:, COMPARED])


def recent_numbers(of: Spanned, stretch: Stretch) -> Recent:
    feeds = float(stretch.groups[:, FEEDS].sum())
    mean = reward_of(stretch)
    return Recent(
        of=of,
        decisions=round(stretch.counts.get("decisions", 0)),
        feeds=round(stretch.counts.get("feeds", 0)),
        feed_reward=_share(float(stretch.groups[:, REWARD].sum()), feeds),
        slot_reward=mean.value,
        low=mean.low,
        high=mean.high,
    )


def joins_of(stretch: Stretch) -> Joins:
    count = stretch.counts.get
    feeds, feedback = count("feeds", 0), count("feedback", 0)
    return Joins(
        rate=_share(count("answered", 0), feeds),
        late=_share(count("late", 0), feedback),
        orphans=_share(count("orphans", 0), feedback),
        seen=_share(count("seen", 0), count("ended_slots", 0)),
        feedback=round(feedback),
        not_activated=_share(
            count("not_activated", 0), feeds + count("not_activated", 0) + count("altered", 0)
        ),
        evidence={
            what.removeprefix(EVIDENCE): round(n)
            for what, n in sorted(stretch.counts.items())
            if what.startswith(EVIDENCE)
        },
    )


def propensities_of(state: LoopState, stretch: Stretch) -> Propensities:
    count = stretch.counts.get
    n = count("checked", 0)
    ratio, error = _share(count("even", 0), n), None
    if ratio is not None and n > 1:
        error = sqrt(max(count("even2", 0) / n - ratio * ratio, 0.0) / (n - 1))
    checks = [
        one for one in (state.check, state.checked) if one is not None and one.day >= state.check.day - 1
    ]
    return Propensities(
        slots=round(n),
        mean_inverse=_share(count("inverse", 0), n),
        expected=_share(count("chances", 0), n),
        ratio=ratio,
        error=error,
        alarm=any(one.alarm for one in checks),
        evidence=max((max(one.most, 0.0) for one in checks), default=0.0) / log(DAYS_A_FALSE_ALARM),
        impossible=sum(one.impossible for one in checks),
        days_a_false_alarm=DAYS_A_FALSE_ALARM,
    )


def _verdict(difference: Difference) -> Literal["better", "worse", "undecided"]:
    if difference.low is not None and difference.low > 0.0:
        return "better"
    if difference.high is not None and difference.high < 0.0:
        return "worse"
    return "undecided"


def comparison_of(counted: Counted, target: Target) -> LoopComparison:
    """By the comparison that goes on; by the one before it as long as this one has not decided."""
    state = counted.state
    found: tuple[Sequence, Difference] | None = None
    for one in (state.compared, state.before):
        if one is None:
            continue
        difference = one.difference(target)
        if found is None or (_verdict(found[1]) == "undecided" and _verdict(difference) != "undecided"):
            found = one, difference
    everything = total(counted.days.values())
    _, weight = WEIGHED[target]
    worth = effective(
        float(everything.groups[:, weight].sum()), everything.counts.get(f"weight2_{target}", 0.0)
    )
    if found is None:
        return LoopComparison(target, "undecided", 0, None, None, None, None, None, None, worth, None)
    one, difference = found
    served = _share(one.reward, one.slots)
    return LoopComparison(
        against=target,
        verdict=_verdict(difference),
        feeds=one.feeds,
        since=one.began_at,
        served=served,
        target=None if served is None or difference.value is None else served - difference.value,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        effective=worth,
        feeds_needed=feeds_needed(one.feeds, difference) if _verdict(difference) == "undecided" else None,
    )


def explored_of(stretch: Stretch) -> Explored:
    count = stretch.counts.get
    best, served = target_of(stretch, "best"), compared_reward_of(stretch)
    cost = None if best.value is None or served.value is None else best.value - served.value
    low = high = None
    if cost is not None:
        product, weight = WEIGHED["best"]
        groups = stretch.groups
        mean = served.value or 0.0
        # Viewer by viewer, so that what both share cancels.
        apart = ratio_of(
            groups[:, product]
            - mean * groups[:, weight]
            - groups[:, COMPARED_REWARD]
            + mean * groups[:, COMPARED],
            groups[:, COMPARED],
        )
        low, high = apart.low, apart.high
    return Explored(
        expected=_share(count("exploring", 0), count("exploring_slots", 0)),
        found=_share(count("explored", 0), count("slots", 0)),
        cost=cost,
        low=low,
        high=high,
        fallbacks=_share(count("fallbacks", 0), count("decisions", 0)),
    )


def drift_of(counted: Counted, stretch: Stretch, bits: int) -> Drift:
    size = 1 << bits
    known = {
        start: one.gauges["weights"]
        for stretches in (counted.days, counted.hours, counted.minutes)
        for start, one in stretches.items()
        if "weights" in one.gauges
    }
    weights = known[max(known)] if known else 0.0
    # The newest that was said a day ago or more; if nothing was, all came within it. A stretch may end long after it
    # begins.
    ended = {
        start: one.gauges["weights"]
        for span, stretches in ((DAY, counted.days), (HOUR, counted.hours))
        for start, one in stretches.items()
        if "weights" in one.gauges and start + span <= counted.state.at - DAY
    }
    before = ended[max(ended)] if ended else 0.0
    in_use = min(weights / size, 1.0)
    # So many fell into 2 ** bits places to leave so few of them empty.
    features = -size * log(max(1.0 - in_use, 0.5 / size))
    return Drift(
        never_seen=_share(stretch.counts.get("never_seen", 0), stretch.counts.get("asked", 0)),
        new_weights=round(weights - before) if known else None,
        weights=round(weights),
        bits=bits,
        in_use=in_use,
        features=round(features),
        shared=1.0 - exp(-features / size) if isfinite(features) else 1.0,
    )


class Numbers(NamedTuple):
    """What `LoopReply` says in numbers."""

    recent: Recent
    joins: Joins
    propensities: Propensities
    comparisons: list[LoopComparison]
    exploration: Explored
    drift: Drift


def numbers_of(counted: Counted, facts: Facts) -> Numbers:
    """All numbers."""
    of, stretch = recent_of(counted)
    return Numbers(
        recent_numbers(of, stretch),
        joins_of(stretch),
        propensities_of(counted.state, stretch),
        [comparison_of(counted, target) for target in TARGETS],
        explored_of(stretch),
        drift_of(counted, stretch, facts.bits),
    )


#: As the replies say it.
CONFIDENCE: Final = f"{100 * (1 - ALPHA):.0f} %"
