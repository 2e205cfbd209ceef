"""Why an item got its score: what each feature and each cross added, by name.

Written for people, plainly and slowly; the kernel computes the same sum without the names, and a test holds
the two together.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.features.hashing import HashedFeatures, hash_resolved
from bandit.features.model_args import ModelArgs
from bandit.ranking.scorer import CONSTANT

_PRIME = 16777619

#: What all candidates of the request have alike.
SHARED = "(viewer, context and constant)"

_Named = tuple[str, int, float]


def contributions(shared: bytes, item: bytes, weights: NDArray[np.float32], args: ModelArgs) -> list[tuple[str, float]]:
    """What adds up to the score of an item, largest first; crosses are named ``a x b``.

    What does not depend on the item is one line, `SHARED`: it cannot have moved the item.

    :param shared, item: resolved features
    :param weights: shape (2 ** args.bits,)
    """
    own, common = _by_letter(item), _by_letter(shared)
    letters = "".join(sorted({*own, *common}))
    mask = len(weights) - 1
    found: dict[str, float] = {SHARED: 0.0 if args.noconstant else -float(weights[CONSTANT & mask])}

    def add(features: list[tuple[_Named, bool]]) -> None:
        index, value = 0, 1.0
        for place, ((_, hashed, x), _) in enumerate(features):
            index = hashed if place == 0 else ((index * _PRIME) ^ hashed) & 0xFFFFFFFF
            value *= x
        name = " x ".join(name for (name, _, _), _ in features)
        if not any(is_own for _, is_own in features):
            name = SHARED
        found[name] = found.get(name, 0.0) - float(weights[index & mask]) * value

    def of(letter: str) -> list[tuple[_Named, bool]]:
        return [(one, True) for one in own.get(letter, ())] + [(one, False) for one in common.get(letter, ())]

    for letter in letters:
        if letter not in args.ignore_linear:
            for one in of(letter):
                add([one])
    for term in args.terms(letters):
        _cross(term, [of(letter) for letter in term], add)
    return sorted(found.items(), key=lambda pair: -abs(pair[1]))


def _cross(term: str, features: list[list[tuple[_Named, bool]]], add: Any) -> None:
    """Every combination; of a letter that stands twice in a row only those in order."""

    def extend(chosen: list[tuple[_Named, bool]], at: int, previous: int) -> None:
        if at == len(term):
            add(chosen)
            return
        start = previous if at and term[at] == term[at - 1] else 0
        for place in range(start, len(features[at])):
            extend([*chosen, features[at][place]], at + 1, place)

    extend([], 0, 0)


def _by_letter(resolved: bytes) -> dict[str, list[_Named]]:
    """(name, hash, value) of each feature by interaction letter, in the kernel's order."""
    hashed: HashedFeatures = hash_resolved(resolved)
    names = [
        f"{space}.{name}" + (f"={value}" if isinstance(value, str) else "")
        for space, features in msgspec.json.decode(resolved).items()
        for name, value in features.items()
    ]
    by_letter: dict[str, list[_Named]] = {}
    for name, letter, index, value in zip(
        names, hashed.letters.tolist(), hashed.idx.tolist(), hashed.val.tolist(), strict=True
    ):
        by_letter.setdefault(chr(letter), []).append((name, index, value))
    return by_letter
