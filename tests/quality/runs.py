"""Runs of policies in processes of their own, by the names of scenario and policy."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Final

from tests.quality import feeds, keel, movielens, ope
from tests.quality.peers import NoPeers
from tests.quality.scenario import Measured, Scenario

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario for scenario in (movielens.SCENARIO, *keel.SCENARIOS, *feeds.SCENARIOS, ope.SCENARIO)
}


def measure(name: str, policy: str, seed: int, quick: bool) -> Measured | None:
    """One run of one policy; None if it needs a package that cannot be had here. For another process."""
    found = next(each for each in SCENARIOS[name].policies if each.name == policy)
    started = time.monotonic()
    try:
        figures = found.measure(seed, quick)
    except NoPeers:
        return None
    told = ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())
    print(f"{name}, {policy}, seed {seed}: {told} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
    return {figure: float(value) for figure, value in figures.items()}


def jobs(names: Iterable[str], *, quick: bool, policies: Sequence[str] | None = None) -> list[tuple[str, str, int]]:
    """Scenario, policy and seed of every run."""
    found = []
    for name in names:
        for policy in SCENARIOS[name].policies:
            if quick:
                wanted = policy.name in SCENARIOS[name].quick
            else:
                wanted = policy.name in policies if policies else not policy.note
            if wanted:
                found += [(name, policy.name, seed + 1) for seed in range(1 if quick else policy.seeds)]
    return found


def run(todo: Sequence[tuple[str, str, int]], *, quick: bool, processes: int) -> dict[str, dict[str, list[Measured]]]:
    """What every run gave, by scenario and policy, in the order of seeds."""
    measured: dict[str, dict[str, list[Measured]]] = {}
    # Fresh processes: numba and VW are not made to be forked. The longest runs come first.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[Measured | None]] = [pool.submit(measure, *job, quick) for job in todo]
        for (name, policy, _), future in zip(todo, futures, strict=True):
            found = future.result()
            if found is not None:
                measured.setdefault(name, {}).setdefault(policy, []).append(found)
    return measured
