"""The demo's clips: creators, sounds, tags, captions and lengths, the same for ever. The browser draws them."""

from __future__ import annotations

import random
from functools import cache
from typing import Final

from msgspec import Struct

#: Every id of the demo begins so, and no other should.
PREFIX: Final = "demo-"
CLIPS_A_TAG: Final = 40
#: Share of clips with a second tag: a cat in space, a robot that cooks.
WITH_GUEST: Final = 0.3
LENGTHS_S: Final = (6, 7, 8, 9, 10, 12, 14, 16, 20, 25, 32)

#: By tag, captions by language.
CAPTIONS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "waves": {
        "en": ("the sea, before anyone is up", "seven waves, counted", "low tide, no plans"),
        "es": ("el mar a las seis", "una ola más y vuelvo"),
        "fr": ("la mer, sans personne", "encore une vague"),
        "no": ("havet før frokost", "bare en bølge til"),
    },
    "cats": {
        "en": ("he thinks he is hiding", "two minutes before dinner", "the stare. again."),
        "es": ("se cree invisible", "la siesta número cuatro"),
        "fr": ("elle me juge encore", "le chat et la boîte"),
        "no": ("hun ser alt", "katten eier sofaen"),
    },
    "cooking": {
        "en": ("one pan, five things", "wait for the steam", "soup for a wet day"),
        "es": ("la sopa de mi abuela", "una sartén, cinco cosas"),
        "fr": ("soupe du dimanche", "le secret, c'est le beurre"),
        "no": ("suppe for regnvær", "vent på dampen"),
    },
    "space": {
        "en": ("a small planet, turning", "rings, from the good side", "nobody out here but us"),
        "es": ("un planeta pequeño", "orbitar, sin prisa"),
        "fr": ("une petite planète", "les anneaux, ce soir"),
        "no": ("en liten planet", "stille her ute"),
    },
    "city": {
        "en": ("the last bus home", "windows, one by one", "rain on the avenue"),
        "es": ("la ciudad no duerme", "luces de las once"),
        "fr": ("la ville à minuit", "une fenêtre allumée"),
        "no": ("siste buss hjem", "lysene i byen"),
    },
    "football": {
        "en": ("keep it up: 41", "top corner, trust me", "first touch of the year"),
        "es": ("golazo del barrio", "cuarenta toques"),
        "fr": ("petit pont au parc", "pleine lucarne"),
        "no": ("rett i krysset", "ballen er rund"),
    },
    "knitting": {
        "en": ("row 212 of the scarf", "purl, purl, breathe", "wool from the hill"),
        "es": ("punto a punto", "la bufanda eterna"),
        "fr": ("maille après maille", "l'écharpe avance"),
        "no": ("rad for rad", "ull fra fjellet"),
    },
    "garden": {
        "en": ("day 1 to day 40", "it grew while I slept", "tomatoes have opinions"),
        "es": ("brotó esta mañana", "mi balcón verde"),
        "fr": ("elle pousse, elle pousse", "le potager du balcon"),
        "no": ("det spirer", "hagen i mai"),
    },
    "music": {
        "en": ("four chords, one window", "side B, track 3", "loop this for an hour"),
        "es": ("cuatro acordes", "la cara B"),
        "fr": ("face B, piste trois", "en boucle"),
        "no": ("fire akkorder", "side B"),
    },
    "robots": {
        "en": ("it waved back", "unit 7 learns to dance", "beep means hello"),
        "es": ("me ha saludado", "bip significa hola"),
        "fr": ("il a dit bonjour", "le robot danse"),
        "no": ("den vinket", "bip betyr hei"),
    },
    "trains": {
        "en": ("the 6:14, on time", "window seat, north", "through the hills again"),
        "es": ("asiento de ventana", "el tren de las siete"),
        "fr": ("côté fenêtre", "le train de nuit"),
        "no": ("vindusplass nordover", "toget er i rute"),
    },
    "fireworks": {
        "en": ("for no reason at all", "the blue ones are best", "count to boom"),
        "es": ("fiesta del pueblo", "las azules son mejores"),
        "fr": ("le bouquet final", "sans aucune raison"),
        "no": ("uten grunn", "de blå er best"),
    },
}
TAGS: Final = tuple(CAPTIONS)
LANGUAGES: Final = ("en", "es", "fr", "no")

_NAMES: Final = (
    "mira", "tomas", "ingrid", "pablo", "lou", "nils", "sofia", "remy", "astrid", "diego",
    "clara", "henrik", "lucia", "emile", "kari", "marco", "juno", "felix", "noor", "otto",
    "paloma", "jules", "solveig", "rafa", "celeste", "odin", "ines", "theo", "liv", "bruno",
    "agnes", "hugo", "mona", "iker", "elise", "sander", "vera", "leon", "tuva", "basil",
)  # fmt: skip
_ENDINGS: Final = ("makes", "daily", "at.home", "outside", "slowly", "again", "and.co", "studio")
_SOUNDS: Final = (
    "Slow Tide", "Kettle Song", "Paper Boats", "Night Bus", "Seven Steps", "Warm Static", "Hilltop", "Blue Hour",
    "Copper", "Window Seat", "Tin Parade", "Soft Machine", "Lanterns", "Two Left Feet", "Rainy Metro", "Orbit",
    "Cardboard", "First Snow", "Elevator", "Sunday", "Small Engines", "Hum", "Postcard", "Long Shadows",
)  # fmt: skip


class Clip(Struct):
    """One clip. What the service is told of it are `features`; `caption`, `seed` and `hue` are for who draws it.

    :ivar hue: of its colours, in degrees
    """

    id: str
    creator: str
    sound: str
    tags: list[str]
    language: str
    length_s: int
    caption: str
    seed: int
    hue: int


class ClipsReply(Struct):
    """All clips of the demo."""

    tags: list[str]
    clips: list[Clip]


class _Creator(Struct):
    name: str
    language: str
    tags: list[str]
    hue: int


@cache
def clips() -> tuple[Clip, ...]:
    """All of them, tag by tag."""
    rng = random.Random("the clips of the demo")
    creators = [
        # Each tag has creators of its own, so that a taste for a tag and for a creator can be told apart.
        _Creator(
            f"{name}.{rng.choice(_ENDINGS)}",
            rng.choices(LANGUAGES, (5, 2, 2, 2))[0],
            [TAGS[place % len(TAGS)], *rng.sample(TAGS, 2)],
            rng.randrange(360),
        )
        for place, name in enumerate(_NAMES)
    ]
    return tuple(_clip(rng, tag, number, creators) for tag in TAGS for number in range(1, CLIPS_A_TAG + 1))


def _clip(rng: random.Random, tag: str, number: int, creators: list[_Creator]) -> Clip:
    creator = rng.choice([one for one in creators if tag in one.tags])
    guest = [rng.choice([one for one in TAGS if one != tag])] if rng.random() < WITH_GUEST else []
    return Clip(
        id=f"{PREFIX}{tag}-{number:02}",
        creator=creator.name,
        sound=rng.choice(_SOUNDS),
        tags=[tag, *guest],
        language=creator.language,
        length_s=rng.choice(LENGTHS_S),
        caption=rng.choice(CAPTIONS[tag][creator.language]),
        seed=rng.randrange(1 << 31),
        hue=(creator.hue + rng.randrange(-25, 26)) % 360,
    )


def features_of(clip: Clip) -> dict[str, str | int | list[str]]:
    """What the service is told of a clip: the attributes that it knows by name (docs/feed.md)."""
    return {
        "creator": clip.creator,
        "sound": clip.sound,
        "tags": clip.tags,
        "language": clip.language,
        "length_s": clip.length_s,
    }
