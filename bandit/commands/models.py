"""``server.py models``: which models are kept and which one serves; roll back, release, look at one, export one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bandit.commands.shared import DONE, add_data, ended, opened, stamp
from bandit.errors import InvalidSetting
from bandit.features.model_args import ModelArgs
from bandit.learning.serving import release, roll_back, serving_reply, with_files
from bandit.ranking.scorer import weights_from_model
from bandit.records import ReleaseRequest, RollbackRequest
from bandit.store.bases import bases
from bandit.store.log import EventLog
from bandit.store.models import ModelFiles, PublishedModel
from bandit.store.serving import find_kept, kept_models, serving

NAME: Final = "models"
# All that was published and is not deleted may be named: how many are kept is the service's own setting.
KEEP: Final = 10_000


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; nothing changed)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Which models are kept and which one serves; roll back to one of them, release the newest. "
        "Works beside a running service, whose workers all follow from their next request on, and at rest.",
        epilog="VERSION may be how a version begins, from four characters on.",
    )
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print what serves as JSON")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="the kept models, newest first, and which one serves (the default)")
    show = commands.add_parser("show", help="one model: what it holds, and whether its file is whole")
    show.add_argument("version", metavar="VERSION", nargs="?", help="default: the one that serves")
    back = commands.add_parser("rollback", help="serve an earlier model, until a release")
    back.add_argument("to", metavar="VERSION", help="a kept version, or how it begins")
    free = commands.add_parser("release", help="serve the newest model again")
    for one in (back, free):
        one.add_argument("--reason", default="asked for", help="kept in the log (default: %(default)s)")
    export = commands.add_parser("export", help="write a model as a file that plain vw loads: vw -i FILE -t")
    export.add_argument("file", type=Path, metavar="FILE", help="a file that does not exist yet")
    export.add_argument("--version", metavar="VERSION", help="default: the one that serves")
    given = parser.parse_args(arguments)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    with opened(given.data) as log:
        files = ModelFiles(given.data)
        if given.command == "show":
            print(_about(log, files, _named(log, files, given.version)))
        elif given.command == "export":
            print(_export(files, _named(log, files, given.version), given.file))
        else:
            _change(log, files, given)
            print(_as_json(log, files) if given.json else _table(log, files))
    return DONE


def _change(log: EventLog, files: ModelFiles, given: argparse.Namespace) -> None:
    try:
        if given.command == "rollback":
            body = msgspec.convert({"to": given.to, "reason": given.reason}, RollbackRequest)
            roll_back(log, files, KEEP, body)
        elif given.command == "release":
            release(log, msgspec.convert({"reason": given.reason}, ReleaseRequest).reason)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"models: {error}") from None


def _named(log: EventLog, files: ModelFiles, text: str | None) -> PublishedModel:
    kept = with_files(kept_models(log, KEEP), files)
    if not kept:
        raise InvalidSetting("no model was published yet; start the service, and ask again")
    if text is None:
        text = serving(log).pinned or kept[0].digest
    return find_kept(kept, text)


def _about(log: EventLog, files: ModelFiles, model: PublishedModel) -> str:
    data = files.read(model.digest)
    args = ModelArgs.parse(bases(log)[-1].base.arguments)
    weights = weights_from_model(data, args)
    used = int(np.count_nonzero(weights))
    return "\n".join(
        [
            f"version     {model.digest}",
            f"published   {stamp(model.published_at)}, at position {model.published_pos:,}",
            f"holds       the log up to position {model.position:,}: {model.learned:,} slots learned",
            f"arguments   {args.text}",
            f"file        {files.folder / model.digest}.vw, {len(data):,} bytes, whole",
            f"weights     {used:,} of {weights.size:,} are not 0; the largest is {float(np.abs(weights).max()):.4g}",
        ]
    )


def _export(files: ModelFiles, model: PublishedModel, path: Path) -> str:
    data = files.read(model.digest)
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return f"{path} holds model {model.digest}, {model.learned:,} slots learned; vw -i {path} -t loads it"


def _as_json(log: EventLog, files: ModelFiles) -> str:
    return msgspec.json.format(msgspec.json.encode(serving_reply(log, files, KEEP))).decode()


def _table(log: EventLog, files: ModelFiles) -> str:
    now = serving_reply(log, files, KEEP)
    serves = now.pinned or now.newest
    lines = [f"{'version':32}  {'position':>10}  {'learned':>10}  {'published':20}  "]
    for model in with_files(kept_models(log, KEEP), files):
        notes = {"serves": serves, "newest": now.newest, "champion": now.champion}
        words = [word for word, digest in notes.items() if digest == model.digest]
        said = ", ".join(words + ([] if model.arm is None else [f"arm {model.arm} of {model.experiment}"]))
        at = stamp(model.published_at)
        lines.append(f"{model.digest:32}  {model.position:10}  {model.learned:10}  {at:20}  {said}".rstrip())
    if now.pinned is not None:
        lines.append(f"rolled back by the {now.by}: {now.reason}; newer models wait for: server.py {NAME} release")
    if now.holding and now.hold is not None:
        lines.append(f"held: {now.hold.version} up to position {now.hold.position}: {now.hold.reason}")
    return "\n".join(lines)

