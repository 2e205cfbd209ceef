"""Builds every published model again from the log alone, and says whether each is matched, byte for byte."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bandit import records
from bandit.errors import BanditError, LogUnavailable
from bandit.learner import Learner
from bandit.lessons import READ_AT_ONCE, Course
from bandit.model_args import ModelArgs
from bandit.store.models import digest_of
from bandit.store.reading import ReadOnlyLog
from replay.progress import Progress


class NotALog(BanditError):
    """What was named is no data directory whose models could be built again."""

    code = "not_a_log"


class Published(NamedTuple):
    """A model as the log says it was published.

    :ivar published_pos: position of the record that says so
    :ivar position: of the last record that the model holds
    """

    published_pos: int
    position: int
    digest: str
    learned: int


class Mismatch(Struct):
    """A published model that the log does not give."""

    position: int
    published_pos: int
    published: str
    rebuilt: str
    published_learned: int
    rebuilt_learned: int


class Rebuilt(Struct):
    """What became of a rebuild.

    :param records: how many were folded: up to the last published position
    :param learned: slots taught on the way
    :param newest: digest of the newest published model; None if none was published
    """

    data: str
    arguments: str
    records: int
    learned: int
    published: int
    matched: int
    newest: str | None
    mismatch: Mismatch | None

    @property
    def ok(self) -> bool:
        """Every published model was matched."""
        return self.matched == self.published


def rebuild(data: Path, *, progress: Callable[[int, int], None] = lambda done, of: None) -> Rebuilt:
    """Fold the log from its base with a new learner, and compare wherever a model was published.

    Reads only, also beside a running service; what is published after the start is left for the next time.

    :param progress: told, now and then, how many records of how many are folded
    :raises NotALog: there is no log, or it begins in a way that this release does not know
    :raises LogUnavailable: the log cannot be read now
    """
    if not data.is_dir():
        raise NotALog(f"{data} is no directory; name the data directory of a service")
    if not (data / "log.db").is_file():
        raise NotALog(f"{data} holds no log.db; name the data directory of a service")
    log = ReadOnlyLog(data)
    try:
        args = _arguments(log, data)
        published = _published(log)
        with tempfile.TemporaryDirectory(prefix="rebuild-") as scratch, Learner(args, scratch=Path(scratch)) as learner:
            mismatch = None
            matched = 0
            for model, digest in _digests(log, learner, published, progress):
                if digest == model.digest:
                    matched += 1
                elif mismatch is None:
                    mismatch = Mismatch(
                        position=model.position,
                        published_pos=model.published_pos,
                        published=model.digest,
                        rebuilt=digest,
                        published_learned=model.learned,
                        rebuilt_learned=learner.n_learned,
                    )
            return Rebuilt(
                data=str(data),
                arguments=args.text,
                records=max((model.position for model in published), default=0),
                learned=learner.n_learned,
                published=len(published),
                matched=matched,
                newest=max(published).digest if published else None,
                mismatch=mismatch,
            )
    finally:
        log.close()


def _arguments(log: ReadOnlyLog, data: Path) -> ModelArgs:
    """VW arguments of the base."""
    try:
        bases = log.read_kinds(["base"])
    except LogUnavailable as error:
        if "no such table" in error.message or "not a database" in error.message:
            raise NotALog(f"{data / 'log.db'} is no log of this service ({error.message})") from None
        raise
    if len(bases) != 1:
        raise NotALog(
            f"the log in {data} has {len(bases)} bases; this release builds from exactly one, with which a log begins"
        )
    base: records.Base = records.decode(bases[0].payload, records.Base, what="the log's base")
    return ModelArgs.parse(base.arguments)


def _published(log: ReadOnlyLog) -> list[Published]:
    """All published models, in the order of the positions that they hold."""
    found = []
    for row in log.read_kinds(["publish"]):
        publish = records.decode(row.payload, records.Publish, what=f"record {row.pos}")
        found.append(Published(row.pos, publish.position, publish.digest, publish.learned))
    return sorted(found, key=lambda model: (model.position, model.published_pos))


def _digests(
    log: ReadOnlyLog, learner: Learner, published: list[Published], progress: Callable[[int, int], None]
) -> Iterator[tuple[Published, str]]:
    """Each published model with the digest that the log gives for its position."""
    course = Course(log, learner)
    last = published[-1].position if published else 0
    digest, digest_learned = "", -1
    for model in published:
        while course.position < model.position:
            rows = log.read(course.position, min(READ_AT_ONCE, model.position - course.position))
            for row in rows:
                if row.pos > model.position:
                    break
                course.take(row)
            if not rows or rows[-1].pos > model.position:
                break
            progress(course.position, last)
        if digest_learned != learner.n_learned:
            # Saving is the greater part of the work, and who has learned nothing saves the same.
            digest, digest_learned = digest_of(learner.save()), learner.n_learned
        yield model, digest


# ---------------------------------------------------------------- the command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The ``rebuild`` command."""
    parser = subparsers.add_parser(
        "rebuild",
        help="build every published model again from the log, and compare byte for byte",
        description="Build every published model again from the log alone, and say whether each is matched byte for "
        "byte. Only reads, also beside a running service. Exit status: 0 all matched, 1 one is not, 2 no such log.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="data directory of a service, running or not")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 all matched, 1 a mismatch, 2 the log cannot be used (the reason is on stderr)."""
    try:
        with Progress("records", sys.stderr) as progress:
            result = rebuild(arguments.data, progress=progress)
    except BanditError as error:
        print(f"rebuild: {error.message}", file=sys.stderr)
        return 2
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print(_report(result))
    return 0 if result.ok else 1


def _report(result: Rebuilt) -> str:
    lines = [
        f"log        {result.data}",
        f"arguments  {result.arguments}",
        f"folded     {result.records:,} records, {result.learned:,} slots learned",
        f"published  {result.published:,} models, newest {result.newest or 'none'}",
        f"matched    {result.matched:,}, byte for byte",
    ]
    wrong = result.mismatch
    if wrong is not None:
        lines += [
            f"NOT MATCHED {result.published - result.matched:,}; the first holds the log up to position "
            f"{wrong.position} (published at {wrong.published_pos}):",
            f"  published  {wrong.published}  {wrong.published_learned:,} slots learned",
            f"  rebuilt    {wrong.rebuilt}  {wrong.rebuilt_learned:,} slots learned",
            "Models are the same byte for byte with the same VW on the same kind of processor; here it is VW "
            f"{version('vowpalwabbit')} on {platform.machine()}.",
        ]
    return "\n".join(lines)
