"""``python -m tests.quality``: how good the rankings are, scenario by scenario, beside peers on the same requests.

A full run measures everything and can write docs/quality.md and docs/quality.json. ``--ci`` runs a short seeded part
and holds it against what docs/quality.json says of the same part.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Final

from tests.quality.keel import closed_on_average
from tests.quality.page import page
from tests.quality.results import Document, compare, read, write
from tests.quality.runs import SCENARIOS, Job, jobs, run
from tests.quality.scenario import Measured, Target, table_of

FILE: Final = Path("docs/quality.json")


def targets(document: Document, names: Iterable[str]) -> list[tuple[str, Target]]:
    """Every target of these scenarios, by what the document says."""
    tables = {name: table_of(document.full.get(name, {})) for name in names}
    found = [(name, target) for name in names for target in SCENARIOS[name].targets(tables[name])]
    if any(name.startswith("keel-") for name in names):
        every = {name: table_of(runs) for name, runs in document.full.items()}
        found.append(("keel", closed_on_average(every)))
    return found


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 every target met (with ``--ci``: nothing got worse), 1 some missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.quality", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--ci", action="store_true", help="a short seeded part, held against the file")
    parser.add_argument("--record", action="store_true", help="with --ci: put this part into the file")
    parser.add_argument("--policy", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--more", action="store_true", help="only seeds that the file lacks; puts them into it")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", default=FILE, help="(default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="put what is measured into the file; the rest of it stays")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page, from the file as it is then")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    names = given.names or list(SCENARIOS)
    document = read(given.json)
    if given.ci:
        return _ci(given, document, names)
    before = document.full if given.more else {}
    todo = jobs(names, quick=False, policies=given.policy, done=before)
    runs: dict[Job, Measured] = {
        (name, policy, place + 1): one
        for name, policies in before.items()
        for policy, seeds in policies.items()
        for place, one in enumerate(seeds)
    }

    def tell(job: Job, one: Measured) -> None:
        """Keep what there is: a run of everything takes hours. A seed is known by its place, so there are no gaps."""
        runs[job] = one
        name, policy, _ = job
        seeds = list(takewhile(lambda seed: (name, policy, seed) in runs, count(1)))
        if seeds:
            document.full.setdefault(name, {})[policy] = [runs[name, policy, seed] for seed in seeds]
        if given.keep or given.more:
            write(given.json, document)

    run(todo, quick=False, processes=given.processes, tell=tell)
    told = targets(document, names)
    for name, target in told:
        print(_verdict(name, target))
    if given.markdown is not None:
        given.markdown.write_text(page(SCENARIOS, document, targets(document, list(SCENARIOS))))
    return 1 if any(target.met is False for _, target in told) else 0


def _ci(given: Any, document: Document, names: list[str]) -> int:
    started = time.monotonic()
    found = run(jobs(names, quick=True), quick=True, processes=given.processes)
    tables = {name: table_of(policies) for name, policies in found.items()}
    told = [(name, target) for name in names for target in SCENARIOS[name].hold(tables.get(name, {}))]
    for name in names:
        held = compare(SCENARIOS[name].watched, found.get(name, {}), document.quick, name)
        told += [(name, target) for target in held]
    for name, target in told:
        print(_verdict(name, target))
    print(f"({time.monotonic() - started:.0f} s)")
    if given.record:
        document.quick.update(found)
        write(given.json, document)
        return 0
    return 1 if any(target.met is False for _, target in told) else 0


def _verdict(name: str, target: Target) -> str:
    word = {True: "met", False: "MISSED", None: "-"}[target.met]
    return f"{word:<7} {name}: {target.text}: {target.measured}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
