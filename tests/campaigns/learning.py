"""How far off is the estimate for a policy that learns? ``python -m tests.campaigns.learning [--ci]``.

The setting: thirty kinds of viewers, ten items, each kind clicks on nine of them with some 1 to 4 % and on its
favourite with 10 %; 20,000 events, logged uniformly. The learner is VW's default (`--cb_explore_adf`, epsilon 0.05,
mtr). The truth is the learner run online. VW's own two estimates stand beside: its progressive loss (the learner learns
from *every* logged event), and `--explore_eval` (its estimate read as if it were about as many updates as events).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from vowpalwabbit import Workspace

from replay.events import Needs
from replay.policies.learning import Learning
from replay.policies.learning_run import run
from replay.readers import open_log

EVENTS = 20_000
KINDS, ITEMS = 30, 10
RATES_SEED = 7
ARGUMENTS = "--cb_explore_adf -q UA"
SEEDS, CI_SEEDS = 200, 24
ONLINE_RUNS = 2
"""Runs online for each log, of as many rounds as there were updates."""
LONG_SEEDS = 40
"""Seeds of runs online over as many rounds as the log has events."""
TOLERANCE = 0.03
CI_SIGMAS = 4.0
"""In CI the bias is held against its standard error: an unbiased estimate fails once in 16,000 runs."""


class Seed(NamedTuple):
    """What one log gave.

    :ivar ours: the estimate; ``smoothed`` the same with each reward replaced by its expectation
    :ivar online: of another run online with as many updates, mean expected reward
    """

    updates: int
    ours: float
    smoothed: float
    online: float
    progressive: float
    explore_eval: float
    seconds: float


def rates() -> NDArray[np.float64]:
    """Shape (KINDS, ITEMS): click rates."""
    rng = np.random.default_rng(RATES_SEED)
    table = rng.uniform(0.01, 0.04, (KINDS, ITEMS))
    table[np.arange(KINDS), rng.integers(ITEMS, size=KINDS)] = 0.10
    return table


MULTI = json.dumps([{"A": {"id": f"a{item}"}} for item in range(ITEMS)])
CONTEXTS = [f'"U":{{"id":"u{kind}"}},"_multi":{MULTI}}}' for kind in range(KINDS)]


def write_log(path: Path, seed: int) -> NDArray[np.float64]:
    """A uniform log; gives the expected reward of each event."""
    rng = np.random.default_rng([seed, 0])
    kind, item = rng.integers(KINDS, size=EVENTS), rng.integers(ITEMS, size=EVENTS)
    expected = rates()[kind, item]
    click = rng.random(EVENTS) < expected
    p = [1 / ITEMS] * ITEMS
    with path.open("w") as file:
        for i, (k, a, r) in enumerate(zip(kind.tolist(), item.tolist(), click.tolist(), strict=True)):
            actions = [a + 1, *(j + 1 for j in range(ITEMS) if j != a)]
            file.write(
                f'{{"_label_cost":{-int(r)},"_label_probability":{1 / ITEMS},"_label_Action":{a + 1},"_labelIndex":{a},'
                f'"EventId":"{seed}-{i}","a":{actions},"c":{{{CONTEXTS[k]},"p":{p}}}\n'
            )
    return expected


def online(rounds: int, seed: int, repeat: int = 0) -> float:
    """The learner as it would have run: mean expected reward of its choices."""
    table = rates()
    rng = np.random.default_rng([seed, 1, repeat])
    vw = Workspace(f"{ARGUMENTS} --json --quiet --random_seed {seed}")
    parsed = [vw.parse("{" + context) for context in CONTEXTS]
    total = 0.0
    for kind, u, v in zip(
        rng.integers(KINDS, size=rounds).tolist(), rng.random(rounds), rng.random(rounds), strict=True
    ):
        pmf = np.array(vw.predict(parsed[kind]))
        total += float(pmf @ table[kind])
        a = min(int(np.searchsorted(np.cumsum(pmf), u, side="right")), ITEMS - 1)
        cost = -int(v < table[kind, a])
        label = (
            f'{{"_label_cost":{cost},"_label_probability":{float(pmf[a])!r},"_label_Action":{a + 1},"_labelIndex":{a},'
        )
        examples = vw.parse(label + CONTEXTS[kind])
        vw.learn(examples)
        vw.finish_example(examples)
    for examples in parsed:
        vw.finish_example(examples)
    vw.finish()
    return total / rounds


def one_seed(folder: Path, seed: int, *, peers: bool) -> Seed:
    """All estimates of one log; VW's own only if they are asked for."""
    path = folder / f"{seed}.json"
    expected = write_log(path, seed)
    started = time.perf_counter()
    log = open_log(path)
    policy = Learning("new", "new", ARGUMENTS, seed=seed)
    policy.prepare(log)
    weight, reward = [], []
    for batch in log.batches(Needs()):
        weight.append(policy.assign(batch, False).propensity / batch.propensity)
        reward.append(batch.reward)
    w = np.concatenate(weight)
    ours = float(np.mean(w * np.concatenate(reward)))
    seconds = time.perf_counter() - started
    native = [*ARGUMENTS.split(), "--dsjson", "-d", str(path), "--random_seed", str(seed)]
    progressive = explored = float("nan")
    if peers:
        progressive = run("progressive", native, None, lambda: None).average_loss
        explored = run("explore_eval", [*native, "--explore_eval"], None, lambda: None).average_loss
    path.unlink()
    truth = float(np.mean([online(policy.updates + 1, seed, repeat) for repeat in range(ONLINE_RUNS)]))
    return Seed(
        policy.updates, ours, float(np.mean(w * expected)), truth,
        -progressive, -explored, seconds,
    )  # fmt: skip


def line(name: str, values: NDArray[np.float64], truth: NDArray[np.float64], of: str) -> str:
    """A row of the table: mean, bias in percent, and its standard error."""
    mean, true = values.mean(), truth.mean()
    se = np.sqrt(values.var(ddof=1) / len(values) + truth.var(ddof=1) / len(truth)) / true
    return f"| {name} | {of} | {mean:.4f} | {true:.4f} | {mean / true - 1:+.1%} ± {se:.1%} |"


def report(found: Sequence[Seed], long: NDArray[np.float64]) -> str:
    """The page."""
    column: Any = {name: np.array([getattr(seed, name) for seed in found]) for name in Seed._fields}
    updates = f"{column['updates'].mean():,.0f}"
    n = len(found)
    rows = [
        line("`replay`, policy `vw:...`", column["ours"], column["online"], f"{updates} updates"),
        line(
            "the same, each reward replaced by its expectation",
            column["smoothed"],
            column["online"],
            f"{updates} updates",
        ),
        line("VW's progressive loss", column["progressive"], long, f"{EVENTS:,} rounds"),
        line("VW's `--explore_eval`", column["explore_eval"], long, f"{EVENTS:,} rounds"),
        line("VW's `--explore_eval`", column["explore_eval"], column["online"], f"{updates} updates"),
    ]
    accepted = f"{EVENTS / column['updates'].mean():.0f}"
    return f"""# Policies that learn: how far off is the estimate?

Made by `python -m tests.campaigns.learning --seeds {n} --markdown docs/learning.md`: {n} logs of {EVENTS:,} events,
logged uniformly over {ITEMS} items, {KINDS} kinds of viewers, click rates of 1 to 4 % and a favourite of 10 % for each
kind. The learner is VW with `{ARGUMENTS}`. The truth is the learner run online: {ONLINE_RUNS * n} runs of as many
rounds as there were updates, {len(long)} of {EVENTS:,} rounds.

| estimate | compared at | mean | truth | bias |
|---|---|---|---|---|
{chr(10).join(rows)}

The target is a bias of at most {TOLERANCE:.0%} at the same number of updates. The second row is the same estimate
without the noise of single clicks, which shows its bias more sharply. (±: one standard error, mostly because learners
differ from run to run.)

* **The progressive loss** is that of a learner that learns from every logged event, so from uniform choices: richer
  data than it would gather for itself.
* **`--explore_eval`** accepts about one event in {accepted}, so its estimate is about a young learner; read at the
  log's length it is far too low. As its multiplier falls along the way, even the young states are not weighted alike.
* **`replay`** says how many updates its estimate is about, and nothing about later ones.

## How it works

Let p be the logged probability of what was shown and pi_t the learner's, in the state that it has reached. An event is
accepted with probability c * pi_t / p, where c is so small that this is never above 1, and the learner learns from
accepted events alone, with pi_t as the label's probability. Whatever the state, it lasts on average 1 / c events, and
the accepted ones are distributed as if the learner had drawn them. So after k updates it is, in distribution, the
learner after k rounds online, and the mean of reward * pi_t / p over *all* events is an unbiased estimate of the
average value of the states after 0, 1, ... K updates (Li et al. 2011, Dudik et al. 2012).

c is 1 / (number of actions) for a uniform log, and found by itself; for any other log it is to be given, as in
`vw:ARGS,c=.01`: no more than the smallest probability that the logging policy gives to anything. An event that would
need a smaller one is refused, with its place. No weight is then above 1 / c.

VW does the acceptance natively (`--explore_eval --multiplier c`) and prints pi_t before it learns. Each run is checked:
VW's number of events, of their candidates, and its own mean cost must be those of replay's reader; else the events are
written anew for it. Refused are arguments with which the learner would not be what it is online: without `--adaptive`
VW's steps shrink with every event it *reads*.

## Speed

100,000 dsjson events of 10 actions, two cores that were busy with other work too, medians of seven runs side by side:
learning along the log and handing out the probabilities in a second pass, with replay's own two readings of the log,
runs at 0.91 times the speed of `vw --explore_eval --multiplier c -p FILE` alone (0.6 to 1.1), and at 0.44 times that of
VW without `-p`, which then says nothing of single events (0.3 to 1.1). Most of it is VW's writing line by line.
"""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 if the estimate is as good as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--ci", action="store_true", help=f"{CI_SEEDS} seeds, and the bias against its standard error")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    n = CI_SEEDS if given.ci else given.seeds
    found: list[Seed] = []
    with tempfile.TemporaryDirectory(prefix="replay-campaign-") as folder:
        for seed in range(n):
            found.append(one_seed(Path(folder), seed, peers=not given.ci))
            if seed % 10 == 9:
                print(f"{seed + 1} seeds", file=sys.stderr, flush=True)
    long = np.array([online(EVENTS, 10_000 + seed) for seed in range(0 if given.ci else LONG_SEEDS)])
    ours, smoothed, truth = (
        np.array([getattr(seed, name) for seed in found]) for name in ("ours", "smoothed", "online")
    )
    biases = []
    for values in (ours, smoothed):
        se = float(np.sqrt((values.var(ddof=1) + truth.var(ddof=1)) / n)) / truth.mean()
        biases.append((float(values.mean() / truth.mean() - 1), se))
    for name, (bias, se) in zip(("estimate", "without the noise of clicks"), biases, strict=True):
        print(f"{name}: bias {bias:+.2%}, standard error {se:.2%}")
    if given.ci:
        held = all(abs(bias) <= CI_SIGMAS * se for bias, se in biases)
    else:
        text = report(found, long)
        print(text)
        if given.markdown is not None:
            given.markdown.write_text(text)
        held = abs(biases[0][0]) <= TOLERANCE
    print("held" if held else "NOT HELD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
