"""The one model that learns; or, where the arms of an experiment learn apart, one for each.

Which models there are, and what each one is taught, follows from the configs and decisions of the log alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bandit.errors import CorruptModel
from bandit.experiments import Apart
from bandit.learning.fold import Lesson
from bandit.learning.learner import Learner


class Learners:
    """One learner for each arm that learns apart. Without such an experiment there is one, under the name None.

    :param main: the champion's, if there are arms
    :param others: of the other arms, by name
    :param apart: which arms those are
    :raises CorruptModel: one of them has no learner
    """

    def __init__(self, main: Learner, others: Mapping[str, Learner] | None = None, apart: Apart | None = None) -> None:
        self._of: dict[str | None, Learner] = {None if apart is None else apart.champion: main}
        self._of.update(others or {})
        self._apart = apart
        missing = [] if apart is None else [name for name in apart.others if name not in self._of]
        if missing:
            raise CorruptModel(f"nothing was published of the arms {', '.join(missing)}, which learned apart there")

    @property
    def apart(self) -> Apart | None:
        """The arms that learn apart at this point of the log."""
        return self._apart

    @property
    def champion(self) -> str | None:
        """Name of the one that goes on whatever becomes of the arms."""
        return None if self._apart is None else self._apart.champion

    @property
    def main(self) -> Learner:
        """The champion's."""
        return self._of[self.champion]

    def __iter__(self) -> Iterator[tuple[str | None, Learner]]:
        """By name, the champion's first."""
        yield self.champion, self.main
        yield from ((name, self._of[name]) for name in (self._apart.others if self._apart is not None else ()))

    def taught(self, lesson: Lesson) -> list[str | None]:
        """Names of those that a lesson is for.

        A feed of an arm that learns apart teaches that arm. What was decided before it did, or in another experiment,
        teaches all alike.
        """
        own = self._apart is not None and lesson.experiment == self._apart.experiment and lesson.arm in self._of
        return [lesson.arm] if own else [name for name, _ in self]

    def __getitem__(self, name: str | None) -> Learner:
        return self._of[name]

    def replace(self, name: str | None, learner: Learner) -> None:
        """Go on with another one under this name; the old one is closed."""
        self._of[name].close()
        self._of[name] = learner

    def become(self, apart: Apart | None) -> None:
        """The arms are others from here on.

        New arms begin as the champion is. Who was the champion before an experiment is so in it, and who is when it
        ends goes on alone. Another champion within an experiment changes none of its models.
        """
        known = self._of
        name = None if apart is None else apart.champion
        goes_on = self._apart is not None and apart is not None and self._apart.experiment == apart.experiment
        main = known.pop(name, None) if goes_on else None
        if main is None:
            main = known.pop(self.champion)
        self._of = {name: main}
        for other in apart.others if apart is not None else ():
            kept = known.pop(other, None) if goes_on else None
            self._of[other] = main.fork() if kept is None else kept
        for gone in known.values():
            gone.close()
        self._apart = apart

    def close(self) -> None:
        """Give the memory of all of them back."""
        for learner in self._of.values():
            learner.close()
