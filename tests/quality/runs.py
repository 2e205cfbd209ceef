"""Runs of policies in processes of their own, by the names of scenario and policy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final

from tests.quality import feeds, keel, movielens, ope
from tests.quality.data import ROOT
from tests.quality.peers import NoPeers
from tests.quality.results import Runs
from tests.quality.scenario import Measured, Scenario

#: Scenario, policy and seed.
Job = tuple[str, str, int]

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario for scenario in (movielens.SCENARIO, *keel.SCENARIOS, *feeds.SCENARIOS, ope.SCENARIO)
}


def measure(name: str, policy: str, seed: int, quick: bool) -> Measured | None:
    """One run of one policy; None if it needs a package that cannot be had here."""
    found = next(each for each in SCENARIOS[name].policies if each.name == policy)
    try:
        figures = found.measure(seed, quick)
    except NoPeers:
        return None
    return {figure: float(value) for figure, value in figures.items()}


def jobs(
    names: Iterable[str], *, quick: bool, policies: Sequence[str] | None = None, done: Runs | None = None
) -> list[Job]:
    """Every run, seed by seed.

    :param done: runs that need not be run again
    """
    found: list[Job] = []
    for name in names:
        for policy in SCENARIOS[name].policies:
            if quick:
                wanted = policy.name in SCENARIOS[name].quick
            else:
                wanted = policy.name in policies if policies else not policy.note
            if wanted:
                n_done = len((done or {}).get(name, {}).get(policy.name, []))
                found += [(name, policy.name, seed + 1) for seed in range(n_done, 1 if quick else policy.seeds)]
    return sorted(found, key=lambda job: job[2])


def run(
    todo: Sequence[Job], *, quick: bool, processes: int, tell: Callable[[Job, Measured], None] = lambda job, found: None
) -> dict[str, dict[str, list[Measured]]]:
    """What every run gave, by scenario and policy, in the order of seeds; each in a process of its own.

    :param tell: is told of each run as it ends
    :raises RuntimeError: runs that failed; after all others
    """
    found: dict[Job, Measured | None] = {}
    failed = []
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(_apart, job, quick): job for job in todo}
        for future in as_completed(futures):
            job = futures[future]
            try:
                one = found[job] = future.result()
            except RuntimeError as error:
                failed.append(str(error))
                continue
            if one is not None:
                told = ", ".join(f"{figure} {value:.4f}" for figure, value in one.items())
                print(f"{job[0]}, {job[1]}, seed {job[2]}: {told}", file=sys.stderr, flush=True)
                tell(job, one)
    if failed:
        raise RuntimeError("\n".join(failed))
    measured: dict[str, dict[str, list[Measured]]] = {}
    for name, policy, seed in todo:
        one = found[name, policy, seed]
        if one is not None:
            measured.setdefault(name, {}).setdefault(policy, []).append(one)
    return measured


def _apart(job: Job, quick: bool) -> Measured | None:
    """`measure` in a fresh process: whatever an engine leaves behind ends with it."""
    name, policy, seed = job
    command = [sys.executable, "-m", "tests.quality.runs", name, policy, str(seed), str(int(quick))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{name}, {policy}, seed {seed} failed ({done.returncode}): {done.stderr.strip()[-600:]}")
    found: Measured | None = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), bool(int(sys.argv[4])))))
