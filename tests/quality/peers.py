"""Peers that are other packages, run by the Python of an environment of their own (see `tests.bench.peers`)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.bench.peers import peers

PROGRAM: Final = Path(__file__).with_name("peer_program.py")


class NoPeers(Exception):
    """The peers' environment cannot be had here."""


@cache
def _python() -> Path:
    found = peers()
    if found is None:
        raise NoPeers("the peers do not install here")
    return found


def ask(learner: str, task: dict[str, Any]) -> Any:
    """What the peers' program answers.

    :raises NoPeers: the environment cannot be had
    :raises RuntimeError: the program failed
    """
    with tempfile.TemporaryDirectory(prefix="feed-bandit-peer-") as folder:
        path = Path(folder) / "task.json"
        path.write_text(json.dumps(task))
        done = subprocess.run([_python(), PROGRAM, learner, path], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{learner} failed: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
