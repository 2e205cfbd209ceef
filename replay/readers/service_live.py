"""A service's log that grows: what has closed since the last look, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bandit.config import LiveConfig
from bandit.errors import LogUnavailable
from bandit.learning.fold import Fold, Joined
from bandit.learning.lessons import READ_AT_ONCE
from bandit.reward.signals import Lengths
from bandit.store.configs import all_configs, read_config
from bandit.store.items import versions
from replay.errors import BadLog
from replay.events import Batch, Needs
from replay.readers.service import A_BATCH, ServiceLog, Verdicts
from replay.readers.service_fold import folded

NOTHING_MORE: Final = Needs()


class LiveLog(ServiceLog):
    """Decisions after a position whose windows have ended, a part at a time, in the order of a whole reading.

    :param after: only what was decided after it; nothing before it is read
    :raises BadLog: as `ServiceLog`
    """

    def __init__(self, path: str | Path, *, after: int) -> None:
        super().__init__(path, after=after)
        self._position = after
        self._in_force: dict[int, LiveConfig] = {}
        for row in self.log.read_kinds(["config"]):
            if row.pos <= after:
                live = read_config(row.payload)
                self._in_force[live.version] = live
        self._closed: list[Joined] = []
        self._verdicts: dict[int, Verdicts] = {}
        self._fold = Fold(
            self._in_force,
            self.log.payload_at,
            lengths_of=Lengths(lambda numbers: versions(self.log, numbers)),
            on_close=self._closed.append,
        )

    def more(self) -> Iterator[Batch]:
        """What has closed since the last call; all of it must be taken.

        :raises BadLog: the log is damaged, or cannot be read now
        """
        try:
            self.configs = all_configs(self.log)
            self.end = self.log.last_position()
            group: list[tuple[Joined, Verdicts]] = []
            while self._position < self.end:
                for row in self.log.read(self._position, min(READ_AT_ONCE, self.end - self._position)):
                    if row.kind == "config":
                        live = read_config(row.payload)
                        self._in_force[live.version] = live
                    for lesson in folded(self._fold, row):
                        found = self._verdicts.setdefault(lesson.decision_pos, {})
                        found[lesson.slot] = (lesson.status, lesson.reward)
                    group += [(one, self._verdicts.pop(one.pos, {})) for one in self._closed]
                    self._closed.clear()
                    self._position = row.pos
                    if len(group) >= A_BATCH:
                        yield from self._batches_of(group, NOTHING_MORE)
                        group = []
            if group:
                yield from self._batches_of(group, NOTHING_MORE)
        except LogUnavailable as error:
            raise BadLog(error.message) from None
