"""``python -m tests.bench``: every target, measured side by side in one run; a table, and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import doors, evaluation, http, learning, pages, parts, ranking, storage
from tests.bench.results import Result, table
from tests.bench.session import QUICK, Scale, Session

GROUPS: dict[str, Callable[[Session], list[Result]]] = {
    "warm": ranking.warm,
    "cold": ranking.cold,
    "rules": ranking.rules,
    "latency": http.latency,
    "tail": http.tail,
    "workers": http.workers,
    "freshness": http.freshness,
    "doors": doors.doors,
    "overload": doors.overload,
    "dashboard": pages.dashboard,
    "counting": pages.counting,
    "slot": learning.slot,
    "width": learning.width,
    "log": storage.log_bytes,
    "memory": storage.memory,
    **evaluation.GROUPS,
    "parts": parts.parts,
}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str:
    """The commit that was measured; with a plus sign if there were changes on top."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True,
            cwd=Path(__file__).parent,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def run(session: Session, names: Sequence[str]) -> list[Result]:
    """The results of these groups, in order."""
    results = []
    for name in names:
        session.say(f"measuring: {name}")
        started = time.monotonic()
        found = GROUPS[name](session)
        results += found
        session.say(table(found))
        session.say(f"({time.monotonic() - started:.0f} s)\n")
    return results


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 every target met, 1 some missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(GROUPS), metavar="NAME",
                        help=f"one group; may be repeated; of {', '.join(GROUPS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a small rough run, to see that everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    given = parser.parse_args(arguments)
    about = {"commit": commit(), "machine": machine(), "quick": given.quick}
    with tempfile.TemporaryDirectory(prefix="feed-bandit-bench-") as folder:
        results = run(Session(Path(folder), QUICK if given.quick else Scale()), given.only or list(GROUPS))
    print(table(results))
    if given.json is not None:
        document = {**about, "results": [one.summary() for one in results]}
        given.json.write_text(json.dumps(document, indent=1) + "\n")
        print(f"\nwritten to {given.json}")
    return 0 if all(one.met for one in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
