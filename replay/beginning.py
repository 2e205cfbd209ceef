"""Where a log begins: its oldest base, with the model and the statistics that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bandit.errors import LogUnavailable
from bandit.features.model_args import ModelArgs
from bandit.learning.learner import Learner
from bandit.learning.lessons import Course
from bandit.records import Base
from bandit.statistics.folding import Statistics
from bandit.store.bases import BaseFiles, Snapshot, bases
from bandit.store.log import EventLog
from bandit.store.models import ModelFiles


class Beginning(NamedTuple):
    """What a fold starts with.

    :ivar base_pos: position of the base's record; models and epochs that were published before it cannot be built again
    :ivar model: as VW saved it; None: a fresh one
    :ivar arms: models of the other arms, where arms learn apart
    """

    base_pos: int
    base: Base
    model: bytes | None
    arms: Mapping[str, bytes]
    statistics: Snapshot

    def learner(self, scratch: Path) -> Learner:
        """A learner as it stood there."""
        return Learner(ModelArgs.parse(self.base.arguments), self.model, scratch=scratch)

    def course(self, log: EventLog, learner: Learner, statistics: Statistics | None = None, *, scratch: Path) -> Course:
        """The log from there on."""
        base = self.base
        return Course(
            log,
            learner,
            arms={arm: Learner(learner.args, model, scratch=scratch) for arm, model in self.arms.items()},
            position=base.position,
            reads_from=base.reads_from,
            statistics=statistics,
            counted=base.position,
        )


def beginning(log: EventLog, data: Path) -> Beginning:
    """The oldest base of a log.

    :param data: the data directory
    :raises LogUnavailable: the log cannot be read, or has no base
    :raises CorruptModel: the base's model or statistics are missing or altered
    """
    found = bases(log)
    if not found:
        raise LogUnavailable("the log has no base, with which every log begins; restore a copy of it")
    base_pos, base = found[0]
    model = None if base.model is None else ModelFiles(data).read(base.model)
    arms = {arm: ModelFiles(data).read(digest) for arm, (digest, _) in base.arms.items()}
    return Beginning(base_pos, base, model, arms, BaseFiles(data).read(base.statistics))
