"""Learning a slot: against VW learning from the whole event, and as candidates grow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from bandit.features.hashing import resolve_item
from bandit.features.model_args import ModelArgs
from bandit.learning.learner import Learner
from bandit.learning.lessons import Course, with_slot
from bandit.records import Feedback, ItemFeedback
from bandit.service import Service
from tests.bench.engine import catalogued_text, shared_text, text_workspace
from tests.bench.results import Result
from tests.bench.session import Session
from tests.bench.workload import VW, each_us, interleaved, make_workload, opened, put_items, quantile

N_EVENT = 200
NARROW, WIDE = 50, 1_000


def slot(session: Session) -> list[Result]:
    """`Learner.learn` against VW's learn on the whole text event of 200 candidates."""
    scale = session.scale
    workload = make_workload(n_items=scale.n_items, n_requests=min(scale.n_slots, 100), n_candidates=N_EVENT, seed=3)
    rng = random.Random(5)
    events, slots = catalogued_text(workload), []
    for lines, body, picked in zip(events, workload.bodies, workload.picked, strict=True):
        chosen = rng.randrange(N_EVENT)
        reward = rng.random()
        lines[1 + chosen] = f"0:{-reward}:{1 / N_EVENT} {lines[1 + chosen]}"
        item = resolve_item(*workload.items[picked[chosen]])
        slots.append((with_slot(shared_text(body), rng.randrange(10)), item, reward))
    text = text_workspace()
    try:
        with Learner(ModelArgs.parse(VW), scratch=session.folder) as learner:
            pairs = interleaved(
                lambda _: each_us(lambda one: learner.learn(one[0], one[1], reward=one[2]), slots),
                lambda _: each_us(text.learn, events),
                repetitions=scale.repetitions,
            )
    finally:
        text.finish()
    return [
        Result(
            name="learn_slot",
            what="learning one slot, against VW learn on the whole text event, 200 candidates",
            ratios=[theirs / ours for ours, theirs in pairs],
            limit=5.0,
            side="at least",
            unit="x faster",
            measured={
                "learn_us": quantile([ours for ours, _ in pairs], 0.5),
                "vw_learn_us": quantile([theirs for _, theirs in pairs], 0.5),
            },
        )
    ]


def width(session: Session) -> list[Result]:
    """What the trainer spends on a slot (read, fold, teach) by how many candidates its decision had."""
    scale = session.scale
    costs: dict[int, list[float]] = {NARROW: [], WIDE: []}
    folders = {n: session.folder / f"width-{n}" for n in costs}
    begins = {
        n: _log_decisions(folder, n_candidates=n, n_items=max(scale.n_items, WIDE), n=scale.n_slots)
        for n, folder in folders.items()
    }
    for repetition in range(scale.repetitions):
        for n_candidates in (NARROW, WIDE) if repetition % 2 else (WIDE, NARROW):
            taken = _fold_us(folders[n_candidates], session.folder, after=begins[n_candidates])
            costs[n_candidates].append(taken / scale.n_slots)
    return [
        Result(
            name="learn_width",
            what="cost of learning a slot (read, fold, teach) at 1,000 candidates, against 50",
            ratios=[wide / narrow for narrow, wide in zip(costs[NARROW], costs[WIDE], strict=True)],
            limit=1.2,
            measured={f"at_{n}_us": quantile(values, 0.5) for n, values in costs.items()},
        )
    ]


def _log_decisions(folder: Path, *, n_candidates: int, n_items: int, n: int) -> int:
    """Log decisions over this many candidates, each with final feedback on its first slot; where they begin."""
    workload = make_workload(n_items=n_items, n_requests=50, n_candidates=n_candidates, seed=4)
    with opened(folder, durable=False) as service:
        put_items(service, workload)
        begins = service.data.log.last_position()
        _teach_one_each(service, n, workload.requests())
    return begins


def _teach_one_each(service: Service, n: int, requests: Sequence) -> None:
    for number in range(n):
        reply = service.rank(requests[number % len(requests)])
        first = ItemFeedback(reply.ranking[0].id, signals={"watch_s": number % 60}, final=True)
        service.feedback([Feedback(reply.event_id, [first])])


def _fold_us(folder: Path, scratch: Path, *, after: int) -> float:
    """Reading, folding and teaching all that the log holds after a position; learner and fold are new."""
    with opened(folder, durable=False) as service:
        log = service.data.log
        with Learner(service.data.args, scratch=scratch) as learner:
            course = Course(log, learner, position=after, reads_from=after + 1)

            def fold(_: object) -> None:
                while rows := log.read(course.position, 500):
                    for row in rows:
                        course.take(row)

            (taken,) = each_us(fold, [None])
            return taken
