"""The reading of a log, part by part: one function, the same in one process, in many, and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from replay.collected import Asked, Collected, PolicySums
from replay.errors import BadQuestion, Unsupported
from replay.estimators import SINGLE, Mips
from replay.events import F64, Batch, Log, Needs, Policy
from replay.expectations import expectations
from replay.policies.feed_policies import FeedPolicy
from replay.policies.feed_support import refuse_unsupported
from replay.prefetch import prefetched
from replay.readers.service_feeds import Feeds
from replay.redraws import Redraws, Weights

Told = Callable[[int, int], None]
"""Is told, now and then, how much of how much is done."""


def nobody(done: int, of: int) -> None:
    """Is told, and does nothing."""


class Predictor(Protocol):
    """What predicts rewards: a `RewardModel`, or whatever the caller brings."""

    def predict(self, batch: Batch) -> F64:
        """Shape (C,): of every candidate of every slot, by a model that has not seen the event's viewer."""
        ...


class Question(NamedTuple):
    """All that has to be known to read any part of a log; it can be sent to another process.

    :ivar needs: what is read: the same for every policy, as what cannot be read is left out for all
    :ivar slates: events have several slots
    :ivar model: predictions for the estimators that need them; they are left out without it
    """

    log: Log
    asked: Asked
    needs: Needs
    slates: bool
    model: Predictor | None = None


def question_of(
    log: Log, policies: Sequence[Policy], asked: Asked, *, slates: bool, model: Predictor | None = None
) -> Question:
    """What is to be read for these policies, all together."""
    embedded = any(isinstance(each, Mips) for each in asked.estimators)
    whole = model is not None or embedded
    needs = [policy.needs(whole) for policy in policies]
    listed = whole or any(need.candidates for need in needs)
    wanted = Needs(
        fields=tuple(dict.fromkeys([*asked.slices, *(name for need in needs for name in need.fields)])),
        columns=tuple(dict.fromkeys(name for need in needs for name in need.columns)),
        candidates=listed,
        texts=whole or any(need.texts for need in needs),
        logged=listed,
    )
    return Question(log, asked, wanted, slates, model)


def parts_of(log: Log) -> Sequence[Log]:
    """The log in parts, in order, each a log of its own; the log itself where it can only be read as a whole."""
    parts: Callable[[], Sequence[Log]] = getattr(log, "parts", lambda: [log])
    return parts()


def collect(
    log: Log,
    policies: Sequence[Policy],
    asked: Asked,
    *,
    slates: bool,
    model: Predictor | None = None,
    progress: Told = nobody,
) -> Collected:
    """Read the log once, in this process, and collect what was asked of every policy.

    :param policies: each prepared, with a name of its own
    :param asked: what to collect
    :param slates: whether events have several slots
    :param model: predictions for the estimators that need them; they are left out without it
    :raises BadLog, BadPolicy, BadQuestion: as the log, the policies and the sums say
    """
    question = question_of(log, policies, asked, slates=slates, model=model)
    collected = collect_parts(question, policies, range(len(parts_of(log))), progress)
    absorb(log, collected)
    return collected


def absorb(log: Log, collected: Collected) -> None:
    """Have the log say of its reading what was reported of its parts."""
    hear: Callable[[Sequence[Any]], None] = getattr(log, "absorb", lambda reports: None)
    hear(collected.reports)


def collect_parts(
    question: Question, policies: Sequence[Policy], which: Sequence[int], progress: Told = nobody
) -> Collected:
    """These parts of a log, merged in the order of the log.

    :param policies: each prepared
    :param which: places among :func:`parts_of`, ascending
    """
    parts = parts_of(question.log)
    size, before = sum(parts[k].size() for k in which), 0
    collected = Collected(slates=question.slates)
    for k in which:
        part = parts[k]

        def told(done: int, before: int = before) -> None:
            progress(before + done, size)

        collected = collected.merge(_collect_part(question, policies, part, told, begins=k == 0))
        before += part.size()
    return collected


def _collect_part(
    question: Question, policies: Sequence[Policy], part: Log, told: Callable[[int], None], *, begins: bool
) -> Collected:
    """
    :param begins: the part is the log's first: what the log does not have at all is refused there
    """
    asked, model = question.asked, question.model
    collected = Collected(slates=question.slates)
    redraws = None
    if asked.redrawn and not part.marginals:
        redraws = Redraws(part, policies, asked.redrawn, n=asked.redraws, seed=asked.seed)
    try:
        for batch in prefetched(part.batches(question.needs)):
            first = collected.events == 0
            if first:
                check_fields(part, batch, asked.slices)
            collected.see(batch, asked)
            q = None if model is None or batch.candidates is None else model.predict(batch)
            given = {} if redraws is None else redraws.weights(batch)
            for policy in policies:
                _assign(collected, question, policy, batch, q, given.get(policy.name))
            if first and begins:
                collected.refuse_lost()
            told(part.done())
    finally:
        if redraws is not None:
            redraws.close()
    report: Callable[[], Any] = getattr(part, "report", lambda: None)
    collected.reports = [report()]
    return collected


def check_fields(log: Log, batch: Batch, fields: Sequence[str]) -> None:
    """
    :raises BadQuestion: the log has no such field; says which it has
    """
    unknown = [field for field in fields if field not in batch.fields]
    if unknown:
        names: tuple[str, ...] = getattr(log, "field_names", tuple)()
        raise BadQuestion(
            f"{log.name} has no field {', '.join(unknown)} to slice by; it has {', '.join(names) or 'none'}"
        )


def _assign(
    collected: Collected, question: Question, policy: Policy, batch: Batch, q: F64 | None, given: Weights | None
) -> None:
    asked = question.asked
    sums = collected.policies.get(policy.name)
    if sums is not None and sums.unsupported:
        return
    try:
        embedded = any(isinstance(each, Mips) for each in asked.estimators)
        assignment = policy.assign(batch, pmf=q is not None or embedded)
        if isinstance(batch.source, Feeds) and not isinstance(policy, FeedPolicy):
            refuse_unsupported(batch, assignment.propensity)
    except Unsupported as error:
        sums = sums or PolicySums(asked, [], with_q=False, slates=collected.slates)
        sums.unsupported = error.message
        collected.policies[policy.name] = sums
        return
    with_q = q is not None and assignment.pmf is not None
    if sums is None:
        estimators = [each for each in asked.estimators if with_q or not each.needs_q]
        # What a learner would have earned after so many updates is, without bias, the plain weighted mean.
        primary = SINGLE["ips"] if hasattr(policy, "updates") and not collected.slates else None
        sums = PolicySums(asked, estimators, with_q=with_q, slates=collected.slates, primary=primary)
        collected.policies[policy.name] = sums
    columns: dict[str, Any] = {
        "weight": assignment.propensity / batch.propensity,
        "weight_bound": (
            policy.largest_weight(batch, assignment) if asked.weight_bound is None else asked.weight_bound
        ),
    }
    if question.log.marginals:
        columns["marginal_weight"] = columns["weight"]
    if given is not None:
        columns["marginal_weight"] = given.marginal[0]
        columns["pseudo_weight"] = None if given.pseudo is None else given.pseudo[0]
    if sums.with_q:
        if q is None or assignment.pmf is None or batch.candidates is None:
            raise BadQuestion(
                f"{policy.name} has probabilities of all candidates for the log's first events but not for the "
                f"event at {batch.place[0]}; evaluate it without a reward model"
            )
        columns["q_chosen"], columns["dm"] = expectations(assignment.pmf, q, batch.candidates.starts, batch.chosen)
    sums.add(batch, columns, given)
    for embedded_sums in sums.embedded.values():
        embedded_sums.add(batch, assignment.pmf, policy.name)
    sums.hear(policy, batch, assignment)
