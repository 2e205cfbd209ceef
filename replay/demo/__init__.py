"""``python -m replay demo``: real viewers against a running service, and the learning curve that comes of it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np

from bandit.errors import BanditError, InvalidSetting
from bandit.progress import Progress
from replay.demo.client import Client, own_service
from replay.demo.data import MovieLens, read_movielens, visits_of
from replay.demo.play import Played, play
from replay.demo.report import describe

# Measured on these visits; see docs/demo.md.
VW: Final = "-b 18 -q tg -l 0.2"
CONFIG: Final[dict[str, Any]] = {"explorer": {"kind": "squarecb", "gamma_scale": 1000.0}, "floor": 0.02}
#: Every film shown is told of at once; the window is only what a kept log must wait for.
WINDOW_S: Final = 10.0
PICTURES: Final = (".svg", ".png", ".pdf")


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments to those of ``python -m replay``."""
    parser = subparsers.add_parser(
        "demo",
        help="play MovieLens viewers against a service, and draw the learning curve",
        description="Play the viewers of MovieLens-100K against a service, and compare what it earns with drawing at "
        "random and with showing what is most popular, on the same visits.",
    )
    add = parser.add_argument
    add("--data", metavar="DIR", type=Path, default=Path(".cache/demo-data"),
        help="where the wheel with the data is (default: %(default)s, where make demo puts it)")
    add("--url", help="play against this service, whose config is changed while the demo runs, and whose catalogue "
        "gets the films (default: start one, with a data directory that is removed in the end)")
    add("--keep", metavar="DIR", type=Path, help="keep the started service's data directory there, to evaluate "
        "policies on its log (default: it is removed)")
    add("--requests", metavar="N", type=int, help="play the first N visits only (default: all)")
    add("--candidates", metavar=("FEWEST", "MOST"), type=int, nargs=2, default=(20, 200),
        help="films in a visit (default: 20 200)")
    add("--slots", metavar="N", type=int, default=5, help="films shown (default: %(default)s)")
    add("--vw", metavar="ARGS", default=VW, help="arguments of the learner of the service that is started "
        "(default: %(default)s)")
    add("--seed", metavar="S", type=int, default=1, help="settles how ratings become visits (default: %(default)s)")
    add("--out", metavar="FILE", type=Path, default=Path(".cache/demo.svg"),
        help=f"the picture, as {', '.join(PICTURES)} (default: %(default)s)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 played to the end, 1 the service failed, 2 it could not start."""
    try:
        _check(arguments)
        data = read_movielens(arguments.data)
        with _ended_by_sigterm():
            _demo(arguments, data)
    except BanditError as error:
        print(f"demo: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidSetting) else 1
    return 0


def _check(arguments: argparse.Namespace) -> None:
    fewest, most = arguments.candidates
    if not 1 <= arguments.slots <= fewest <= most <= 1_000:
        raise InvalidSetting(
            f"{arguments.slots} slots and {fewest} to {most} candidates do not fit; it must be "
            "1 <= slots <= fewest <= most <= 1000"
        )
    if arguments.requests is not None and arguments.requests < 1:
        raise InvalidSetting(f"--requests {arguments.requests} plays nothing; at least 1 is needed")
    if arguments.keep is not None and arguments.url is not None:
        raise InvalidSetting("--keep is about the service that the demo starts; with --url there is none")
    if arguments.keep is not None and arguments.keep.exists():
        raise InvalidSetting(f"{arguments.keep} exists; name a directory that does not, or remove it")
    if arguments.out.suffix not in PICTURES:
        raise InvalidSetting(f"{arguments.out} is no picture that can be drawn; end it with {' or '.join(PICTURES)}")


def _demo(arguments: argparse.Namespace, data: MovieLens) -> None:
    # Before anything is played for a minute: whether it can be drawn.
    from replay.demo.chart import draw

    fewest, most = arguments.candidates
    rng = np.random.default_rng(arguments.seed)
    visits = visits_of(data.ratings, smallest=fewest, largest=most, rng=rng)[: arguments.requests]
    if not visits:
        raise InvalidSetting(f"no viewer has rated {fewest} films; lower --candidates")
    with contextlib.ExitStack() as stack:
        url = arguments.url
        if url is None:
            print("Starting a service (the first start compiles its kernels) ...", file=sys.stderr)
            url = stack.enter_context(own_service(vw=arguments.vw, data=arguments.keep))
        client = stack.enter_context(Client(url))
        client.put_items(data.films)
        stack.enter_context(client.config({**CONFIG, "slots": arguments.slots, "reward_window_s": WINDOW_S}))
        print(f"Playing {len(visits):,} visits against {client.url} ...", file=sys.stderr)
        progress = stack.enter_context(Progress("visits", sys.stderr))
        started = time.monotonic()
        played: Played = play(client, visits, data, slots=arguments.slots, rng=rng, progress=progress)
        took_s = time.monotonic() - started
        if arguments.keep is not None:
            client.until_closed(WINDOW_S)
    print(describe(played, n_films=len(data.films), n_viewers=len({visit.viewer for visit in visits})))
    draw(played, arguments.out)
    print(f"\nPlayed in {took_s:.0f} s, {len(visits) / took_s:.0f} visits a second. Picture: {arguments.out}")


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that the service it started does not outlive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
