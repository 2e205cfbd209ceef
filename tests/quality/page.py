"""docs/quality.md, from the file of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.quality.results import Document
from tests.quality.scenario import OURS, Figure, Policy, Scenario, Target, table_of

HEAD = """# Quality: what the rankings earn

Made by `make bench-quality ARGS="--keep --markdown docs/quality.md"` from `docs/quality.json`, which holds every
single run. The service and its trainer run in one process through the code that serves, with the shipped config and
the shipped VW arguments, and with the requests' own time. Peers get the same requests and hear of the shown alone, like
the service. ± is the standard error of the mean over seeds, where there is more than one. CI runs a short seeded part
(`--ci`) and fails if a figure falls behind the file by more than its tolerance.

Peers are run with settings that we chose, by hand and on these requests; whoever knows them better may get more out
of them.
"""


def page(scenarios: Mapping[str, Scenario], document: Document, targets: Sequence[tuple[str, Target]]) -> str:
    """The whole page."""
    parts = [HEAD, "## Targets\n", *_targets(targets)]
    for name, scenario in scenarios.items():
        parts += [f"\n## `{name}`\n", scenario.what + "\n", *_figures(scenario, document)]
    return "\n".join(parts) + "\n"


def _targets(targets: Sequence[tuple[str, Target]]) -> list[str]:
    lines = ["| scenario | target | measured | |", "|---|---|---|---|"]
    for name, target in targets:
        word = {True: "met", False: "**missed**", None: ""}[target.met]
        lines.append(f"| {name} | {target.text} | {target.measured} | {word} |")
    return lines


def _figures(scenario: Scenario, document: Document) -> list[str]:
    table = table_of(document.full.get(scenario.name, {}))
    lines = [f"| policy | {' | '.join(scenario.figures)} | seeds |", f"|---|{'---|' * (len(scenario.figures) + 1)}"]
    for policy in scenario.policies:
        found = table.get(policy.name, {})
        cells = [_cell(found.get(figure)) for figure in scenario.figures]
        seeds = max((figure.seeds for figure in found.values()), default=0)
        name = f"**{policy.name}**" if policy.name == OURS else policy.name
        lines.append(f"| {name} | {' | '.join(cells)} | {seeds or _why_not(policy)} |")
    return lines


def _why_not(policy: Policy) -> str:
    return policy.note or "not measured"


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.seeds == 0:
        return ""
    return f"{figure.mean:.4f}" + ("" if figure.error is None else f" ± {figure.error:.4f}")
