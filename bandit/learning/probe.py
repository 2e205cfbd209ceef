"""Snapshots on their way to serving: whole, sound on a fixed set of recent decisions, or held."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit import records
from bandit.config import Config
from bandit.errors import CorruptModel, InvalidRequest
from bandit.features.hashing import HashedFeatures, hash_resolved
from bandit.features.item_table import ItemTable, TableView
from bandit.features.model_args import ModelArgs
from bandit.learning.guard import F32, F64, Fault, find_fault, probe_anchor
from bandit.ranking.scorer import check_model, dense_indices, score, weights_from_model
from bandit.records import Decision
from bandit.slate.drawing import ELIGIBLE, limited, slot_probabilities
from bandit.slate.exploration import Budget
from bandit.slate.explorers import Explorer
from bandit.statistics.columns import NAMES
from bandit.store.events import decisions_at
from bandit.store.items import versions
from bandit.store.log import EventLog

#: Decisions of a probe, and how many of the newest they are chosen from, evenly.
DECISIONS: Final = 32
AMONG: Final = 512
#: Of one decision, so many candidates at most, evenly chosen.
CANDIDATES: Final = 64
# Decisions further back than this are not looked for: the log may hold long runs of other records.
REACH: Final = 50_000


_DENSE_IDX: Final = dense_indices(NAMES)


class Probed(NamedTuple):
    """A decision of the probe.

    :ivar dense: shape (n, columns): as the decision kept them of what it drew; 0, "as the whole", of the others
    """

    shared: HashedFeatures
    rows: NDArray[np.int32]
    dense: F32


class Probe:
    """A fixed set of logged decisions: what viewer and context were, and candidates, as they were hashed.

    A pure function of the log up to its anchor: what was drawn, with the dense columns that it had then, and some of
    what else could have stood at the first slot by the rules of the decision.

    :param traits: of the models' arguments
    """

    def __init__(self, log: EventLog, anchor: int, *, traits: bool) -> None:
        self.anchor = anchor
        self.decisions: list[Probed] = []
        table = ItemTable(DECISIONS * CANDIDATES, traits=traits)
        newest = log.query(
            "SELECT pos FROM log WHERE pos <= ? AND pos > ? AND kind = 'decision' ORDER BY pos DESC LIMIT ?",
            (anchor, anchor - REACH, AMONG),
        )
        chosen = _evenly([int(row[0]) for row in newest], DECISIONS)
        found = decisions_at(log, chosen)
        for position in chosen:
            decision: Decision = records.read_stored(found[position].payload, Decision, what="a decision")
            numbers = _candidates(decision, np.frombuffer(found[position].candidates, "<u4"))
            known = versions(log, numbers)
            texts = [known[number] for number in numbers]
            try:
                rows = table.add([one[0] for one in texts], [one[1] for one in texts])
                shared = hash_resolved(bytes(decision.shared))
            except InvalidRequest:
                # Its features were checked when they came; a damaged log is found by others.
                continue
            if len(rows):
                self.decisions.append(Probed(shared, rows, _dense(decision, numbers)))
        self._view: TableView = table.view()

    def scores(self, weights: F32, args: ModelArgs) -> list[F32]:
        """Scores of each decision's candidates, by the kernel that serves."""
        found = []
        for probed in self.decisions:
            out = np.empty(len(probed.rows), np.float32)
            score(
                self._view, probed.rows, probed.shared, weights, args, out, dense_idx=_DENSE_IDX, dense=probed.dense
            )  # fmt: skip
            found.append(out)
        return found


def _candidates(decision: Decision, numbers: NDArray[np.uint32]) -> list[int]:
    """Item versions: what was drawn, and, evenly chosen, others that could have stood at the first slot."""
    could = np.ones(len(numbers), np.bool_)
    for places in decision.ineligible.values():
        could[places] = False
    if "seen" in decision.marks and 0 not in decision.relaxed.get("seen", ()):
        could &= np.unpackbits(np.frombuffer(decision.marks["seen"], np.uint8), count=len(numbers)) == 0
    drawn = [slot.version for slot in decision.slots[:CANDIDATES]]
    could &= ~np.isin(numbers, drawn)
    return drawn + _evenly(numbers[could].tolist(), CANDIDATES - len(drawn))


def _dense(decision: Decision, numbers: list[int]) -> F32:
    dense = np.zeros((len(numbers), len(NAMES)), np.float32)
    for row, slot in enumerate(decision.slots[: len(numbers)]):
        # Newer columns than the decision's are 0; columns are only ever added at the end.
        dense[row, : len(slot.dense)] = slot.dense[: len(NAMES)]
    return dense


def _evenly(values: list[int], n: int) -> list[int]:
    """At most ``n`` of the values, evenly spaced."""
    if len(values) <= n:
        return values
    return [values[(place * len(values)) // n] for place in range(n)]


def first_draws(scores: list[F32], document: Config, n_learned: int) -> list[F64]:
    """How likely each candidate is at the first slot, as the service would draw it by these scores."""
    explorer = document.explorer.explorer(n_learned)
    budget = document.budget(document.slots)
    return [_first_draw(one, explorer, document.shortlist or 0, budget) for one in scores]


def _first_draw(scores: F32, explorer: Explorer, shortlist: int, budget: Budget) -> F64:
    state = np.full(len(scores), ELIGIBLE, np.uint8)
    explorer = limited(scores, state, explorer, shortlist=shortlist, most=budget.most)
    drawn, floor = np.empty(0, np.int32), np.array(budget.floors)
    return slot_probabilities(scores, state, drawn, slot=0, explorer=explorer, shortlist=shortlist, floor=floor)


class Good:
    """A snapshot that went live, or may; the next one is compared with it.

    :ivar weights: shape (2 ** bits,)
    :ivar n_learned: slots that it has learned
    """

    def __init__(self, weights: F32, n_learned: int) -> None:
        self.weights = weights
        self.n_learned = n_learned
        self._scores: tuple[Probe, list[F32]] | None = None

    def scores(self, probe: Probe, args: ModelArgs) -> list[F32]:
        """On the newest probe; worked out once."""
        if self._scores is None or self._scores[0] is not probe:
            self._scores = probe, probe.scores(self.weights, args)
        return self._scores[1]


class Gate:
    """Looks at every snapshot before it goes live.

    :param args: of the models
    """

    def __init__(self, log: EventLog, args: ModelArgs) -> None:
        self._log = log
        self._args = args
        self._probe: Probe | None = None

    @property
    def anchor(self) -> int:
        """Of the probe last looked at; 0 before the first."""
        return 0 if self._probe is None else self._probe.anchor

    def look(
        self, model: bytes, document: Config, *, position: int, n_learned: int, before: Good | None, lenient: bool
    ) -> Good | Fault:
        """Whether a snapshot may go live.

        :param model: as VW saved it
        :param document: the config that it would serve with
        :param position: of the log, up to which the model holds it
        :param before: what serves; None where there is nothing to compare with
        :param lenient: somebody accepted what was held: how far scores moved does not count
        :raises LogUnavailable: the log cannot be read
        """
        try:
            _check_state(model, self._args)
            found = Good(weights_from_model(model, self._args), n_learned)
        except CorruptModel as error:
            return Fault("finite" if "finite" in error.message else "readable", error.message)
        anchor = probe_anchor(position)
        if self._probe is None or self._probe.anchor != anchor:
            self._probe = Probe(self._log, anchor, traits=self._args.traits)
        scores = found.scores(self._probe, self._args)
        draws = even = []
        if all(np.isfinite(one).all() for one in scores):
            draws = first_draws(scores, document, n_learned)
            even = first_draws([np.zeros_like(one) for one in scores], document, n_learned)
        fault = find_fault(
            document.guard,
            scores=scores,
            before=None if lenient or before is None else before.scores(self._probe, self._args),
            draws=draws,
            even=even,
            reward_range=document.reward_range,
            learned_before=0 if before is None else before.n_learned,
        )
        return found if fault is None else fault


def _check_state(model: bytes, args: ModelArgs) -> None:
    """Also what VW steps by must be finite: a weight that is still sound would not be after the next lesson.

    :raises CorruptModel: it is not, or the model is not whole
    """
    _, kept = check_model(model, args)
    for name in ("adaptive", "normalized"):
        values: NDArray[Any] = kept[name]
        if not bool(np.isfinite(values).all()):
            raise CorruptModel(f"{int((~np.isfinite(values)).sum())} values of {name} in the model are not finite")
