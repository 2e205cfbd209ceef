"""What the dashboard says of items, and of the arms of an experiment."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from bandit.experiments import Experiment
from bandit.loop.comparison import Mean, ratio_of
from bandit.service import Service
from bandit.statistics.folding import COMPLETION, FIRST_AT, NEGATIVE, REWARD, SEEN, SHOWN, WATCHED
from bandit.store.items import current_items
from bandit.store.loop import arm_groups
from bandit.store.statistics import top_items
from bandit.web.pages.scale import around
from bandit.web.pages.story import about_item, features_in
from bandit.wording import lasting, number, percent, places

#: Items that are shown; and how often an item must have been seen to be among those that earn most.
ITEMS: Final = 10
SEEN_ENOUGH: Final = 20.0
_TITLES: Final = ("title", "caption", "name")


class ItemRow(NamedTuple):
    """An item and what it earned."""

    id: str
    title: str
    about: str
    shown: str
    seen: str
    reward: str
    bar: float
    completion: str
    negative: str
    age: str


# ---------------------------------------------------------------- items


def items(service: Service, by: str, now: float) -> list[ItemRow]:
    """What was shown most, or earns most, as of the newest statistics."""
    log = service.data.log
    found = top_items(log, by=by, limit=ITEMS, least_seen=SEEN_ENOUGH if by == "earned" else 0.0)
    known = current_items(log, [one.id for one in found])
    means = [one.tally[REWARD] / one.tally[SEEN] if one.tally[SEEN] > 0 else 0.0 for one in found]
    most = max([*means, 1e-9])
    rows = []
    for one, mean in zip(found, means, strict=True):
        tally = one.tally
        features = features_in(known[one.id].features) if one.id in known else {}
        title = next((features[name] for name in _TITLES if isinstance(features.get(name), str)), "")
        rows.append(
            ItemRow(
                id=one.id,
                title=title[:120],
                about=about_item(features),
                shown=f"{tally[SHOWN]:,.0f}",
                seen=f"{tally[SEEN]:,.0f}",
                reward=number(mean, 3) if tally[SEEN] > 0 else "–",
                bar=max(mean, 0.0) / most,
                completion=percent(tally[COMPLETION] / tally[WATCHED]) if tally[WATCHED] > 0 else "–",
                negative=percent(tally[NEGATIVE] / tally[SEEN]) if tally[SEEN] > 0 else "–",
                age=lasting(max(now - tally[FIRST_AT], 0.0)),
            )
        )
    return rows


# ---------------------------------------------------------------- arms


def arms(service: Service) -> dict[str, Any] | None:
    """How the arms of the experiment in force do, from what was counted; None without one."""
    running: Experiment | None = service.config().document.experiment
    if running is None:
        return None
    sums = arm_groups(service.data.log, running.name)
    means = {name: ratio_of(groups[:, 2], groups[:, 1]) for name, groups in sums.items()}
    known = [(one.low, one.high) for one in means.values() if one.low is not None and one.high is not None]
    scale = around([end for ends in known for end in ends], known)
    rows = []
    for arm in running.arms:
        mean = means.get(arm.name, Mean(None, None, None))
        told, place = "no feed has ended yet", None
        if mean.value is not None:
            told = number(mean.value, 3)
            if mean.low is not None and mean.high is not None:
                digits = places(mean.high - mean.low)
                told = f"{number(mean.value, digits)} ({number(mean.low, digits)} to {number(mean.high, digits)})"
                place = scale.at(mean.low), scale.at(mean.value), scale.at(mean.high)
        rows.append(
            {
                "name": arm.name,
                "champion": arm.name == running.champion,
                "share": percent(arm.share),
                "told": told,
                "feeds": f"{sums[arm.name][:, 0].sum():,.0f}" if arm.name in sums else "0",
                "place": place,
            }
        )
    return {"name": running.name, "rows": rows}
