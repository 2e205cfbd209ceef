"""What all writers share."""

from __future__ import annotations

from typing import Protocol

from replay.errors import BadLog
from replay.events import Batch


class Writer(Protocol):
    """Takes a log's batches in order, and writes them where it was told at its making."""

    def write(self, batch: Batch) -> None:
        """
        :raises BadLog: the batch holds what the shape has no place for
        """
        ...

    def finish(self) -> None:
        """After the last batch.

        :raises BadLog: what was written is no whole log
        """
        ...

    def abandon(self) -> None:
        """Let go of what is open; what is written is thrown away."""
        ...


def one_slot_only(batch: Batch, shape: str) -> None:
    """
    :raises BadLog: an event has several slots
    """
    if not batch.single:
        raise BadLog(
            f"{shape} has rows of one slot, and the slots of a feed are drawn given those above. Convert feeds to "
            "dsjson or Parquet"
        )


def same_actions(batch: Batch, n_actions: int | None, shape: str) -> int:
    """How many actions there are, the same for every event.

    :param n_actions: of the batches before; None at the first
    :raises BadLog: it is unknown, or differs
    """
    counts = batch.n_candidates
    least, most = int(counts.min()), int(counts.max())
    if least < 1 or int(batch.chosen.min()) < 0:
        raise BadLog(
            f"{shape} needs to know how many actions there are, and which one was shown; open it with n_actions"
        )
    if least != most or n_actions not in (None, least):
        raise BadLog(
            f"{shape} has the same actions in every event; this log has {least} to {max(most, n_actions or 0)}. "
            "Convert it to dsjson or Parquet"
        )
    return least
