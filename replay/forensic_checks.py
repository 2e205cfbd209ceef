"""What the forensics of a log found, as checks in plain sentences, and a table of days, models, configs and slots."""

from __future__ import annotations

from math import erfc, log, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay import forensic_sums as fs
from replay.diagnostics import holm
from replay.events import F64
from replay.forensics import ALPHA, Found, facets
from replay.results import Check

Where = tuple[tuple[str, str], ...]

FEEDBACK_DROP: Final = 0.25
"""A day with less than this share of the usual day's feedback is named: viewers change, but seldom so much."""

BAD_SHARE: Final = 1e-4
"""Share of slots whose logged probabilities do not add up to 1, or do not name the propensity: rounding aside, each
is a fault; fewer may be broken lines."""

CLIPPED_SHARE: Final = 0.01
"""Slots at exactly the smallest propensity from which on it looks like a clip, where the mean of 1/p is too small."""

SURE_SHARE: Final = 0.999
"""Slots with propensity 1 from which on a log explores nothing."""


HEAVIEST_SHARE: Final = 0.5
"""Share of a single draw in the sum of 1/p, from which on a uniform target is evaluated on that draw alone."""

ENOUGH_SLOTS: Final = 200
"""With fewer slots a single draw may well be most of them."""

CONSTANT_SHARE: Final = 0.999
"""Slots with propensity 1/n from which on all of them count as constant."""

FEWEST_DAYS: Final = 3
"""Days from which on there is a usual one."""


class Row(NamedTuple):
    """A line of the table: 1/p of what was drawn, on average, against the number of candidates."""

    facet: str
    label: str
    slots: int
    inverse: float
    error: float
    candidates: float
    wrong: bool


# ---------------------------------------------------------------- words


def where_text(where: Where) -> str:
    """``day 2026-11-03 (model m7)``; empty for the whole log."""
    if not where:
        return ""
    first, *others = [f"{facet} {label}" for facet, label in where]
    return first + (f" ({', '.join(others)})" if others else "")


def _on(where: Where) -> str:
    if not where:
        return "Throughout the log"
    preposition = {"day": "On", "model": "With", "config": "Under", "slot": "In"}[where[0][0]]
    return f"{preposition} {where_text(where)}"


def _odds(evidence: float) -> str:
    """How rare this is in sound logs, at most: that is what the wealth won says."""
    times = evidence / log(10)
    return f"by chance in less than one log of {'a billion' if times >= 9 else f'{10**times:,.0f}'}"


def _explain(table: fs.Table, found: Found) -> Check:
    sums = found.cells.astype(np.float64) @ table.cells
    n = int(sums[fs.SLOTS])
    on, where = _on(found.where), where_text(found.where)
    leave = "Leave those events out of evaluations, and look at what changed there in how propensities are logged."
    if not found.where:
        leave = "Look at how propensities are logged; until then no estimate from this log is to be trusted."
    if found.test != "inverse":
        return _explain_draws(found, on, where, leave, n)
    inverse, candidates = sums[fs.INVERSE] / n, sums[fs.CANDIDATES] / n
    ratio = float(inverse / candidates)
    if ratio < 1 and sums[fs.CERTAIN] >= n * SURE_SHARE:
        sentence = (
            f"{on} every propensity is 1, with {_digits(candidates)} candidates on average: nothing else could have "
            "been shown, or the propensity is that of a draw that was not logged."
        )
        advice = "Explore: log with a floor above 0 for every candidate. Nothing else makes a log answer questions."
        return Check("mean of 1/p", "refusal", ratio, 1.0, sentence, advice, where)
    sentence = (
        f"{on} the propensities are too {'small' if ratio > 1 else 'large'}: 1/p averages {_digits(inverse)} where the "
        f"number of candidates, {_digits(candidates)}, is expected ({n:,} slots; {_odds(found.evidence)})."
    )
    if ratio < 1:
        sentence += f" Or {_digits(candidates - inverse)} of the candidates had no chance at all."
    return Check("mean of 1/p", "refusal", ratio, 1.0, sentence, leave, where)


def _explain_draws(found: Found, on: str, where: str, leave: str, n: int) -> Check:
    what = {
        "places": "places in the list of candidates were drawn far more often than their propensities say",
        "items": "items were drawn far more often than their propensities say",
        "shares": "the draws do not follow the logged probabilities of the candidates",
    }[found.test]
    what = f"some {what}" if found.test != "shares" else what
    sentence = f"{on} {what} ({n:,} slots; {_odds(found.evidence)})."
    name = {"places": "draws by place", "items": "draws by item", "shares": "draws by probability"}[found.test]
    sentence += " What was logged is not what was drawn from: a constant, say, or another model's probabilities."
    return Check(name, "refusal", found.evidence, log(1 / ALPHA), sentence, leave, where)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


# ---------------------------------------------------------------- checks


def checks(table: fs.Table, found: list[Found]) -> list[Check]:
    """All that can be said of a log's propensities, worst first in each kind.

    :param found: see :func:`replay.forensics.find`
    """
    result = [
        *(_explain(table, each) for each in found),
        *_clipping(table, found),
        *_constant(table),
        *_sums_of_pmf(table),
        *_exploration(table, found),
    ]
    total = table.cells.sum(axis=0)
    n = float(total[fs.SLOTS])
    if n and not any(each.test == "inverse" for each in found):
        inverse, candidates = float(total[fs.INVERSE]) / n, float(total[fs.CANDIDATES]) / n
        error = sqrt(max(float(total[fs.SQUARES]) / n - inverse**2, 0.0) / n)
        sentence = f"1/p averages {_digits(inverse)} ± {_digits(error)}, where {_digits(candidates)} is expected"
        several = [facet.name for facet in facets(table)[1:]]
        sentence += f"; no {' or '.join(several)} is off by more than chance." if several else "."
        result.append(Check("mean of 1/p", "ok", inverse / candidates, 1.0, sentence))
    if not any(each.test != "inverse" for each in found) and total[fs.PLACES : fs.PLACES + fs.GROUPS].any():
        what = "by place" + (", item" if total[fs.ITEMS : fs.ITEMS + fs.GROUPS].any() else "")
        what += " and probability" if total[fs.PMFS] else ""
        result.append(Check("draws", "ok", None, None, f"Draws, looked at {what}, follow their propensities."))
    return result


def _clipping(table: fs.Table, found: list[Found]) -> list[Check]:
    """A pile at the smallest propensity where 1/p is too small on average: values below were cut off.

    A floor makes such a pile too; so it does not count where the rest of the log has one as well.
    """
    result = []
    for each in found:
        sums = each.cells.astype(np.float64) @ table.cells
        if each.test != "inverse" or sums[fs.INVERSE] >= sums[fs.CANDIDATES]:
            continue
        smallest, share = _pile(table, each.cells)
        _, usual = _pile(table, ~each.cells)
        if smallest >= fs.SURE or share < CLIPPED_SHARE or usual > share / 2:
            continue
        sentence = (
            f"{_on(each.where)} {100 * share:.0f} % of the propensities are exactly {_digits(smallest)}, the smallest "
            "that there is: they look clipped, unless all are too large by one factor."
        )
        advice = "Log the propensity that was drawn from. Weights may be clipped when evaluating, propensities never."
        result.append(
            Check("clipped propensities", "refusal", share, CLIPPED_SHARE, sentence, advice, where_text(each.where))
        )
    return result


def _pile(table: fs.Table, cells: NDArray[np.bool_]) -> tuple[float, float]:
    """The smallest propensity in some cells, and the share of their slots that have exactly it; (inf, 0) of none."""
    lowest = table.lowest[cells]
    slots = float(table.cells[cells, fs.SLOTS].sum())
    if not slots:
        return float("inf"), 0.0
    smallest = float(lowest[:, 0].min())
    return smallest, float(lowest[lowest[:, 0] == smallest, 1].sum()) / slots


def _constant(table: fs.Table) -> list[Check]:
    """Slots where every propensity is 1/n while they vary elsewhere: believable only if the draws can be looked at."""
    if table.cells[:, fs.ITEMS : fs.ITEMS + fs.GROUPS].any():
        return []
    result = []
    for facet in facets(table)[1:]:
        if facet.name != "slot":
            continue
        sums = facet.sums(table.cells)
        shares = sums[:, fs.UNIFORM] / np.maximum(sums[:, fs.SLOTS], 1)
        if (shares > CONSTANT_SHARE).sum() <= len(shares) / 2:
            for label in np.flatnonzero(shares > CONSTANT_SHARE):
                where = ((facet.name, facet.labels[int(label)]),)
                sentence = f"{_on(where)} every propensity is 1/n, while they vary elsewhere."
                advice = "Were those draws uniform? If a constant stands there in place of the propensity, it is wrong."
                result.append(
                    Check("constant propensities", "warning", float(shares[label]), CONSTANT_SHARE, sentence, advice,
                          where_text(where))
                )  # fmt: skip
    return result


def _sums_of_pmf(table: fs.Table) -> list[Check]:
    """Where all candidates' probabilities are logged: do they add up to 1, and is what was drawn among them?"""
    n = float(table.cells[:, fs.PMFS].sum())
    if not n:
        return []
    result = []
    for column, name, what in (
        (fs.BAD_SUMS, "sums of probabilities", "do not add up to 1"),
        (fs.NOT_ITS, "probability of what was shown", "give what was shown another probability than its propensity"),
    ):
        bad = table.cells[:, column]
        share = float(bad.sum()) / n
        if share <= BAD_SHARE:
            sentence = f"The probabilities of all candidates are logged; {100 * share:.3g} % of them {what}."
            result.append(Check(name, "ok", share, BAD_SHARE, sentence))
            continue
        where = concentrated(table, bad, table.cells[:, fs.PMFS])
        sentence = f"{_on(where)} {_percent_of(table, bad, where)} of the logged probabilities {what}."
        advice = "Log the probabilities of one and the same draw, over all that could have been shown."
        result.append(Check(name, "refusal", share, BAD_SHARE, sentence, advice, where_text(where)))
    return result


def concentrated(table: fs.Table, bad: F64, of: F64) -> Where:
    """The label that holds nearly all of what is bad, with the largest share of bad; empty if none does.

    :param bad, of: shape (cells,)
    """
    where: Where = ()
    best = 2 * float(bad.sum() / max(of.sum(), 1))
    for facet in facets(table)[1:]:
        here, out_of = facet.sums(bad[:, None])[:, 0], np.maximum(facet.sums(of[:, None])[:, 0], 1)
        label = int(here.argmax())
        if here[label] >= 0.95 * bad.sum() and here[label] / out_of[label] > best:
            best, where = float(here[label] / out_of[label]), ((facet.name, facet.labels[label]),)
    return where


def _percent_of(table: fs.Table, bad: F64, where: Where) -> str:
    mask = np.ones(len(bad), np.bool_) if not where else table.labels[where[0][0]] == where[0][1]
    return f"{100 * float(bad[mask].sum() / max(table.cells[mask, fs.PMFS].sum(), 1)):.3g} %"


def _exploration(table: fs.Table, found: list[Found]) -> list[Check]:
    """The smallest propensity: what a target can be weighed up to."""
    total = table.cells.sum(axis=0)
    if not total[fs.SLOTS]:
        sentence = "The log does not say how many candidates there were: propensities cannot be tested against that."
        return [Check("number of candidates", "warning", None, None, sentence, "Log it, or give it to the reader.")]
    smallest, share = _pile(table, np.ones(len(table.cells), np.bool_))
    if any(each.test == "inverse" and not each.where for each in found) and smallest >= fs.SURE:
        return []
    sentence = f"The smallest propensity is {_digits(smallest)}: one event can count as {_digits(1 / smallest)}."
    heaviest = 1 / smallest / float(total[fs.INVERSE])
    if heaviest > HEAVIEST_SHARE and total[fs.SLOTS] >= ENOUGH_SLOTS:
        sentence += f" That one draw has {100 * heaviest:.0f} % of the sum of 1/p of all {total[fs.SLOTS]:,.0f}."
        advice = "Who would have drawn it more often cannot be evaluated. Log with a floor under the propensities."
        return [Check("smallest propensity", "warning", heaviest, HEAVIEST_SHARE, sentence, advice)]
    if share > CONSTANT_SHARE:
        sentence += " All slots have this one."
    elif share > CLIPPED_SHARE:
        sentence += f" {100 * share:.0f} % of the slots have exactly this one, as with a floor."
    return [Check("smallest propensity", "ok", smallest, None, sentence)]


def feedback(table: fs.Table) -> list[Check]:
    """Share of slots seen and of slots with a reward; names days on which feedback is missing."""
    total = table.cells.sum(axis=0)
    slots = int(total[fs.ALL])
    if not slots:
        return []
    result = []
    for column, name, what in (
        (fs.SEEN, "slots seen", "were seen"),
        (fs.REWARDED, "slots with a reward", "have a reward other than 0"),
    ):
        share = float(total[column]) / slots
        result.append(
            Check(name, "ok" if share > 0 else "refusal", share, None, f"{_share(share)} of {slots:,} slots {what}.",
                  "" if share > 0 else "Check that feedback is joined at all.")
        )  # fmt: skip
        result += [_dropped(name, day, here, usual, n) for day, here, usual, n in _drops(table, column)]
    return result


def _drops(table: fs.Table, column: int) -> list[tuple[str, float, float, int]]:
    """Days with far less than the usual day's share: (day, share, usual, slots)."""
    days = next((facet for facet in facets(table) if facet.name == "day"), None)
    if days is None:
        return []
    sums = days.sums(table.cells)
    shares = {
        day: (float(here[column]), int(here[fs.ALL]))
        for day, here in zip(days.labels, sums, strict=True)
        if day != fs.UNKNOWN
    }
    if len(shares) < FEWEST_DAYS:
        return []
    usual = float(np.median([k / n for k, n in shares.values() if n]))
    chances: dict[str, float] = {}
    for day, (k, n) in shares.items():
        expected = FEEDBACK_DROP * usual * n
        # Poisson's lower tail by its normal approximation with a correction for small counts.
        chances[day] = 0.5 * erfc((2 * sqrt(expected) - 2 * sqrt(k + 1)) / sqrt(2)) if expected > k else 1.0
    return [(day, shares[day][0] / shares[day][1], usual, shares[day][1]) for day in holm(chances, ALPHA)]


def _dropped(name: str, day: str, here: float, usual: float, n: int) -> Check:
    sentence = f"On day {day} only {_share(here)} of {n:,} slots count, where {_share(usual)} is usual."
    advice = "Was feedback joined on that day? If not, leave the day out: it drags every policy towards 0."
    return Check(name, "refusal", here, FEEDBACK_DROP * usual, sentence, advice, f"day {day}")


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


# ---------------------------------------------------------------- table


def rows(table: fs.Table, found: list[Found]) -> list[Row]:
    """Every day, model, config and slot, for the table below the sentences."""
    wrong = {pair for each in found for pair in (each.where or (("", ""),))}
    result = []
    for facet in facets(table):
        for label, sums in zip(facet.labels, facet.sums(table.cells), strict=True):
            n = float(sums[fs.SLOTS])
            if not n:
                continue
            mean = float(sums[fs.INVERSE]) / n
            error = sqrt(max(float(sums[fs.SQUARES]) / n - mean**2, 0.0) / n)
            candidates = float(sums[fs.CANDIDATES]) / n
            result.append(Row(facet.name, label, int(n), mean, error, candidates, (facet.name, label) in wrong))
    return result
