"""``python -m replay simulate``: invented viewers against the service, with the truth known."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from bandit.config import Config
from bandit.errors import BanditError
from bandit.progress import Progress
from replay.demo.client import Client
from replay.errors import BadQuestion
from replay.simulate.play import Played, Table, play, policies_of
from replay.simulate.policies import Policy
from replay.simulate.service import InProcess, OverHttp
from replay.simulate.stepped import changed
from replay.simulate.truth import Truth, reward_of
from replay.simulate.world import Scenario, World

SERVICE: Final = "service"
USUAL: Final = (SERVICE, "popularity", "constant", "uniform", "oracle")
POLICIES: Final = (*USUAL, "ccb")
PICTURES: Final = (".svg", ".png", ".pdf")
#: A log in memory is written in a tenth of the time.
IN_MEMORY: Final = Path("/dev/shm")


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments to those of ``python -m replay``."""
    parser = subparsers.add_parser(
        "simulate",
        help="play simulated viewers, whose taste is known, against the service and simpler policies",
        description="Play simulated viewers against the service, in this process with a clock of its own or over HTTP, "
        "and compare what it earns with simpler policies on the same requests, and with the best that there is.",
    )
    add, usual = parser.add_argument, Scenario()

    def number(name: str, text: str, **more: Any) -> None:
        default = getattr(usual, name)
        told = f"{text} (default: {'never' if default is None else default})"
        add(f"--{name.replace('_', '-')}", type=more.pop("type", type(default)), default=default, help=told, **more)

    number("feeds", "requests that are played", metavar="N")
    number("viewers", "viewers", metavar="V")
    number("items", "videos of the built-in catalogue", metavar="N")
    number("candidates", "videos offered in a request", metavar="N")
    number("slots", "videos shown", metavar="N")
    number("seed", "everything follows from it", metavar="S")
    number("drift", "all tastes change at once after this share of the run", metavar="SHARE", type=float)
    number("wander", "tastes turn by so many radians a day", metavar="ANGLE")
    number("leave", "what leaving a feed depends on", choices=("independent", "reward"), type=str)
    number("new_viewers", "share of viewers who come for the first time during the run", metavar="SHARE")
    number("new_items", "share of videos that come during the run", metavar="SHARE")
    number("told", "share of viewers whose interests are told from the start", metavar="SHARE")
    number("silent", "share of feeds that nothing is heard of", metavar="SHARE")
    number("late", "share of feeds that are heard of after the reward window", metavar="SHARE")
    number("duplicate", "share of feeds that are told of twice", metavar="SHARE")
    add("--shuffled", action="store_true", help="feedback comes item by item, in any order")
    add("--policies", default=",".join(USUAL), metavar="NAMES",
        help=f"which ones play, separated by commas (default: %(default)s); {SERVICE} is ours, and ccb "
        "is VW's own --ccb_explore_adf")
    add("--url", help="play against this service; it gets the catalogue, and learns what the viewers do (default: in "
        "this process, at full speed)")
    add("--config", type=Path, metavar="FILE", help="JSON with parts of the config that are to be others than shipped")
    add("--vw", metavar="ARGS", help="arguments of the learner (default: the shipped ones)")
    add("--keep", type=Path, metavar="DIR", help="keep the data directory there, to evaluate policies on its log")
    add("--json", action="store_true", help="print numbers, not tables")
    add("--out", type=Path, metavar="FILE", default=Path(".cache/simulate.svg"),
        help=f"the picture, as {', '.join(PICTURES)} (default: %(default)s)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 played to the end, 1 the service failed, 2 it could not start."""
    try:
        scenario = _checked(arguments)
        changes = _changes(arguments.config)
    except BanditError as error:
        print(f"simulate: {error.message}", file=sys.stderr)
        return 2
    try:
        _simulate(arguments, scenario, changes)
    except BanditError as error:
        print(f"simulate: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, BadQuestion) else 1
    return 0


def _checked(arguments: argparse.Namespace) -> Scenario:
    scenario = Scenario(**{field.name: getattr(arguments, field.name) for field in fields(Scenario)})
    scenario.check()
    asked = arguments.policies.split(",")
    unknown = sorted(set(asked) - set(POLICIES))
    if unknown or len(set(asked)) != len(asked):
        wrong = ", ".join(unknown) or "one twice"
        raise BadQuestion(f"--policies {arguments.policies} names {wrong}; known are {', '.join(POLICIES)}")
    if arguments.url is not None and (arguments.config or arguments.vw or arguments.keep):
        raise BadQuestion("--config, --vw and --keep are about the service in this process; with --url there is none")
    if arguments.keep is not None and arguments.keep.exists():
        raise BadQuestion(f"{arguments.keep} exists; name a directory that does not, or remove it")
    if arguments.out.suffix not in PICTURES:
        raise BadQuestion(f"{arguments.out} is no picture that can be drawn; end it with {' or '.join(PICTURES)}")
    return scenario


def _changes(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        changes = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadQuestion(f"--config {path} cannot be read as JSON ({error})") from None
    if not isinstance(changes, dict):
        raise BadQuestion(f"--config {path} holds {changes!r:.50}; it must be an object with parts of the config")
    changed(Config(), changes)
    return changes


def _simulate(arguments: argparse.Namespace, scenario: Scenario, changes: dict[str, Any]) -> None:
    from replay.simulate.chart import draw
    from replay.simulate.report import as_document, describe

    world = World(scenario)
    plays: list[Played] = []
    took_s: dict[str, float] = {}
    fallbacks = 0
    with contextlib.ExitStack() as stack:
        asked = arguments.policies.split(",")
        ours: InProcess | OverHttp | None = None
        document = changed(Config(), changes)
        if SERVICE in asked:
            ours = stack.enter_context(_service(arguments, world, changes))
            document = ours.config
        truth = Truth(world.effects, world.lengths_s, reward_of(document))
        for name in asked:
            table = Table(world, truth)
            made: dict[str, Callable[[], Policy]] = policies_of(table)
            policy = ours if name == SERVICE and ours is not None else made[name]()
            started = time.monotonic()
            with Progress(f"feeds, {policy.name}", sys.stderr) as progress:
                plays.append(play(table, policy, window_s=document.reward_window_s, progress=progress))
            took_s[policy.name] = time.monotonic() - started
        fallbacks = ours.fallbacks if ours is not None else 0
    if arguments.json:
        told = {**as_document(plays, scenario, world.is_new, took_s), "fallbacks": fallbacks}
        print(json.dumps(told, indent=2))
    else:
        print(describe(plays, scenario, world.is_new))
    draw(plays, scenario, world.is_new, arguments.out)
    if not arguments.json:
        if fallbacks:
            print(f"\n{fallbacks:,} rankings did not come from the model")
        rates = ", ".join(f"{name} {scenario.feeds / seconds:,.0f}" for name, seconds in took_s.items())
        print(f"\nFeeds a second: {rates}. Picture: {arguments.out}")


@contextlib.contextmanager
def _service(arguments: argparse.Namespace, world: World, changes: dict[str, Any]) -> Iterator[InProcess | OverHttp]:
    if arguments.url is not None:
        with Client(arguments.url) as client:
            yield OverHttp(world, client, event=f"sim-{secrets.token_hex(4)}")
        return
    with contextlib.ExitStack() as stack:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True)
            directory = arguments.keep
        else:
            where = IN_MEMORY if IN_MEMORY.is_dir() and _is_writable(IN_MEMORY) else None
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feed-bandit-", dir=where)))
        yield stack.enter_context(InProcess(world, directory, config=changes, vw=arguments.vw))


def _is_writable(directory: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False
