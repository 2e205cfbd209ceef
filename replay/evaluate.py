"""``python -m replay evaluate``: the question on the command line, the answer on the terminal, as JSON, as a page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from bandit.errors import BanditError
from bandit.progress import Progress
from replay.errors import BadQuestion
from replay.evaluation import evaluate
from replay.redraws import REDRAWS
from replay.report.page import render
from replay.report.terminal import table

ANSWERED, BAD_INPUT, REFUSED = 0, 2, 3


def add_parser(subparsers: Any) -> None:
    """The ``evaluate`` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="what would another policy have earned on this log?",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="What would another policy have earned on this log, and is it better than production?",
        epilog="policies: logged, uniform, caller, feed:MODEL, greedy:MODEL, epsilon:MODEL, softmax:MODEL,\n"
        "squarecb:MODEL, table:FILE, column:NAME, propensities:FILE, vw:ARGS, python:MODULE:FUNCTION;\n"
        "see docs/evaluating.md\n\n"
        "exit status: 0 answered, 3 refused (for every policy), 2 bad input, or workers that die again and again",
    )
    add = parser.add_argument
    # fmt: off
    add("log", metavar="LOG", nargs="+",
        help="a service's data directory, an Open Bandit directory, or files or directories of dsjson or Parquet")
    # fmt: on
    add("--policy", metavar="NAME=SPEC", action="append", required=True, help="whom to evaluate; may be repeated")
    add("--estimator", metavar="NAME", action="append", default=[], help="may be repeated (default: the usual ones)")
    add("--tune", metavar="RULE", default="prior", help="how lambda of dros and others is chosen (default: prior)")
    add("--interval", metavar="METHOD", default="auto", help="auto (default), normal, bootstrap, likelihood or exact")
    add("--alpha", metavar="A", type=float, default=0.05, help="chance that an interval misses (default: %(default)s)")
    add("--slice", metavar="FIELD", action="append", default=[], help="slice by a field of the log; may be repeated")
    add("--reward", metavar="FORMULA", help="of raw signals, such as 'watch*1 + like*2'; replaces the log's own")
    add("--reward-model", metavar="KIND", default="auto", help="for dm, dr and the like: auto, none, or a kind")
    add("--weight-bound", metavar="W", type=float, help="no weight can be larger than this, as far as you know")
    add("--reward-range", metavar=("LOW", "HIGH"), type=float, nargs=2, help="of an event, if the log does not say")
    add("--after", metavar="POSITION", type=int, help="of a service's log, only decisions after this position")
    add("--test-assumptions", action="store_true", help="test what estimators of feeds assume, on a fifth of viewers")
    add("--redraws", metavar="N", type=int, default=REDRAWS,
        help="of the policies for iips and pi on a service's log, where marginals are too many to enumerate "
        "(default: %(default)s)")  # fmt: skip
    add("--kind", choices=("service", "dsjson", "parquet", "obd"), help="of the log (default: found out)")
    add("--on-broken", choices=("skip", "fail"), default="skip", help="a line that cannot be read (default: skip)")
    add("--workers", metavar="N", type=int, default=1,
        help="so many processes read the log's files; the answer has the same bits (default: %(default)s)")  # fmt: skip
    add("--dask", metavar="ADDRESS", help="the workers of this Dask scheduler read them, such as tcp://127.0.0.1:8786")
    add("--seed", metavar="S", type=int, default=0, help="of samples and bootstraps (default: %(default)s)")
    add("--json", action="store_true", help="print the whole answer as JSON")
    add("--html", metavar="FILE", type=Path, help="also write the report as one self-contained page")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 answered (for one policy at least), 3 refused, 2 bad input or lost workers."""
    try:
        if arguments.html is not None and not arguments.html.absolute().parent.is_dir():
            raise BadQuestion(f"the page cannot be written to {arguments.html}: there is no such directory")
        with Progress("read", sys.stderr) as progress:
            result = evaluate(
                arguments.log,
                arguments.policy,
                kind=arguments.kind,
                reward=arguments.reward,
                on_broken=arguments.on_broken,
                after=arguments.after,
                workers=arguments.workers,
                dask=arguments.dask,
                progress=progress,
                estimators=tuple(arguments.estimator),
                tune=arguments.tune,
                interval=arguments.interval,
                alpha=arguments.alpha,
                slices=tuple(arguments.slice),
                model=arguments.reward_model,
                weight_bound=arguments.weight_bound,
                reward_range=None if arguments.reward_range is None else tuple(arguments.reward_range),
                assumptions=arguments.test_assumptions,
                redraws=arguments.redraws,
                seed=arguments.seed,
            )
        if arguments.html is not None:
            _write(arguments.html, render(result))
    except BanditError as error:
        print(f"evaluate: {error.message}", file=sys.stderr)
        return BAD_INPUT
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print(table(result))
        if arguments.html is not None:
            print(f"\nPage: {arguments.html}")
    return REFUSED if all(policy.refused for policy in result.policies) else ANSWERED


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadQuestion(f"the page cannot be written to {path} ({error.strerror})") from None
