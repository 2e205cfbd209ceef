"""Published models: files named by their digest, and the rows that say which one serves.

The bytes are not in the database: 10 MB in a transaction would hold its lock for 53 ms. A model is written,
fsynced and renamed before the row that names it is committed, so a row never names what is not there.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit import records
from bandit.errors import CorruptModel
from bandit.experiments import Apart
from bandit.learning.fold import Lesson
from bandit.store.directory import sync_folder
from bandit.store.log import EventLog, Txn

_FILE = re.compile(r"^[0-9a-f]{32}\.(vw|weights)$")


class PublishedModel(NamedTuple):
    """A row of ``models``, or of ``arm_models`` with what it shares with the champion's.

    :ivar experiment, arm: whose it is, where arms learn apart and it is not the champion's
    """

    published_pos: int
    digest: str
    weights_digest: str
    position: int
    reads_from: int
    learned: int
    published_at: float
    experiment: str | None = None
    arm: str | None = None


class Written(NamedTuple):
    """A model whose files are in place; ``learned`` is how many slots it has learned."""

    digest: str
    weights_digest: str
    learned: int


class TrainerState(NamedTuple):
    """How far the trainer has come; written at least once a second while there is work."""

    position: int
    at: float
    open_decisions: int
    learned: int
    counts: bytes
    problem: str | None


def digest_of(data: bytes | mmap.mmap | memoryview) -> str:
    """BLAKE2b-128, hex: a model's version."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class ModelFiles:
    """The ``models`` folder of a data directory.

    ``<digest>.vw`` is the regressor as VW saved it; ``<weights digest>.weights`` its weights as plain float32,
    for workers to map: it can always be made from the former, so it is not fsynced.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "models"

    def write(self, model: bytes, weights: NDArray[np.float32]) -> tuple[str, str]:
        """Digests of model and weights, once both are in place and the model is durable.

        :raises OSError: disk full, or not writable; nothing half-written bears a digest as its name
        """
        self.folder.mkdir(exist_ok=True)
        digest = digest_of(model)
        weights_digest = digest_of(weights.data.cast("B"))
        self._put(f"{weights_digest}.weights", weights.data.cast("B"), sync=False)
        self._put(f"{digest}.vw", model, sync=True)
        return digest, weights_digest

    def write_held(self, model: bytes) -> str:
        """Digest of a model that is not published, once its file is in place, for people to look at.

        :raises OSError: disk full, or not writable
        """
        self.folder.mkdir(exist_ok=True)
        digest = digest_of(model)
        self._put(f"{digest}.vw", model, sync=False)
        return digest

    def _put(self, name: str, data: bytes | memoryview, *, sync: bool) -> None:
        path = self.folder / name
        if path.exists() and path.stat().st_size == len(data):
            # Named by its digest, but perhaps torn by a power cut since: the same bytes again are harmless.
            if not sync:
                return
            if digest_of(path.read_bytes()) == name.partition(".")[0]:
                return
        temporary = self.folder / f"{name}.{os.getpid()}.part"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(self.folder)

    def read(self, digest: str) -> bytes:
        """The saved regressor.

        :raises CorruptModel: missing, truncated or altered
        """
        try:
            model = (self.folder / f"{digest}.vw").read_bytes()
        except OSError as error:
            raise CorruptModel(f"model {digest} cannot be read ({error})", digest=digest) from None
        if digest_of(model) != digest:
            raise CorruptModel(f"model {digest} is not what was published: its bytes have changed", digest=digest)
        return model

    def map_weights(self, weights_digest: str, n: int) -> NDArray[np.float32]:
        """The weights, shape (n,), mapped read-only and shared by all that map them.

        :raises CorruptModel: missing, truncated or altered
        """
        try:
            with open(self.folder / f"{weights_digest}.weights", "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CorruptModel(f"weights {weights_digest} cannot be read ({error})", digest=weights_digest) from None
        if len(mapped) != 4 * n or digest_of(mapped) != weights_digest:
            raise CorruptModel(f"weights {weights_digest} are not what was published", digest=weights_digest)
        return np.frombuffer(mapped, np.float32)

    def keep_only(self, models: Sequence[PublishedModel], held: str | None = None) -> None:
        """Delete the files of all other models; a worker that has one mapped keeps it.

        :param held: digest of a model that was not published, whose file is kept for people to look at
        """
        wanted = {f"{model.digest}.vw" for model in models} | {f"{m.weights_digest}.weights" for m in models}
        wanted.add(f"{held}.vw")
        for path in self.folder.iterdir():
            if (_FILE.match(path.name) or path.suffix == ".part") and path.name not in wanted:
                path.unlink(missing_ok=True)


_COLUMNS = "published_pos, digest, weights_digest, position, reads_from, learned, published_at"


_OF_ARMS = (
    "SELECT arm_models.published_pos, arm_models.digest, arm_models.weights_digest, position, reads_from,"
    " arm_models.learned, published_at, experiment, arm FROM arm_models JOIN models USING (published_pos)"
)


def newest_models(source: EventLog | Txn, limit: int = 1) -> list[PublishedModel]:
    """Published models, newest first; of those of arms that learn apart the champion's, see `arm_models`."""
    rows = _rows(source, f"SELECT {_COLUMNS} FROM models ORDER BY published_pos DESC LIMIT ?", (limit,))
    return list(starmap(PublishedModel, rows))


def arm_models(source: EventLog | Txn, published_pos: int) -> dict[str, PublishedModel]:
    """What was published beside a champion's model: those of the other arms that learn apart, by arm."""
    rows = _rows(source, f"{_OF_ARMS} WHERE published_pos = ? ORDER BY arm", (published_pos,))
    return {found.arm or "": found for found in starmap(PublishedModel, rows)}


def arm_models_since(source: EventLog | Txn, published_pos: int) -> list[PublishedModel]:
    """The same of this publish and all later ones, newest first."""
    rows = _rows(source, f"{_OF_ARMS} WHERE published_pos >= ? ORDER BY published_pos DESC, arm", (published_pos,))
    return list(starmap(PublishedModel, rows))


def published_as(source: EventLog | Txn, digest: str) -> PublishedModel | None:
    """The newest row of a model that was published, by its digest; one of an arm only if it was no champion's."""
    sql = f"SELECT {_COLUMNS} FROM models WHERE digest = ? ORDER BY published_pos DESC LIMIT 1"
    rows = _rows(source, sql, (digest,)) or _rows(
        source, f"{_OF_ARMS} WHERE arm_models.digest = ? ORDER BY published_pos DESC LIMIT 1", (digest,)
    )
    return PublishedModel(*rows[0]) if rows else None


def every_model(log: EventLog, *, until: int) -> list[PublishedModel]:
    """All that was published up to a position, those of arms too; newest first, the champion's before its arms'."""
    rows = log.query(
        f"SELECT {_COLUMNS}, NULL, NULL FROM models WHERE published_pos <= ?1"
        f" UNION ALL {_OF_ARMS} WHERE published_pos <= ?1 ORDER BY 1 DESC, 9",
        (until,),
    )
    return list(starmap(PublishedModel, rows))


def furthest_published(source: EventLog | Txn) -> int:
    """The furthest position that any published model holds; 0 without one."""
    return int(_rows(source, "SELECT coalesce(max(position), 0) FROM models", ())[0][0])


def _rows(source: EventLog | Txn, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    if isinstance(source, Txn):
        return source.execute(sql, parameters).fetchall()
    return source.query(sql, parameters)


def first_with(log: EventLog, position: int) -> PublishedModel | None:
    """The first published model that holds the record at a position."""
    rows = log.query(
        f"SELECT {_COLUMNS} FROM models WHERE position >= ? ORDER BY position, published_pos LIMIT 1",
        (position,),
    )
    return PublishedModel(*rows[0]) if rows else None


def publish_of(
    written: Mapping[str | None, Written], apart: Apart | None, *, position: int, reads_from: int
) -> records.Publish:
    """What the log is to say of models that are in place.

    :param written: by arm where arms learn apart, else under None
    """
    main = written[None if apart is None else apart.champion]
    return records.Publish(
        digest=main.digest,
        position=position,
        reads_from=reads_from,
        learned=main.learned,
        experiment=None if apart is None else apart.experiment,
        arms={arm: (written[arm].digest, written[arm].learned) for arm in (apart.others if apart is not None else ())},
    )


def append_publish(txn: Txn, publish: records.Publish, weights: Mapping[str, str]) -> int:
    """Log that models hold everything up to a position, and let them serve.

    :param weights: digests of weights by those of models
    """
    position = txn.append("publish", records.encode(publish))
    txn.execute(
        f"INSERT INTO models ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            position,
            publish.digest,
            weights[publish.digest],
            publish.position,
            publish.reads_from,
            publish.learned,
            txn.now,
        ),
    )
    txn.executemany(
        "INSERT INTO arm_models (published_pos, experiment, arm, digest, weights_digest, learned)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (position, publish.experiment, arm, digest, weights[digest], learned)
            for arm, (digest, learned) in publish.arms.items()
        ],
    )
    return position


def write_outcomes(txn: Txn, lessons: Sequence[Lesson]) -> None:
    """What became of slots; the same again after a restart replaces the same."""
    txn.executemany(
        "INSERT OR REPLACE INTO outcomes (decision_pos, slot, event_id, id, status, evidence, reward, weight,"
        " closed_pos, closed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (one.decision_pos, one.slot, one.event_id, one.item_id, one.status, one.evidence, one.reward,
             one.weight, one.closed_pos, one.closed_at)
            for one in lessons
        ],
    )  # fmt: skip


def write_trainer_state(txn: Txn, state: TrainerState) -> None:
    """Replace the trainer's one row."""
    txn.execute(
        "INSERT OR REPLACE INTO trainer (one, position, at, open_decisions, learned, counts, problem)"
        " VALUES (1, ?, ?, ?, ?, ?, ?)",
        (state.position, state.at, state.open_decisions, state.learned, state.counts.decode(), state.problem),
    )


def trainer_state(log: EventLog) -> TrainerState | None:
    """The trainer's last word; None if none ever ran."""
    rows = log.query("SELECT position, at, open_decisions, learned, CAST(counts AS BLOB), problem FROM trainer")
    return TrainerState._make(rows[0]) if rows else None
