"""What a learner's run is held against: the log's single slots in arrays, and lines that VW can learn from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

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

    def add(self, batch: Batch) -> None:
        """
        :raises BadPolicy: an event has not exactly one slot, or was thinned out by others
        """
        if not batch.single or (np.diff(batch.starts) != 1).any():
            self.close()
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


def training_lines(spec: str, batch: Batch) -> bytes:
    """The batch as dsjson that says no more than a learner needs.

    Where the log has numeric contexts instead of features, they become ``{"C": {"x0": ..., "x1": ...}}`` and each
    candidate ``{"A": {"id": ...}}``.

    :raises BadPolicy: the log has neither
    """
    if batch.texts is not None:
        shared, candidates = batch.texts.shared, batch.texts.candidates
    elif batch.contexts is not None and batch.candidates is not None:
        shared = [
            ('{"C":{' + ",".join(f'"x{i}":{value!r}' for i, value in enumerate(row)) + "}}").encode()
            for row in batch.contexts.tolist()
        ]
        candidates = [b'{"A":{"id":"%d"}}' % item for item in batch.candidates.item.tolist()]
    else:
        raise BadPolicy(
            f"{spec} learns from features, and this log has none that can be learned from; give a log with features "
            "(dsjson, the service's own) or with contexts and items"
        )
    lines = []
    starts = np.concatenate([[0], np.cumsum(batch.n_candidates)]).tolist()
    for i, (reward, p, chosen) in enumerate(
        zip(batch.reward.tolist(), batch.propensity.tolist(), batch.chosen.tolist(), strict=True)
    ):
        members = shared[i].strip()[1:-1].strip()
        listed = b",".join(candidates[starts[i] : starts[i + 1]])
        label = b'"_label_cost":%r,"_label_probability":%r,"_label_Action":%d,"_labelIndex":%d'
        lines.append(
            b"{" + label % (0.0 - reward, p, chosen + 1, chosen) + b',"c":{' + members
            + (b"," if members else b"") + b'"_multi":[' + listed + b"]}}\n"
        )  # fmt: skip
    return b"".join(lines)
