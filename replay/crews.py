"""Who reads the parts of a log: several processes on this machine (`replay.processes`), or a cluster
(`replay.cluster`).

All do the same: tasks, each some policies over some parts of the log, by one function. What comes back is merged in the
order of the log, whoever did it and whenever it came, so the answer has the same bits.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from replay.answer import version_here
from replay.collect import Question, Told, absorb, collect_parts, nobody, parts_of
from replay.collected import Collected
from replay.errors import BadPolicy, BadQuestion, WorkerLost
from replay.events import Policy

ATTEMPTS: Final = 3
"""So many workers may die of a task before it is given up."""
AHEAD: Final = 4
"""Parts that each worker may be ahead of the first one that is not done: all that waits to be merged is in memory."""


class Task(NamedTuple):
    """Some policies over some parts of a log.

    :ivar policies: places among all policies
    :ivar parts: places among the log's parts, ascending
    :ivar whole: the policies go along the log: all of its parts, in order
    """

    policies: tuple[int, ...]
    parts: tuple[int, ...]
    whole: bool = False


class Sent(NamedTuple):
    """What a worker is told of a question, once.

    :ivar policies: pickled one by one, before they were prepared: models are loaded where they are used
    :ivar version: of this package; other code may give other bits
    """

    question: Question
    policies: tuple[bytes, ...]
    version: str


Done = Collected | Exception
"""What became of a task."""


class Crew(Protocol):
    """Does tasks elsewhere."""

    def run(self, sent: bytes, tasks: Sequence[Task]) -> Generator[tuple[int, Done], None, None]:
        """(place of the task, what was collected or went wrong) of each, as they are done.

        :param sent: see :func:`packed`
        :raises WorkerLost: a task's workers die again and again, or there are no workers
        """
        ...


def packed_policies(policies: Sequence[Policy]) -> tuple[bytes, ...]:
    """
    :raises BadPolicy: one cannot be sent to another process
    """
    found = []
    for policy in policies:
        try:
            found.append(pickle.dumps(policy))
        except Exception as error:
            raise BadPolicy(
                f"{policy.name} ({policy.spec}) cannot be sent to another process ({error}); give a function that a "
                "module has by name, such as python:MODULE:NAME, or do without workers"
            ) from None
    return tuple(found)


def packed(question: Question, policies: tuple[bytes, ...]) -> bytes:
    """What is sent to workers.

    :param policies: see :func:`packed_policies`
    :raises BadQuestion: the reward model, or the log, cannot be sent
    """
    try:
        return pickle.dumps(Sent(question, policies, version_here()))
    except Exception as error:
        raise BadQuestion(f"the log or the reward model cannot be sent to another process ({error})") from None


class _Opened:
    """A question as a worker has it."""

    def __init__(self, sent: bytes) -> None:
        try:
            self.question, self._packed, version = Sent(*pickle.loads(sent))
        except Exception as error:
            raise BadQuestion(f"the question cannot be read by a worker ({type(error).__name__}: {error})") from None
        if version != version_here():
            raise BadQuestion(f"a worker has version {version_here()} of feed-bandit, and was sent work of {version}")
        self._policies: dict[int, Policy] = {}

    def policy(self, place: int) -> Policy:
        """Prepared."""
        if place not in self._policies:
            try:
                policy: Policy = pickle.loads(self._packed[place])
            except (AttributeError, ImportError) as error:
                raise BadPolicy(
                    f"a worker cannot load a policy ({error}); its module must be there, and a script that asks needs "
                    'its question under if __name__ == "__main__"'
                ) from None
            policy.prepare(self.question.log)
            self._policies[place] = policy
        return self._policies[place]

    def forget(self, place: int) -> None:
        """What a learner has kept of a whole log is not needed twice."""
        self._policies.pop(place, None)


_kept = threading.local()


def work(sent: bytes, task: Task) -> Collected:
    """Do a task. What was sent is opened once in each thread, as policies keep what they have worked out."""
    digest = blake2b(sent).digest()
    if getattr(_kept, "digest", None) != digest:
        _kept.opened, _kept.digest = _Opened(sent), digest
    opened: _Opened = _kept.opened
    collected = collect_parts(opened.question, [opened.policy(place) for place in task.policies], task.parts)
    if task.whole:
        for place in task.policies:
            opened.forget(place)
    return collected


def is_along(policy: Policy) -> bool:
    """Whether it has to see the whole log in its order, so that one worker reads all of it for this policy."""
    return bool(getattr(policy, "along", not policy.stationary))


def collect_by(
    crew: Crew, question: Question, policies: Sequence[Policy], fresh: tuple[bytes, ...], progress: Told = nobody
) -> Collected:
    """What `replay.collect.collect` gives, to the last bit, with the work done by a crew.

    :param fresh: the policies as they were before they were prepared, see :func:`packed_policies`
    :raises WorkerLost: see `Crew.run`
    :raises BadLog, BadPolicy, BadQuestion: of several parts with something wrong, about the first
    """
    parts = parts_of(question.log)
    along = [place for place, policy in enumerate(policies) if is_along(policy)]
    others = tuple(place for place in range(len(policies)) if place not in along)
    every = tuple(range(len(parts)))
    tasks = [Task((place,), every, whole=True) for place in along]
    tasks += [Task(others, (k,)) for k in every if others]
    sizes = [sum(parts[k].size() for k in task.parts) for task in tasks]
    collected = Collected(slates=question.slates)
    held: dict[int, Done] = {}
    following, done = len(along), 0
    with closing(crew.run(packed(question, fresh), tasks)) as results:
        for place, found in results:
            held[place] = found
            if place < len(along):
                _sound(found)
            while following in held:
                collected = collected.merge(_sound(held.pop(following)))
                following += 1
            done += sizes[place]
            progress(done, sum(sizes))
    if not others:
        collected = _sound(held[0])
    for place in range(len(along)):
        collected.policies |= _sound(held[place]).policies
    absorb(question.log, collected)
    return collected


def _sound(done: Done) -> Collected:
    if isinstance(done, Exception):
        raise done
    return done


class Board:
    """Which tasks are waiting, being done, and done.

    :param tasks: parts in the order of the log
    :param ahead: no part is handed out that is so many after the first one that is not done
    """

    def __init__(self, tasks: Sequence[Task], *, ahead: int) -> None:
        self._tasks = tasks
        self._ahead = ahead
        self._waiting = list(range(len(tasks)))
        self._left = [place for place, task in enumerate(tasks) if not task.whole]
        self._n_done = 0
        self._deaths = dict.fromkeys(self._waiting, 0)

    @property
    def finished(self) -> bool:
        """Every task is done."""
        return self._n_done == len(self._tasks)

    def take(self) -> int | None:
        """The place of a task to do next; None if there is none for now."""
        if not self._waiting:
            return None
        place = self._waiting[0]
        if not self._tasks[place].whole and place >= self._left[0] + self._ahead:
            return None
        return self._waiting.pop(0)

    def done(self, place: int) -> None:
        """It is."""
        self._n_done += 1
        if not self._tasks[place].whole:
            self._left.remove(place)

    def died(self, place: int, how: str) -> None:
        """The worker that did it is gone; it will be done again, before others.

        :raises WorkerLost: that was once too often
        """
        self._deaths[place] += 1
        if self._deaths[place] == ATTEMPTS:
            raise lost(self._tasks[place], how)
        self._waiting.insert(0, place)


def lost(task: Task, how: str) -> WorkerLost:
    """What to say of a task whose workers die."""
    what = "the whole log, for a policy that goes along it" if task.whole else f"part {task.parts[0] + 1} of the log"
    return WorkerLost(
        f"{ATTEMPTS} workers died, one after another, while they read {what} ({how}); if memory ran out, use fewer "
        "workers; one process (no --workers, no --dask) shows what goes wrong"
    )
