"""Writes a log down in another shape."""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec
import zstandard
from msgspec import Struct

from bandit.errors import BanditError
from bandit.progress import Progress
from replay.errors import BadLog
from replay.events import Log, Needs
from replay.readers import KINDS, open_log
from replay.writers.common import Writer

SHAPES: Final = ("dsjson", "parquet", "obd", "obp")
"""What can be written."""

_BY_SUFFIX: Final = {".json": "dsjson", ".dsjson": "dsjson", ".jsonl": "dsjson", ".parquet": "parquet", ".npz": "obp"}
_OBD_FILES: Final = ("item_context.csv", "log.csv")


class Converted(Struct):
    """What became of a conversion.

    :param left_out: lines or decisions that were not written, by plain reason
    :param examples: the first of them, with their places
    """

    source: str
    target: str
    kind: str
    to: str
    events: int
    slots: int
    left_out: dict[str, int]
    examples: list[str]


def convert(
    source: Log,
    target: Path,
    *,
    to: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Converted:
    """Write a log down in another shape, all of it or nothing.

    :param to: one of ``SHAPES``; by the target's name if not given
    :param force: replace what is there
    :param progress: told, now and then, how much of how much is done
    :raises BadLog: the log cannot be read, the shape cannot hold it, or the target is there already
    """
    shape = to if to is not None else shape_of(target)
    if shape not in SHAPES:
        raise BadLog(f"--to {shape} is not known; allowed are {', '.join(SHAPES)}")
    _may_write(source, target, shape, force)
    feeds = bool(source.is_of_feeds()) if hasattr(source, "is_of_feeds") else source.kind == "service"
    needs = _needs(source, shape)
    events = slots = 0
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)))
        written = scratch / target.name
        writer, file = _writer(written, shape, feeds)
        try:
            for batch in source.batches(needs):
                writer.write(batch)
                events += batch.n
                slots += batch.n_slots
                progress(source.done(), source.size())
            if not events:
                raise BadLog(f"{source.name} has no events that could be written; {_left(source)}")
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
        finally:
            if file is not None:
                file.close()
        _put(written, target)
    problems = source.problems()
    return Converted(
        source=source.name,
        target=str(target),
        kind=source.kind,
        to=shape,
        events=events,
        slots=slots,
        left_out=dict(problems.counts),
        examples=list(problems.examples),
    )


def shape_of(target: Path) -> str:
    """What a target's name asks for.

    :raises BadLog: it does not say
    """
    name = target.name.lower().removesuffix(".gz").removesuffix(".zst")
    shape = _BY_SUFFIX.get(Path(name).suffix)
    if shape is None:
        raise BadLog(
            f"{target} does not say what to write; give --to {'|'.join(SHAPES)}, or a name that ends in "
            f"{', '.join(_BY_SUFFIX)}"
        )
    return shape


def _may_write(source: Log, target: Path, shape: str, force: bool) -> None:
    if not target.parent.is_dir():
        raise BadLog(f"{target.parent} is no directory to write into")
    if not target.exists():
        return
    if Path(source.name).exists() and target.samefile(source.name):
        raise BadLog(f"{target} is the log itself; name another target")
    if not force:
        raise BadLog(f"{target} is there already; give --force to replace it")
    if target.is_dir() != (shape == "obd"):
        raise BadLog(f"{target} is {'a directory' if target.is_dir() else 'a file'}; it is not replaced by {shape}")
    if target.is_dir():
        others = sorted({each.name for each in target.iterdir()} - set(_OBD_FILES))
        if others:
            raise BadLog(f"{target} holds other files too ({', '.join(others[:3])}); name another target")


def _needs(source: Log, shape: str) -> Needs:
    known = bool(source.knows_candidates()) if hasattr(source, "knows_candidates") else True
    if shape == "dsjson" and not known:
        raise BadLog(f"{source.name} does not say what could have been shown, which dsjson lists; give --n-actions")
    fields = tuple(source.field_names()) if hasattr(source, "field_names") else ("model", "config")
    if source.kind == "dsjson":
        fields += ("EventId",)
    columns = tuple(source.column_names()) if hasattr(source, "column_names") else ()
    return Needs(
        fields=tuple(dict.fromkeys(fields)),
        columns=columns,
        candidates=known,
        texts=known and shape != "obp",
        logged=known and shape in ("dsjson", "parquet"),
    )


def _writer(path: Path, shape: str, feeds: bool) -> tuple[Writer, IO[bytes] | None]:
    # Writers are loaded when they are needed, as readers are.
    if shape == "dsjson":
        from replay.writers.dsjson import DsjsonWriter

        file = _opened(path)
        return DsjsonWriter(file, feeds=feeds), file
    if shape == "parquet":
        from replay.writers.parquet import ParquetWriter

        return ParquetWriter(path, feeds=feeds), None
    if shape == "obd":
        from replay.writers.obd import ObdWriter

        path.mkdir()
        return ObdWriter(path), None
    from replay.writers.obp import ObpWriter

    return ObpWriter(path), None


def _opened(path: Path) -> IO[bytes]:
    if path.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "wb", compresslevel=6))
    if path.name.endswith(".zst"):
        return cast(IO[bytes], zstandard.open(path, "wb"))
    return path.open("wb")


def _put(written: Path, target: Path) -> None:
    """What is written becomes the target, in one step."""
    if written.is_dir() and target.exists():
        for each in sorted(written.iterdir()):
            os.replace(each, target / each.name)
        shutil.rmtree(written)
        return
    os.replace(written, target)


def _left(source: Log) -> str:
    counts = source.problems().counts
    return "left out: " + (", ".join(f"{n:,} {reason}" for reason, n in counts.items()) if counts else "nothing")


# ---------------------------------------------------------------- the command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The ``convert`` command."""
    parser = subparsers.add_parser(
        "convert",
        help="write a log down in another shape: dsjson, Parquet, Open Bandit CSV, or for obp",
        description="Write a log down in another shape. What is written as dsjson trains under vw --dsjson; feeds are "
        "written as CCB. The target appears when it is whole. Exit status: 0 written, 2 not (the reason is on stderr).",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a log of any kind that replay reads")
    parser.add_argument("target", type=Path, metavar="TARGET", help="what to write; .gz and .zst compress dsjson")
    parser.add_argument("--to", choices=SHAPES, help="what to write; by default as TARGET's name says")
    parser.add_argument("--kind", choices=KINDS, help="what SOURCE is; found out if not given")
    parser.add_argument(
        "--n-actions", type=int, metavar="N", help="how many actions there are, where SOURCE does not say"
    )
    parser.add_argument(
        "--on-broken", choices=("skip", "fail"), default="skip", help="count broken lines and go on, or stop (skip)"
    )
    parser.add_argument(
        "--reward", metavar="FORMULA", help="of a service's raw signals, in place of the configured one"
    )
    parser.add_argument("--force", action="store_true", help="replace TARGET")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 written, 2 not (the reason is on stderr)."""
    options: dict[str, Any] = {}
    if arguments.n_actions is not None:
        options["n_actions"] = arguments.n_actions
    try:
        source = open_log(
            arguments.source,
            kind=arguments.kind,
            on_broken=arguments.on_broken,
            reward=arguments.reward,
            **options,
        )
        with Progress("bytes" if source.kind in ("dsjson", "obd") else "events", sys.stderr) as progress:
            try:
                result = convert(source, arguments.target, to=arguments.to, force=arguments.force, progress=progress)
            finally:
                if hasattr(source, "close"):
                    source.close()
    except BanditError as error:
        print(f"convert: {error.message}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"convert: {arguments.target} cannot be written ({error.strerror or error})", file=sys.stderr)
        return 2
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print(_report(result))
    return 0


def _report(result: Converted) -> str:
    lines = [
        f"read     {result.source} ({result.kind})",
        f"written  {result.target} ({result.to}): {result.events:,} events, {result.slots:,} slots",
    ]
    lines += [f"noted    {n:,} {reason}" for reason, n in result.left_out.items()]
    lines += [f"         {example}" for example in result.examples]
    return "\n".join(lines)
