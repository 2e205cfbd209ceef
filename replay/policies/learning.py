"""Policies that learn along the log: an unbiased estimate at matched update counts.

Let p be the logged probability of what was shown, pi_t the learner's as it is at event t, and c so small that c * pi_t
never exceeds p. Each event is accepted with probability c * pi_t / p, and only accepted events are learned from, with
pi_t as the label's probability. Then whatever the learner's state, an event is accepted with probability c, and an
accepted one is distributed as if the learner had drawn it: after k updates the learner is, in distribution, what it
would be after k rounds online (Li, Chu, Langford and Wang 2011; Dudik, Erhan, Langford and Li 2012). How long a state
lasts does not depend on it, so the mean of reward * pi_t / p over *all* events, accepted or not, estimates without bias
the average value of the states after 0, 1, ... K updates. It says nothing of what comes after K updates.

VW does this natively (`--explore_eval --multiplier c`), and what it does was checked against its source and by
experiment: acceptance and label are as above, and what it prints is pi_t before learning. (`--explore_eval` without a
fixed multiplier, and its estimate read at the log's length, are another matter.)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.errors import BadPolicy
from replay.events import Assignment, Batch, Log, Needs
from replay.policies.base import PolicyBase, is_uniform, number
from replay.policies.learning_arguments import OPTIONS, check_step_sizes, checked_arguments
from replay.policies.learning_census import Census
from replay.policies.learning_run import Ran, drawn, run
from replay.readers.dsjson import DsjsonLog
from replay.writers.dsjson import DsjsonWriter

CURVE_POINTS: Final = 20
_CHUNK: Final = 1 << 20
_VIOLATION: Final = 1e-5
_LOSS_DIGITS: Final = 2e-6
# Learners that take no random numbers of their own: here VW's draws can be drawn again.
_DRAW_NOTHING: Final = frozenset(
    {"gd", "scorer-identity", "csoaa_ldf-rank", "cb_adf", "explore_eval", "shared_feature_merger"}
    | {"generate_interactions", "ftrl-Coin Betting", "ftrl-Proximal-FTRL", "freegrad"}
    | {f"cb_explore_adf_{each}" for each in ("greedy", "softmax", "squarecb", "first", "cover", "regcb", "synthcover")}
)


class CurvePoint(NamedTuple):
    """What the learner was worth over a stretch of its life.

    :ivar first, last: updates before the stretch's first and after its last event
    :ivar value: mean reward as the learner, over the events of the stretch
    :ivar se: its standard error
    """

    first: int
    last: int
    events: int
    value: float
    se: float


class Learning(PolicyBase):
    """VW with given arguments, learning along the log from the events that it accepts.

    :param arguments: VW's, without what says where the log is
    :param c: acceptance probability; None to take the smallest logged propensity, if the logging was uniform
    """

    stationary = False
    along = True

    def __init__(self, name: str, spec: str, arguments: str, *, c: float | None = None, seed: int = 0) -> None:
        super().__init__(name, spec)
        self._arguments = checked_arguments(spec, arguments)
        self._c = c
        self._seed = seed
        self._at = 0
        self._n = 0
        self._run: Ran | None = None

    @property
    def c(self) -> float:
        """How likely each event was to be learned from."""
        assert self._c is not None, "prepare comes first"
        return self._c

    @property
    def updates(self) -> int:
        """How many events were learned from: the estimate is about the states after 0 to this many updates."""
        assert self._run is not None, "prepare comes first"
        return self._run.updates

    @property
    def note(self) -> str:
        """What the estimate is about, in a sentence."""
        return (
            f"average over the learner's states after 0 to {self.updates:,} updates, of {self._n:,} events (each was "
            f"learned from with probability {self.c:g}); it says nothing of later ones"
        )

    def prepare(self, log: Log) -> None:
        """Let VW learn along the log, to its end.

        :raises BadPolicy: the log has several slots in an event, or no features; no ``c`` was given and the log is not
            uniform; ``c`` is too large; VW refuses arguments or log
        """
        first = next(iter(log.batches(Needs())), None)
        if first is None:
            raise BadPolicy(f"{self.spec}: the log has no events to learn from")
        c = self._c if self._c is not None else self._smallest(first)
        census, ran = self._attempt(log, c)
        if self._c is None and not census.uniform:
            raise BadPolicy(self._not_uniform(census))
        if self._c is None and census.least < c * (1 - 1e-9):
            c = census.least  # Later slots had more candidates.
            census, ran = self._attempt(log, c)
        self._c, self._run, self._n = c, ran, census.n
        self._settle(census, ran)

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """What the learner did at each event, in the state that it had reached there.

        :raises BadPolicy: this is not the log that it learned along
        """
        assert self._run is not None, "prepare comes first"
        if int(batch.place[0]) == self._first_place:
            self._begin()  # The log is being read again.
        begin, end = self._at, self._at + batch.n
        if not np.array_equal(self._p[begin:end], batch.propensity):
            raise BadPolicy(f"{self.spec}: the log changed at place {batch.place[0]} while it was being evaluated")
        self._at = end
        chosen = np.minimum(self._pi[begin:end].astype(np.float64), batch.propensity / self.c)
        accepted = None if self._accepted is None else np.array(self._accepted[begin:end])
        self._add_to_curve(chosen, accepted, batch)
        whole = None
        if pmf:
            whole = self._run.pmf[self._starts[begin] : self._starts[end]].astype(np.float64)
            sums = np.add.reduceat(whole, self._starts[begin:end] - self._starts[begin])
            whole /= np.repeat(sums, batch.n_candidates)
        return Assignment(chosen, whole, accepted)

    def largest_weight(self, batch: Batch, assignment: Assignment) -> float:
        """1 / c: that is what c means."""
        return 1.0 / self.c

    def curve(self) -> list[CurvePoint]:
        """What the learner was worth by its number of updates; of the events assigned so far."""
        points = []
        for k, (n, total, squares) in enumerate(self._sums.tolist()):
            if n > 0:
                value = total / n
                variance = max(squares / n - value * value, 0.0)
                last = min((k + 1) * self._width, self.updates)
                points.append(CurvePoint(k * self._width, last, int(n), value, float(np.sqrt(variance / n))))
        return points

    # -- running ---------------------------------------------------------------------------------

    def _attempt(self, log: Log, c: float) -> tuple[Census, Ran]:
        """Directly from the file where VW reads from it what replay does, else from lines written for it."""
        arguments = [
            *self._arguments, "--explore_eval", "--multiplier", repr(c), "--dsjson", "--random_seed", str(self._seed),
        ]  # fmt: skip
        path = plain_file(log)
        if path is not None:
            with Census(self.spec) as census:

                def read_too() -> None:
                    for batch in log.batches(Needs()):
                        census.add(batch)

                ran = run(self.spec, [*arguments, "-d", str(path)], None, read_too)
            if self._differs(census, ran, c) is None:
                return census, ran
        with Census(self.spec) as census:

            def feed(pipe: IO[bytes]) -> None:
                writer = DsjsonWriter(pipe, feeds=False)
                for batch in log.batches(Needs(candidates=True, texts=True)):
                    census.add(batch)
                    writer.write(batch)

            ran = run(self.spec, arguments, feed, lambda: None)
        fault = self._differs(census, ran, c)
        if fault is not None:
            raise BadPolicy(f"{self.spec}: VW reads this log otherwise than replay does: {fault}")
        return census, ran

    def _differs(self, census: Census, ran: Ran, c: float) -> str | None:
        """How VW's reading differs from replay's: its own estimate from the same events must be ours."""
        if len(ran.counts) != census.n:
            return f"it saw {len(ran.counts)} events, replay {census.n}"
        if not np.array_equal(ran.counts, census.n_candidates):
            return "it saw other numbers of candidates"
        total, size, largest = 0.0, 0.0, 0.0
        for begin, pi in _pi_of_chosen(census, ran):
            weight = pi / census.p[begin : begin + len(pi)]
            earned = weight * census.reward[begin : begin + len(pi)]
            total += float(earned.sum())
            size += float(np.abs(earned).sum())
            largest = max(largest, float(weight.max()))
        # Where c is too large VW weighs what it cannot accept often enough; that is refused elsewhere.
        if ran.updates and abs(ran.mean_update - 1.0) > 1e-6 and c * largest <= 1 + _VIOLATION:
            return f"events it learned from stood for {ran.mean_update:g} each; a learner needs every event, once"
        if abs(total / census.n + ran.average_loss) > _LOSS_DIGITS + 1e-5 * size / census.n:
            return f"its mean cost is {ran.average_loss:g}, where replay has the mean reward {total / census.n:g}"
        return None

    def _settle(self, census: Census, ran: Ran) -> None:
        """Keep what assigning needs, once it is sure that no event asked for more than c allows."""
        n = census.n
        self._first_place, self._p = census.first_place, census.p
        self._pi = np.empty(n, np.float32)
        draws = np.empty(n, np.uint8)
        known = set(ran.learners) <= _DRAW_NOTHING and "--random_weights" not in ran.arguments
        state = np.uint64(self._seed)
        for begin, pi in _pi_of_chosen(census, ran):
            end = begin + len(pi)
            p = census.p[begin:end]
            bad = self.c * pi > p * (1 + _VIOLATION)
            if bad.any():
                at = int(np.argmax(bad))
                raise BadPolicy(
                    f"{self.spec}: c={self.c:g} is too large: event {begin + at + 1} was logged with propensity "
                    f"{p[at]:g}, and the learner gives it {pi[at]:g}, more than propensity / c; give a c of at most "
                    f"{float((p / np.maximum(pi, 1e-30)).min()):g}, better the logging policy's floor"
                )
            self._pi[begin:end] = pi
            if known:
                state = drawn(state, self._pi[begin:end], p, self.c, draws[begin:end])
        check_step_sizes(self.spec, ran.arguments)
        # Probabilities are printed with six digits, so one draw in a million or so may fall on the other side.
        same = known and abs(int(draws.sum()) - ran.updates) <= 2 + 1e-6 * n
        self._accepted: NDArray[np.uint8] | None = draws if same else None
        self._starts = np.zeros(n + 1, np.int64)
        np.cumsum(ran.counts, out=self._starts[1:])
        self._begin()

    def _begin(self) -> None:
        self._at = 0
        self._reached = 0.0
        self._width = max(1, -(-self.updates // CURVE_POINTS))
        self._sums = np.zeros((CURVE_POINTS + 1, 3))

    def _add_to_curve(self, chosen: NDArray[np.float64], accepted: NDArray[np.uint8] | None, batch: Batch) -> None:
        """By updates made before each event; where it is not known which, by how many were to be expected."""
        weight = chosen / batch.propensity
        made = np.cumsum(accepted if accepted is not None else self.c * weight, dtype=np.float64)
        before = self._reached + np.concatenate([[0.0], made[:-1]])
        self._reached += float(made[-1])
        stretch = np.minimum((before / self._width).astype(np.int64), CURVE_POINTS)
        earned = weight * batch.reward
        for column, values in enumerate((np.ones(batch.n), earned, earned * earned)):
            self._sums[:, column] += np.bincount(stretch, values, CURVE_POINTS + 1)

    # -- c ---------------------------------------------------------------------------------------

    def _smallest(self, batch: Batch) -> float:
        if not batch.single:
            raise BadPolicy(several_slots(self.spec))
        if not is_uniform(batch):
            raise BadPolicy(self._not_uniform(None, float(batch.propensity.min())))
        return float(batch.propensity.min())

    def _not_uniform(self, census: Census | None, least: float = 0.0) -> str:
        seen = least if census is None else census.least
        return (
            f"{self.spec}: the log is not uniform, so c must be given: {OPTIONS['c']}. With epsilon-greedy logging "
            f"that is epsilon / (number of actions). Write it after the arguments, as in vw:...,c={seen:.2g} "
            f"({seen:.4g} is the smallest logged propensity seen, which other actions may go below)"
        )


def several_slots(spec: str) -> str:
    """The refusal of a log of slates."""
    return (
        f"{spec}: a learner along the log chooses one action an event, and this log has events of several slots; "
        "evaluate it on a log of top slots, or give a model trained on another stretch (feed:MODEL, greedy:MODEL)"
    )


def _pi_of_chosen(census: Census, ran: Ran) -> list[tuple[int, NDArray[np.float64]]]:
    """(first event, probabilities of what was shown) of one chunk after another."""
    found = []
    offset = 0
    for begin in range(0, census.n, _CHUNK):
        counts = ran.counts[begin : begin + _CHUNK]
        starts = offset + np.cumsum(counts, dtype=np.int64) - counts
        offset += int(counts.sum())
        found.append((begin, ran.pmf[starts + census.chosen[begin : begin + _CHUNK]].astype(np.float64)))
    return found


def plain_file(log: Log) -> Path | None:
    """The file that VW can read by itself: one that is dsjson and not compressed."""
    if not isinstance(log, DsjsonLog) or len(log.files) > 1:
        return None
    path = log.files[0]
    with path.open("rb") as file:
        head = file.read(3)
    # gzip, Zstandard, a byte order mark: VW's reader knows none of them here.
    return None if head[:2] in (b"\x1f\x8b", b"\x28\xb5") or head == b"\xef\xbb\xbf" else path


def parse_learning(name: str, spec: str) -> Learning:
    """``vw:ARGS``, ``vw:ARGS,c=.1,seed=1``.

    :raises BadPolicy: arguments that cannot be evaluated, or options out of range
    """
    text = spec.partition(":")[2].strip()
    options: dict[str, str] = {}
    while found := re.search(r",\s*(c|seed)=([^,\s]*)$", text):
        if found[1] in options:
            raise BadPolicy(f"{spec} gives {found[1]} twice")
        options[found[1]] = found[2]
        text = text[: found.start()]
    c = None
    if "c" in options:
        c = number(spec, "c", options["c"], 0.0, 1.0)
        if c <= 0:
            raise BadPolicy(f"{spec}: c={options['c']} is not above 0; it is {OPTIONS['c']}")
    seed = options.get("seed", "0")
    if not (seed.isascii() and seed.isdigit() and int(seed) < 1 << 63):
        raise BadPolicy(f"{spec}: seed={seed} is not a whole number of at least 0")
    return Learning(name, spec, text, c=c, seed=int(seed))
