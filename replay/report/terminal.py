"""An evaluation as a table that reads well at 100 columns, with or without colour."""

from __future__ import annotations

import textwrap
from typing import Final

from replay.report import words
from replay.report.quiet import quiet
from replay.results import Check, Evaluation, PolicyAnswer

WIDTH: Final = 100
NAME: Final = 22
VALUE: Final = 11
INTERVAL: Final = 22
WORTH: Final = 12
MOST_ESTIMATES: Final = 12
EXAMPLES: Final = 3
"""Of what was left out, with where it stands."""


def table(evaluation: Evaluation) -> str:
    """Production first, then every policy: value, interval, difference in words, what the log is worth for it."""
    evaluation = quiet(evaluation)
    log = evaluation.log
    title = ", ".join(part for part in (words.how_many(log), words.dates(log)) if part)
    lines = [*_wrapped(f"{log.name} ({log.kind}): {title}"), *_wrapped(f"Reward: {log.reward}.")]
    if log.left_out:
        left = "; ".join(f"{count:,} {reason}" for reason, count in log.left_out.items())
        lines += _wrapped(f"Left out: {left}.")
        lines += [line for each in log.examples[:EXAMPLES] for line in _wrapped(each, "  ", "    ")]
    first, second = words.headline(evaluation)
    lines += ["", *_wrapped(first), *_wrapped(second), ""]
    sure = f"{words.confidence(evaluation.alpha)} interval"
    lines.append(f"{'':{NAME}}{'value':>{VALUE}}  {sure:>{INTERVAL}}{'worth':>{WORTH}}   against production")
    lines.append("-" * WIDTH)
    lines += _production(evaluation)
    for policy in evaluation.policies:
        lines += _policy(policy, evaluation)
    lines += ["", "worth: how many events of the policy's own would say as much (effective sample size)"]
    lines += _others(evaluation)
    lines += _warnings(evaluation)
    return "\n".join(line.rstrip() for line in lines)


def _production(evaluation: Evaluation) -> list[str]:
    value, interval = evaluation.production.value, evaluation.production.interval
    digits = words.places(words.width(interval, value))
    span = words.span(interval, digits) if interval is not None else ""
    return _row("production", words.number(value, digits), span, f"{evaluation.log.events:,}", "what was really earned")


def _policy(policy: PolicyAnswer, evaluation: Evaluation) -> list[str]:
    worth = words.compact(round(policy.weights.ess, 1)) if policy.weights is not None else ""
    if policy.refused is not None or not policy.estimates:
        span = ""
        if policy.bounds is not None:
            span = words.span(policy.bounds, words.places(words.width(policy.bounds)))
        return _row(policy.name, "no answer", span, worth, words.refusal(policy))
    primary = next((each for each in policy.estimates if each.estimator == policy.primary), policy.estimates[0])
    digits = words.places(words.width(primary.interval, primary.value))
    span = words.span(primary.interval, digits) if primary.interval is not None else ""
    verdict = words.verdict(policy.difference, evaluation.log.events) if policy.difference is not None else ""
    return _row(policy.name, words.number(primary.value, digits), span, worth, verdict)


def _row(name: str, value: str, span: str, worth: str, verdict: str) -> list[str]:
    """A name or a verdict that is too long goes on below, in its own column."""
    indent = NAME + VALUE + 2 + INTERVAL + WORTH + 3
    names = textwrap.wrap(_plain(name), NAME - 1) or [""]
    said = textwrap.wrap(verdict, WIDTH - indent) or [""]
    lines = [f"{names[0]:{NAME}}{value:>{VALUE}}  {span:>{INTERVAL}}{worth:>{WORTH}}   {said[0]}"]
    for i in range(1, max(len(names), len(said))):
        left, right = names[i] if i < len(names) else "", said[i] if i < len(said) else ""
        lines.append(f"{left:{indent}}{right}")
    return lines


def _plain(text: str) -> str:
    """Nothing that moves a terminal's cursor or changes its colour."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _others(evaluation: Evaluation) -> list[str]:
    """All other estimators, side by side with the one that the verdict is from."""
    lines: list[str] = []
    for policy in evaluation.policies:
        if len(policy.estimates) < (2 if policy.refused is None else 1):
            continue
        told = f"by every estimator (the verdict is from {policy.primary})"
        if policy.refused is not None:
            told = "no verdict, but by what candidates are like"
        lines += ["", *_wrapped(f"{policy.name}, {told}:")]
        for each in policy.estimates[:MOST_ESTIMATES]:
            digits = words.places(words.width(each.interval, each.value))
            span = words.span(each.interval, digits) if each.interval is not None else ""
            lines += _row(f"  {each.estimator}", words.number(each.value, digits), span, "", each.note)
        if policy.sequence is not None:
            span = words.span(policy.sequence, words.places(words.width(policy.sequence)))
            lines += _row("  at every look", "", span, "", "holds however often you look")
    return lines


def _warnings(evaluation: Evaluation) -> list[str]:
    lines: list[str] = []
    for name, checks in (("", evaluation.checks), *((policy.name, policy.checks) for policy in evaluation.policies)):
        told = [check for check in checks if check.level != "ok"]
        if not told:
            continue
        lines += ["", *_wrapped(f"{name}:" if name else "This log:")]
        # A refusal's reasons are its checks; advice that several share is given once.
        advice = dict.fromkeys(check.advice for check in told if check.advice)
        for check in sorted(told, key=lambda check: check.level != "refusal"):
            lines += _check(check)
        lines += [line for each in advice for line in _wrapped(each, "    > ", "      ")]
    for policy in evaluation.policies:
        if policy.refused is not None and not any(check.level == "refusal" for check in policy.checks):
            lines += ["", *_wrapped(f"{policy.name}: {policy.refused}")]
    return lines


def _check(check: Check) -> list[str]:
    mark = "no answer" if check.level == "refusal" else "look"
    where = f" ({check.where})" if check.where and check.where not in check.sentence else ""
    return _wrapped(f"{check.sentence}{where}", f"  {mark:<10}", " " * 12)


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(_plain(text), WIDTH, initial_indent=first, subsequent_indent=rest) or [""]
