"""The work of `ope_obp`, done by replay in a process of its own, whose time and memory are then its own too."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from replay import evaluate, from_arrays
from replay.estimators import parse_estimator, terms_for
from replay.events import F64, Batch, Needs
from replay.sums import Sums
from tests.bench.ope_obp import lists, problem

ESTIMATORS = ("ips", "snips", "dr")


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _Dense:
    """Predictions that stand in a matrix already."""

    def __init__(self, q: F64) -> None:
        self._q = q

    def predict(self, batch: Batch) -> F64:
        first = int(batch.place[0]) - 1
        return self._q[first : first + batch.n].ravel()


class _Formula:
    """Target and predictions worked out from the context, a batch at a time."""

    needs = Needs()

    def __init__(self, taste: F64) -> None:
        self._taste = taste

    def __call__(self, batch: Batch) -> F64:
        assert batch.contexts is not None
        score = batch.contexts @ self._taste
        weight = np.exp(score - score.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        return weight.ravel()

    def predict(self, batch: Batch) -> F64:
        assert batch.contexts is not None
        return (0.05 / (1 + np.exp(-(batch.contexts @ self._taste)))).ravel()


def arrays(n: int, n_actions: int, dense: int) -> dict[str, Any]:
    """IPS, SNIPS and DR with intervals.

    :param dense: 1 for matrices of all probabilities and predictions in memory, as obp needs them; 0 for formulas
    """
    context, action, reward, taste = problem(n, n_actions)
    log = from_arrays(
        reward=reward, action=action, propensity=np.full(n, 1 / n_actions), n_actions=n_actions, contexts=context,
        reward_range=(0.0, 1.0),
    )  # fmt: skip
    formula = _Formula(taste)
    policy: Any = formula
    model: Any = formula
    if dense:
        pmf, q = np.empty((n, n_actions)), np.empty((n, n_actions))
        for batch in log.batches(Needs()):
            part = slice(int(batch.place[0]) - 1, int(batch.place[-1]))
            pmf[part] = formula(batch).reshape(-1, n_actions)
            q[part] = formula.predict(batch).reshape(-1, n_actions)
        policy, model = pmf, _Dense(q)
    inputs_mb = peak_mb()
    options: dict[str, Any] = {"estimators": ESTIMATORS, "looks": False}
    small = from_arrays(reward=reward[:1000], action=action[:1000], propensity=np.full(1000, 1 / n_actions),
                        n_actions=n_actions, contexts=context[:1000])  # fmt: skip
    evaluate(small, {"new": formula}, model=formula, **options)
    started = time.perf_counter()
    answer = evaluate(log, {"new": policy}, model=model, **options).policies[0]
    seconds = time.perf_counter() - started
    values = {each.estimator: each.value for each in answer.estimates}
    return {"values": [values[name] for name in ESTIMATORS], "seconds": seconds, "inputs_mb": inputs_mb}


def slates(n: int, n_slots: int) -> dict[str, Any]:
    """SIPS and RIPS with intervals, of slates in memory."""
    weight, reward = lists(n, n_slots)
    log = from_arrays(
        reward=reward, action=np.zeros((n, n_slots), int), propensity=np.full((n, n_slots), 0.5),
        columns={"new": 0.5 * weight},
    )  # fmt: skip
    options: dict[str, Any] = {"estimators": ("sips", "rips"), "looks": False}
    evaluate(log, {"new": "column:new"}, **options)
    started = time.perf_counter()
    answer = evaluate(log, {"new": "column:new"}, **options).policies[0]
    seconds = time.perf_counter() - started
    values = {each.estimator: each.value for each in answer.estimates}
    pair = [parse_estimator(name, slates=True) for name in ("sips", "rips")]
    started = time.perf_counter()
    sums = Sums(terms_for(pair, slates=True))
    for batch in log.batches(Needs(columns=("new",))):
        sums.add(batch, batch.columns["new"] / batch.propensity)
    assert [each.value(sums) for each in pair] == [values["sips"], values["rips"]]
    values_s = time.perf_counter() - started
    return {"values": [values["sips"], values["rips"]], "seconds": seconds, "values_s": values_s}


def parquet(path: str, target: str) -> dict[str, Any]:
    """A target whose probabilities stand in the file, with the usual estimators and intervals."""
    base_mb = peak_mb()
    started = time.perf_counter()
    answer = evaluate(path, {"new": f"column:{target}"}, reward_range=(0.0, 1.0))
    return {"seconds": time.perf_counter() - started, "base_mb": base_mb, "events": answer.log.events}


def parts(folder: str, by: str) -> dict[str, Any]:
    """Three policies over a folder of files, by day and by country.

    :param by: ``one`` or ``two`` processes, or a Dask scheduler's address
    """
    how: dict[str, Any] = {"one": {}, "two": {"workers": 2}}.get(by, {"dask": by})
    policies = {"new": "column:target", "other": "column:other", "logged": "logged"}
    options: dict[str, Any] = {"reward_range": (0.0, 1.0), "slices": ("country",), **how}
    files = sorted(Path(folder).iterdir())
    evaluate(files[:1] if by == "one" else files[:4], policies, **options)
    Path(folder).with_suffix(".asked").touch()
    started = time.perf_counter()
    answer = evaluate(files, policies, **options)
    seconds = time.perf_counter() - started
    bits = msgspec.json.encode(msgspec.structs.replace(answer, seconds=0.0))
    return {"seconds": seconds, "answer": hashlib.sha256(bits).hexdigest()}


def dsjson(path: str, model: str) -> dict[str, Any]:
    """Epsilon-greedy by a VW model over a dsjson log."""
    started = time.perf_counter()
    answer = evaluate(path, {"new": f"epsilon:{model},epsilon=0.1"}, model="none", estimators=("ips",), looks=False)
    seconds = time.perf_counter() - started
    values = {each.estimator: each.value for each in answer.policies[0].estimates}
    return {"seconds": seconds, "value": values["ips"], "events": answer.log.events}


def dsjson_python(path: str, model: str) -> dict[str, Any]:
    """The same as one would write it: Python's json for the label, VW's predict for the probabilities."""
    import vowpalwabbit

    vw = vowpalwabbit.Workspace(f"-i {model} -t --dsjson --quiet")
    started = time.perf_counter()
    total, n = 0.0, 0
    with open(path) as file:
        for line in file:
            event = json.loads(line)
            examples = vw.parse(line)
            pmf = vw.predict(examples)
            vw.finish_example(examples)
            total -= event["_label_cost"] * pmf[event["_labelIndex"]] / event["_label_probability"]
            n += 1
    seconds = time.perf_counter() - started
    vw.finish()
    return {"seconds": seconds, "value": total / n, "events": n}


def learning(path: str, arguments: str) -> dict[str, Any]:
    """A learner along a dsjson log, evaluated."""
    started = time.perf_counter()
    answer = evaluate(path, {"new": f"vw:{arguments}"}, model="none", looks=False)
    return {"seconds": time.perf_counter() - started, "updates": answer.policies[0].updates}


def learning_native(path: str, arguments: str) -> dict[str, Any]:
    """VW's own reader learning along the same log in the same way, and writing the probabilities of every event, of
    which nothing is made."""
    import vowpalwabbit

    started = time.perf_counter()
    vw = vowpalwabbit.Workspace(f"{arguments} --explore_eval --multiplier 0.1 --dsjson -d {path} -p {path}.pi --quiet")
    vw.run_parser()
    vw.finish()
    return {"seconds": time.perf_counter() - started}


FILES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "parquet": parquet, "parts": parts, "dsjson": dsjson, "dsjson_python": dsjson_python,
    "learning": learning, "learning_native": learning_native,
}  # fmt: skip

if __name__ == "__main__":
    name, *given = sys.argv[1:]
    if name == "arrays":
        found = arrays(*map(int, given))
    elif name == "slates":
        found = slates(*map(int, given))
    else:
        found = FILES[name](*given)
    print(json.dumps({**found, "peak_mb": peak_mb()}))
