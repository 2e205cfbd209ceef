"""An .npz with the keys of obp's bandit feedback: ``dict(np.load(path))`` goes into its estimators.

obp itself keeps logs whole in memory, and so does this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from replay.errors import BadLog
from replay.events import Batch
from replay.readers.obd import POSITION
from replay.writers.common import one_slot_only, same_actions

SHAPE: Final = "obp's bandit feedback"


class ObpWriter:
    """Writes ``n_rounds``, ``n_actions``, ``context``, ``action``, ``position``, ``reward`` and ``pscore``, and beyond
    obp's own keys ``viewer`` and ``time``. ``pi_b`` is not known.

    ``context`` is that of a log with numeric contexts, else one column of zeros: obp wants one for its reward models.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n_actions: int | None = None
        self._parts: dict[str, list[Any]] = {}

    def write(self, batch: Batch) -> None:
        """
        :raises BadLog: feeds, or a changing number of candidates
        """
        one_slot_only(batch, SHAPE)
        self._n_actions = same_actions(batch, self._n_actions, SHAPE)
        position = batch.columns.get(POSITION, np.zeros(batch.n))
        for name, column in (
            ("action", batch.chosen),
            ("reward", batch.reward),
            ("pscore", batch.propensity),
            ("position", np.where(np.isnan(position), 0, position).astype(np.int64)),
            ("context", np.zeros((batch.n, 1)) if batch.contexts is None else batch.contexts),
            ("viewer", batch.viewer),
            ("time", batch.time),
        ):
            self._parts.setdefault(name, []).append(np.asarray(column))

    def finish(self) -> None:
        """
        :raises BadLog: there was nothing to write
        """
        if self._n_actions is None:
            raise BadLog("the log has no events that could be written")
        columns = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        with self._path.open("wb") as file:
            counts: dict[str, Any] = {"n_rounds": len(columns["action"]), "n_actions": self._n_actions}
            np.savez_compressed(file, allow_pickle=False, **counts, **columns)

    def abandon(self) -> None:
        """Nothing is open."""
