"""A small catalogue of its own making: invented creators, sounds, tags and titles, the same for the same seed.

Lengths, the number of tags and how often each tag is given follow `replay.simulate.facts`. How many videos a
creator has and how often a sound is used again are choices: in the public tables nearly every video has a creator
and a sound of its own, because they are a thin sample of a very large catalogue.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from replay.simulate import facts

VIDEOS_A_CREATOR: Final = 4.0
OWN_SOUND: Final = 0.6
VIDEOS_A_SHARED_SOUND: Final = 10.0
#: A creator's videos keep to the creator's own tags with this probability.
KEEPS_TO_TAGS: Final = 0.75
MOST_TAGS: Final = 3
SHORTEST_S: Final = 3.0
LONGEST_S: Final = 1_800.0

TAGS: Final = (
    "cooking", "football", "cats", "dance", "comedy", "travel", "makeup", "gaming", "fitness", "music", "dogs",
    "fashion", "cars", "fishing", "garden", "baking", "science", "history", "drawing", "woodwork", "basketball",
    "hiking", "magic", "street_food", "family", "school", "languages", "photography", "films", "books", "birds",
    "running", "chess", "trains", "sewing", "camping", "skating", "swimming", "pottery", "astronomy", "weather",
    "cycling", "farming", "robots", "puzzles", "tea",
)  # fmt: skip
LANGUAGES: Final = ("en", "es", "hi", "pt", "id", "de")
LANGUAGE_SHARES: Final = (0.45, 0.2, 0.13, 0.1, 0.07, 0.05)

_SYLLABLES: Final = ("ba", "do", "fi", "ka", "lu", "mi", "no", "pe", "ra", "so", "ti", "vu", "wen", "yo", "zar", "el")
_OPENINGS: Final = (
    "The first rule of {}", "{} in one minute", "Nobody told me this about {}", "A quiet morning of {}",
    "We tried {} for a week", "{}, but harder", "What {} taught me", "Best of {}", "My worst day of {}",
    "{} for beginners",
)  # fmt: skip

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


class Catalogue(NamedTuple):
    """n videos, each a place in these arrays.

    :ivar creator: shape (n,), numbers of creators; the same for sound and language
    :ivar tags: shape (n,), bit t is set if the video has the tag ``TAGS[t]``
    :ivar length_s: shape (n,), seconds
    :ivar titles: what a page may show; no feature of the model
    """

    ids: tuple[str, ...]
    creator: I64
    sound: I64
    language: I64
    tags: U64
    length_s: F64
    titles: tuple[str, ...]
    creator_names: tuple[str, ...]
    sound_names: tuple[str, ...]

    def tag_names(self, item: int) -> list[str]:
        """The tags of one video."""
        bits = int(self.tags[item])
        return [name for place, name in enumerate(TAGS) if bits >> place & 1]

    def features(self, item: int) -> dict[str, Any]:
        """What the service is told of one video."""
        told: dict[str, Any] = {
            "creator": self.creator_names[self.creator[item]],
            "sound": self.sound_names[self.sound[item]],
            "language": LANGUAGES[self.language[item]],
            "length_s": float(self.length_s[item]),
        }
        tags = self.tag_names(item)
        return {**told, "tags": tags} if tags else told


def make_catalogue(n: int, rng: np.random.Generator) -> Catalogue:
    """n invented videos.

    >>> made = make_catalogue(100, np.random.default_rng(1))
    >>> len(made.ids), len(set(made.titles)) > 50
    (100, True)
    """
    n_creators = max(1, round(n / VIDEOS_A_CREATOR))
    tag_shares = 1.0 / (np.arange(len(TAGS)) + 1.7)
    tag_shares /= tag_shares.sum()
    creator = _skewed(n_creators, n, rng)
    creator_tags = np.array([rng.choice(len(TAGS), 2, replace=False, p=tag_shares) for _ in range(n_creators)])
    creator_language = rng.choice(len(LANGUAGES), n_creators, p=LANGUAGE_SHARES)
    n_tags = rng.choice(MOST_TAGS + 1, n, p=facts.TAGS_A_VIDEO)
    tags = np.zeros(n, np.uint64)
    for item in range(n):
        chosen: set[int] = set()
        while len(chosen) < n_tags[item]:
            own = rng.random() < KEEPS_TO_TAGS and len(chosen) < 2
            pick = creator_tags[creator[item], rng.integers(2)] if own else rng.choice(len(TAGS), p=tag_shares)
            chosen.add(int(pick))
        tags[item] = sum(1 << tag for tag in chosen)
    n_shared = max(1, round(n * (1 - OWN_SOUND) / VIDEOS_A_SHARED_SOUND))
    sound = np.where(rng.random(n) < OWN_SOUND, n_shared + np.arange(n), _skewed(n_shared, n, rng))
    names = _names(n_creators + n_shared, rng)
    shared_names = [f"{name} beat" for name in names[n_creators:]]
    return Catalogue(
        ids=tuple(f"v{item:05d}" for item in range(n)),
        creator=creator,
        sound=sound.astype(np.int64),
        language=creator_language[creator].astype(np.int64),
        tags=tags,
        length_s=_lengths(n, rng),
        titles=tuple(_title(int(bits), rng) for bits in tags),
        creator_names=tuple(names[:n_creators]),
        sound_names=(*shared_names, *(f"original sound {item}" for item in range(n))),
    )


def _skewed(n_kinds: int, n: int, rng: np.random.Generator) -> I64:
    """n draws of kinds of which few are frequent: weights fall as one over the root of the rank."""
    weights = 1.0 / np.sqrt(np.arange(n_kinds) + 1.0)
    drawn: I64 = rng.choice(n_kinds, n, p=weights / weights.sum()).astype(np.int64)
    return drawn


def _lengths(n: int, rng: np.random.Generator) -> F64:
    """Whole seconds up to half a minute, then in steps of a tenth or so: few different ones."""
    median, ninetieth = facts.LENGTH_S
    drawn = median * np.exp(np.log(ninetieth / median) / 1.2816 * rng.standard_normal(n))
    drawn = np.clip(drawn, SHORTEST_S, LONGEST_S)
    steps = np.round(np.log(drawn / 30.0) / np.log(1.1))
    rounded: F64 = np.round(np.where(drawn < 30.0, drawn, 30.0 * 1.1**steps))
    return rounded


def _names(n: int, rng: np.random.Generator) -> list[str]:
    """Different names, each of two or three syllables, with a number where they run out."""
    names: dict[str, None] = {}
    while len(names) < n:
        syllables = rng.choice(len(_SYLLABLES), rng.integers(2, 4))
        name = "".join(_SYLLABLES[syllable] for syllable in syllables)
        names[name if name not in names else f"{name}{len(names)}"] = None
    return list(names)


def _title(bits: int, rng: np.random.Generator) -> str:
    about = [name for place, name in enumerate(TAGS) if bits >> place & 1]
    subject = about[rng.integers(len(about))].replace("_", " ") if about else "everything"
    title = _OPENINGS[rng.integers(len(_OPENINGS))].format(subject)
    return f"{title[:1].upper()}{title[1:]} #{rng.integers(1, 100)}"
