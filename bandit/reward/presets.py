"""Shipped reward formulas, by name: where to begin, and what each of them wants.

A config that names one (`"reward": "preset:NAME"`) is stored with the formula itself, so that what a preset says in a
later release changes no config that was ever in force.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from bandit.errors import InvalidConfig

PREFIX: Final = "preset:"


class Preset(Struct):
    """A reward formula with its reasons. `signals` lists what a client must send for it to say anything."""

    name: str
    formula: str
    about: str
    source: str
    signals: list[str]


class PresetsReply(Struct):
    """Formulas to begin with; name one in the config as `preset:NAME`, or copy its formula and change it."""

    presets: list[Preset]


_ALL: Final = (
    Preset(
        "balanced",
        "watch + like + comment + 2 * share + 2 * follow - skip / 2 - 2 * not_interested - 3 * report",
        "The default. Watch time debiased by length is worth 0 to 1; a like as much as the longest watch, what costs a "
        "viewer more (sending it on, following) twice that; being told no outweighs any one of them.",
        "Kinds of signals and their order after TikTok, 'How TikTok recommends videos #ForYou' (2020): finishing a "
        "video is a strong signal, likes, comments, shares and follows count, 'not interested' is to be obeyed. "
        "Watch time by position among plays of the same length: Zhan et al., KDD 2022 (D2Q). The numbers are ours.",
        ["watch_s", "like", "comment", "share", "follow", "skip", "not_interested", "report"],
    ),
    Preset(
        "watch",
        "watch - 2 * not_interested - 3 * report",
        "How long viewers stay with a video, compared with others of its length, and nothing else but being told no. "
        "For feeds whose viewers seldom press anything.",
        "Zhan et al., 'Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation', KDD 2022.",
        ["watch_s", "not_interested", "report"],
    ),
    Preset(
        "completion",
        "completion + min(rewatch, 2) / 4 - 2 * not_interested - 3 * report",
        "Share of the video that was watched, and whether it was watched again. Favours short videos, which are "
        "finished more often whatever they are: choose it if that is wanted.",
        "The usual rate of completion; its bias for short videos is what Personalizer's documentation warns of "
        "(responsible use, characteristics and limitations).",
        ["watch_s", "not_interested", "report"],
    ),
    Preset(
        "engagement",
        "(0.5 * like + share + 13.5 * min(comment, 1) + 0.005 * min(2 * completion, 1) - 74 * not_interested"
        " - 369 * report) / 36.9",
        "X's published weights: answering is worth 27 likes, a report costs 738. Divided so that a report is -10, the "
        "end of the default range; rewards of ordinary feeds are then small, and so are the differences to be learned.",
        "Twitter, the-algorithm-ml, projects/home/recap/README.md (April 2023): favourite .5, retweet 1, reply 13.5, "
        "half of a video watched .005, negative feedback -74, report -369; those on opened profiles, opened posts and "
        "answers by the author have no signal here. There they weigh predicted probabilities, here what happened, "
        "which is the same in the mean.",
        ["watch_s", "like", "comment", "share", "not_interested", "report"],
    ),
    Preset(
        "satisfaction",
        "watch / 4 + like + 2 * share + 2 * follow - skip / 2 - 3 * not_interested - 5 * report",
        "What viewers say counts, watching counts little: staying is not the same as being glad of it.",
        "After YouTube, 'On YouTube's recommendation system' (2021), which adds likes, shares, dislikes and surveys to "
        "watch time because time alone misled it. The numbers are ours. If you ask viewers, list the answer as a "
        "signal and add it: '... + 3 * survey'.",
        ["watch_s", "like", "share", "follow", "skip", "not_interested", "report"],
    ),
)

PRESETS: Final = {preset.name: preset for preset in _ALL}
DEFAULT: Final = PRESETS["balanced"].formula


def resolved(reward: str) -> str:
    """The formula that a config's ``reward`` stands for.

    :raises InvalidConfig: there is no preset of this name

    >>> resolved("preset:watch")
    'watch - 2 * not_interested - 3 * report'
    >>> resolved("like")
    'like'
    """
    if not reward.startswith(PREFIX):
        return reward
    name = reward.removeprefix(PREFIX).strip()
    if name not in PRESETS:
        raise InvalidConfig(
            f"reward names the preset {name[:80]!r}; there are {', '.join(PRESETS)}, or write a formula",
            preset=name[:80],
            allowed=list(PRESETS),
        )
    return PRESETS[name].formula
