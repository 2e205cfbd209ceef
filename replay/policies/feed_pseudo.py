"""Pseudo-inverse weights of lists whose slots were not drawn independently of each other.

With 1_s the placements of a list (a vector over slots times candidates), Gamma = E[1_s 1_s'] under the logged policy
and q the target's marginals, a list weighs q' Gamma^+ 1_s (Swaminathan et al. 2017). Any generalised inverse does.

Where Gamma cannot be enumerated it is a mean over lists that were drawn again with importance weights, the logged one
among them: so the weight's mean over logs is q' G Gamma^ phi, which is q' phi, without bias, wherever the re-drawn
lists span the target's placements. What they do not span is told.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.slate.drawing import draw_slate
from replay.events import F64, I64, U64
from replay.policies.feed_draw import Draw
from replay.policies.feed_marginals import Level, second_moments, shown

MOST_PLACEMENTS: Final = 1024
"""Slots times candidates; the time that the inverse takes grows with the cube of it."""

_RANK: Final = 1e-10
"""Eigenvalues below this part of the largest are 0."""


class Pseudo(NamedTuple):
    """Of one logged list with L slots and m candidates.

    :ivar solved: shape (L m,): G 1_s
    :ivar scale, span: shapes (L m,) and (L m, rank): what of a vector of placements Gamma can tell
    """

    solved: F64
    scale: F64
    span: F64

    def weight(self, q: F64) -> float:
        """:param q: shape (L, m), the target's marginals"""
        return float(q.ravel() @ self.solved)

    def unspanned(self, q: F64) -> float:
        """Share of the target's placements that the lists behind Gamma do not tell of, at most about 1."""
        there = self.scale > 0.0
        inner = np.where(there, q.ravel() / np.where(there, self.scale, 1.0), 0.0)
        told = self.scale * (self.span @ (self.span.T @ inner))
        return float(np.abs(q.ravel() - told).sum() / len(q))


def enumerated(draw: Draw, found: list[Level]) -> Pseudo:
    """:param found: all levels"""
    size = len(found) * found[0].pmf.shape[1]
    return _solved(second_moments(found).reshape(size, size), _of_logged(draw))


def redrawn(draw: Draw, its_seeds: U64) -> tuple[Pseudo, Pseudo, Pseudo]:
    """By all re-draws, and by either half of them; the logged list is in each.

    Lists are drawn with one slot in each explored, on average: that is what tells the candidates of a slot apart.
    """
    n_slots, size = len(draw.at), len(draw.at) * len(shown(draw))
    bold = draw._replace(floor=np.maximum(draw.floor, 1.0 / n_slots))
    of_list = np.empty((len(its_seeds), n_slots), np.int64)
    weight = np.empty(len(its_seeds))
    for j, seed in enumerate(its_seeds.tolist()):
        slate = draw_slate(
            draw.scores, draw.state, n_slots=n_slots, explorer=draw.explorer, shortlist=draw.shortlist,
            floor=bold.floor, seed=seed, rules=draw.rules.restrictions,
        )  # fmt: skip
        of_list[j] = slate.chosen
        weight[j] = draw.of_list(slate.chosen).prod() / slate.propensity.prod()
    numbers = np.concatenate([_numbers(draw, of_list), _of_logged(draw)[None]])
    own = draw.propensity().prod() / bold.propensity().prod()
    halves = [np.arange(half, len(its_seeds), 2) for half in (0, 1)]
    found = []
    for some in (np.arange(len(its_seeds)), *halves):
        rows = np.append(some, len(its_seeds))
        w = np.append(weight[some], own)
        lists = numbers[rows]
        cells = lists[:, :, None] * size + lists[:, None, :]
        gram = np.bincount(cells.ravel(), np.repeat(w, n_slots**2), minlength=size * size).reshape(size, size)
        found.append(_solved(gram / len(rows), _of_logged(draw)))
    return found[0], found[1], found[2]


def _numbers(draw: Draw, lists: NDArray[np.integer[Any]]) -> I64:
    """Each placement of lists, shape (..., L), as a number: slot times m plus candidate."""
    left = shown(draw)
    return np.asarray(np.arange(len(draw.at)) * len(left) + np.searchsorted(left, lists))


def _of_logged(draw: Draw) -> I64:
    return _numbers(draw, draw.at)


def _solved(gram: F64, logged: I64) -> Pseudo:
    """Scaled to ones on the diagonal first, so that rare placements are not taken for rounding."""
    scale = np.sqrt(np.diagonal(gram))
    inverse = np.where(scale > 0.0, 1.0 / np.where(scale > 0.0, scale, 1.0), 0.0)
    values, vectors = np.linalg.eigh(gram * inverse[:, None] * inverse)
    real = values > _RANK * values[-1]
    span = vectors[:, real]
    seen = np.zeros(len(scale))
    seen[logged] = inverse[logged]
    return Pseudo(inverse * (span @ ((span.T @ seen) / values[real])), scale, span)
