"""An .npz of obp's bandit feedback: its keys are ``n_rounds``, ``n_actions``, ``context``, ``action``, ``position``,
``reward`` and ``pscore``. ``convert`` writes such files."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from replay.errors import BadLog
from replay.readers.arrays import ArrayLog, from_arrays
from replay.readers.common import WHAT_TO_LOG

# What NumPy and zipfile raise on archives that are damaged, encrypted or packed in other ways.
_DAMAGED: Final = (OSError, EOFError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile)
_UNREADABLE: Final = (*_DAMAGED, ValueError, KeyError, TypeError, RuntimeError, SyntaxError)


def obp_log(
    path: Path,
    *,
    viewer: str | None = None,
    reward_range: tuple[float, float] | None = None,
    marginals: bool = False,
) -> ArrayLog:
    """The log in such a file, whole in memory as it is with obp.

    :param viewer: the key with each round's viewer, if there is one
    :raises BadLog: another file, or one without propensities
    """
    found = _arrays(path)
    for name in ("reward", "action", "pscore"):
        if name not in found:
            hint = f"; {WHAT_TO_LOG}" if name == "pscore" else ""
            raise BadLog(f"{path} has no {name}; it has: {', '.join(found) or 'none'}{hint}")
    n = found["reward"].shape[:1]
    position = found.get("position")
    columns: dict[str, Any] = {}
    if position is not None and position.shape == n and position.dtype.kind in "iuf":
        columns["position"] = position
    context = found.get("context")
    time = found.get("time")
    n_actions = found.get("n_actions")
    key = viewer if viewer is not None else "viewer"
    if viewer is not None and viewer not in found:
        raise BadLog(f"{path} has no {viewer}; it has: {', '.join(found)}")
    return from_arrays(
        reward=found["reward"],
        action=found["action"],
        propensity=found["pscore"],
        n_actions=None if n_actions is None else int(n_actions),
        viewer=found.get(key),
        time=time,
        contexts=context if context is not None and context.ndim == 2 and context.size else None,
        fields=columns,
        columns=columns,
        reward_range=reward_range,
        marginals=marginals,
        name=str(path),
    )


def _arrays(path: Path) -> dict[str, Any]:
    try:
        # Opened here: where the file is no archive, NumPy would leave it open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {}
            for name in file.files:
                try:
                    found[name] = file[name]
                except ValueError:
                    continue  # An array of objects: obp's own extras, which nothing here reads.
            return found
    except _UNREADABLE as error:
        raise BadLog(f"{path} is no .npz that can be read ({error})") from None
