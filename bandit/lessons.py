"""From what the fold closed to what VW is taught; serving's trainer and replay's rebuild share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bandit import records
from bandit.features import resolve_item
from bandit.fold import Lesson
from bandit.learner import Learner

MAX_KEPT_ITEMS = 100_000
_SCORED_AS = b'"S":{"slot":"0"}'

#: Item versions by number: (id, features text).
Versions = dict[int, tuple[str, bytes]]


def with_slot(shared: bytes, slot: int) -> bytes:
    """Resolved shared features as they are learned from: with the slot that the item stood at.

    Scoring leaves the slot at 0 for all, so what position does to reward is learned apart from the item.

    >>> with_slot(b'{"S":{"slot":"0"},"U":{"id":"u1"}}', 3)
    b'{"S":{"slot":"3"},"U":{"id":"u1"}}'
    """
    # A string cannot hold this text: its quotes would be escaped.
    return shared.replace(_SCORED_AS, b'"S":{"slot":"%d"}' % slot, 1)


class Teacher:
    """Puts a lesson's features together and teaches them.

    :param versions_of: the item versions with these numbers, as the log holds them
    """

    def __init__(self, learner: Learner, versions_of: Callable[[Sequence[int]], Versions]) -> None:
        self._learner = learner
        self._versions_of = versions_of
        self._texts: dict[int, bytes] = {}

    def teach(self, lessons: Sequence[Lesson]) -> int:
        """Learn those that are to be learned, in their order; how many they were."""
        taught = [lesson for lesson in lessons if lesson.status == "learned"]
        self._fetch({lesson.version for lesson in taught})
        for lesson in taught:
            assert lesson.reward is not None
            assert lesson.weight is not None
            self._learner.learn(
                with_slot(lesson.shared, lesson.slot),
                self._texts[lesson.version],
                reward=lesson.reward,
                weight=lesson.weight,
            )
        return len(taught)

    def _fetch(self, wanted: set[int]) -> None:
        missing = sorted(wanted - self._texts.keys())
        if not missing:
            return
        if len(self._texts) + len(missing) > MAX_KEPT_ITEMS:
            self._texts = {version: self._texts[version] for version in wanted & self._texts.keys()}
        for version, (item_id, text) in self._versions_of(missing).items():
            self._texts[version] = resolve_item(item_id, records.decode(text, records.Features, what="features"))
