"""The learning curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from replay.demo.play import Played

SERVICE: Final = "#0b6e4f"
POPULAR: Final = "#c46a1b"
UNIFORM: Final = "#7a7f87"
INK: Final = "#22262b"
POINTS: Final = 240

F64 = npt.NDArray[np.float64]


def draw(played: Played, path: Path) -> None:
    """Write the picture; the ending of the name says the format (.svg, .png, .pdf).

    Left, how large a share of the shown films was liked, averaged over the visits around; right, how many
    more films were liked by then than with random draws on the same visits.
    """
    import matplotlib

    # A picture of the same numbers is the same bytes, and no window is opened for it.
    with matplotlib.rc_context({"svg.hashsalt": "feed-bandit", "font.size": 10, "axes.edgecolor": "#b9bec5"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.4), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
        _shares(left, played)
        _extra_likes(right, played)
        n, slots = played.slot_rewards.shape
        figure.suptitle(
            "feed-bandit learns from real viewers, one visit at a time",
            x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK,
        )  # fmt: skip
        figure.supxlabel(
            f"MovieLens-100K, {n:,} visits in the order of time; {int(played.n_candidates.min())} to "
            f"{int(played.n_candidates.max())} candidates, {slots} shown. Liked: rated 4 or 5.",
            x=0.01, ha="left", fontsize=8.5, color=UNIFORM,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)


def _shares(axes: Any, played: Played) -> None:
    width = min(401, max(1, len(played.service) // 6) | 1)
    curves = (
        ("feed-bandit", played.service, SERVICE, 2.4),
        ("most popular", played.popular, POPULAR, 1.6),
        ("random", played.uniform, UNIFORM, 1.6),
    )
    at = places(len(played.service))
    for name, rewards, colour, line in curves:
        axes.plot(at, moving_mean(rewards, width)[at - 1], color=colour, lw=line, label=name)
    title = f"Shown films that the viewer liked, mean of {width} visits\n(some viewers like less: all curves fall)"
    finish(axes, title, len(played.service))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    # In the order of what they earned in all: the last point is an average over few visits.
    labels = [
        (f"{name} {100 * rewards.mean():.1f} %", float(moving_mean(rewards, width)[-1]), colour)
        for name, rewards, colour, _ in sorted(curves, key=lambda curve: float(curve[1].mean()))
    ]
    label_ends(axes, labels)


def _extra_likes(axes: Any, played: Played) -> None:
    n, slots = played.slot_rewards.shape
    at = places(n)
    curves = (
        ("feed-bandit", np.cumsum(played.service - played.uniform) * slots, SERVICE, 2.4),
        ("most popular", np.cumsum(played.popular - played.uniform) * slots, POPULAR, 1.6),
    )
    for name, extra, colour, line in curves:
        axes.plot(at, extra[at - 1], color=colour, lw=line, label=name)
    axes.axhline(0.0, color=UNIFORM, lw=1.6)
    finish(axes, "Films liked beyond what random ones would bring,\nadded up", n)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+,.0f}" if value else "0")
    labels = [(f"{name} {extra[-1]:+,.0f}", float(extra[-1]), colour) for name, extra, colour, _ in curves]
    label_ends(axes, sorted([("random", 0.0, UNIFORM), *labels], key=lambda label: label[1]))


def finish(axes: Any, title: str, n: int, unit: str = "visits") -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel(unit, color=INK)
    axes.set_xlim(1, max(2, n))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)


def label_ends(axes: Any, labels: list[tuple[str, float, str]]) -> None:
    """Names at the right ends of curves, from below, moved up where they would overlap."""
    low, high = axes.get_ylim()
    apart = (high - low) * 0.065
    at = -np.inf
    for name, value, colour in labels:
        at = max(value, at + apart)
        axes.annotate(
            name, (1.0, at), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=colour, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def moving_mean(values: F64, width: int) -> F64:
    """Mean over ``width`` values around each; nearer the ends, over those that there are."""
    ones = np.convolve(np.ones(len(values)), np.ones(width), "same")
    mean: F64 = np.convolve(values, np.ones(width), "same") / ones
    return mean


def places(n: int) -> npt.NDArray[np.int64]:
    """Visits that get a point: more would not be seen, and fill the file."""
    return np.unique(np.linspace(1, n, min(n, POINTS)).round().astype(np.int64))
