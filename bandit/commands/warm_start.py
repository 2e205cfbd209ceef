"""``server.py warm-start``: what another service logged teaches the model before the service's own log does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bandit.commands.retrain import alone
from bandit.commands.shared import DONE, add_data, ended
from bandit.config import Config, Settings
from bandit.errors import InvalidSetting
from bandit.learning.learner import Learner
from bandit.learning.retraining import Taught, retrain
from bandit.progress import Progress
from bandit.store.configs import all_configs
from bandit.store.data import DataDirectory
from bandit.store.directory import make_directory

NAME: Final = "warm-start"


#: Teaches a learner what some logs hold, with rewards and weights as a config has them.
Teach = Callable[[Sequence[Path], Learner, Config, Callable[[int, int], None]], Taught]


def main(arguments: Sequence[str], teach: Teach) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; what serves has not changed)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Learn a fresh model from logs in VW's dsjson, such as Azure Personalizer's, and then from what "
        "the data directory's own log holds, if anything; publish it as the base that the log goes on from, and delete "
        "every other model. Features become those that the same requests have here. Stop the service first. "
        "`server.py retrain` forgets it again.",
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="dsjson, plain, gzip or zstd; oldest first")
    add_data(parser)
    parser.add_argument(
        "--vw", metavar="ARGS", default="auto", help="VW arguments of a new data directory (default: the service's)"
    )
    given = parser.parse_args(arguments)
    return ended(lambda: _warm_start(given.logs, given.data.resolve(), given.vw, teach))


def _warm_start(logs: Sequence[Path], path: Path, vw: str, teach: Teach) -> int:
    for log in logs:
        if not log.is_file():
            raise InvalidSetting(f"{log} is no file; name logs in dsjson")
    if not (path / "log.db").is_file():
        make_directory(path)
        DataDirectory(Settings(path, vw=vw)).close()
    told: list[Taught] = []
    with alone(path, vw) as data:
        configs = all_configs(data.log)
        document = configs[max(configs)].document

        def first(learner: Learner) -> None:
            with Progress("bytes", sys.stderr) as progress:
                told.append(teach(logs, learner, document, progress))
            if not told[0].learned:
                raise InvalidSetting(f"nothing could be learned, so nothing was changed: {_skipped(told[0])}")

        with Progress("records", sys.stderr) as progress:
            done = retrain(data, cause=NAME, first=first, progress=progress)
    (taught,) = told
    print(f"read {taught.lines:,} lines, learned {taught.learned:,} slots; {_skipped(taught)}")
    print(f"model {done.digest} has learned {done.learned:,} slots, {done.learned - taught.learned:,} of its own log")
    return DONE


def _skipped(taught: Taught) -> str:
    if not taught.skipped:
        return "none skipped"
    parts = [f"{n:,} {reason} (first: {taught.examples[reason]})" for reason, n in taught.skipped.items()]
    return "skipped " + "; ".join(parts)
