"""What a benchmark says: a ratio with its spread, held against a target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from tests.bench.workload import quantile


class Result(msgspec.Struct, kw_only=True):
    """One line of the table.

    :ivar ratios: one for each repetition, both sides measured in that repetition; or absolute values, if
        the target is one
    :ivar limit: the target, for the median of ``ratios``
    :ivar measured: what stands behind the ratios, medians over repetitions; the unit is in the name
    """

    name: str
    what: str
    ratios: list[float]
    limit: float
    side: Literal["at most", "at least"] = "at most"
    unit: str = "x"
    measured: dict[str, Any] = {}
    note: str = ""

    @property
    def median(self) -> float:
        return quantile(self.ratios, 0.5)

    @property
    def met(self) -> bool:
        return self.median <= self.limit if self.side == "at most" else self.median >= self.limit

    def summary(self) -> dict[str, Any]:
        """For JSON: everything, and what follows from it."""
        return {
            "name": self.name,
            "what": self.what,
            "target": f"{self.side} {self.limit:g} {self.unit}",
            "met": self.met,
            "median": round(self.median, 4),
            "p10": round(quantile(self.ratios, 0.1), 4),
            "p90": round(quantile(self.ratios, 0.9), 4),
            "repetitions": len(self.ratios),
            "ratios": [round(ratio, 4) for ratio in self.ratios],
            "measured": {name: _rounded(value) for name, value in self.measured.items()},
            "note": self.note,
        }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def medians(name: str, values: Sequence[float]) -> dict[str, float]:
    """A column of repetitions as one entry of ``Result.measured``."""
    return {name: quantile(values, 0.5)}


def table(results: Iterable[Result]) -> str:
    """For people: target, measured, spread, verdict."""
    rows = [("what", "target", "median", "p10 - p90", "n", "")]
    for one in results:
        low, high = quantile(one.ratios, 0.1), quantile(one.ratios, 0.9)
        rows.append(
            (
                f"{one.name}: {one.what}",
                f"{'<=' if one.side == 'at most' else '>='} {one.limit:g} {one.unit}",
                f"{one.median:.3g} {one.unit}",
                f"{low:.3g} - {high:.3g}",
                str(len(one.ratios)),
                "met" if one.met else "MISSED",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
