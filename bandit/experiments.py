"""Champion and challengers: several configs share the traffic, each viewer always in the same arm.

An arm is a part of the config, laid over the rest of the document. Whom it serves is a hash of the viewer's id,
salted by the experiment: a new experiment (another name, or another salt) deals the viewers anew, independently of
all others. A request without a viewer is dealt by its event id. Each decision is stamped with experiment and arm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import sqrt
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from bandit.errors import InvalidConfig

#: What an arm cannot have for itself: feedback is checked, joined and guarded the same way for all.
SHARED: Final = frozenset({"experiment", "guard", "signals", "reward_range", "reward_window_s", "stayed_s", "watch"})
#: What settles what a slot teaches: arms that differ here cannot teach one model.
TAUGHT: Final = ("reward", "default_reward", "evidence", "learning_weight")
#: Shares are written by people: a third as 0.333333.
SHARES_TOLERANCE: Final = 1e-4

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$(?!\n)",
        description="1 to 64 of letters, digits, _ . -, beginning with a letter or digit",
    ),
]


class Arm(Struct, forbid_unknown_fields=True):
    """One of the configs that share the traffic.

    `share`: of the viewers. `config`: fields of the config that are others here, each whole, such as
    `{"explorer": {"kind": "greedy"}}`; empty for the document as it is.
    """

    name: Name
    share: Annotated[float, Meta(gt=0, le=1)]
    config: dict[str, Any] = {}


class Experiment(Struct, forbid_unknown_fields=True):
    """Which configs share the traffic, and how.

    `champion`: the arm that the others are compared with. `salt`: deals the viewers anew under the same name; the
    name itself if not given. `learn_from`: `all` teaches one model from every arm's feeds; with `own` each arm has a
    model that learns from the arm's own feeds alone, and the champion's goes on when the experiment ends.
    """

    name: Name
    arms: Annotated[list[Arm], Meta(min_length=2, max_length=20)]
    champion: Name
    salt: Annotated[str, Meta(max_length=256)] | None = None
    learn_from: Literal["own", "all"] = "all"


class Apart(NamedTuple):
    """An experiment whose arms learn apart, each from its own feeds.

    :ivar champion: the arm whose model goes on from before the experiment, and goes on after it
    :ivar others: whose models begin as the champion's is at that moment, and are dropped in the end
    """

    experiment: str
    champion: str
    others: tuple[str, ...]


def apart_of(experiment: Experiment | None) -> Apart | None:
    """None where one model learns from every feed."""
    if experiment is None or experiment.learn_from != "own":
        return None
    names = [arm.name for arm in experiment.arms]
    return Apart(experiment.name, experiment.champion, tuple(name for name in names if name != experiment.champion))


def arm_of(experiment: Experiment, *, viewer: str | None, event_id: str) -> Arm:
    """Whose turn a request is: always the same arm for the same viewer."""
    salt = experiment.name if experiment.salt is None else experiment.salt
    who = f"e{event_id}" if viewer is None else f"v{viewer}"
    u = position_of(salt, who) * sum(arm.share for arm in experiment.arms)
    passed = 0.0
    for arm in experiment.arms:
        passed += arm.share
        if u < passed:
            return arm
    return experiment.arms[-1]


def position_of(salt: str, who: str) -> float:
    """Where a salt puts somebody, uniform in [0, 1): 53 bits of a keyed BLAKE2b."""
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(who.encode(), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def laid_over(document: Struct, arm: Arm) -> Any:
    """The config document as it is in an arm.

    :raises InvalidConfig: a field that arms cannot have for themselves, or that is not one of the config's
    """
    fixed = sorted(SHARED & arm.config.keys())
    if fixed:
        raise InvalidConfig(
            f"arm {arm.name!r} has {', '.join(fixed)} of its own; {', '.join(sorted(SHARED))} are the same for all"
        )
    try:
        return msgspec.convert(
            msgspec.to_builtins(document) | {"experiment": None} | arm.config, type(document), strict=True
        )
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"arm {arm.name!r}: {error}") from None


def experiment_faults(experiment: Experiment, documents: Iterable[Struct]) -> list[str]:
    """Why an experiment cannot be run, though each of its arms is sound.

    :param documents: of the arms, in their order
    """
    faults = []
    names = [arm.name for arm in experiment.arms]
    if len(set(names)) < len(names):
        faults.append(f"experiment {experiment.name!r} names two arms alike; there are {', '.join(names)}")
    if experiment.champion not in names:
        faults.append(f"champion {experiment.champion!r} is no arm; there are {', '.join(names)}")
    total = sum(arm.share for arm in experiment.arms)
    if abs(total - 1.0) > SHARES_TOLERANCE:
        faults.append(f"the shares of experiment {experiment.name!r} sum to {total:g}; they must sum to 1")
    if experiment.learn_from == "all":
        taught = [[msgspec.json.encode(getattr(one, field)) for field in TAUGHT] for one in documents]
        unlike = [field for place, field in enumerate(TAUGHT) if len({each[place] for each in taught}) > 1]
        if unlike:
            faults.append(
                f"the arms differ in {', '.join(unlike)}, and would teach one model different things; give them the "
                'same, or each a model of its own with "learn_from": "own"'
            )
    return faults


# ---------------------------------------------------------------- how the arms do


class ArmSums(NamedTuple):
    """Sums over the viewers of an arm, of decisions whose windows are over.

    :ivar n: decisions
    :ivar nn: sum over viewers of their decisions, squared; ``ns`` with rewards, ``ss`` rewards squared
    """

    viewers: int
    n: int
    s: float
    nn: float
    ns: float
    ss: float


class Mean(NamedTuple):
    """Mean reward per decision, and its 95 % interval; None where there is not enough to say."""

    value: float | None
    low: float | None
    high: float | None


def mean_of(sums: ArmSums) -> Mean:
    """Mean reward per decision of an arm, with a normal interval that takes each viewer as one draw.

    For looking, at any one moment; a verdict that holds however often one looks is `replay evaluate`'s.

    >>> mean_of(ArmSums(viewers=0, n=0, s=0, nn=0, ns=0, ss=0))
    Mean(value=None, low=None, high=None)
    >>> [round(each, 3) for each in mean_of(ArmSums(viewers=4, n=4, s=2, nn=4, ns=2, ss=2))]
    [0.5, -0.066, 1.066]
    """
    if sums.n == 0:
        return Mean(None, None, None)
    mean = sums.s / sums.n
    if sums.viewers < 2:
        return Mean(mean, None, None)
    squares = max(0.0, sums.ss - 2 * mean * sums.ns + mean * mean * sums.nn)
    error = sqrt(squares * sums.viewers / (sums.viewers - 1)) / sums.n
    return Mean(mean, mean - 1.959964 * error, mean + 1.959964 * error)


# ---------------------------------------------------------------- what an apprentice would have earned


class Shown(NamedTuple):
    """A slot that an apprentice watched, and whose time is over.

    :ivar viewer: whose draw it was; intervals take each viewer as one
    :ivar propensity: with which the slot was served; 1 for the caller's order as it is
    :ivar own: probability that the apprentice would have shown the same there, given the slots above
    :ivar says_own: expected score of its own choice there; ``says_shown`` the score of what was shown
    """

    viewer: str
    propensity: float
    own: float
    says_own: float
    says_shown: float
    reward: float


class Apprenticeship(NamedTuple):
    """What an apprentice would have earned, in reward per seen slot, had one slot at a time been its own choice.

    :ivar agreement: how often it would have shown what was shown
    :ivar caller: what was earned; ``says_caller`` what the model said of it beforehand
    :ivar says_own: what the model says of its own choice
    :ivar own: the same, corrected by what was earned where it agrees
    :ivar low: with ``high``, 95 % interval of ``own - caller``; None of a single viewer
    """

    slots: int
    viewers: int
    agreement: float
    caller: float
    says_caller: float
    says_own: float
    own: float
    low: float | None
    high: float | None


def apprenticeship(slots: Iterable[Shown]) -> Apprenticeship | None:
    """The doubly robust estimate of one slot's worth; None without a slot.

    For each slot: what the model expects of its own choice, plus ``own / propensity`` times what it was off by. Where
    the caller's order was explored (propensity below 1 everywhere) that is without bias. Where it was served as it
    is, it is right for the part on which both agree, and the model's opinion for the rest.

    >>> apprenticeship([]) is None
    True
    >>> apprenticeship([Shown("u", 1.0, 1.0, 0.2, 0.2, 0.7)]).own
    0.7
    """
    by_viewer: dict[str, tuple[int, float]] = {}
    n = 0
    sums = [0.0] * 5
    for one in slots:
        off = one.own / one.propensity * (one.reward - one.says_shown)
        n += 1
        for place, value in enumerate((one.own, one.reward, one.says_shown, one.says_own, one.says_own + off)):
            sums[place] += value
        before = by_viewer.get(one.viewer, (0, 0.0))
        by_viewer[one.viewer] = before[0] + 1, before[1] + one.says_own + off - one.reward
    if n == 0:
        return None
    agreement, caller, says_caller, says_own, own = (each / n for each in sums)
    difference = mean_of(
        ArmSums(
            viewers=len(by_viewer),
            n=n,
            s=sum(s for _, s in by_viewer.values()),
            nn=sum(k * k for k, _ in by_viewer.values()),
            ns=sum(k * s for k, s in by_viewer.values()),
            ss=sum(s * s for _, s in by_viewer.values()),
        )
    )
    return Apprenticeship(
        n, len(by_viewer), agreement, caller, says_caller, says_own, own, difference.low, difference.high
    )
