"""What a learner's run is held against: the log's single slots, in arrays."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from replay.errors import BadPolicy
from replay.events import Batch
from replay.policies.base import is_uniform
from replay.policies.learning_run import mapped

_COLUMNS: Final = {"chosen": np.int64, "p": np.float64, "reward": np.float64, "n_candidates": np.int64}


class Census:
    """The columns of a log's single slots, kept in files that have no name any more.

    :ivar n: events
    :ivar least: smallest logged propensity
    :ivar uniform: everything was logged with one over its number of candidates
    """

    chosen: NDArray[np.int64]
    p: NDArray[np.float64]
    reward: NDArray[np.float64]
    n_candidates: NDArray[np.int64]

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._folder = Path(tempfile.mkdtemp(prefix="replay-census-"))
        self._files = {name: (self._folder / name).open("wb") for name in _COLUMNS}
        self.n = 0
        self.least = 1.0
        self.uniform = True
        self.first_place = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, batch: Batch) -> None:
        """
        :raises BadPolicy: an event has not exactly one slot, or was thinned out by others
        """
        if not batch.single or (np.diff(batch.starts) != 1).any():
            raise BadPolicy(
                f"{self._spec}: a learner along the log chooses one action an event, and around place {batch.place[0]} "
                "this log has events of several slots; evaluate it on a log of top slots, or give a model trained on "
                "another stretch (feed:MODEL, greedy:MODEL)"
            )
        if self.n == 0:
            self.first_place = int(batch.place[0])
        self.n += batch.n
        self.least = min(self.least, float(batch.propensity.min()))
        self.uniform = self.uniform and is_uniform(batch)
        values = {
            "chosen": batch.chosen, "p": batch.propensity, "reward": batch.reward, "n_candidates": batch.n_candidates,
        }  # fmt: skip
        for name, dtype in _COLUMNS.items():
            np.ascontiguousarray(values[name], dtype).tofile(self._files[name])

    def close(self) -> None:
        """No more events; the columns are there from now on."""
        for name, file in self._files.items():
            file.close()
            setattr(self, name, mapped(Path(file.name), _COLUMNS[name]))
        shutil.rmtree(self._folder, ignore_errors=True)
