"""Estimators of logs whose events have several slots: feeds.

r_k is the reward of slot k, w_k the weight of what it shows given the slots above, w_{1:k} = w_1 ... w_k, m_k the
weight by marginal probabilities, y = sum_k r_k. A slot that an event does not have counts as 0; how many slots an
event has must not depend on the policy. Which assumption an estimator makes is in its first line.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from replay.estimators.base import Estimator, Means, Partials
from replay.estimators.single import ratio
from replay.terms import Term

_LEAST_SPREAD: Final = 1e-9


def _mean(term: str, m: Means) -> tuple[float, Partials]:
    return m[term], {term: 1.0}


def _ratio(top: str, bottom: str, name: str, m: Means) -> tuple[float, Partials]:
    value = ratio(m[top], m[bottom], name)
    return value, {top: 1.0 / m[bottom], bottom: -value / m[bottom]}


def _by_slot(kind: str, name: str, m: Means) -> tuple[float, Partials]:
    """sum_k E[has k] E[v_k r_k] / E[v_k]: each slot's weights are scaled to mean 1 where the slot is there."""
    value = 0.0
    partials: Partials = {}
    for k in range(1, m.n_slots + 1):
        top, bottom, one = f"{kind}r@{k}", f"{kind}@{k}", f"one@{k}"
        mean = ratio(m[top], m[bottom], f"{name}, slot {k}")
        value += m[one] * mean
        partials |= {top: m[one] / m[bottom], bottom: -m[one] * mean / m[bottom], one: mean}
    return value, partials


def _beta_rips(m: Means) -> tuple[float, Partials]:
    """sum_k E[w_{1:k} r_k] - beta_k (E[w_{1:k}] - E[has k]), beta_k = Cov(w_{1:k} r_k, w_{1:k}) / Var(w_{1:k}), each
    within the events that have slot k."""
    value = 0.0
    partials: Partials = {}
    for k in range(1, m.n_slots + 1):
        one, w, ww, wr, wwr = (m[f"{kind}@{k}"] for kind in ("one", "w", "ww", "wr", "wwr"))
        spread = one * ww - w * w
        value += wr
        partials[f"wr@{k}"] = 1.0
        if spread <= _LEAST_SPREAD * one * ww:
            continue
        top = one * wwr - wr * w
        beta, off = top / spread, w - one
        value -= beta * off
        partials[f"wr@{k}"] += off * w / spread
        partials[f"wwr@{k}"] = -off * one / spread
        partials[f"w@{k}"] = -beta + off * (wr - 2.0 * beta * w) / spread
        partials[f"ww@{k}"] = off * beta * one / spread
        partials[f"one@{k}"] = beta - off * (wwr - beta * ww) / spread
    return value, partials


def _cascade_dr(m: Means) -> tuple[float, Partials]:
    """E[sum_k w_{1:k} (r_k - q_k) + w_{1:k-1} dm_k]."""
    return m["rips"] - m["wq"] + m["dm0"], {"rips": 1.0, "wq": -1.0, "dm0": 1.0}


_RIPS: Final = (
    "McInerney et al. 2020: Counterfactual evaluation of slate recommendations with sequential reward interactions"
)
_PI: Final = "Swaminathan et al. 2017: Off-policy evaluation for slate recommendation"
_IIPS: Final = "Li et al. 2018: Offline evaluation of ranking policies with click models"

SIPS: Final = Estimator(
    "sips", partial(_mean, "sips"), (Term("sips"),), slates=True,
    source="E[w_{1:L} y]; no assumption on how slots interact",
)  # fmt: skip
SNSIPS: Final = Estimator(
    "snsips", partial(_ratio, "sips", "w", "snsips"), (Term("sips"),), slates=True,
    source="E[w_{1:L} y] / E[w_{1:L}]",
)  # fmt: skip
RIPS: Final = Estimator(
    "rips", partial(_mean, "rips"), slates=True, square=Term("rips2"),
    source="E[sum_k w_{1:k} r_k]; what a slot earns depends on it and the slots above. " + _RIPS,
)  # fmt: skip
SNRIPS: Final = Estimator(
    "snrips", partial(_by_slot, "w", "snrips"), slates=True, source="rips, self-normalised. " + _RIPS
)
BETA_RIPS: Final = Estimator(
    "beta_rips", _beta_rips, slots=("ww", "wwr"), slates=True, source="rips with a control variate for each slot"
)
CASCADE_DR: Final = Estimator(
    "cascade_dr", _cascade_dr, (Term("dm0"), Term("wq")), slates=True,
    source="Kiyohara et al. 2022: Doubly robust off-policy evaluation for ranking policies under the cascade model",
)  # fmt: skip
IIPS: Final = Estimator(
    "iips", partial(_mean, "iips"), (Term("iips"),), slots=("m",), slates=True,
    source="E[sum_k m_k r_k]; what a slot earns depends on it alone. " + _IIPS,
)  # fmt: skip
SNIIPS: Final = Estimator(
    "sniips", partial(_by_slot, "m", "sniips"), slots=("m", "mr"), slates=True, source="iips, self-normalised. " + _IIPS
)
PI: Final = Estimator(
    "pi", partial(_mean, "pi"), (Term("pi"), Term("piw")), slates=True,
    source="E[v y], v = sum_k m_k - L + 1 for a factored logging policy, else q' Gamma^+ 1_s; slots add up. " + _PI,
)  # fmt: skip
WPI: Final = Estimator(
    "wpi",
    partial(_ratio, "pi", "piw", "wpi"),
    (Term("pi"), Term("piw")),
    slates=True,
    source="pi, self-normalised. " + _PI,
)

SLATES: Final = {each.name: each for each in (SIPS, SNSIPS, RIPS, SNRIPS, BETA_RIPS, CASCADE_DR, IIPS, SNIIPS, PI, WPI)}
"""By name."""
