"""What if on rewards: another formula over the signals as they were logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bandit.config import LiveConfig
from bandit.errors import InvalidConfig
from bandit.learning.fold import RewardOf
from bandit.reward.formula import Formula
from bandit.reward.presets import resolved
from bandit.reward.signals import DERIVED, worth
from replay.errors import BadQuestion

#: In an asked formula, the reward that the client itself sent (unless a signal has this name).
EXPLICIT: Final = "reward"


def asked_reward(text: str, configs: Mapping[int, LiveConfig]) -> RewardOf:
    """The reward that a formula asks for.

    Derived names are worked out with the watch table of the config that made each decision.

    :param text: a formula, or ``preset:NAME``
    :raises BadQuestion: it is no formula, or names a signal that no config of the log lists
    """
    try:
        formula = Formula(resolved(text))
    except InvalidConfig as error:
        raise BadQuestion(f"reward: {error.message}") from None
    signals = {name for live in configs.values() for name in live.document.signals}
    unknown = sorted(formula.names - signals - DERIVED.keys() - {EXPLICIT})
    if unknown:
        raise BadQuestion(
            f"reward: the formula uses {', '.join(unknown)}, which no config of this log lists; there are "
            f"{', '.join(sorted(signals))}, what is worked out from them ({', '.join(DERIVED)}), and {EXPLICIT} for "
            "what the client sent as the reward itself"
        )

    def reward_of(
        sent: Mapping[str, float], explicit: float | None, config: LiveConfig, length_s: float
    ) -> float | None:
        if explicit is None:
            return worth(formula, sent, length_s, config.watch, own=config.document.signals)
        if EXPLICIT not in formula.names and not sent:
            raise BadQuestion(
                "reward: a slot has a reward that the client sent itself, and no signals: the formula cannot say what "
                f"it would have been. Add it by its name, as in '{text} + {EXPLICIT}', or with the factor 0 to count "
                "such slots as if nothing had been sent"
            )
        return worth(formula, {EXPLICIT: explicit, **sent}, length_s, config.watch, own=config.document.signals)

    return reward_of
