"""The Open Bandit Dataset's CSV, with ``item_context.csv`` beside it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from replay.errors import BadLog
from replay.events import Batch
from replay.readers.obd import FEATURES, POSITION
from replay.readers.stamps import stamps_of
from replay.writers.common import one_slot_only, same_actions

SHAPE: Final = "Open Bandit CSV"


class ObdWriter:
    """Writes ``log.csv`` and ``item_context.csv`` into a directory.

    Rewards must be 0 or 1. ``position`` is 1 where the log has none. Items are numbered as their candidates stand in
    the first event; features that the first event's candidates have under ``I`` and the name ``item_feature_...`` are
    written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = (directory / "log.csv").open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(["", "timestamp", "item_id", "position", "click", "propensity_score", *FEATURES])
        self._n_actions: int | None = None
        self._rows = 0

    def write(self, batch: Batch) -> None:
        """
        :raises BadLog: feeds, rewards other than 0 and 1, or a changing number of candidates
        """
        one_slot_only(batch, SHAPE)
        other = (batch.reward != 0) & (batch.reward != 1)
        if other.any():
            at = int(np.argmax(other))
            raise BadLog(
                f"{SHAPE} holds clicks, 0 or 1; event {int(batch.place[at])} has reward {batch.reward[at]:g}. Convert "
                "it to dsjson or Parquet"
            )
        n_actions = same_actions(batch, self._n_actions, SHAPE)
        if self._n_actions is None:
            self._n_actions = n_actions
            self._write_items(batch)
        position = self._positions(batch)
        users = [self._column(batch, name) for name in FEATURES]
        stamps = [stamp.replace("T", " ").replace("Z", "+00:00") for stamp in stamps_of(batch.time)]
        self._csv.writerows(
            zip(
                range(self._rows, self._rows + batch.n),
                stamps,
                batch.chosen.tolist(),
                position,
                batch.reward.astype(np.int64).tolist(),
                batch.propensity.tolist(),
                *users,
                strict=True,
            )
        )
        self._rows += batch.n

    def finish(self) -> None:
        """
        :raises BadLog: there was nothing to write
        """
        self._file.close()
        if self._n_actions is None:
            raise BadLog("the log has no events that could be written")

    def abandon(self) -> None:
        """Close the file."""
        self._file.close()

    def _positions(self, batch: Batch) -> list[Any]:
        if POSITION in batch.columns:
            column = batch.columns[POSITION]
            whole = np.where(np.isnan(column), 0, column).astype(np.int64)
            return list((whole + 1).tolist())
        return [1] * batch.n

    def _column(self, batch: Batch, name: str) -> list[Any]:
        column = batch.fields.get(name)
        return [""] * batch.n if column is None else list(column.tolist())

    def _write_items(self, batch: Batch) -> None:
        assert self._n_actions is not None
        texts = [] if batch.texts is None else batch.texts.candidates[: self._n_actions]
        rows = [_features(text) for text in texts] or [{} for _ in range(self._n_actions)]
        names = sorted({name for row in rows for name in row})
        with (self._directory / "item_context.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", "item_id", *names])
            for item, row in enumerate(rows):
                writer.writerow([item, item, *(row.get(name, "") for name in names)])


def _features(text: bytes) -> dict[str, Any]:
    members = msgspec.json.decode(text)
    within = members.get("I", {}) if isinstance(members, dict) else {}
    return {name: value for name, value in within.items() if name.startswith("item_feature_")}
