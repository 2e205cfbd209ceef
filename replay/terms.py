"""The terms that sums add up: what is computed for each event, by name.

A term's name says what it is: ``wr`` is weight times reward; ``we:dros(10)`` the shrunk weight times what the
reward model missed; ``wr@3`` the prefix weight down to slot 3 times the reward there. Slots count from 1 here.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

SINGLE_KINDS: Final = (
    "one", "y", "yy", "nz", "w", "ww", "wr", "wwr", "wwrr",
    "dm", "wq", "we", "wwe", "wdm", "dmdm", "zz",
)  # fmt: skip
"""Of events with one slot, with w the weight, r the reward, q its prediction, dm the mean prediction under the
target, e = r - q. ``y`` is the event's reward (here r), ``nz`` whether it is not 0, ``zz`` = (dm + w e)^2."""

SLATE_KINDS: Final = ("one", "y", "yy", "nz", "w", "ww", "rips", "rips2", "sips", "dm0", "wq", "iips", "piw", "pi")
"""Of events with slots k = 1..L: ``y`` = sum_k r_k, ``w`` = w_{1:L}, ``rips`` = sum_k w_{1:k} r_k and ``rips2``
its square, ``sips`` = w_{1:L} y, ``dm0`` = sum_k w_{1:k-1} dm_k, ``wq`` = sum_k w_{1:k} q_k, ``iips`` = sum_k m_k r_k
with marginal weights m, ``piw`` the pseudo-inverse weight and ``pi`` = piw * y."""

SLOT_KINDS: Final = ("one", "r", "w", "wr", "ww", "wwr", "m", "mr")
"""Of slot k, 0 in events without it: ``w`` = w_{1:k}, ``r`` = r_k, ``m`` the marginal weight."""

SHAPES: Final = ("", "clip", "switch", "dros", "sg")
"""What is done to a weight w: nothing; min(w, l); w if w <= l else 0; l w / (w^2 + l); w / (1 - l + l w)."""

SINGLE_BASE: Final = SINGLE_KINDS[:9]
SLATE_BASE: Final = SLATE_KINDS[:7]
SLOT_BASE: Final = SLOT_KINDS[:4]

_OF_MODEL: Final = frozenset({"dm", "wq", "we", "wwe", "wdm", "dmdm", "zz", "dm0"})
_OF_MARGINALS: Final = frozenset({"iips", "m", "mr"})
_OF_PSEUDO_INVERSE: Final = frozenset({"piw", "pi"})


class Term(NamedTuple):
    """One term; its weight may be shaped, with parameter ``lam``."""

    kind: str
    shape: str = ""
    lam: float = inf

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.shape}({number(self.lam)})" if self.shape else self.kind


def number(value: float) -> str:
    """The shortest text that reads back as the same float: ``10``, ``0.05``, ``inf``."""
    return repr(float(value)).removesuffix(".0")


class TermSet(NamedTuple):
    """Which terms some sums hold, in a canonical order: the same set, however it was asked for, is equal.

    :param events: terms of the event as a whole
    :param slots: kinds that each slot of a slate has a term of
    """

    slates: bool
    events: tuple[Term, ...]
    slots: tuple[str, ...] = ()

    def names(self, n_slots: int) -> tuple[str, ...]:
        """In column order: those of events, then slot by slot."""
        by_slot = (f"{kind}@{k}" for k in range(1, n_slots + 1) for kind in self.slots)
        return (*(term.name for term in self.events), *by_slot)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset((*(term.kind for term in self.events), *self.slots))

    @property
    def needs_q(self) -> bool:
        """Predictions of a reward model."""
        return bool(self.kinds & _OF_MODEL)

    @property
    def needs_marginals(self) -> bool:
        """Marginal weights of each slot."""
        return bool(self.kinds & _OF_MARGINALS)

    @property
    def needs_pseudo_inverse(self) -> bool:
        """Pseudo-inverse weights of each event, or marginal weights of a factored logging policy."""
        return bool(self.kinds & _OF_PSEUDO_INVERSE)


def term_set(terms: Iterable[Term] = (), *, slots: Iterable[str] = (), slates: bool = False) -> TermSet:
    """These terms, and always the few that diagnostics and intervals rest on."""
    kinds = SLATE_KINDS if slates else SINGLE_KINDS
    base = [Term(kind) for kind in (SLATE_BASE if slates else SINGLE_BASE)]
    extra = {term if term.shape else Term(term.kind) for term in terms}.difference(base)
    assert all(term.kind in kinds and term.shape in SHAPES for term in extra), extra
    ordered = sorted(extra, key=lambda term: (SHAPES.index(term.shape), term.lam, kinds.index(term.kind)))
    wanted = {*SLOT_BASE, *slots} if slates else set()
    assert wanted <= set(SLOT_KINDS), wanted
    return TermSet(slates, (*base, *ordered), tuple(kind for kind in SLOT_KINDS if kind in wanted))
