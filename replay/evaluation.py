"""``evaluate()``: what would these policies have earned on this log? One pass, plain typed results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from replay import disagreement
from replay.answer import Options, answer, no_events
from replay.cluster import Cluster
from replay.collect import Predictor, collect, question_of
from replay.collected import Asked
from replay.crews import Crew, collect_by, is_along, packed_policies
from replay.errors import BadPolicy, BadQuestion
from replay.estimators import FAMILIES, Estimator, parse_estimator
from replay.events import Log, Needs, Policy
from replay.policies import as_policy
from replay.processes import Processes
from replay.readers import open_log
from replay.results import Evaluation
from replay.reward_model import RewardModel
from replay.shrinkage import SHRUNK, SHRUNK_SLATES
from replay.tuning import grid

SINGLE: Final = ("shrunk", "sndr", "dr", "snips", "ips", "beta_ips", "dm")
SLATES: Final = ("rips", "snrips", "sips", "cascade_dr", "shrunk")
PRIMARY: Final = {  # by (slates, with a reward model)
    (False, False): "snips",
    (False, True): "sndr",
    (True, False): "snrips",
    (True, True): "cascade_dr",
}


READ_ELSEWHERE: Final = ("parquet", "dsjson", "obd")
"""Kinds of log that are files, which any process can read."""


def evaluate(
    log: Log | str | Path | Sequence[str | Path],
    policies: Mapping[str, Any] | Iterable[Any],
    *,
    kind: str | None = None,
    reward: str | None = None,
    on_broken: str = "skip",
    after: int | None = None,
    workers: int = 1,
    dask: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    **options: Any,
) -> Evaluation:
    """Estimate what every policy would have earned on a log, against what production did earn.

    >>> import numpy as np
    >>> from replay.readers.arrays import from_arrays
    >>> log = from_arrays(reward=np.array([1.0, 0.0] * 50), action=np.array([0, 1] * 50),
    ...                   propensity=np.full(100, 0.5), n_actions=2, columns={"new": np.array([0.9, 0.1] * 50)})
    >>> answer = evaluate(log, {"new": "column:new"}).policies[0]
    >>> round(answer.estimates[0].value, 3), answer.difference.verdict
    (0.9, 'better')

    :param log: an opened one, or a path or several for `replay.readers.open_log`
    :param policies: what `replay.policies.as_policy` takes (specs, arrays, callables, policies), by name if a
        mapping; a spec may carry its own: ``NAME=SPEC``
    :param kind, reward, on_broken, after: for `open_log`, if ``log`` is a path
    :param workers: so many processes on this machine read the log's files; the answer has the same bits
    :param dask: address of a Dask scheduler, whose workers read them; they need the files at the same paths
    :param progress: told, now and then, how much of how much is read
    :param options: see :class:`Options`
    :raises BadLog, BadPolicy, BadQuestion: what is wrong, what is allowed, what to do
    :raises WorkerLost: workers died again and again
    """
    started = time.monotonic()
    asked = Options(**options)
    more = {} if after is None else {"after": after}
    if isinstance(log, str | Path | Sequence):
        log = open_log(log, kind=kind, reward=reward, on_broken=on_broken, **more)
    opened = log
    targets = named(policies)
    crew = crew_of(opened, workers, dask)
    fresh = () if crew is None else packed_policies(targets)
    for policy in targets:
        if crew is None or not is_along(policy):
            policy.prepare(opened)
    slates = is_slates(opened)
    model = fitted(opened, targets, asked, slates=slates)
    terms = wanted(opened, asked, slates=slates)
    if crew is None:
        collected = collect(opened, targets, terms, slates=slates, model=model, progress=progress)
    else:
        question = question_of(opened, targets, terms, slates=slates, model=model)
        collected = collect_by(crew, question, targets, fresh, progress)
    return answer(opened, collected, targets, asked, seconds=time.monotonic() - started)


def crew_of(log: Log, workers: int, dask: str | None) -> Crew | None:
    """Who is asked for; None: this process alone.

    :raises BadQuestion: they cannot be had, or cannot read this log
    """
    if workers < 1:
        raise BadQuestion(f"{workers} workers are too few; 1 is this process alone")
    if workers > 1 and dask is not None:
        raise BadQuestion(f"{workers} workers and a Dask cluster were asked for; a cluster has as many as it has")
    if workers == 1 and dask is None:
        return None
    if log.kind not in READ_ELSEWHERE:
        raise BadQuestion(
            f"{log.name} is read by one process alone: it is {log.kind}, and workers read files of "
            f"{', '.join(READ_ELSEWHERE)}; "
            + (
                "what a service knew at each decision is worked out along its log; convert it to Parquet, or ask "
                "without workers"
                if log.kind == "service"
                else "ask without workers"
            )
        )
    return Processes(workers) if dask is None else Cluster(dask)


def named(policies: Mapping[str, Any] | Iterable[Any]) -> list[Policy]:
    """
    :raises BadPolicy: a spec that is not understood, none at all, or a name twice
    """
    if isinstance(policies, Mapping):
        found = [as_policy(given, name) for name, given in policies.items()]
    else:
        found = [as_policy(given) for given in policies]
    if not found:
        raise BadPolicy("no policy was asked for; give at least one, for example uniform")
    names = [policy.name for policy in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadPolicy(f"two policies are called {', '.join(twice)}; give each a name of its own: NAME=SPEC")
    return found


def is_slates(log: Log) -> bool:
    """Whether the log's events have several slots, by its kind or its first event.

    :raises BadLog: it has none
    """
    if log.kind == "service":
        return True
    for batch in log.batches(Needs()):
        return not batch.single
    raise no_events(log)


def wanted(log: Log, options: Options, *, slates: bool) -> Asked:
    """What to collect."""
    names = options.estimators or (SLATES if slates else SINGLE)
    grids = [name for name in names if name in FAMILIES and not slates]
    return Asked(
        estimators=tuple(_estimator(name, slates=slates) for name in names if name not in grids),
        grids=tuple(grid(name) for name in grids),
        primary=(
            parse_estimator(PRIMARY[slates, False], slates=slates),
            parse_estimator(PRIMARY[slates, True], slates=slates),
        ),
        slices=options.slices,
        pairs=_pairs(log, options) if slates and options.assumptions else (),
        weight_bound=options.weight_bound,
        reward_range=options.reward_range or log.reward_range,
        redraws=options.redraws,
        seed=options.seed,
    )


def _pairs(log: Log, options: Options) -> tuple[tuple[Estimator, Estimator, str], ...]:
    """What is assumed by the log's propensities; and if they are drawn again for an estimator, by that too."""
    every = disagreement.pairs_for(marginals=True)
    plain = disagreement.pairs_for(marginals=log.marginals)
    return tuple(pair for pair in every if pair in plain or pair[0].name in options.estimators)


def _estimator(name: str, *, slates: bool) -> Estimator:
    if name == "shrunk":
        return SHRUNK_SLATES if slates else SHRUNK
    return parse_estimator(name, slates=slates)


def fitted(log: Log, policies: Sequence[Policy], options: Options, *, slates: bool) -> Predictor | None:
    """The reward model, if an estimator needs one and the log has what one needs; cross-fitted by viewer.

    :raises BadQuestion: one was asked for by name, and the log shows no candidates
    """
    asked = wanted(log, options, slates=slates)
    if not isinstance(options.model, str):
        return options.model
    every = [*asked.estimators, *(members[0] for members in asked.grids)]
    if options.model == "none":
        named_ones = [each.family or each.name for each in every if each.needs_q] if options.estimators else []
        if named_ones:
            raise BadQuestion(f"{', '.join(named_ones)} needs a reward model, and none was to be used")
        return None
    if not any(each.needs_q for each in (*every, asked.primary[True])):
        return None
    if not any(policy.needs(True).candidates for policy in policies):
        if options.model != "auto" or any(each.needs_q for each in every if options.estimators):
            raise BadQuestion(
                f"no policy says how likely it makes each candidate ({', '.join(p.spec for p in policies)}), which is "
                "what a reward model is averaged over; use estimators that need none: ips, snips, beta_ips"
            )
        return None
    needs = Needs(candidates=True, texts=True)
    first = next(iter(log.batches(needs)), None)
    if first is None or first.candidates is None:
        if options.model != "auto" or any(each.needs_q for each in every if options.estimators):
            raise BadQuestion(
                f"{log.name} does not say which candidates there were, so there is nothing that a reward model could "
                "predict; use estimators that need none: ips, snips, beta_ips"
            )
        return None
    return RewardModel.fit(log.batches(needs), kind=options.model, seed=options.seed)
