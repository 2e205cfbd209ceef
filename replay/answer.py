"""From what was collected to what is answered: values, intervals, differences, verdicts, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from replay import diagnostics, disagreement, verdict
from replay.collect import Predictor
from replay.collected import Collected, PolicySums
from replay.errors import BadLog, BadQuestion
from replay.estimators import Estimator, difference, difference_gradient, parse_estimator, standard_error
from replay.events import Log, Policy
from replay.intervals import interval
from replay.intervals.bounds import identification_bounds
from replay.intervals.sequence import sequence
from replay.redraws import FEWEST as FEWEST_REDRAWS
from replay.redraws import REDRAWS, is_redrawn
from replay.results import Check, Difference, Estimate, Evaluation, Interval, LogSummary, Part, PolicyAnswer
from replay.shrinkage import Shrunk
from replay.sums import Sums
from replay.tuning import RULES, tune
from replay.weight_measures import effective_events, weight_summary


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer.

    :ivar estimators: by name; empty for the usual ones
    :ivar interval: ``auto``, or a method by name
    :ivar alpha: intervals hold with probability 1 - alpha
    :ivar slices: fields of the log to slice by
    :ivar model: of rewards: ``auto``, ``none``, a kind by name, or what predicts
    :ivar weight_bound: no weight can be larger, if the caller knows more than the policies do
    :ivar reward_range: lowest and highest reward of an event, if the caller knows more than the log does
    :ivar looks: also give sequences that hold at every look
    :ivar assumptions: test what the estimators of feeds assume, on a fifth of the viewers, which the rest does without
    :ivar tune: rule by which lambda is chosen for families that are asked for without one
    :ivar redraws: how often a placement is drawn again where estimators need its marginal probability, the log has it
        given the slots above, and it cannot be enumerated
    :ivar seed: of the reward model's sample, of bootstraps and of re-draws
    """

    estimators: tuple[str, ...] = ()
    interval: str = "auto"
    alpha: float = 0.05
    slices: tuple[str, ...] = ()
    model: str | Predictor = "auto"
    weight_bound: float | None = None
    reward_range: tuple[float, float] | None = None
    looks: bool = True
    assumptions: bool = False
    tune: str = "prior"
    redraws: int = REDRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tune not in RULES:
            raise BadQuestion(f"there is no rule {self.tune!r} to choose lambda by; there are {', '.join(RULES)}")
        if not 0 < self.alpha < 1:
            raise BadQuestion(f"alpha {self.alpha} is no chance of being wrong; give one between 0 and 1, such as .05")
        if self.redraws < FEWEST_REDRAWS:
            raise BadQuestion(f"{self.redraws} re-draws tell no error of their own; ask for {FEWEST_REDRAWS} or more")
        if self.weight_bound is not None and not self.weight_bound >= 1:
            raise BadQuestion(f"weight bound {self.weight_bound} cannot be: weights average 1, so it is at least 1")
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            raise BadQuestion(f"reward range {self.reward_range} is empty; give the lowest and the highest reward")


def no_events(log: Log) -> BadLog:
    """What to say of a log without an event to evaluate."""
    problems = log.problems()
    left_out = "; ".join(f"{count:,} {reason}" for reason, count in problems.counts.items())
    return BadLog(f"{log.name} has no event to evaluate" + (f" ({left_out})" if left_out else ""))


def answer(
    log: Log, collected: Collected, policies: Sequence[Policy], options: Options, *, seconds: float
) -> Evaluation:
    """The evaluation of what was collected, from one pass or from many that were merged.

    :raises BadLog: there was no event
    """
    if collected.events == 0 or collected.production is None:
        raise no_events(log)
    problems = log.problems()
    answers = [_of_policy(policy, collected, collected.policies[policy.name], options) for policy in policies]
    return Evaluation(
        log=LogSummary(
            name=log.name,
            kind=log.kind,
            events=collected.events,
            slots=collected.slots,
            viewers=collected.viewers,
            first_time=collected.first_time if collected.first_time <= collected.last_time else None,
            last_time=collected.last_time if collected.first_time <= collected.last_time else None,
            reward=getattr(log, "reward", None) or "as logged",
            left_out=dict(problems.counts),
            examples=list(problems.examples),
        ),
        production=_production(collected.production, options),
        policies=answers,
        checks=[],
        alpha=options.alpha,
        seconds=seconds,
        version=version_here(),
    )


def version_here() -> str:
    """Of this package."""
    try:
        return version("feed-bandit")
    except PackageNotFoundError:
        return "unknown"


# ---------------------------------------------------------------- one policy


def _of_policy(policy: Policy, collected: Collected, sums: PolicySums, options: Options) -> PolicyAnswer:
    whole, primary = sums.whole, sums.primary
    if sums.unsupported:
        return PolicyAnswer(
            name=policy.name, spec=policy.spec, refused=sums.unsupported, primary=primary.name, estimates=[],
            difference=None, weights=None, checks=[Check("support", "refusal", None, None, sums.unsupported)],
        )  # fmt: skip
    checks = _checks(sums, collected, policy, options)
    refused = diagnostics.refusal(checks)
    answer = PolicyAnswer(
        name=policy.name,
        spec=policy.spec,
        refused=refused,
        primary=primary.name,
        estimates=[*([] if refused else _estimates(sums, options)), *_embedded(sums, options, refused=bool(refused))],
        difference=None,
        weights=weight_summary(whole),
        checks=checks,
        updates=sums.updates if sums.updates is not None else sums.learned,
    )
    if sums.note and answer.estimates:
        answer.estimates[0].note = sums.note
    if refused is not None:
        answer.bounds = identification_bounds(
            whole, uncovered=sums.uncovered, alpha=options.alpha, reward_range=whole.reward_range
        )
        answer.events_needed = diagnostics.events_for_ess(whole.n, effective_events(whole))
        return answer
    answer.difference = _difference(whole, primary, options, looks=True)
    if options.looks:
        answer.sequence = sequence(whole, alpha=options.alpha, reward_range=whole.reward_range)
    answer.slices = {
        field: [_part(value, part, primary, options) for value, part in sorted(values.items())]
        for field, values in sums.sliced.items()
    }
    answer.over_time = [
        _part(_when(stretch.start, stretch.length), stretch.sums, primary, options)
        for stretch in sums.times.stretches()
    ]
    return answer


def _checks(sums: PolicySums, collected: Collected, policy: Policy, options: Options) -> list[Check]:
    whole = sums.whole
    try:
        error = standard_error(whole, sums.primary.gradient(whole))
    except BadQuestion:
        error = None
    found = diagnostics.checks(
        whole, viewers=collected.viewers, uncovered=sums.uncovered, reward_range=whole.reward_range, error=error
    )
    if sums.uncovered <= diagnostics.UNCOVERED_NOISE:
        found += _mean_weights_by_part(sums)
    until = sums.learned_until
    if until is not None and until > collected.first_place:
        found.append(
            Check(
                "learned from this log", "warning", float(until), collected.first_place,
                f"The model of {policy.name} has learned from this log up to position {until:,}, so from rewards that "
                "it is judged by here: its value is too high.",
                f"Judge it by what came after: --after {until}.",
            )
        )  # fmt: skip
    tested = sums.tested
    if tested is not None:
        pairs = sums.pairs
        found += [disagreement.check(tested, *pair, alpha=options.alpha / len(pairs)) for pair in pairs]
    return found


def _mean_weights_by_part(sums: PolicySums) -> list[Check]:
    """Days, and values of sliced fields such as the model, whose weights do not average 1; one family of tests each."""
    stretches = sums.times.stretches()
    by_time = {_when(each.start, each.length): each.sums for each in stretches}
    of_days = bool(stretches) and stretches[0].length == 86_400
    families = [("day" if of_days else "stretch", by_time), *sums.sliced.items()]
    found: list[Check] = []
    for what, parts in families:
        enough = {label: part for label, part in parts.items() if part.n >= ENOUGH}
        found += diagnostics.check_mean_weight_by(what, enough) if len(parts) > 1 else []
    return found


def _estimates(sums: PolicySums, options: Options) -> list[Estimate]:
    listed = dict.fromkeys(each for each in (sums.primary, *sums.estimators) if each not in sums.embedded)
    found = [_redrawn(_estimate(sums.whole, each, options), each, sums, options) for each in listed]
    for grid in sums.grids:
        tuned = tune(sums.whole, grid, rule=options.tune, seed=options.seed)
        found.append(_estimate(sums.whole, tuned.estimator, options, note=tuned.note))
    return found


def _embedded(sums: PolicySums, options: Options, *, refused: bool) -> list[Estimate]:
    """By what candidates are like. Checks of their own: weights of embeddings may do where those of candidates do not.

    :param refused: there is no answer by candidates; then only what is sound is given
    """
    found = []
    for estimator, embedded in sums.embedded.items():
        whole = embedded.sums
        reason = diagnostics.refusal(
            diagnostics.checks(whole, uncovered=embedded.uncovered, reward_range=whole.reward_range)
        )
        if reason is None:
            note = (
                f"worth {effective_events(whole):,.0f} events; assumes that reward depends on nothing else of a "
                "candidate, which no interval can tell"
            )
            found.append(_estimate(whole, estimator, options, note=note))
        elif not refused:
            found.append(Estimate(estimator=estimator.name, value=estimator.value(whole), note=f"no answer: {reason}"))
    return found


def _estimate(sums: Sums, estimator: Estimator, options: Options, note: str = "") -> Estimate:
    if isinstance(estimator, Shrunk):
        blend = estimator.blend(sums)
        return Estimate(estimator=estimator.name, value=blend.value, note=blend.note)
    if estimator.name == "dm":
        note = "as far off as the reward model is, which no interval can tell"
        return Estimate(estimator=estimator.name, value=estimator.value(sums), note=note)
    if estimator.family:
        bias = "the interval leaves out the bias that shrinking weights brings"
        note = f"{note}; {bias}" if note else bias
    return Estimate(
        estimator=estimator.name,
        value=estimator.value(sums),
        se=standard_error(sums, estimator.gradient(sums)),
        interval=_interval(sums, estimator, options),
        note=note,
    )


def _redrawn(estimate: Estimate, estimator: Estimator, sums: PolicySums, options: Options) -> Estimate:
    """With what drawing policies again has added to its error, if they were."""
    if sums.noise is not None and is_redrawn(estimator):
        estimate.monte_carlo = sums.noise.error(estimator, sums.whole)
        estimate.note = sums.noise.note(estimator, sums.whole, options.redraws)
    return estimate


def _interval(sums: Sums, estimator: Estimator, options: Options, *, difference: bool = False) -> Interval:
    return interval(
        options.interval, sums, estimator, alpha=options.alpha, reward_range=sums.reward_range,
        difference=difference, seed=options.seed,
    )  # fmt: skip


def _difference(sums: Sums, estimator: Estimator, options: Options, *, looks: bool) -> Difference:
    se = standard_error(sums, difference_gradient(estimator, sums))
    value = difference(estimator, sums)
    if sums.weight_bound <= 1.0 and sums.largest_weight <= 1.0 and abs(sums.mean("w") - 1.0) < SAME:
        # No weight is above 1, and they average 1: the target is production.
        value, se = 0.0, 0.0
        exact = Interval(low=0.0, high=0.0, method="exact: the target does what was logged", alpha=options.alpha)
        return verdict.difference(value=value, se=se, interval=exact, production=sums.mean("y"), n=sums.n)
    return verdict.difference(
        value=value,
        se=se,
        interval=_interval(sums, estimator, options, difference=True),
        production=sums.mean("y"),
        n=sums.n,
        sequence=(
            sequence(sums, alpha=options.alpha, reward_range=sums.reward_range, difference=True)
            if looks and options.looks
            else None
        ),
    )


SAME: Final = 1e-9
"""Rounding of a mean weight."""
ENOUGH: Final = 200
"""Events of a part from which on its mean weight is about normal above 1."""
FEWEST: Final = 30
"""Events of a part; with fewer there is nothing to say of it."""


def _part(label: str, sums: Sums, primary: Estimator, options: Options) -> Part:
    """A slice or a stretch of time. One that is too thin has no value: it says so by its effective sample size."""
    size = effective_events(sums)
    part = Part(
        label=label, n=sums.n, production=sums.mean("y"), value=None, interval=None, difference=None,
        difference_interval=None, ess=size,
    )  # fmt: skip
    if sums.n >= FEWEST and size >= diagnostics.REFUSE_ESS:
        part.value = primary.value(sums)
        part.interval = _interval(sums, primary, options)
        part.difference = difference(primary, sums)
        part.difference_interval = _interval(sums, primary, options, difference=True)
    return part


def _when(start: float, length: float) -> str:
    """ISO 8601, UTC: a day, or a minute."""
    at = datetime.fromtimestamp(start, UTC)
    return f"{at:%Y-%m-%d}" if length >= 86_400 else f"{at:%Y-%m-%dT%H:%MZ}"


def _production(sums: Sums, options: Options) -> Estimate:
    """What was really earned: a plain mean over events, with the error that other viewers would make."""
    mean = parse_estimator("rips" if sums.terms.slates else "ips", slates=sums.terms.slates)
    return Estimate(
        estimator="mean",
        value=mean.value(sums),
        se=standard_error(sums, mean.gradient(sums)),
        interval=interval("auto", sums, mean, alpha=options.alpha, reward_range=sums.reward_range, seed=options.seed),
    )
