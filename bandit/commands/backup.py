"""``server.py backup`` and ``server.py restore``: a copy of a data directory while it is served, and back."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bandit.commands.shared import DONE, add_data, ended, opened, stamp
from bandit.progress import Progress
from bandit.store.backup import back_up, restore

NAME: Final = "backup"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; nothing is left of it)."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Copy a data directory as of one moment, while it is served: log, models, bases, and the secret, "
        "so keep it as safe as the original. The copy is checked before it bears its name.",
    )
    add_data(parser)
    parser.add_argument("target", type=Path, metavar="FOLDER", help="where to; must not exist yet")
    given = parser.parse_args(arguments)
    return ended(lambda: _back_up(given.data, given.target))


def _back_up(data: Path, target: Path) -> int:
    with opened(data) as log, Progress("bytes", sys.stderr) as progress:
        manifest = back_up(log, data, target, now=time.time(), progress=progress)
    print(f"{target} holds the log up to position {manifest.position:,}, in {len(manifest.files)} files")
    return DONE


def restore_main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 it could not be (the reason is on stderr; nothing was changed)."""
    parser = argparse.ArgumentParser(
        prog="server.py restore",
        description="Make a data directory of a backup, every file checked. What happened since is not in it: viewers "
        "who were erased after the backup are there again, so erase them again before you serve it.",
    )
    add_data(parser)
    parser.add_argument("source", type=Path, metavar="FOLDER", help="what `server.py backup` made")
    given = parser.parse_args(arguments)
    return ended(lambda: _restore(given.source, given.data))


def _restore(source: Path, data: Path) -> int:
    manifest = restore(source, data.absolute())
    made = stamp(manifest.made_at)
    print(
        f"{data} is as of {made}, position {manifest.position:,}; viewers who were erased since then have to be erased "
        "again before it serves: server.py erase"
    )
    return DONE
