"""Made-up evaluations that show everything a report can hold."""

from __future__ import annotations

import numpy as np

from replay.results import (
    Check,
    Difference,
    Estimate,
    Evaluation,
    Interval,
    LogSummary,
    Part,
    PolicyAnswer,
    Verdict,
    WeightSummary,
)

ALPHA = 0.05
DAY = 86_400


def interval(low: float, high: float, method: str = "normal") -> Interval:
    return Interval(low=low, high=high, method=method, alpha=ALPHA)


def histogram(seed: int, *, spread: float, heavy: int = 0, zeros: int = 0) -> list[tuple[float, float, int]]:
    rng = np.random.default_rng(seed)
    weights = np.log10(rng.lognormal(-(spread**2) / 2, spread, 40_000))
    edges = np.arange(np.floor(weights.min() * 5) / 5, weights.max() + 0.2, 0.2)
    counts, _ = np.histogram(weights, edges)
    bars = [
        (float(10**low), float(10**high), int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    if zeros:
        bars.insert(0, (0.0, 0.0, zeros))
    if heavy:
        last = bars[-1][1]
        bars += [(last * 10 ** (0.2 * i), last * 10 ** (0.2 * (i + 1)), 0) for i in range(6)]
        bars.append((bars[-1][1], bars[-1][1] * 10**0.2, heavy))
    return bars


def parts(seed: int, labels: list[str], *, production: float, difference: float, n: int, error: float) -> list[Part]:
    rng = np.random.default_rng(seed)
    found = []
    for label in labels:
        size = int(n * rng.uniform(0.4, 1.6))
        se = error * np.sqrt(n / size)
        d = difference + se * rng.normal()
        p = production * (1 + 0.06 * rng.normal())
        thin = rng.random() < 0.04
        found.append(
            Part(
                label=label, n=size, production=float(p), value=None if thin else float(p + d),
                interval=None if thin else interval(float(p + d - 2.6 * se), float(p + d + 2.6 * se)),
                difference=None if thin else float(d),
                difference_interval=None if thin else interval(float(d - 1.96 * se), float(d + 1.96 * se)),
                ess=float(size * rng.uniform(0.15, 0.35)) if not thin else 6.0,
            )
        )  # fmt: skip
    return found


def answered(
    name: str,
    spec: str,
    *,
    value: float,
    low: float,
    high: float,
    production: float,
    difference: tuple[float, float, float],
    verdict: Verdict,
    ess: float,
    events_needed: int | None = None,
    seed: int = 1,
    detail: bool = True,
    k: float = 0.42,
) -> PolicyAnswer:
    days = [str(np.datetime64("2026-11-02") + i) for i in range(21)]
    checks = [
        Check("effective sample size", "ok", ess, 100.0,
              f"48,210 logged events are worth about {ess:,.0f} of the target's own ({100 * ess / 48210:.2g} %)."),
        Check("largest weight", "ok", 0.004, 0.1, "2,114 events carry 50 % of the weight of 48,210."),
        Check("uncovered target mass", "ok", 0.0, 1e-6, "The log could have shown all that the target would."),
        Check("mean weight", "ok", 0.4, 3.0, "The weights average 1.004 ± 0.010, where 1 is expected."),
        Check("tail of the weights", "warning" if k > 0.7 else "ok", k, 0.7,
              f"The weights have a heavy tail (Pareto k {k:.2f}; up to 0.70 is fine)." if k > 0.7
              else f"The tail of the weights is light enough (Pareto k {k:.2f}).",
              "More events like these help little. Clip or shrink the weights (dros), or log with a higher floor."
              if k > 0.7 else ""),
        Check("rewards", "ok", 900.0, 10.0, "1,530 events have a reward other than 0; weighted, they are worth 412."),
        Check("events and viewers", "ok", 48210.0, 30.0, "48,210 events of 9,134 viewers."),
    ]  # fmt: skip
    middle, bottom, top = difference
    return PolicyAnswer(
        name=name,
        spec=spec,
        refused=None,
        primary="dr",
        estimates=[
            Estimate("dr", value, (high - low) / 3.92, interval(low, high), "reward model cross-fitted by viewer"),
            Estimate("ips", value * 1.02, (high - low) / 2.9, interval(low - 0.0008, high + 0.0017)),
            Estimate("snips", value * 1.01, (high - low) / 3.1, interval(low - 0.0006, high + 0.0008)),
            Estimate("dros(lambda=10)", value * 0.99, (high - low) / 4.2, interval(low + 0.0002, high - 0.0002),
                     "lambda by SLOPE"),
            Estimate("dm", value * 0.95, None, None, "biased by what the reward model misses"),
        ],
        difference=Difference(
            value=middle, se=(top - bottom) / 3.92, interval=interval(bottom, top), verdict=verdict,
            relative=middle / production, events_needed=events_needed,
            sequence=interval(bottom - (top - bottom) * 0.6, top + (top - bottom) * 0.6, "anytime"),
        ),
        weights=WeightSummary(
            mean=1.004, mean_se=0.010, largest=61.3, bound=80.0, ess=ess, pareto_k=k,
            histogram=histogram(seed, spread=1.1, zeros=800),
        ),
        checks=checks,
        sequence=interval(low - 0.002, high + 0.002, "anytime"),
        slices={
            "country": parts(seed + 1, ["DE", "FR", "IN", "BR", "US", "JP", "(all others)"], production=production,
                             difference=middle, n=7000, error=(top - bottom) / 1.6),
            "device": parts(seed + 2, ["phone", "tablet", "desktop", "tv"], production=production, difference=middle,
                            n=12000, error=(top - bottom) / 2),
        } if detail else {},
        over_time=parts(seed + 3, days, production=production, difference=middle, n=2300, error=(top - bottom) / 1.1)
        if detail else [],
    )  # fmt: skip


def refused(name: str, spec: str, seed: int = 9) -> PolicyAnswer:
    return PolicyAnswer(
        name=name,
        spec=spec,
        refused="48,210 logged events are worth about 2.1 of the target's own (0.0043 %).",
        primary="dr",
        estimates=[],
        difference=None,
        weights=WeightSummary(
            mean=3.13, mean_se=2.18, largest=21739.0, bound=None, ess=2.1, pareto_k=0.56,
            histogram=histogram(seed, spread=1.6, heavy=1),
        ),
        checks=[
            Check("effective sample size", "refusal", 2.1, 10.0,
                  "48,210 logged events are worth about 2.1 of the target's own (0.0043 %).",
                  "Had all that the target wants been logged with propensity 0.00207 or more, this many events would "
                  "do. Logged like these, about 2,200,000 more events are needed."),
            Check("largest weight", "refusal", 0.69, 0.5, "1 event carries 69 % of the weight of 48,210.",
                  "The estimate is little but that event's reward."),
            Check("uncovered target mass", "ok", 0.0, 1e-6, "The log could have shown all that the target would."),
        ],
        bounds=interval(0.0, 0.41, "partial identification"),
        events_needed=2_295_000,
    )  # fmt: skip


def log_summary(**given) -> LogSummary:
    return LogSummary(**{
        "name": "/srv/feed/data", "kind": "service", "events": 48_210, "slots": 482_100, "viewers": 9_134,
        "first_time": 1793577600.0, "last_time": 1793577600.0 + 21 * DAY - 700, "reward": "watch*1 + like*2",
        "left_out": {"window still open at the end of the log": 211}, "examples": [], **given,
    })  # fmt: skip


def evaluation(policies: list[PolicyAnswer], **given) -> Evaluation:
    return Evaluation(**{
        "log": log_summary(),
        "production": Estimate("mean", 0.03172, 0.0008, interval(0.03016, 0.03331)),
        "policies": policies,
        "checks": [],
        "alpha": ALPHA,
        "seconds": 3.42,
        "version": "0.2.0",
        **given,
    })  # fmt: skip


def rich() -> Evaluation:
    """Better, undecided, worse, production itself and refused."""
    made = 0.03172
    return evaluation(
        [
            answered("squarecb-50", "feed:m41,explorer=squarecb,gamma=50", value=0.0356, low=0.0339, high=0.0374,
                     production=made, difference=(0.00388, 0.00251, 0.00527), verdict="better", ess=11_204.0),
            answered("softmax", "feed:m41,explorer=softmax,lambda=5", value=0.0322, low=0.0303, high=0.0343,
                     production=made, difference=(0.00048, -0.00093, 0.00187), verdict="undecided", ess=8_120.0,
                     events_needed=412_000, seed=20, k=0.81),
            answered("uniform", "uniform", value=0.0241, low=0.0225, high=0.0258, production=made,
                     difference=(-0.0076, -0.0093, -0.0059), verdict="worse", ess=3_990.0, seed=30),
            refused("last-year", "table:last-year.csv"),
        ]
    )  # fmt: skip


def many(n: int = 20) -> Evaluation:
    rng = np.random.default_rng(3)
    policies = []
    for i in range(n):
        d = float(rng.normal(0, 0.003))
        half = float(rng.uniform(0.0008, 0.003))
        verdict: Verdict = "better" if d > half else "worse" if d < -half else "undecided"
        policies.append(
            answered(f"candidate-{i + 1}", f"softmax:m{i},lambda={i}", value=0.03172 + d, low=0.03172 + d - 1.2 * half,
                     high=0.03172 + d + 1.2 * half, production=0.03172, difference=(d, d - half, d + half),
                     verdict=verdict, ess=float(rng.uniform(300, 20000)), seed=40 + i, detail=i < 3,
                     events_needed=90_000 if verdict == "undecided" else None)
        )  # fmt: skip
    policies.insert(7, refused("old-table", "table:old.csv"))
    return evaluation(policies)
