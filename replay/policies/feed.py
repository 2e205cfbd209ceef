"""Policies over feeds, for the service's own log: probabilities by the very code that serves.

``caller[,epsilon=E][,floor=F]``
    The caller's own order.
``feed:MODEL[,explorer=E,...][,shortlist=M][,floor=F][,share=S]``
    Another ranking of the same candidates. MODEL is a model file that VW saved, a version that the log published (or
    how it begins), ``newest``, or ``logged`` for the model that served at each decision. The explorer's parameters
    are named as in the config. What is not given is as each decision's own config has it; with an explorer or a
    floor, and no share, exploration has no budget.
``config:VERSION[/ARM]``
    A config version of the log, or an arm of its experiment, with the model that served at each decision; of an arm
    that learned apart with its own, on the feeds of the other arms too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bandit.config import ExplorerConfig
from replay.errors import BadPolicy
from replay.policies.feed_policies import LOGGED, CallerFeed, FeedPolicy, RankedFeed

_EXPLORERS: Final = {
    "squarecb": "squarecb",
    "epsilon": "epsilon_greedy",
    "epsilon_greedy": "epsilon_greedy",
    "softmax": "softmax",
    "greedy": "greedy",
    "uniform": "uniform",
}
_PARAMETERS: Final = ("gamma_scale", "gamma_exponent", "epsilon", "lambda", "anneal_after", "anneal_exponent", "least")


def parse_feed(name: str, spec: str) -> FeedPolicy:
    """The policy over feeds that a spec asks for; see the module.

    :raises BadPolicy: says what was given and what is allowed
    """
    head, *rest = spec.split(",")
    kind, _, what = head.partition(":")
    options = _options(spec, rest)
    if kind == "caller" and not what:
        _only(spec, options, ("epsilon", "floor"))
        return CallerFeed(
            name, spec, epsilon=_share(spec, options, "epsilon") or 0.0, floor=_share(spec, options, "floor") or 0.0
        )
    version, slash, arm = what.partition("/")
    if kind == "config" and version.isascii() and version.isdigit() and bool(slash) == bool(arm) and not options:
        return RankedFeed(name, spec, model=LOGGED, config=int(version), arm=arm or None)
    if kind == "feed" and what:
        _only(spec, options, ("explorer", "shortlist", "floor", "share", *_PARAMETERS))
        return RankedFeed(
            name, spec, model=what, explorer=_explorer(spec, options), shortlist=_shortlist(spec, options),
            floor=_floor(spec, options), share=_budget(spec, options),
        )  # fmt: skip
    raise BadPolicy(
        f"{spec!r} is no policy over feeds; write caller[,epsilon=E][,floor=F], config:VERSION[/ARM] or "
        "feed:MODEL[,explorer=squarecb|epsilon|softmax|greedy|uniform,...][,shortlist=M][,floor=F][,share=S]"
    )


def _options(spec: str, words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value or key in options:
            raise BadPolicy(f"{spec!r}: {word!r} is no option of its own; write key=value, each key once")
        options[key] = value
    return options


def _only(spec: str, options: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    for key in options:
        if key not in allowed:
            raise BadPolicy(f"{spec!r} has the option {key!r}; allowed are {', '.join(allowed)}")


def _number(spec: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadPolicy(f"{spec!r}: {key}={text} is no number") from None


def _share(spec: str, options: Mapping[str, str], key: str) -> float | None:
    if key not in options:
        return None
    value = _number(spec, key, options[key])
    if not 0.0 <= value <= 1.0:
        raise BadPolicy(f"{spec!r}: {key} is {value}; it must be from 0 to 1")
    return value


def _budget(spec: str, options: Mapping[str, str]) -> float | None:
    share = _share(spec, options, "share")
    if share == 0.0:
        raise BadPolicy(f"{spec!r}: share is 0; it must be above 0")
    return share


def _floor(spec: str, options: Mapping[str, str]) -> list[float] | None:
    """One number, or one for each slot with / between: the last holds for the rest."""
    if "floor" not in options:
        return None
    parts = [_share(spec, {"floor": part}, "floor") for part in options["floor"].split("/")]
    return [part for part in parts if part is not None]


def _shortlist(spec: str, options: Mapping[str, str]) -> int | None:
    text = options.get("shortlist")
    if text is None or text == "none":
        return None if text is None else 0
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10_000):
        raise BadPolicy(f"{spec!r}: shortlist is {text}; it must be a whole number from 1 to 10000, or none")
    return int(text)


def _explorer(spec: str, options: Mapping[str, str]) -> ExplorerConfig | None:
    given: dict[str, Any] = {key: _number(spec, key, options[key]) for key in _PARAMETERS if key in options}
    if "anneal_after" in given and given["anneal_after"].is_integer():
        given["anneal_after"] = int(given["anneal_after"])
    kind = options.get("explorer")
    if kind is None:
        if given:
            raise BadPolicy(f"{spec!r} gives {', '.join(given)} and no explorer; add explorer=NAME")
        return None
    if kind not in _EXPLORERS:
        raise BadPolicy(f"{spec!r}: {kind!r} is no explorer; there are {', '.join(_EXPLORERS)}")
    try:
        explorer: ExplorerConfig = msgspec.convert({"kind": _EXPLORERS[kind], **given}, ExplorerConfig)
    except msgspec.ValidationError as error:
        raise BadPolicy(f"{spec!r}: explorer {kind}: {error}") from None
    return explorer
