"""How the loop does, read for whoever asks: `GET /healthz/loop`, metrics, the dashboard. Never a scan of the log."""

from __future__ import annotations

from bandit.loop.counts import DAY, HOUR, MINUTE
from bandit.loop.report import Counted, Facts, LoopReply, Model, numbers_of
from bandit.loop.words import tell
from bandit.ranking.ranker import Ranker
from bandit.store.data import DataDirectory
from bandit.store.loop import loop_state, stretches
from bandit.store.models import TrainerState, newest_models, trainer_state
from bandit.store.serving import last_hold, serving

#: The trainer writes its state every ten seconds even when idle.
TRAINER_SILENT_S = 30.0
#: Of what was counted, hours are read so far back: new weights a day are told from the day before.
HOURS_BACK_S = 2 * DAY


def counted_of(data: DataDirectory) -> Counted:
    """What the trainer has counted.

    :raises LogUnavailable: the log cannot be read
    """
    state = loop_state(data.log)
    return Counted(
        state,
        stretches(data.log, MINUTE, since=state.at - HOUR),
        stretches(data.log, HOUR, since=state.at - HOURS_BACK_S),
        stretches(data.log, DAY, since=0),
    )


def facts_of(data: DataDirectory, ranker: Ranker, *, now: float) -> Facts:
    """What the service knows besides.

    :param now: UTC seconds
    :raises LogUnavailable: the log cannot be read
    """
    log = data.log
    ranker.sync()
    document = ranker.config.document
    snapshot = ranker.snapshot
    state = trainer_state(log)
    held, newest = last_hold(log), next(iter(newest_models(log)), None)
    pinned = serving(log)
    problems = [
        *([] if log.last_error is None else [f"the log last failed with {log.last_error}"]),
        *([] if state is None or state.problem is None else [state.problem]),
        *([] if ranker.model_problem is None else [ranker.model_problem]),
    ]
    told = f"model {pinned.pinned} serves since a rollback by the {pinned.by} ({pinned.reason})"
    published = None if snapshot is None else snapshot.published
    lag_records, lag_s = _lag(data, state, now)
    return Facts(
        now=now,
        problems=problems,
        pinned=None if pinned.pinned is None else f"{told[0].upper()}{told[1:]}; newer ones wait.",
        trainer_at=None if state is None else state.at,
        trainer_silent=state is not None and now - state.at > TRAINER_SILENT_S,
        model=Model(
            version=None if published is None else published.digest,
            learned_slots=0 if published is None else published.learned,
            age_s=None if published is None else max(0.0, now - published.published_at),
            lag_records=lag_records,
            lag_s=lag_s,
            open_feeds=0 if state is None else state.open_decisions,
            held=held is not None and (newest is None or held.hold_pos > newest.published_pos),
            pinned=pinned.pinned is not None,
        ),
        learned=0 if state is None else state.learned,
        bits=data.args.bits,
        window_s=document.reward_window_s,
        floors=list(document.drawing(document.slots, 0, fallback=False).floors),
        apprentice=document.mode == "apprentice",
        reward=document.reward,
    )


def _lag(data: DataDirectory, state: TrainerState | None, now: float) -> tuple[int, float]:
    """Records, and seconds since the first of them, that the trainer has not folded."""
    last = data.log.last_position()
    position = 0 if state is None else state.position
    if position >= last:
        return 0, 0.0
    return last - position, max(0.0, now - data.log.time_at(position + 1))


def loop_reply(counted: Counted, facts: Facts) -> LoopReply:
    """Verdict, sentences and numbers."""
    numbers = numbers_of(counted, facts)
    verdict, sentences = tell(numbers, facts)
    return LoopReply(
        verdict=verdict,
        sentences=sentences,
        at=facts.now,
        since=counted.state.since,
        position=counted.state.position,
        **numbers._asdict(),
        model=facts.model,
    )
