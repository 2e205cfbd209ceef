"""What a snapshot must pass before it goes live, and by how little of alpha each release may be doubted. Pure.

A snapshot is held, not published, when its weights or its scores on the probe are not finite, when what it would draw
there is no probability, when the draw has collapsed, when scores have left the range of rewards, or when they have
moved further from those of the last good model than learning does in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Check = Literal["finite", "propensities", "entropy", "range", "drift", "readable"]

SUM_SLACK: Final = 1e-9
# Of the log: so often the probe is taken anew, and more often while the log is young.
PROBE_EVERY: Final = 16_384
FIRST_PROBE: Final = 64


class SlowGuard(Struct, forbid_unknown_fields=True):
    """How the guard beside the service compares what serves with a frozen champion, see `replay.guard`.

    `loss`: it rolls back once what serves surely earns less than the champion by more than this, in reward a slot.
    `alpha`: chance that it ever rolls back what does not; release k may use alpha * 6 / (pi * k) ** 2 of it.
    `events`: after so many compared feeds without a rollback what serves is the next champion. `reward_range`: rewards
    are clipped to it first, None: the config's own. The narrower it is, the sooner a loss is proven.
    """

    loss: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    events: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 20_000
    reward_range: tuple[float, float] | None = None


class Guard(Struct, forbid_unknown_fields=True):
    """Thresholds of the checks; a snapshot that fails one is held, and learning goes on from the last good one.

    `entropy`: least entropy of the draw, as a share of what the same config draws with when all scores are equal; 0
    switches it off. `drift`: most that scores may move from one published model to the next (root mean square over the
    probe, as a share of the width of `reward_range`), once `drift_after` slots were learned. `excess`: how far
    outside `reward_range` scores may lie (root mean square, in its widths).
    """

    entropy: Annotated[float, Meta(ge=0, lt=1)] = 0.001
    drift: Annotated[float, Meta(gt=0, le=1e6)] = 0.25
    drift_after: Annotated[int, Meta(ge=0)] = 1_000
    excess: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    slow: SlowGuard = field(default_factory=SlowGuard)


class Fault(NamedTuple):
    """Why a snapshot is held.

    :ivar reason: what was found and what is allowed, in a sentence
    """

    check: Check
    reason: str


def probe_anchor(position: int) -> int:
    """The position whose newest decisions are the probe of a model at ``position``: it moves at fixed points only.

    >>> [probe_anchor(at) for at in (0, 63, 64, 127, 128, 40_000)]
    [0, 0, 64, 64, 128, 32768]
    """
    if position < FIRST_PROBE:
        return 0
    if position < PROBE_EVERY:
        return 1 << (position.bit_length() - 1)
    return position - position % PROBE_EVERY


def find_fault(
    limits: Guard,
    *,
    scores: Sequence[F32],
    before: Sequence[F32] | None,
    draws: Sequence[F64],
    even: Sequence[F64],
    reward_range: tuple[float, float],
    learned_before: int,
) -> Fault | None:
    """The first check that a snapshot fails on the probe; None if it may go live.

    All sequences have one array for each decision of the probe, of shape (candidates,).

    :param scores: by the snapshot
    :param before: by the last good model; None without one
    :param draws: probabilities of the first slot's draw by these scores
    :param even: the same by scores that are all equal
    :param learned_before: slots that the last good model has learned
    """
    if not scores:
        return None
    every = np.concatenate(scores).astype(np.float64)
    if not np.isfinite(every).all():
        bad = int((~np.isfinite(every)).sum())
        return Fault("finite", f"{bad} of {len(every)} scores on the probe are not finite")
    fault = _propensities(draws) or _entropy(limits, draws, even)
    if fault is not None:
        return fault
    low, high = reward_range
    width = high - low
    outside = _mean_square(np.maximum(np.maximum(low - every, every - high), 0.0)) / width
    if outside > limits.excess:
        return Fault(
            "range",
            f"scores on the probe lie {outside:.3g} widths outside reward_range [{low:g}, {high:g}]; guard.excess "
            f"allows {limits.excess:g}",
        )
    if before is None or learned_before < limits.drift_after:
        return None
    moved = _mean_square(every - np.concatenate(before).astype(np.float64)) / width
    if moved > limits.drift:
        return Fault(
            "drift",
            f"scores on the probe moved by {moved:.3g} of the width of reward_range since the last good model; "
            f"guard.drift allows {limits.drift:g}",
        )
    return None


def _mean_square(values: F64) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _propensities(draws: Sequence[F64]) -> Fault | None:
    for place, draw in enumerate(draws):
        total = float(draw.sum())
        if not (abs(total - 1.0) <= SUM_SLACK and bool((draw >= 0.0).all())):
            return Fault(
                "propensities",
                f"propensities of decision {place} of the probe sum to {total!r}, the least is {float(draw.min())!r}; "
                "they must sum to 1 and none be negative",
            )
    return None


def _entropy(limits: Guard, draws: Sequence[F64], even: Sequence[F64]) -> Fault | None:
    """A draw that a floor keeps open cannot fail it: it finds models that decide alone where no floor holds."""
    pairs = [(entropy_of(draw), entropy_of(most)) for draw, most in zip(draws, even, strict=True)]
    shares = [given / most for given, most in pairs if most > 0.0]
    if limits.entropy == 0.0 or not shares:
        return None
    share = float(np.mean(shares))
    if share >= limits.entropy:
        return None
    return Fault(
        "entropy",
        f"the entropy of the draw over the probe is {share:.3g} of what equal scores give; guard.entropy asks for "
        f"{limits.entropy:g}",
    )


def entropy_of(draw: F64) -> float:
    """In nats.

    >>> round(entropy_of(np.array([0.5, 0.5, 0.0])), 4)
    0.6931
    """
    some = draw[draw > 0.0]
    return float(max(0.0, -(some * np.log(some)).sum()))


# ---------------------------------------------------------------- the slow guard


def alpha_of_release(alpha: float, number: int) -> float:
    """What release ``number`` (from 1) may use of alpha: over all releases there ever are, it adds up to alpha.

    >>> round(alpha_of_release(0.05, 1), 4), round(sum(alpha_of_release(0.05, k) for k in range(1, 100_000)), 4)
    (0.0304, 0.05)
    """
    return alpha * 6.0 / (pi * number) ** 2


def check_guard(guard: Guard) -> list[str]:
    """Faults of the thresholds as a whole."""
    asked = guard.slow.reward_range
    if asked is not None and not -1e6 <= asked[0] < asked[1] <= 1e6:
        return [f"guard.slow.reward_range is [{asked[0]}, {asked[1]}]; it must rise, within -1e6 to 1e6"]
    return []


def log_threshold(alpha: float) -> float:
    """The logarithm of the wealth at which bets prove their case."""
    return log(1.0 / alpha)
