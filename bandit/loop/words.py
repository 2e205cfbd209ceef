"""Is it learning? In sentences: what the numbers of the loop mean, and what to do about them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from bandit.loop.comparison import FEWEST, SCALED_BY
from bandit.loop.report import CONFIDENCE, Facts, LoopComparison, Numbers, Sentence
from bandit.wording import about, compact, lasting, number, percent, places, signed

Verdict = Literal["learning", "not_yet", "broken"]

#: Fewer feeds than these, or fewer reports, and nothing is said of their rates.
ENOUGH: Final = 100
ENOUGH_FEEDBACK: Final = 50
#: Rates beyond which something is told.
FEW_ANSWERED: Final = 0.05
MANY_ORPHANS: Final = 0.05
MANY_LATE: Final = 0.1
MANY_FALLBACKS: Final = 0.2
MANY_UNSEEN: Final = 0.5
MANY_SHARED: Final = 0.3
BEHIND_S: Final = 60.0
STALE_S: Final = 300.0
STALE_SLOTS: Final = 100


def tell(numbers: Numbers, facts: Facts) -> tuple[Verdict, list[Sentence]]:
    """The verdict, and the sentences that say it: the verdict's own first, then what is broken, then the rest."""
    found = [
        *_trainer(numbers, facts),
        *_clients(numbers, facts),
        *_propensities(numbers),
        *_comparisons(numbers, facts),
        *_exploration(numbers, facts),
        *_features(numbers),
    ]
    order = {"broken": 0, "warning": 1, "waiting": 2, "ok": 3}
    found.sort(key=lambda one: order[one.state])
    verdict, first = _verdict(numbers, facts, found)
    return verdict, [first, *found]


def _verdict(numbers: Numbers, facts: Facts, found: list[Sentence]) -> tuple[Verdict, Sentence]:
    broken = [one for one in found if one.state == "broken"]
    if broken:
        more = f" So are {len(broken) - 1} more things." if len(broken) > 1 else ""
        return "broken", Sentence(
            "verdict", "broken", f"Something is broken: {_small(broken[0].text)}{more}", broken[0].do
        )
    chance = numbers.comparisons[0]
    if facts.apprentice:
        return "not_yet", Sentence(
            "verdict",
            "waiting",
            "It watches as an apprentice: your order is served, and it learns from that.",
            'GET /v1/experiment says what it would have earned; mode "serve" in the config lets it rank.',
        )
    if chance.verdict == "better":
        return "learning", Sentence("verdict", "ok", f"It is learning: {_small(_earns(chance))}")
    return "not_yet", Sentence(
        "verdict",
        "waiting",
        f"Not learning yet: {_why_not(numbers, facts, chance)}",
        _what_then(numbers, chance),
    )


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _why_not(numbers: Numbers, facts: Facts, chance: LoopComparison) -> str:
    decisions, feeds = numbers.recent.decisions, numbers.recent.feeds
    if decisions == 0 and facts.model.open_feeds == 0:
        return "nothing was ranked so far."
    if feeds == 0:
        return (
            f"no reward window has ended so far. A feed counts {lasting(facts.window_s)} after it was ranked; "
            f"{_n(facts.model.open_feeds, 'feed')} wait for it."
        )
    if all(phi == 0.0 for phi in facts.floors):
        return "the floor is 0 at every slot, so what is served can be compared with nothing."
    if chance.feeds < FEWEST:
        return (
            f"{_n(feeds, 'feed')} came to their end; the first {SCALED_BY} with a model tell how far rewards reach, "
            f"and after some {FEWEST} more there is something to compare."
        )
    return f"what is served does not surely earn more than chance. {_difference(chance)}"


def _what_then(numbers: Numbers, chance: LoopComparison) -> str:
    if numbers.recent.decisions == 0:
        return "Send a first ranking: POST /v1/rank."
    if chance.feeds_needed is not None:
        return (
            f"About {about(chance.feeds_needed)} more feeds would decide, if the difference is what it seems."
        )
    return ""


def _n(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


# ---------------------------------------------------------------- trainer and model


def _trainer(numbers: Numbers, facts: Facts) -> Iterator[Sentence]:
    model = facts.model
    if facts.trainer_at is None:
        yield Sentence(
            "trainer",
            "broken",
            "No trainer has run yet, so nothing is learned.",
            "python server.py runs one beside the workers; look at what it wrote to stderr.",
        )
        return
    if facts.trainer_silent:
        silent = lasting(facts.now - facts.trainer_at)
        yield Sentence(
            "trainer",
            "broken",
            f"The trainer has said nothing for {silent}, so nothing is learned.",
            "Restart the service; what was logged meanwhile is learned then, none of it twice.",
        )
    elif model.lag_s > BEHIND_S:
        yield Sentence(
            "trainer",
            "broken",
            f"The trainer is {lasting(model.lag_s)} and {_n(model.lag_records, 'record')} behind the log.",
            "If it does not catch up, more is ranked than one trainer can learn from: "
            "rank fewer candidates by features, or send less.",
        )
    else:
        yield Sentence("trainer", "ok", f"The trainer is {lasting(max(model.lag_s, 0.0))} behind the log.")
    for problem in facts.problems:
        yield Sentence("service", "broken", f"{problem[:1].upper()}{problem[1:]}.")
    if facts.pinned is not None:
        yield Sentence(
            "rollback", "warning", facts.pinned, "POST /v1/model/release serves the newest one again."
        )
    if model.version is None:
        yield Sentence("model", "waiting", "No model was published yet; feeds are in the caller's order.")
    elif (
        facts.learned - model.learned_slots > STALE_SLOTS
        and (model.age_s or 0.0) > STALE_S
        and not (model.held or model.pinned)
    ):
        yield Sentence(
            "model",
            "broken",
            f"The served model is {lasting(model.age_s or 0.0)} old, though "
            f"{_n(facts.learned - model.learned_slots, 'slot')} were learned since.",
            "GET /v1/model and what workers write to stderr say why they do not take the newer one.",
        )
    else:
        learned = _n(model.learned_slots, "slot")
        age = "" if model.age_s is None else f", published {lasting(max(model.age_s, 0.0))} ago"
        yield Sentence(
            "model",
            "ok" if model.learned_slots else "waiting",
            f"The served model has learned {learned}{age}.",
        )


# ---------------------------------------------------------------- what clients send


def _clients(numbers: Numbers, facts: Facts) -> Iterator[Sentence]:
    joins, feeds = numbers.joins, numbers.recent.feeds
    of = f"in {numbers.recent.of}"
    if feeds >= ENOUGH and joins.rate == 0.0:
        yield Sentence(
            "feedback",
            "broken",
            f"Clients are silent: no feedback came for any of {_n(feeds, 'feed')} {of}.",
            "Send POST /v1/feedback with the event_id that the ranking was answered with, for "
            "what was liked and what was not.",
        )
    elif joins.rate is not None and feeds >= ENOUGH:
        low = joins.rate < FEW_ANSWERED
        yield Sentence(
            "feedback",
            "warning" if low else "ok",
            f"Feedback came in time for {percent(joins.rate)} of feeds {of}.",
            "Feeds of which nothing is heard teach nothing; is feedback lost on its way?" if low else "",
        )
    if joins.rate and joins.seen == 0.0 and feeds >= ENOUGH:
        yield Sentence(
            "evidence",
            "broken",
            "Feedback comes, and nothing of it proves that a slot was seen, so nothing is learned.",
            'Send watch_s or "seen" for every slot that was seen, whatever the outcome.',
        )
    elif joins.evidence:
        n = sum(joins.evidence.values())
        kinds = sorted(joins.evidence.items(), key=lambda kind: -kind[1])
        told = ", ".join(f"{_kind(kind)} ({percent(count / n)})" for kind, count in kinds[:3])
        yield Sentence(
            "evidence", "ok", f"{_n(n, 'slot')} were learned {of}; that they were seen is known from {told}."
        )
    if joins.orphans is not None and joins.feedback >= ENOUGH_FEEDBACK and joins.orphans > MANY_ORPHANS:
        yield Sentence(
            "orphans",
            "broken",
            f"{percent(joins.orphans)} of feedback is for feeds that were never ranked here.",
            "Send event_id just as the ranking gave it, to the service that ranked.",
        )
    if joins.late is not None and joins.feedback >= ENOUGH_FEEDBACK and joins.late > MANY_LATE:
        yield Sentence(
            "late",
            "warning",
            f"{percent(joins.late)} of feedback comes after its window, "
            f"{lasting(facts.window_s)} long, and teaches nothing.",
            "Send it sooner, or raise reward_window_s in the config.",
        )
    if joins.not_activated is not None and feeds >= ENOUGH and joins.not_activated > MANY_UNSEEN:
        yield Sentence(
            "activation",
            "warning",
            f"{percent(joins.not_activated)} of feeds were fetched early and never shown.",
            "Tell of those that are shown with POST /v1/events/{event_id}/activate.",
        )
    if joins.seen and numbers.recent.feed_reward == 0.0 and feeds >= ENOUGH:
        yield Sentence(
            "reward",
            "broken",
            f"Everything that was seen {of} earned 0, so there is nothing to learn.",
            f"The formula is {facts.reward}: do clients send the signals in it?",
        )


def _kind(kind: str) -> str:
    said = {"impression": "impressions", "activation": "activations", "cascade": "slots below that were seen"}
    return said.get(kind, kind.removeprefix("signal:"))


# ---------------------------------------------------------------- propensities


def _propensities(numbers: Numbers) -> Iterator[Sentence]:
    found = numbers.propensities
    if found.impossible:
        yield Sentence(
            "propensities",
            "broken",
            f"{_n(found.impossible, 'slot')} bear a propensity that cannot be: "
            "outside 0 to 1, or below what the floor gives to all.",
            _DOCTOR,
        )
    elif found.alarm:
        yield Sentence(
            "propensities",
            "broken",
            f"The recorded propensities are not those that feeds were drawn with{_mean(numbers)}.",
            _DOCTOR,
        )
    elif found.mean_inverse is not None and found.slots >= ENOUGH:
        yield Sentence(
            "propensities",
            "ok",
            f"Propensities are those of the draw, as far as can be told{_mean(numbers)}. "
            f"A false alarm would come on one day in {found.days_a_false_alarm:,}.",
        )


_DOCTOR: Final = (
    "Nothing can be evaluated on such a log. python -m replay doctor DATA names the day, model or slot; was the log "
    "edited, or something changed between the draw and the log?"
)


def _mean(numbers: Numbers) -> str:
    found = numbers.propensities
    if found.mean_inverse is None or found.expected is None:
        return ""
    return f": the mean of 1/p is {compact(found.mean_inverse)}, and {compact(found.expected)} is expected"


# ---------------------------------------------------------------- comparisons


def _earns(one: LoopComparison) -> str:
    """Of a comparison that is decided."""
    assert one.served is not None
    assert one.low is not None
    assert one.high is not None
    digits = places(one.high - one.low)
    low, high = sorted((abs(one.low), abs(one.high)))
    more = "more" if one.verdict == "better" else "less"
    whom = "filled by chance" if one.against == "chance" else "filled in your own order"
    return (
        f"A slot earns {number(one.served, digits)}, surely {number(low, digits)} to {number(high, digits)} {more} "
        f"than if it were {whom} ({_sure(one)})."
    )


def _difference(one: LoopComparison) -> str:
    """Of one that is not."""
    if one.low is None or one.high is None:
        return ""
    digits = places(one.high - one.low)
    whom = "chance" if one.against == "chance" else "your own order"
    return (
        f"The difference to {whom} lies between {signed(one.low, digits)} and {signed(one.high, digits)} a slot "
        f"({_sure(one)})."
    )


def _sure(one: LoopComparison) -> str:
    return f"{CONFIDENCE} confidence at all looks together, {_n(one.feeds, 'feed')}"


def _comparisons(numbers: Numbers, facts: Facts) -> Iterator[Sentence]:
    chance, caller = numbers.comparisons
    if chance.verdict == "worse":
        yield Sentence(
            "chance",
            "broken",
            f"What is served earns less than chance. {_earns(chance)}",
            "Does the reward formula say what you want? A rollback serves an earlier model: "
            "POST /v1/model/rollback.",
        )
    elif chance.verdict == "better":
        yield Sentence("chance", "ok", f"It earns more than chance. {_earns(chance)}")
    if caller.feeds < FEWEST:
        return
    if caller.verdict == "better":
        yield Sentence("caller", "ok", f"It earns more than your own order. {_earns(caller)}")
    elif caller.verdict == "worse":
        yield Sentence(
            "caller",
            "warning",
            f"Your own order earns more. {_earns(caller)}",
            'Send what your order goes by as features; until it is better, mode "apprentice" serves your '
            "order.",
        )
    else:
        needed = caller.feeds_needed
        more = f" About {about(needed)} more feeds would decide." if needed is not None else ""
        yield Sentence(
            "caller",
            "waiting",
            f"Whether it earns more than your own order is not decided. {_difference(caller)}{more}",
        )


# ---------------------------------------------------------------- exploration and features


def _exploration(numbers: Numbers, facts: Facts) -> Iterator[Sentence]:
    found = numbers.exploration
    if (
        found.fallbacks is not None
        and found.fallbacks > MANY_FALLBACKS
        and numbers.recent.decisions >= ENOUGH
    ):
        yield Sentence(
            "fallback",
            "warning",
            f"{percent(found.fallbacks)} of feeds in {numbers.recent.of} fell back on the caller's order.",
            "GET /metrics counts them by reason: no model yet, or a deadline that is too short.",
        )
    if not facts.apprentice and any(phi == 0.0 for phi in facts.floors):
        yield Sentence(
            "exploration",
            "warning",
            "The floor is 0 at some slots: there, what is served is compared with nothing, and never can be.",
            "Any floor above 0 in the config keeps slots of use.",
        )
    if found.expected is None or found.found is None:
        return
    text = (
        f"{percent(found.found)} of slots were spent on exploring in {numbers.recent.of}; {percent(found.expected)} "
        "were expected."
    )
    if found.cost is not None and found.low is not None and found.high is not None:
        digits = places(found.high - found.low)
        text += (
            f" With the best there instead a slot would have earned {signed(found.cost, digits)} "
            f"({signed(found.low, digits)} to {signed(found.high, digits)}) more."
        )
    yield Sentence("exploration", "ok", text)


def _features(numbers: Numbers) -> Iterator[Sentence]:
    drift = numbers.drift
    if drift.shared > MANY_SHARED:
        yield Sentence(
            "collisions",
            "warning",
            f"About {percent(drift.shared)} of features share a weight with another "
            f"one: {drift.weights:,} of {1 << drift.bits:,} weights are in use.",
            f"Begin a data directory with more of them, such as -b {drift.bits + 2}, or send fewer features.",
        )
    elif drift.weights:
        yield Sentence(
            "collisions",
            "ok",
            f"{drift.weights:,} of {1 << drift.bits:,} weights are in use; about "
            f"{percent(drift.shared)} of features share one.",
        )
    if drift.never_seen is not None and numbers.joins.seen and numbers.recent.decisions >= ENOUGH:
        text = f"{percent(drift.never_seen)} of candidates were never seen by anybody."
        if drift.new_weights is not None:
            text += f" {drift.new_weights:,} weights came into use within a day."
        if drift.never_seen > MANY_UNSEEN:
            yield Sentence(
                "drift",
                "warning",
                text,
                "New items are scored by their features alone: give them creator "
                "and tags, or rank fewer of them at a time.",
            )
        else:
            yield Sentence("drift", "ok", text)
