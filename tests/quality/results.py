"""The file of what was measured: every single run of the full part and of CI's part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.quality.scenario import Measured, Target, Watched

#: Figures by scenario and policy, one dict a seed.
Runs = dict[str, dict[str, list[Measured]]]


class Document(msgspec.Struct):
    """docs/quality.json. No times and no machine: a run that changes nothing writes the same file."""

    full: Runs = {}
    quick: Runs = {}


def read(path: Path) -> Document:
    """The document, or an empty one."""
    if not path.exists():
        return Document()
    return msgspec.json.decode(path.read_bytes(), type=Document)


def write(path: Path, document: Document) -> None:
    """Scenarios and policies in the order of their names; figures to six places."""
    rounded = Document(_rounded(document.full), _rounded(document.quick))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rounded, order="sorted"), indent=1) + b"\n")


def _rounded(runs: Runs) -> Runs:
    return {
        name: {
            policy: [{figure: round(value, 6) for figure, value in run.items()} for run in seeds]
            for policy, seeds in policies.items()
        }
        for name, policies in runs.items()
    }


def compare(
    watched: Sequence[Watched], found: Mapping[str, Sequence[Measured]], recorded: Runs, scenario: str
) -> list[Target]:
    """Each watched figure against the file: worse by more than its tolerance is a miss; better is welcome."""
    told = []
    for policy, figure, better, tolerance in watched:
        text = f"{policy}, {figure} no worse than recorded"
        before = recorded.get(scenario, {}).get(policy, [])
        if not before or figure not in before[0]:
            told.append(Target(text, "nothing is recorded; run with --ci --record", False))
            continue
        was, is_ = before[0][figure], found[policy][0][figure]
        change = is_ - was if better == "higher" else was - is_
        note = "; record it anew" if change > tolerance else ""
        told.append(Target(text, f"{is_:.4f}, recorded {was:.4f}, tolerance {tolerance:g}{note}", change >= -tolerance))
    return told
