"""``python -m tests.chaos``, or ``make chaos``: exit status 0 if every promise was kept, 1 if not."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bandit.progress import Progress
from tests.chaos.audit import SHOWN
from tests.chaos.campaign import Campaign, Report, summary

CI_SEED = 20_240_229
CI_LIMIT_S = 300.0


def main(arguments: Sequence[str]) -> int:
    """Run one campaign and report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Kill -9 the processes of a service under load (workers, trainer, parent) at random moments, then "
        "hold the log, the outcomes and the models against all that clients were told.",
    )
    parser.add_argument("--kills", type=int, default=100, help="how often to kill (default: 100)")
    parser.add_argument("--seed", type=int, help="of the load and the targets (default: drawn, and printed)")
    parser.add_argument("--workers", type=int, default=2, help="rank workers (default: 2)")
    parser.add_argument("--clients", type=int, default=4, help="clients that ask and tell (default: 4)")
    parser.add_argument(
        "--ci", action="store_true", help=f"a bounded part: no kill after {CI_LIMIT_S:.0f} s, a fixed seed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as a page too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the data directory and the service's words here")
    given = parser.parse_args(arguments)
    kills, seed, limit_s = given.kills, given.seed, 1e9
    if given.ci:
        limit_s = CI_LIMIT_S
        seed = CI_SEED if seed is None else seed
    if seed is None:
        seed = secrets.randbelow(1_000_000)

    print(f"chaos: {kills} kills, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        data = Path(place) / "data"
        campaign = Campaign(data, seed=seed, workers=given.workers, clients=given.clients, limit_s=limit_s)
        try:
            with Progress("kills", sys.stderr) as progress:
                report = campaign.run(kills, progress=progress)
        finally:
            if given.keep is not None:
                shutil.copytree(place, given.keep, dirs_exist_ok=True)
        if report.violations:
            print("".join(f"  {line}\n" for line in _tail(Path(place) / "data.stderr")), file=sys.stderr)
    for name, value in summary(report):
        print(f"{name:<70} {value}")
    print(_verdict(report))
    for violation in report.violations[:SHOWN]:
        print(f"  - {violation[:1_000]}")
    if given.json is not None:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if given.markdown is not None:
        given.markdown.write_text(_page(report))
    return 1 if report.violations else 0


def _tail(path: Path, n: int = 60) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-n:] if path.exists() else []


def _verdict(report: Report) -> str:
    if report.violations:
        return f"BROKEN: {len(report.violations)} promises were not kept"
    return "KEPT: nothing acknowledged was lost, nothing was learned twice, every model is that of the log"


def _page(report: Report) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in summary(report))
    return f"""# Crash campaign

`make chaos` runs the service under load, kills its processes with `kill -9` at random moments (workers, the
trainer, the parent, several at once, also while they start), starts again what an operator would start again, and at
the end holds the log, the outcomes and the models against everything that clients were told. The last full campaign:

| | |
|---|---|
{rows}

**{_verdict(report)}.**

`make chaos ARGS="--kills 100 --seed {report.seed}"` runs it again: the load and the targets come from the seed; at
which instruction a process dies is chance every time.
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
