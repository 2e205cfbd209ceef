"""A picture of a simulated service as it learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from replay.demo.chart import INK, POPULAR, SERVICE, UNIFORM, finish, label_ends, moving_mean, places
from replay.simulate.play import Played
from replay.simulate.report import early_feeds
from replay.simulate.world import Scenario

COLOURS: Final = {"feed-bandit": SERVICE, "popularity": POPULAR, "uniform": UNIFORM, "oracle": INK}
OTHERS: Final = ("#3b6fb6", "#8e5ea2", "#b0413e", "#5b8c2a")


def draw(plays: Sequence[Played], scenario: Scenario, new: npt.NDArray[np.bool_], path: Path) -> None:
    """Write the picture; the ending of the name says the format (.svg, .png, .pdf).

    Left, the true value of a feed as the run goes on; right, of a new viewer's first feeds.

    :param new: shape (n_viewers,), viewers who were met during the run
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "feed-bandit", "font.size": 10, "axes.edgecolor": "#b9bec5"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.4), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1.0))
        _values(left, plays, scenario)
        _first_feeds(right, plays, new)
        figure.suptitle(
            "feed-bandit among simulated viewers", x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK
        )
        figure.supxlabel(
            f"{scenario.feeds:,} feeds of {scenario.viewers:,} simulated viewers, {scenario.candidates:,} candidates, "
            f"{scenario.slots} slots, seed {scenario.seed}. Value: expected reward of a feed, known to the simulator.",
            x=0.01, ha="left", fontsize=8.5, color=UNIFORM,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _colours(plays: Sequence[Played]) -> list[str]:
    spare = iter(OTHERS * (1 + len(plays) // len(OTHERS)))
    return [COLOURS.get(played.name) or next(spare) for played in plays]


def _values(axes: Any, plays: Sequence[Played], scenario: Scenario) -> None:
    n = scenario.feeds
    width = min(1_001, max(1, n // 10) | 1)
    at = places(n)
    labels = []
    for played, colour in zip(plays, _colours(plays), strict=True):
        curve = moving_mean(played.value, width)
        axes.plot(at, curve[at - 1], color=colour, lw=2.4 if played.name == "feed-bandit" else 1.5)
        labels.append((f"{played.name} {played.value.mean():+.2f}", float(curve[-1]), colour))
    if scenario.drift is not None:
        axes.axvline(scenario.drift * n, color=UNIFORM, lw=1.0, ls=":")
        axes.annotate("tastes change", (scenario.drift * n, axes.get_ylim()[0]), color=UNIFORM, fontsize=8.5)
    finish(axes, f"Value of a feed, mean of {width} feeds", n, "feeds")
    label_ends(axes, sorted(labels, key=lambda label: label[1]))


def _first_feeds(axes: Any, plays: Sequence[Played], new: npt.NDArray[np.bool_]) -> None:
    names: list[str] = []
    for played, colour in zip(plays, _colours(plays), strict=True):
        rows = [(name, value) for name, value, _ in early_feeds(played, new) if value is not None]
        names = [name for name, _ in rows]
        axes.plot(
            range(len(rows)), [value for _, value in rows], color=colour, marker="o", ms=4,
            lw=2.4 if played.name == "feed-bandit" else 1.5,
        )  # fmt: skip
    finish(axes, "Value of a new viewer's first feeds", max(2, len(names) - 1), "feed of the viewer")
    axes.set_xlim(-0.2, max(0.2, len(names) - 0.8))
    axes.set_xticks(range(len(names)), names)
