"""Which VW arguments a model may have: those that the scoring kernel reproduces exactly.

VW learns with them and the kernel scores with the weights it saved, so an argument is either understood
here, and covered by the tests that compare the two, or refused.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Final

from bandit.errors import UnsupportedArgument
from bandit.features.hashing import TRAITS

WILDCARD: Final = ":"
DEFAULT_BITS: Final = 18
MIN_BITS: Final = 8
MAX_BITS: Final = 24
# Every one costs all candidates; `-q ::` over many namespaces alone makes more.
MAX_TERMS: Final = 64

FIXED: Final = "--cb_adf --cb_type mtr --hash all --json --quiet --no_stdin"

# Learning options that change what is learned, never how weights make a score:
# name -> (lowest, highest allowed).
_LEARNING: Final[dict[str, tuple[float, float]]] = {
    "learning_rate": (0.0, 1e3),
    "power_t": (0.0, 1.0),
    "sparse_l2": (0.0, 1.0),
    "l1": (0.0, 1.0),
    "l2": (0.0, 1.0),
}
_ALIASES: Final = {
    "-b": "bit_precision",
    "-q": "quadratic",
    "-l": "learning_rate",
}
_SIZES: Final = {"quadratic": (2,), "cubic": (3,), "interactions": (2, 3)}
_FLAGS: Final = frozenset({"noconstant"})
_VALUED: Final = frozenset({"bit_precision", "ignore_linear", *_SIZES, *_LEARNING})

ALLOWED: Final = (
    "-b/--bit_precision, -q/--quadratic, --cubic, --interactions (of two or three namespaces), "
    "--ignore_linear, --noconstant, -l/--learning_rate, --power_t, --l1, --l2, --sparse_l2"
)


@dataclass(frozen=True, slots=True)
class ModelArgs:
    """Arguments of one model, understood whole.

    :ivar bits: the model has ``2 ** bits`` weights
    :ivar interactions: as VW settles them, see `_settled`; may hold wildcards
    :ivar ignore_linear: letters whose features count in interactions alone
    :ivar learning: (name, value) of the learning options given, sorted by name
    """

    bits: int = DEFAULT_BITS
    interactions: tuple[str, ...] = ()
    ignore_linear: str = ""
    noconstant: bool = False
    learning: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModelArgs:
        """
        >>> ModelArgs.parse("-q UI --cubic UCI -l 0.3").text
        '--bit_precision 18 --quadratic UI --cubic UCI --learning_rate 0.3'

        :raises UnsupportedArgument: naming the argument and what is allowed
        """
        given = _read(text)
        bits = DEFAULT_BITS
        terms: list[str] = []
        ignored: set[str] = set()
        noconstant = False
        learning: dict[str, float] = {}
        for name, value in given:
            if name == "bit_precision":
                bits = _bits(value)
            elif name in _SIZES:
                terms.append(_term(name, value))
            elif name == "ignore_linear":
                ignored.update(_letters(name, value))
            elif name == "noconstant":
                noconstant = True
            else:
                learning[name] = _amount(name, value)
        interactions = _settled(terms)
        if len(interactions) > MAX_TERMS:
            raise UnsupportedArgument(
                f"{len(interactions)} interactions were given; allowed are {MAX_TERMS}", allowed=MAX_TERMS
            )
        return cls(
            bits=bits,
            interactions=interactions,
            ignore_linear="".join(sorted(ignored)),
            noconstant=noconstant,
            learning=tuple(sorted(learning.items())),
        )

    @property
    def text(self) -> str:
        """The arguments in one canonical spelling; equal texts are equal models."""
        parts = [f"--bit_precision {self.bits}"]
        for term in self.interactions:
            parts.append(f"{'--quadratic' if len(term) == 2 else '--cubic'} {term}")
        if self.ignore_linear:
            parts.append(f"--ignore_linear {self.ignore_linear}")
        if self.noconstant:
            parts.append("--noconstant")
        parts.extend(f"--{name} {value!r}" for name, value in self.learning)
        return " ".join(parts)

    @property
    def traits(self) -> bool:
        """Whether namespace F is named: then an item's features stand there, but for what it is known by.

        Arguments that do not name it, such as those of data directories begun before there was one, have all of them
        in I.

        >>> ModelArgs.parse("-q CF").traits, ModelArgs.parse("-q CI").traits
        (True, False)
        """
        return any(TRAITS in term for term in (self.ignore_linear, *self.interactions))

    def vw_command(self) -> str:
        """The whole command line for VW."""
        return f"{FIXED} {self.text}"

    def terms(self, letters: str) -> tuple[str, ...]:
        """Interactions as VW makes them where these namespaces are present, wildcards spelled out.

        An interaction of a letter that is absent makes no features, so more letters do no harm.

        :param letters: interaction letters of all features at hand
        """
        return _terms(self.interactions, "".join(sorted(set(letters))))


def _read(text: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UnsupportedArgument(f"the arguments {text!r} cannot be read: {error}", given=text) from None
    given: list[tuple[str, str]] = []
    i = 0
    while i < len(words):
        word, _, value = words[i].partition("=")
        i += 1
        name = _ALIASES.get(word) or (word[2:] if word.startswith("--") else None)
        if name is None and word[:2] in _ALIASES and len(word) > 2 and "=" not in words[i - 1]:
            name, value = _ALIASES[word[:2]], word[2:]
        if name in _FLAGS and not value:
            given.append((name, ""))
            continue
        if name not in _VALUED:
            raise UnsupportedArgument(
                f"{words[i - 1]} is not supported, because the scoring kernel would not agree with VW; "
                f"allowed are {ALLOWED}",
                argument=words[i - 1],
                allowed=ALLOWED,
            )
        if not value:
            if i == len(words):
                raise UnsupportedArgument(f"{word} needs a value", argument=word)
            value = words[i]
            i += 1
        given.append((name, value))
    return given


def _bits(value: str) -> int:
    if not (value.isascii() and value.isdigit() and MIN_BITS <= int(value) <= MAX_BITS):
        raise UnsupportedArgument(
            f"--bit_precision {value} is outside {MIN_BITS} to {MAX_BITS}",
            argument="--bit_precision",
            given=value,
            allowed=[MIN_BITS, MAX_BITS],
        )
    return int(value)


def _term(name: str, value: str) -> str:
    if len(value) not in _SIZES[name]:
        wanted = " or ".join(map(str, _SIZES[name]))
        raise UnsupportedArgument(
            f"--{name} {value} joins {len(value)} namespaces; allowed are {wanted}",
            argument=f"--{name}",
            given=value,
        )
    return "".join(c if c == WILDCARD else _letters(name, c) for c in value)


def _letters(name: str, value: str) -> str:
    if not (value.isascii() and value.isalnum()):
        raise UnsupportedArgument(
            f"--{name} {value!a} holds what no namespace begins with; allowed are letters and digits of ASCII"
            + (" and the wildcard ':'" if name != "ignore_linear" else ""),
            argument=f"--{name}",
            given=value,
        )
    return value


def _amount(name: str, value: str) -> float:
    low, high = _LEARNING[name]
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not low <= amount <= high:
        raise UnsupportedArgument(
            f"--{name} {value} is not a number from {low:g} to {high:g}",
            argument=f"--{name}",
            given=value,
            allowed=[low, high],
        )
    return amount


@lru_cache(maxsize=256)
def _terms(interactions: tuple[str, ...], letters: str) -> tuple[str, ...]:
    return _settled([filled for term in interactions for filled in _expand(term, letters)])


def _settled(terms: list[str]) -> tuple[str, ...]:
    """As VW settles a list of interactions: shortest first, then by letters; of several orders of the
    same letters the first; letters in order where one stands twice beside another. (So ``U::`` is
    ``::U``: VW does this to wildcards too, before it fills them in.)
    """
    kept: dict[str, str] = {}
    for term in sorted(terms, key=_rank):
        ordered = "".join(sorted(term))
        kept.setdefault(ordered, ordered if 1 < len(set(term)) < len(term) else term)
    return tuple(sorted(kept.values(), key=_rank))


def _rank(term: str) -> tuple[int, str]:
    return len(term), term


def _expand(term: str, letters: str) -> list[str]:
    """Wildcards as VW spells them out: two of them ascend, three descend."""
    holes = term.count(WILDCARD)
    if not holes:
        return [term]
    filled = []
    for chosen in combinations_with_replacement(letters, holes):
        rest = iter(chosen if holes == 2 else chosen[::-1])
        filled.append("".join(next(rest) if c == WILDCARD else c for c in term))
    return filled
