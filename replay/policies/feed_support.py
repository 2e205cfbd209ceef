"""What the service's log can say of a target: how large its weights can be, and where it cannot answer at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandit.config import CALLER_ORDER
from bandit.errors import BanditError
from replay.errors import BadPolicy, Unsupported
from replay.events import F64, Batch, event_of_slot
from replay.policies.feed_draw import Draw
from replay.policies.feed_models import History, scores_of
from replay.readers.service_feeds import Feeds, drawing_of

#: For so many decisions the uncovered share is worked out, if there is one.
LOOKED_AT: Final = 20


def weight_bound(batch: Batch, most: F64) -> float:
    """The largest weight that any feed could have had in these decisions: the product over their slots.

    :param most: shape (S,): the target gives no candidate of the slot more
    """
    feeds: Feeds = batch.source
    with np.errstate(divide="ignore", over="ignore"):
        of_slot = np.maximum(np.log(most) - np.log(feeds.least), 0.0)
        return float(np.exp(np.add.reduceat(of_slot, feeds.starts[:-1]).max()))


def refuse_unsupported(
    batch: Batch,
    propensity: F64,
    draw_of: Callable[[Feeds, int], Draw] | None = None,
    history: History | None = None,
) -> None:
    """Refuse a target that would show what the logging policy could not, at a slot that was drawn without a floor.

    The logging policy is drawn again to see; where that is not possible, any difference to it is refused.

    :param batch: of a service's log
    :param propensity: shape (S,), of the target
    :param draw_of: how the target draws a decision; None for policies that do not draw as the service does
    :raises Unsupported: with the share of its choice that goes to what could not be shown there as
        ``detail["uncovered"]``; None where that cannot be told
    """
    feeds: Feeds = batch.source
    bad = (propensity != batch.propensity) & (feeds.least <= 0.0)
    if not bad.any():
        return
    event = event_of_slot(feeds.starts)
    uncovered = None
    if draw_of is not None and history is not None:
        uncovered = _uncovered(feeds, bad, np.unique(event[bad]).tolist(), draw_of, history)
        if uncovered == 0.0:
            return
    first = int(np.argmax(bad))
    entry, slot = feeds.entries[event[first]], first - int(feeds.starts[event[first]])
    share = "how much cannot be told" if uncovered is None else f"about {uncovered:.1%} of its choice"
    raise Unsupported(
        f"config {entry.decision.config} drew slot {slot} with floor {feeds.floor[first]:g}: some candidates had no "
        f"chance to be shown there, and the target would show some of those ({share}; {bad.sum()} slots of "
        f"{len(feeds.entries)} decisions, the first at position {entry.pos}). Such a log does not answer; log with a "
        "floor above 0",
        uncovered=uncovered,
        position=entry.pos,
        slot=slot,
        config=entry.decision.config,
    )


def _uncovered(
    feeds: Feeds,
    bad: NDArray[np.bool_],
    events: Sequence[int],
    draw_of: Callable[[Feeds, int], Draw],
    history: History,
) -> float | None:
    """Mean share of the target, at slots without a floor, that goes to what could not be shown there.

    0 only if that is so at every one of them; else of the first decisions looked at. None if it cannot be told.
    """
    shares: list[float] = []
    try:
        for place, i in enumerate(events):
            if place >= LOOKED_AT and any(shares):
                break
            target, logged = draw_of(feeds, i), logged_draw(feeds, i, history)
            for slot in np.flatnonzero(bad[feeds.starts[i] : feeds.starts[i + 1]]).tolist():
                shares.append(float(target.pmf(slot)[logged.pmf(slot) <= 0.0].sum()))
    except BanditError:
        return None
    return float(np.mean(shares))


def logged_draw(feeds: Feeds, i: int, history: History) -> Draw:
    """How a decision was drawn when it was logged.

    :raises BadPolicy: its model cannot be had, or a deadline cut the scoring short
    """
    entry = feeds.entries[i]
    decision, drawing = entry.decision, drawing_of(feeds.configs, entry.decision)
    if drawing.by_caller:
        scores = caller_scores(feeds, i)
    elif decision.scored < len(entry.versions):
        raise BadPolicy("a deadline cut the scoring short")
    else:
        scores = scores_of(history.model(decision.model or ""), feeds, i)
    strength = drawing.asked.a if decision.strength is None else decision.strength
    explorer = drawing.asked._replace(a=strength, b=drawing.most)
    return Draw.of(feeds, i, scores, explorer, drawing.shortlist, feeds.floor)


def uniform_draw(feeds: Feeds, i: int) -> Draw:
    """All that is eligible alike, slot after slot."""
    return Draw.of(feeds, i, caller_scores(feeds, i), CALLER_ORDER, 0, np.ones(len(feeds.floor)))


def caller_scores(feeds: Feeds, i: int) -> NDArray[np.float32]:
    """Scores that stand for the caller's own order."""
    return -np.arange(feeds.of[i + 1] - feeds.of[i], dtype=np.float32)
