"""Whether an answer may be given at all: what the weights of one policy say of themselves, in plain sentences.

Everything is computed from :class:`replay.sums.Sums`; nothing here looks at events. A check *refuses* only where
an interval would not mean what it says; what is merely imprecise shows in the interval's width, and *warns* at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erfc, floor, isfinite, log10, sqrt
from typing import Final, Literal

import numpy as np

from replay.results import Check
from replay.sums import Sums
from replay.weight_measures import (
    difference_with_error,
    effective_events,
    effective_rewards,
    largest_share,
    mean_weight_chance,
    mean_weight_evidence,
    mean_with_error,
    pareto_k,
    pareto_threshold,
    sum_of,
    weight_summary,
)

__all__ = [
    "check_mean_weight_by",
    "checks",
    "effective_events",
    "effective_rewards",
    "events_for_ess",
    "holm",
    "refusal",
    "weight_summary",
]

Level = Literal["ok", "warning", "refusal"]

# ---------------------------------------------------------------- thresholds

REFUSE_ESS: Final = 10.0
"""Effective sample size below which there is no answer. A standard error estimated from m values is itself off by
about 1 / sqrt(2 (m - 1)): 24 % from 10, 71 % from 2, and the interval with it. It is as low as coverage was measured:
logs whose effective sizes lie between 13 and 80 are covered as promised (see the coverage table), so that above it a
refusal would only withhold an honest, if wide, answer."""

WARN_ESS: Final = 100.0
"""Below this the standard error is off by more than 7 %, and the answer rests on few enough events to read them."""

REFUSE_SHARE: Final = 0.5
"""One event with half of all weight: the estimate is that event's reward, whatever the others say. The largest share
is the diagnostic of importance sampling that Chatterjee and Diaconis show to work where variances do not ("The sample
size required in importance sampling", Annals of Applied Probability 28, 2018)."""

WARN_SHARE: Final = 0.1
"""One event with a tenth of all weight moves the estimate by a tenth of its reward."""

WARN_Z: Final = 3.0
"""Mean weight this many standard errors from its expectation: 0.3 % by chance."""

REFUSE_Z: Final = 4.0
"""Mean weight this many standard errors away refuses, if :data:`REFUSE_EVIDENCE` agrees."""

REFUSE_EVIDENCE: Final = 1e4
"""Wealth of bets against "the mean weight is what it must be" that proves it wrong. By Ville's inequality a true log
reaches it with probability at most 1e-4, with any n and any tail: a z-test alone would refuse heavy-tailed logs
that are sound, for their sample mean is too low most of the time."""

UNCOVERED_NOISE: Final = 1e-6
"""Target mass without support that rounding explains."""

UNCOVERED_ERRORS: Final = 0.25
"""Uncovered mass may move the value by this many standard errors: coverage of a 95 % interval falls to 94.3 %."""

ROUNDING: Final = 1e-6
"""A mean weight this near to its expectation is right, however small its error: rounding has no error bars."""

FEW_EVENTS: Final = 30
FEW_VIEWERS: Final = 40
"""Standard errors over fewer clusters are too small (Cameron and Miller, "A practitioner's guide to cluster-robust
inference", Journal of Human Resources 50, 2015: from 20 to 50)."""

FEW_REWARDS: Final = 10.0
"""Effective number of rewards that are not 0 below which only intervals for counts are right."""

FAMILY_ALPHA: Final = 0.01
"""Chance that a sound log gets any finding at all from the tests by day, model or slot (Holm's correction)."""

# ---------------------------------------------------------------- checks


def checks(
    sums: Sums,
    *,
    viewers: int | None = None,
    uncovered: float = 0.0,
    reward_range: tuple[float, float] | None = None,
    error: float | None = None,
) -> list[Check]:
    """All checks of one policy, in the order in which to read them.

    :param viewers: how many there were; None if the log knows none
    :param uncovered: mean probability that the target gives to what the log could never show
    :param reward_range: of an event, if known
    :param error: standard error of the primary estimate, if known: what uncovered mass is compared with
    """
    if sums.n == 0:
        sentence = "There are no events."
        return [Check("events", "refusal", 0.0, 1.0, sentence, "Look at what was left out, and why.")]
    return [
        check_ess(sums),
        check_share(sums),
        check_uncovered(sums, uncovered=uncovered, reward_range=reward_range, error=error),
        *check_mean_weight(sums, uncovered=uncovered),
        check_pareto(sums),
        check_rewards(sums),
        check_events(sums, viewers=viewers),
    ]


def refusal(found: Sequence[Check]) -> str | None:
    """Why there is no answer, and what to do, in plain sentences; None if nothing refuses."""
    reasons = [check for check in found if check.level == "refusal"]
    if not reasons:
        return None
    advice = dict.fromkeys(check.advice for check in reasons if check.advice)
    return " ".join([*(check.sentence for check in reasons), *advice])


def check_ess(sums: Sums) -> Check:
    """Effective sample size."""
    size, n = effective_events(sums), sums.n
    level: Level = "refusal" if size < REFUSE_ESS else "warning" if size < WARN_ESS else "ok"
    share = f"{100 * size / n:.2g} %" if n else "0 %"
    sentence = f"{n:,} logged events are worth about {_count(size)} of the target's own ({share})."
    if level == "ok":
        return Check("effective sample size", level, size, WARN_ESS, sentence)
    return Check(
        "effective sample size", level, size, REFUSE_ESS if level == "refusal" else WARN_ESS, sentence,
        _more(sums, size),
    )  # fmt: skip


def _more(sums: Sums, size: float) -> str:
    """How to get to :data:`WARN_ESS`: by more events, or by a floor under the propensities."""
    n, needed = sums.n, events_for_ess(sums.n, size)
    lowest = WARN_ESS / n
    advice = (
        f"Had all that the target wants been logged with propensity {_number(lowest)} or more, "
        "this many events would do."
    )
    if sums.terms.slates:
        advice = "Weights multiply down the list: a target nearer to what was logged, or shorter lists, need far less."
    elif lowest > 0.1:
        advice = f"Log with a floor under the propensities, and {WARN_ESS:.0f} / floor events: those are enough."
    if needed is not None:
        advice += f" Logged like these, about {_rounded(needed - n)} more events are needed."
    return advice


def events_for_ess(n: int, size: float, wanted: float = WARN_ESS) -> int | None:
    """How many events in all would have this effective size; None if they never will (all weights are 0).

    A lower estimate where the tail is heavy: the effective size then grows more slowly than the log.
    """
    if size <= 0:
        return None
    return max(n, int(np.ceil(n * wanted / size)))


def check_share(sums: Sums) -> Check:
    """The largest event's share of all weight; in slates, of all weighted rewards."""
    name = "largest weight"
    if sum_of(sums, "w@1" if "w@1" in sums.names else "w") <= 0:
        sentence = f"The target would have shown nothing of what was logged in {sums.n:,} events."
        advice = "Check that it was computed on the same candidates, under the same ids."
        return Check(name, "refusal", 1.0, REFUSE_SHARE, sentence, advice)
    share = largest_share(sums)
    level: Level = "refusal" if share > REFUSE_SHARE else "warning" if share > WARN_SHARE else "ok"
    if sums.terms.slates:
        sentence = f"The largest event brings {100 * share:.2g} % of the weighted rewards."
    else:
        few, part = _heaviest(sums)
        events = "1 event carries" if few == 1 else f"{few:,} events carry"
        sentence = f"{events} {100 * part:.0f} % of the weight of {sums.n:,}."
    if level == "ok":
        return Check(name, level, share, WARN_SHARE, sentence)
    if level == "warning":
        sentence += "" if sums.terms.slates else f" The heaviest alone has {100 * share:.0f} %."
        return Check(name, level, share, WARN_SHARE, sentence, "Look at these events, or shrink the weights (dros).")
    advice = "The estimate is little but that event's reward."
    return Check(name, level, share, REFUSE_SHARE, sentence, advice)


def _heaviest(sums: Sums) -> tuple[int, float]:
    """The fewest events that carry half of all weight, or as many as are known; and their share."""
    shares = np.cumsum(np.sort(sums.largest)[::-1]) / sum_of(sums, "w")
    half = min(int(np.searchsorted(shares, 0.5)), len(shares) - 1)
    return half + 1, float(shares[half])


def check_uncovered(
    sums: Sums, *, uncovered: float, reward_range: tuple[float, float] | None, error: float | None
) -> Check:
    """Target mass on what the log could never show."""
    name = "uncovered target mass"
    if uncovered <= UNCOVERED_NOISE:
        return Check(name, "ok", uncovered, UNCOVERED_NOISE, "The log could have shown all that the target would.")
    span = reward_range[1] - reward_range[0] if reward_range is not None else float("inf")
    allowed = UNCOVERED_ERRORS * error / span if error is not None and span > 0 else 0.0
    sentence = f"The target spends {_percent(uncovered)} of its choices on what the log could never show."
    if uncovered <= allowed:
        sentence += f" That can move the value by {_number(uncovered * span)} at most, within its error."
        return Check(name, "warning", uncovered, allowed, sentence, "Log with a floor above 0 for every candidate.")
    advice = "Log with a floor above 0 for every candidate, or keep the target to what the log could show."
    return Check(name, "refusal", uncovered, max(allowed, UNCOVERED_NOISE), sentence, advice)


def check_mean_weight(sums: Sums, *, uncovered: float = 0.0) -> list[Check]:
    """Whether weights average what they must: the log's propensities are then believable. One check for logs of
    single slots; for slates one of the worst slot, after correction for their number."""
    expected = max(1.0 - uncovered, 0.0)
    if not sums.terms.slates:
        return [_mean_weight(sums, expected)]
    by_slot = []
    for name in sums.names:
        if name.startswith("w@"):
            slot = name[2:]
            reached, _ = mean_with_error(sums, f"one@{slot}")
            value, error = difference_with_error(sums, name, f"one@{slot}")
            if reached > 0 and isfinite(error) and error > 0 and abs(value) > ROUNDING:
                by_slot.append((value / error, 1 + value / reached, error / reached, slot))
    if not by_slot:
        return []
    z, mean, error, slot = max(by_slot, key=lambda each: abs(each[0]))
    chance = min(1.0, len(by_slot) * erfc(abs(z) / sqrt(2)))
    level: Level = "warning" if chance < erfc(WARN_Z / sqrt(2)) else "ok"
    sentence = f"Down to slot {slot} the weights average {_with_error(mean, error)}, where 1 is expected."
    advice = "" if level == "ok" else _WRONG_MEAN if z > 0 else _MISSING_WEIGHTS
    return [Check("mean weight", level, z, WARN_Z, sentence, advice, f"slot {slot}")]


_MISSING_WEIGHTS: Final = (
    "Rare large weights are missing from this sample, as they mostly are where the tail is heavy: the value is then "
    "more likely too low than too high."
)
_WRONG_MEAN: Final = (
    "The logged propensities are not those that were drawn from, or the target was not computed on what was logged. "
    "`python -m replay doctor LOG` finds the day, model or slot."
)


def _mean_weight(sums: Sums, expected: float, name: str = "mean weight", where: str = "") -> Check:
    mean, error = mean_with_error(sums, "w")
    z = (mean - expected) / error if error > 0 and isfinite(error) else 0.0
    if abs(mean - expected) <= ROUNDING:
        z = 0.0
    elif error == 0:
        z = REFUSE_Z * 10 * (1 if mean > expected else -1)
    more, less = mean_weight_evidence(sums, expected=expected)
    proof = more if z > 0 else less
    level: Level = "ok"
    if abs(z) > REFUSE_Z and proof >= REFUSE_EVIDENCE:
        level = "refusal"
    elif abs(z) > WARN_Z:
        level = "warning"
    sentence = f"The weights average {_with_error(mean, error)}, where {expected:.4g} is expected"
    if level == "refusal":
        sentence += f": {abs(z):.0f} standard errors away, beyond chance."
        return Check(name, level, z, REFUSE_Z, sentence, _WRONG_MEAN, where)
    if level == "warning" and z < 0 and proof < REFUSE_EVIDENCE:
        return Check(name, level, z, WARN_Z, sentence + ".", _MISSING_WEIGHTS, where)
    return Check(name, level, z, WARN_Z, sentence + ".", _WRONG_MEAN if level == "warning" else "", where)


def check_mean_weight_by(what: str, parts: Mapping[str, Sums]) -> list[Check]:
    """The same by day, model version or whatever the parts are: those found wrong, after Holm's correction.

    :param what: what the parts' names name: ``day``, ``model``
    """
    chances = {label: mean_weight_chance(sums) for label, sums in parts.items() if sums.n and not sums.terms.slates}
    found = []
    for label in holm(chances, FAMILY_ALPHA):
        mean, error = mean_with_error(parts[label], "w")
        on = "On" if what == "day" else "In"
        sentence = f"{on} {what} {label} the weights average {_with_error(mean, error)}, where 1 is expected."
        z = (mean - 1) / error if error > 0 and isfinite(error) else 0.0
        found.append(Check("mean weight", "warning", z, WARN_Z, sentence, _WRONG_MEAN, f"{what} {label}"))
    return found


def holm(chances: Mapping[str, float], alpha: float) -> list[str]:
    """Names of the tests that reject when all are looked at, least probable first.

    The chance that any true null is among them is at most ``alpha``. Source: Holm, 1979.

    :param chances: p-values by name

    >>> holm({"monday": 0.001, "tuesday": 0.02, "friday": 0.9}, 0.05)
    ['monday', 'tuesday']
    """
    rejected = []
    for rank, (name, chance) in enumerate(sorted(chances.items(), key=lambda each: each[1])):
        if chance * (len(chances) - rank) > alpha:
            break
        rejected.append(name)
    return rejected


def check_pareto(sums: Sums) -> Check:
    """How heavy the tail of the weights is. Warns only: a floor bounds weights whatever their tail looks like, and
    intervals that know the bound stay right."""
    k, allowed = pareto_k(sums.largest, sums.n), pareto_threshold(sums.n)
    name = "tail of the weights"
    if k is not None and sums.largest_weight >= sums.weight_bound / 2:
        sentence = f"The tail of the weights ends at {_number(sums.weight_bound)}, and was seen up to there."
        return Check(name, "ok", k, allowed, sentence)
    if k is not None and sums.terms.slates:
        sentence = f"Weights of whole lists have Pareto k {k:.2f}; prefix estimators lean on them little."
        return Check(name, "ok", k, allowed, sentence)
    if k is None:
        return Check(name, "ok", None, allowed, "The weights have no tail: the largest are equal, or nearly.")
    if k <= allowed:
        return Check(name, "ok", k, allowed, f"The tail of the weights is light enough (Pareto k {k:.2f}).")
    sentence = f"The weights have a heavy tail (Pareto k {k:.2f}; up to {allowed:.2f} is fine)."
    if k >= 1:
        sentence += " As far as they show, they have no mean."
    advice = "More events like these help little. Clip or shrink the weights (dros), or log with a higher floor."
    if isfinite(sums.weight_bound):
        advice += f" No weight can be above {_number(float(sums.weight_bound))}: the intervals use that."
    return Check(name, "warning", k, allowed, sentence, advice)


def check_rewards(sums: Sums) -> Check:
    """Rewards that are not 0, and what they are worth after weighing."""
    name = "rewards"
    n = round(sum_of(sums, "nz"))
    size = effective_rewards(sums)
    if n == 0:
        sentence = f"No event of {sums.n:,} has a reward other than 0."
        return Check(name, "warning", 0.0, FEW_REWARDS, sentence, "Check that feedback is joined; wait for more.")
    sentence = f"{n:,} events have a reward other than 0; weighted, they are worth about {_count(size)}."
    if size >= FEW_REWARDS:
        return Check(name, "ok", size, FEW_REWARDS, sentence)
    return Check(name, "warning", size, FEW_REWARDS, sentence, "Too few to compare policies closely; log more events.")


def check_events(sums: Sums, *, viewers: int | None) -> Check:
    """How many events and viewers there are."""
    name, n = "events and viewers", sums.n
    sentence = f"{n:,} events" + (f" of {viewers:,} viewers." if viewers is not None else "; the log knows no viewers.")
    if n < FEW_EVENTS:
        return Check(name, "warning", float(n), float(FEW_EVENTS), sentence, "Too few for any interval but exact ones.")
    if viewers is not None and viewers < FEW_VIEWERS:
        advice = "With so few viewers the interval is too narrow: it is about these viewers, not about others."
        return Check(name, "warning", float(viewers), float(FEW_VIEWERS), sentence, advice)
    return Check(name, "ok", float(n), float(FEW_EVENTS), sentence)


# ---------------------------------------------------------------- words


def _number(value: float) -> str:
    """Two or three digits, without an exponent where people would not write one."""
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-4:
        return f"{value:.3g}"
    return f"{value:.1e}"


def _with_error(value: float, error: float) -> str:
    """``0.953 ± 0.022``: two digits of the error, and as many places of the value."""
    if not isfinite(error) or error <= 0:
        return _number(value)
    places = min(max(1 - floor(log10(error)), 0), 4)
    return f"{value:,.{places}f} ± {error:,.{places}f}"


def _percent(share: float) -> str:
    return f"{_number(100 * share)} %"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _rounded(n: int) -> str:
    """About this many: two digits."""
    if n < 100:
        return f"{n:,}"
    digits = len(str(n)) - 2
    return f"{round(n, -digits):,}"
