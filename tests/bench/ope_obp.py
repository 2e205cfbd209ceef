"""Run by the peers' Python alone: what obp takes for the same work, as a line of JSON. Imports nothing of ours."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.INFO)


def problem(n: int, n_actions: int):
    """The same logged data as `tests.bench.ope_ours.problem`: by formula, so that no file is passed."""
    import numpy as np

    rng = np.random.default_rng(7)
    context = rng.normal(size=(n, 5))
    action = rng.integers(0, n_actions, n)
    reward = (rng.random(n) < 0.05).astype(float)
    taste = np.random.default_rng(8).normal(size=(5, n_actions))
    return context, action, reward, taste


def arrays(n: int, n_actions: int, n_bootstrap: int) -> dict:
    import numpy as np
    from obp.ope import DoublyRobust, InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting

    context, action, reward, taste = problem(n, n_actions)
    pscore = np.full(n, 1 / n_actions)
    pmf, q = np.empty((n, n_actions, 1)), np.empty((n, n_actions, 1))
    for i in range(0, n, 65_536):
        part = slice(i, i + 65_536)
        score = context[part] @ taste
        weight = np.exp(score - score.max(1, keepdims=True))
        pmf[part, :, 0] = weight / weight.sum(1, keepdims=True)
        q[part, :, 0] = 0.05 / (1 + np.exp(-score))
    inputs_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    logged = {"reward": reward, "action": action, "pscore": pscore, "action_dist": pmf}
    estimators = [
        (InverseProbabilityWeighting(), logged),
        (SelfNormalizedInverseProbabilityWeighting(), logged),
        (DoublyRobust(), {**logged, "estimated_rewards_by_reg_model": q}),
    ]
    some = {k: v[:1000] for k, v in logged.items()}
    DoublyRobust().estimate_policy_value(**some, estimated_rewards_by_reg_model=q[:1000])
    started = time.perf_counter()
    values = [float(each.estimate_policy_value(**given)) for each, given in estimators]
    values_s = time.perf_counter() - started
    started = time.perf_counter()
    for each, given in estimators:
        each.estimate_interval(**given, n_bootstrap_samples=n_bootstrap, random_state=1)
    intervals_s = time.perf_counter() - started
    return {"values": values, "values_s": values_s, "intervals_s": intervals_s, "inputs_mb": inputs_mb}


def lists(n: int, n_slots: int):
    """Conditional weights and rewards of n slates, shape (n, n_slots); propensities are 0.5 in every slot."""
    import numpy as np

    rng = np.random.default_rng(9)
    return rng.uniform(0.6, 1.4, (n, n_slots)), (rng.random((n, n_slots)) < 0.1).astype(float)


def slates(n: int, n_slots: int, n_bootstrap: int) -> dict:
    import numpy as np
    from obp.ope import SlateRewardInteractionIPS, SlateStandardIPS

    weight, reward = lists(n, n_slots)
    cascade = np.cumprod(np.full((n, n_slots), 0.5), 1)
    target = cascade * np.cumprod(weight, 1)
    common = {
        "slate_id": np.repeat(np.arange(n), n_slots),
        "position": np.tile(np.arange(n_slots), n),
        "reward": reward.ravel(),
    }
    of_lists = {
        "pscore": np.repeat(cascade[:, -1], n_slots),
        "evaluation_policy_pscore": np.repeat(target[:, -1], n_slots),
    }
    of_prefixes = {"pscore_cascade": cascade.ravel(), "evaluation_policy_pscore_cascade": target.ravel()}
    estimators = [
        (SlateStandardIPS(len_list=n_slots), {**common, **of_lists}),
        (SlateRewardInteractionIPS(len_list=n_slots), {**common, **of_prefixes}),
    ]
    started = time.perf_counter()
    values = [float(each.estimate_policy_value(**given)) for each, given in estimators]
    values_s = time.perf_counter() - started
    started = time.perf_counter()
    for each, given in estimators:
        each.estimate_interval(**given, n_bootstrap_samples=n_bootstrap, random_state=1)
    return {"values": values, "values_s": values_s, "intervals_s": time.perf_counter() - started}


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    found = {"arrays": arrays, "slates": slates}[name](*map(int, numbers))
    print(json.dumps({**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
