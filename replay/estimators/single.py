"""Estimators of logs whose events have one slot.

w is the weight (target over logged probability of what was shown), r the reward, q the reward model's prediction for
what was shown, dm its mean under the target, e = r - q. Each is a function of means, written E[...].
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Final

from replay.errors import BadQuestion
from replay.estimators.base import Estimator, Means, Partials
from replay.terms import Term, number

_LEAST_SPREAD: Final = 1e-9
"""Variance of weights, as a part of E[w^2], below which rounding decides: the control variate is then left out."""


def _ips(m: Means) -> tuple[float, Partials]:
    """E[w r]."""
    return m["wr"], {"wr": 1.0}


def ratio(top: float, bottom: float, what: str) -> float:
    """
    :raises BadQuestion: there is nothing to divide by
    """
    if bottom == 0.0:
        raise BadQuestion(f"{what}: every weight is 0, the target never does what was logged; no estimate")
    return top / bottom


def _snips(m: Means) -> tuple[float, Partials]:
    """E[w r] / E[w]."""
    value = ratio(m["wr"], m["w"], "snips")
    return value, {"wr": 1.0 / m["w"], "w": -value / m["w"]}


def _beta_ips(m: Means) -> tuple[float, Partials]:
    """E[w r] - beta (E[w] - 1), beta = Cov(w r, w) / Var(w)."""
    return controlled(m, m["wr"], {"wr": 1.0}, m["wwr"], {"wwr": 1.0})


def controlled(
    m: Means, plain: float, d_plain: Partials, product: float, d_product: Partials
) -> tuple[float, Partials]:
    """A plain mean E[z] with the control variate w - 1, whose mean is known to be 0.

    :param product: E[z w], so that beta = (E[z w] - E[z] E[w]) / (E[w^2] - E[w]^2) has the least variance; beta is
        estimated from the same events, which biases the value by order 1/n
    """
    w, spread = m["w"], m["ww"] - m["w"] ** 2
    if spread <= _LEAST_SPREAD * m["ww"]:
        return plain, d_plain
    beta = (product - plain * w) / spread
    off = w - 1.0
    # With value = plain - beta off:
    # d beta = (d product - w d plain - plain d w - beta d spread) / spread, d spread = d ww - 2 w d w.
    by_plain, by_product = 1.0 + off * w / spread, -off / spread
    partials = {name: by_plain * d for name, d in d_plain.items()}
    for name, d in d_product.items():
        partials[name] = partials.get(name, 0.0) + by_product * d
    partials["w"] = partials.get("w", 0.0) - beta + off * (plain - 2.0 * beta * w) / spread
    partials["ww"] = off * beta / spread
    return plain - beta * off, partials


def _dm(m: Means) -> tuple[float, Partials]:
    """E[dm]: biased wherever the reward model is."""
    return m["dm"], {"dm": 1.0}


def _dr(m: Means) -> tuple[float, Partials]:
    """E[dm] + E[w e]."""
    return m["dm"] + m["we"], {"dm": 1.0, "we": 1.0}


def _sndr(m: Means) -> tuple[float, Partials]:
    """E[dm] + E[w e] / E[w]."""
    correction = ratio(m["we"], m["w"], "sndr")
    return m["dm"] + correction, {"dm": 1.0, "we": 1.0 / m["w"], "w": -correction / m["w"]}


def _beta_dr(m: Means) -> tuple[float, Partials]:
    """E[dm + w e] - beta (E[w] - 1), beta = Cov(dm + w e, w) / Var(w)."""
    return controlled(m, m["dm"] + m["we"], {"dm": 1.0, "we": 1.0}, m["wdm"] + m["wwe"], {"wdm": 1.0, "wwe": 1.0})


_DUDIK: Final = "Dudik, Langford, Li 2011: Doubly robust policy evaluation and learning"
_SWAMINATHAN: Final = "Swaminathan, Joachims 2015: The self-normalized estimator for counterfactual learning"

IPS: Final = Estimator("ips", _ips, square=Term("wwrr"), source="Horvitz, Thompson 1952")
SNIPS: Final = Estimator("snips", _snips, source=_SWAMINATHAN)
BETA_IPS: Final = Estimator("beta_ips", _beta_ips, source="control variate w - 1; Owen 2013, Monte Carlo, ch. 8 and 9")
DM: Final = Estimator("dm", _dm, (Term("dm"),), square=Term("dmdm"), source=_DUDIK)
DR: Final = Estimator("dr", _dr, (Term("dm"), Term("we")), square=Term("zz"), source=_DUDIK)
SNDR: Final = Estimator("sndr", _sndr, (Term("dm"), Term("we")), source=_DUDIK + "; " + _SWAMINATHAN)
BETA_DR: Final = Estimator(
    "beta_dr", _beta_dr, (Term("dm"), Term("we"), Term("wwe"), Term("wdm")), source="dr with the control variate w - 1"
)


def _shaped_ips(term: str, m: Means) -> tuple[float, Partials]:
    """E[g(w) r]."""
    return m[term], {term: 1.0}


def _shaped_dr(term: str, m: Means) -> tuple[float, Partials]:
    """E[dm] + E[g(w) e]."""
    return m["dm"] + m[term], {"dm": 1.0, term: 1.0}


_SOURCES: Final = {
    "clip": "Ionides 2008: Truncated importance sampling",
    "dr_clip": "Su et al. 2020: Doubly robust off-policy evaluation with shrinkage (pessimistic)",
    "switch": "Wang, Agarwal, Dudik 2017: Optimal and adaptive off-policy evaluation in contextual bandits",
    "dros": "Su et al. 2020: Doubly robust off-policy evaluation with shrinkage (optimistic)",
    "sgips": "Metelli, Russo, Restelli 2021: Subgaussian and differentiable importance sampling",
    "sgdr": "Metelli, Russo, Restelli 2021: Subgaussian and differentiable importance sampling",
}

_SHAPE_OF: Final = {
    "clip": "clip", "dr_clip": "clip", "switch": "switch", "dros": "dros", "sgips": "sg", "sgdr": "sg",
}  # fmt: skip

FAMILIES: Final = tuple(_SHAPE_OF)
"""Estimators with a parameter lambda: clip E[min(w, l) r]; dr_clip E[dm] + E[min(w, l) e]; switch E[dm] +
E[w e if w <= l]; dros E[dm] + E[l w e / (w^2 + l)]; sgips E[w r / (1 - l + l w)], sgdr E[dm] + E[w e / (1 - l + l w)].
At lambda = inf the first four are ips or dr, as are the last two at 0."""

UP_TO_ONE: Final = frozenset({"sgips", "sgdr"})
"""Families whose lambda is in [0, 1]; of the others it is in [0, inf]."""


def family(name: str, lam: float) -> Estimator:
    """A member of one of the ``FAMILIES``.

    :raises BadQuestion: no such family, or lambda out of range
    """
    if name not in FAMILIES:
        raise BadQuestion(f"{name} has no lambda; those that have one: {', '.join(FAMILIES)}")
    highest = 1.0 if name in UP_TO_ONE else inf
    if not 0.0 <= lam <= highest:
        raise BadQuestion(f"lambda of {name} is {number(lam)}; it must be from 0 to {number(highest)}")
    shape, lam = _SHAPE_OF[name], float(lam)
    of_model = name not in ("clip", "sgips")
    term, square = (Term(kind, shape, lam) for kind in (("we", "zz") if of_model else ("wr", "wwrr")))
    return Estimator(
        f"{name}(lambda={number(lam)})",
        partial(_shaped_dr if of_model else _shaped_ips, term.name),
        (Term("dm"), term) if of_model else (term,),
        family=name,
        lam=lam,
        square=square,
        source=_SOURCES[name],
    )


SINGLE: Final = {each.name: each for each in (IPS, SNIPS, BETA_IPS, DM, DR, SNDR, BETA_DR)}
"""Estimators without a parameter, by name."""
