"""Our numbers of the reference's cases, by the reference's own keys: what `tests/campaigns/agreement.py` compares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from replay.estimators import Estimator, event_variance, family, parse_estimator, squares, terms_for
from replay.events import Batch, Candidates
from replay.expectations import expectations
from replay.intervals.likelihood import likelihood_limits
from replay.sums import Sums

Z = 1.959963984540054

Where = tuple[str, ...]
"""File, then keys from the outside in."""

SINGLE = {
    "ipw": "ips", "snipw": "snips", "dm": "dm", "dr": "dr", "sndr": "sndr", "ipw_clip": "clip", "dr_clip": "dr_clip",
    "switch_dr": "switch", "dros": "dros", "sgipw": "sgips", "sgdr": "sgdr",
}  # fmt: skip
"""obp's names, and ours."""


def single_estimator(key: str) -> Estimator:
    """Of a key of the reference: ``dros@10``, ``ipw_clip10``, ``switch_dr_10_qtable``."""
    match = re.fullmatch(r"([a-z_]+?)(?:_clip(?=\d))?(?:[@_]?([\d.]+))?(?:_qtable)?", key)
    assert match, key
    name = "ipw_clip" if "_clip" in key and match[1] == "ipw" else match[1]
    ours = SINGLE[name]
    return parse_estimator(f"{ours}({match[2]})" if match[2] else ours, slates=False)


def tuned_estimators(tuned: dict[str, dict[str, float]]) -> dict[str, Estimator]:
    """With the lambda that obp chose, by key: ``dros:slope``, ``switch_mse``."""
    ours = {"ipw": "clip", "dr": "dr_clip", "switch": "switch", "switch_dr": "switch", "dros": "dros"}
    ours |= {"sgipw": "sgips", "sgdr": "sgdr"}
    names = {key: re.split(r"[:_](?:slope|mse)", key)[0] for key in tuned}
    return {key: family(ours[names[key]], float(tuned[key]["lambda"])) for key in tuned}


def on_rows(estimator: Estimator, sums: Sums) -> tuple[float, float]:
    """Value, and its standard error as if every event were a viewer of its own, as obp has it."""
    variance = event_variance(estimator, sums)
    assert variance is not None
    return estimator.value(sums), sqrt(variance / (sums.n - 1))


def errors(values: dict[str, float], truth: float) -> dict[str, float]:
    return {key: abs(value - truth) / truth for key, value in values.items()}


def gaussian(value: float, se: float) -> dict[str, float]:
    return {"0": value - Z * se, "1": value + Z * se}


def student(value: float, se: float, n: int) -> float:
    return float(value - stats.t.ppf(0.95, n - 1) * se)


class Recomputed(NamedTuple):
    """Our numbers of one case, by the reference's keys."""

    case: Where
    numbers: dict[str, Any]


# -- the cases --------------------------------------------------------------------------------


def synthetic(directory: Path, reference: dict[str, Any]) -> Iterator[Recomputed]:
    """Single slots with everything known, as matrices."""
    arrays = np.load(directory / "synth_cases.npz")
    for case, wanted in reference["synth"]["cases"].items():
        get = {
            name: arrays[f"{case}_{name}"] for name in ("reward", "action", "pscore", "position", "estimated_rewards")
        }
        n = len(get["reward"])
        target = arrays[f"{case}_action_dist"][np.arange(n), :, get["position"]]
        estimators = {key: single_estimator(key) for key in wanted["estimates"]}
        tuned = tuned_estimators(wanted["tuned"])
        sums = Sums(terms_for([*estimators.values(), *tuned.values()], extra=squares(estimators.values())))
        sums.add_dense(
            reward=get["reward"], action=get["action"].astype(np.int64), propensity=get["pscore"], pmf=target,
            q=get["estimated_rewards"],
        )  # fmt: skip
        values = {key: each.value(sums) for key, each in estimators.items()}
        bounds = {}
        for rows, key in (("ipw_rows", "ipw"), ("dr_rows", "dr")):
            value, se = on_rows(estimators[key], sums)
            bounds[rows] = {"student_t_lb": student(value, se, n), "gaussian95_ddof1": gaussian(value, se)}
        weights = {
            "mean": sums.mean("w"),
            "max": sums.largest_weight,
            "ess_kish": sums.mean("w") ** 2 / sums.mean("ww") * n,
        }
        yield Recomputed(
            ("synth", "cases", case),
            {
                "n": sums.n, "weights": weights,
                "tuned": {key: {"value": each.value(sums)} for key, each in tuned.items()},
                "estimates": values, "bounds_delta0.05": bounds,
                "relative_ee": errors(values, wanted["truth_on_these_contexts"]),
            },
        )  # fmt: skip
        for key in reference["vwe"]["synth"]:
            if key.split(":")[0] == case:
                yield Recomputed(("vwe", "synth", key), of_vw(sums, key))


def of_vw(sums: Sums, key: str) -> dict[str, Any]:
    """What vw-estimators has too.

    :param key: ``mild``, or with the largest weight that can be, ``mild:wmax=5.1``
    """
    value, se = on_rows(parse_estimator("ips", slates=False), sums)
    snips = parse_estimator("snips", slates=False).value(sums)
    sums.weight_bound = float(key.partition("wmax=")[2] or inf)
    low, high = likelihood_limits(sums, 0.05, reward_range=(0.0, 1.0), difference=False)
    return {
        "estimates": {"ips": value, "snips": snips},
        "intervals_alpha0.05": {"gaussian": gaussian(value, se), "cressieread": {"0": low, "1": high}},
    }


def open_bandit(directory: Path, reference: dict[str, Any]) -> Iterator[Recomputed]:
    """The six small logs of the Open Bandit Dataset: events in batches, candidates one after another."""
    arrays = np.load(directory / "obd_small.npz")
    for case, wanted in reference["obd"]["cases"].items():
        campaign, logged, other = case.split(":")[0], wanted["behaviour"], wanted["evaluation"]
        table = arrays[f"{campaign}_bts_action_dist"]
        target = table if logged == "random" else np.full_like(table, 1 / len(table))
        estimators = {key: single_estimator(key) for key in wanted["estimates"]}
        tuned = tuned_estimators(wanted["tuned"])
        terms = terms_for([*estimators.values(), *tuned.values()], extra=squares(estimators.values()))
        sums = Sums(terms, reward_range=(0.0, 1.0))
        for batch, position in batches(arrays, f"{campaign}_{logged}", len(table)):
            assert batch.candidates is not None
            q_chosen, dm = expectations(
                target.T[position].ravel(), arrays[f"{campaign}_{logged}_qhat_table"].T[position].ravel(),
                batch.candidates.starts, batch.chosen,
            )  # fmt: skip
            sums.add(batch, target[batch.chosen, position] / batch.propensity, q_chosen=q_chosen, dm=dm)
        values = {key: each.value(sums) for key, each in estimators.items()}
        production = Sums(terms_for([], slates=False))
        for batch, _ in batches(arrays, f"{campaign}_{other}", len(table)):
            production.add(batch, np.ones(batch.n))
        on_policy, on_policy_se = on_rows(parse_estimator("ips", slates=False), production)
        value, se = on_rows(estimators["ipw"], sums)
        mean, n = sums.mean("w"), sums.n
        se_w = sqrt((sums.mean("ww") - mean**2) / (n - 1))
        yield Recomputed(
            ("obd", "cases", case),
            {
                "n": n,
                "behaviour_value": sums.mean("y"),
                "tuned": {key: {"value": each.value(sums)} for key, each in tuned.items()},
                "on_policy_value": on_policy,
                "on_policy_se": on_policy_se,
                "weights": {
                    "mean": mean, "se_of_mean": se_w, "z_mean_is_1": (mean - 1) / se_w, "max": sums.largest_weight,
                    "min": float(sums.weights.cells.low_weight.min()), "sum": float(sums.total[sums.index("w")]),
                    "sumsq": float(sums.total[sums.index("ww")]), "ess_kish": mean**2 / sums.mean("ww") * n,
                },
                "gaussian_ci95_ips_ddof1": gaussian(value, se),
                "obp_lower_bounds_delta0.05": {"student_t": student(value, se, n)},
                "estimates": values,
                "relative_ee": errors(values, on_policy),
            },
        )  # fmt: skip
        yield Recomputed(("vwe", "obd", case), of_vw(sums, case))


def batches(arrays: Any, log: str, n_items: int, size: int = 3000) -> Iterator[tuple[Batch, Any]]:
    """A log of the Open Bandit Dataset, and each event's position."""
    whole = {name: arrays[f"{log}_{name}"] for name in ("action", "position", "reward", "pscore", "timestamp_us")}
    for first in range(0, len(whole["reward"]), size):
        get = {name: column[first : first + size] for name, column in whole.items()}
        n = len(get["reward"])
        items = np.arange(n_items, dtype=np.uint64)
        yield (
            Batch(
                starts=np.arange(n + 1),
                item=get["action"].astype(np.uint64),
                chosen=get["action"].astype(np.int64),
                propensity=get["pscore"],
                reward=get["reward"].astype(np.float64),
                n_candidates=np.full(n, n_items),
                viewer=np.arange(first, first + n, dtype=np.uint64),
                time=get["timestamp_us"] / 1e6,
                place=np.arange(first + 1, first + n + 1),
                candidates=Candidates(np.arange(n + 1) * n_items, np.tile(items, n)),
            ),
            get["position"].astype(np.int64),
        )


FEED_COLUMNS = (
    "reward", "action", "q_hat", "eval_action_dist", "eval_logit", "pscore_cascade", "eval_pscore_cascade",
    "pscore_item_position", "eval_pscore_item_position",
)  # fmt: skip


def feeds(directory: Path, reference: dict[str, Any]) -> Iterator[Recomputed]:
    """Lists of three: weights given the slots above, marginal weights, and exact pseudo-inverse weights."""
    arrays = np.load(directory / "slate_cases.npz")
    for case, wanted in reference["slate"]["cases"].items():
        n, length, items = wanted["n"], wanted["L"], wanted["A"]
        get = {name: arrays[f"{case}_{name}"] for name in FEED_COLUMNS}
        prefix = (get["eval_pscore_cascade"] / get["pscore_cascade"]).reshape(n, length)
        above = np.concatenate([np.ones((n, 1)), prefix[:, :-1]], 1)
        marginal = get["eval_pscore_item_position"] / get["pscore_item_position"]
        q_chosen, dm = expectations(
            get["eval_action_dist"], get["q_hat"], np.arange(n * length + 1) * items, get["action"].astype(np.int64)
        )
        factored = f"{case}_pi_weight" not in arrays.files
        keys = {"pi_factored(vw-estimators formula)": "pi"}
        estimators = {key: parse_estimator(keys.get(key, key), slates=True) for key in wanted["estimates"]}
        sums = Sums(terms_for(estimators.values()))
        columns = {
            "reward": get["reward"], "weight": (prefix / above).ravel(), "viewer": np.arange(n, dtype=np.uint64),
            "starts": np.arange(0, n * length + 1, length), "q_chosen": q_chosen, "dm": dm,
        }  # fmt: skip
        sums.add_columns(
            **columns, marginal_weight=marginal, pseudo_weight=None if factored else arrays[f"{case}_pi_weight"]
        )
        values = {key: each.value(sums) for key, each in estimators.items()}
        if factored:  # A factored target as well, so that the formula holds; its lists are not those of the others.
            chances = np.exp(get["eval_logit"] - get["eval_logit"].max(1, keepdims=True))
            chances /= chances.sum(1, keepdims=True)
            shown = get["action"].reshape(n, length).astype(np.int64)
            weight = np.take_along_axis(chances, shown, 1).ravel() / get["pscore_item_position"]
            again = Sums(sums.terms)
            again.add_columns(**{**columns, "marginal_weight": weight})
            (key,) = keys
            values[key] = estimators[key].value(again)
        yield Recomputed(
            ("slate", "cases", case),
            {
                "n": sums.n, "on_policy": sums.mean("y"), "estimates": values,
                "relative_ee": errors(values, wanted["truth_on_these_contexts"]),
            },
        )  # fmt: skip
