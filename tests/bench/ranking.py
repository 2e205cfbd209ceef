"""Ranking in process, against the engine: warm and cold candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from bandit import records
from bandit.config import LiveConfig
from bandit.records import RankRequest
from bandit.service import Service
from bandit.slate.rules import Cap, Quota, Rule, default_rules
from tests.bench.engine import Engine, catalogued_text, json_event, json_workspace, text_of_json, text_workspace
from tests.bench.results import Result
from tests.bench.session import Session
from tests.bench.workload import as_in_a_worker, cold_bodies, each_us, interleaved, opened, quantile

# VW's text parser takes milliseconds a request: fewer of them give as sure a median.
N_TEXT = 40
N_COLD = 8


@contextmanager
def warm_service(session: Session) -> Iterator[Service]:
    """A service in this process that has seen every item and compiled every kernel."""
    with opened(session.data(), durable=False) as service:
        for request in session.workload.requests():
            service.ranker.rank(request)
        with as_in_a_worker():
            yield service


def warm(session: Session) -> list[Result]:
    """`Ranker.rank` against VW's bare arithmetic, and against VW reading text."""
    repetitions = session.scale.repetitions
    lines = catalogued_text(session.workload)[:N_TEXT]
    with warm_service(session) as service:
        requests = session.workload.requests()
        rank = service.ranker.rank
        engine = Engine(session.model, session.workload)
        try:
            _agree(service, engine, session)
            floor = interleaved(
                lambda _: each_us(rank, requests),
                lambda _: each_us(engine.predict_multi, engine.events),
                repetitions=repetitions,
            )
        finally:
            engine.close()
        text = text_workspace(session.model)
        try:
            reading = interleaved(
                lambda _: each_us(rank, requests),
                lambda _: each_us(text.predict, lines),
                repetitions=max(3, repetitions // 3),
            )
        finally:
            text.finish()
    return [
        Result(
            name="rank_floor",
            what=f"Ranker.rank, {session.scale.n_candidates:,} warm candidates, against VW's bare predict_multi",
            ratios=[ours / theirs for ours, theirs in floor],
            limit=0.5,
            measured=_columns(floor, "rank_us", "predict_multi_us"),
        ),
        Result(
            name="rank_text",
            what="the same against VW predict on prepared text lines",
            ratios=[theirs / ours for ours, theirs in reading],
            limit=6.0,
            side="at least",
            unit="x faster",
            measured=_columns(reading, "rank_us", "predict_text_us"),
        ),
    ]


def rules(session: Session) -> list[Result]:
    """`Ranker.rank` under all feed rules against none, for viewers with a past."""
    with warm_service(session) as service:
        requests = session.workload.requests()
        ranker = service.ranker
        given = ranker.config
        every = [*default_rules(), Cap(of="tag", most=3), Quota(of="new")]

        def rank_under(chosen: list[Rule]) -> list[float]:
            ranker.config = LiveConfig(given.version, msgspec.structs.replace(given.document, rules=chosen))
            return each_us(ranker.rank, requests)

        rank_under(every)
        pairs = interleaved(
            lambda _: rank_under(every), lambda _: rank_under([]), repetitions=session.scale.repetitions
        )
        ranker.config = given
    return [
        Result(
            name="rank_rules",
            what=f"Ranker.rank, {session.scale.n_candidates:,} candidates, under {len(every)} feed rules against none",
            ratios=[under / free for under, free in pairs],
            limit=1.3,
            measured=_columns(pairs, "rules_us", "no_rules_us"),
        )
    ]


def _agree(service: Service, engine: Engine, session: Session) -> None:
    """Both sides score alike, or the ratio means nothing.

    The engine's own events lack the dense columns, which change with every epoch: it has that much less to do.
    """
    for request in session.workload.requests()[:5]:
        decision = service.ranker.rank(request).decision
        for slot, cost in zip(decision.slots, engine.costs_of(decision), strict=True):
            assert slot.score is not None
            assert abs(slot.score + cost) < 1e-5, (slot, cost)


def cold(session: Session) -> list[Result]:
    """`Ranker.rank` of candidates never seen, features inline, against VW parsing the same."""
    repetitions = session.scale.repetitions
    n_candidates = session.scale.n_candidates
    text, json = text_workspace(), json_workspace()
    try:
        # Enough room that no request begins the table anew: that is not what is measured here.
        with opened(session.data(), durable=False, cache_items=5_000_000) as service, as_in_a_worker():
            first = 10_000_000

            def fresh(n: int) -> list[bytes]:
                nonlocal first
                bodies = cold_bodies(n, n_candidates=n_candidates, first=first)
                first += n * n_candidates
                return bodies

            def rank(bodies: list[bytes]) -> list[float]:
                requests: list[RankRequest] = [records.decode(body, RankRequest) for body in bodies]
                return each_us(service.ranker.rank, requests)

            rank(fresh(N_COLD))
            rounds = []
            for repetition in range(repetitions):
                bodies = fresh(N_COLD)
                events = [json_event(body) for body in bodies]
                lines = [text_of_json(event) for event in events]
                sides: list[tuple[str, Callable[[], list[float]]]] = [
                    ("rank", lambda bodies=bodies: rank(bodies)),  # type: ignore[misc]
                    ("text", lambda lines=lines: _parse_us(text, lines)),  # type: ignore[misc]
                    ("json", lambda events=events: _parse_us(json, events)),  # type: ignore[misc]
                ]
                turn = repetition % 3
                rounds.append({name: quantile(run(), 0.5) for name, run in sides[turn:] + sides[:turn]})
    finally:
        text.finish()
        json.finish()
    measured = {
        "rank_us": quantile([one["rank"] for one in rounds], 0.5),
        "parse_text_us": quantile([one["text"] for one in rounds], 0.5),
        "parse_json_us": quantile([one["json"] for one in rounds], 0.5),
    }
    return [
        Result(
            name=f"cold_{kind}",
            what=f"Ranker.rank, {n_candidates:,} candidates never seen, against VW's parse of the same {said}",
            ratios=[one["rank"] / one[kind] for one in rounds],
            limit=1.5,
            measured=measured,
        )
        for kind, said in (("text", "as text"), ("json", "as JSON"))
    ]


def _parse_us(workspace: Any, events: Sequence[Any]) -> list[float]:
    clock = time.perf_counter_ns
    taken = []
    for event in events:
        started = clock()
        examples = workspace.parse(event)
        taken.append((clock() - started) / 1000)
        workspace.finish_example(examples)
    return taken


def _columns(pairs: Sequence[tuple[float, float]], first: str, second: str) -> dict[str, float]:
    return {first: quantile([a for a, _ in pairs], 0.5), second: quantile([b for _, b in pairs], 0.5)}
