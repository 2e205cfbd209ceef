"""``python -m tests.campaigns.agreement --reference DIR``: our numbers against those of others, on their inputs.

The reference is a directory of inputs (``*.npz``) and of what obp 0.5.7 and vw-estimators 0.2.2 made of them
(``*.json``). Every number in it is either recomputed here, through the same sums and estimators as any evaluation, and
must agree to 1e-9, or stands in ``NOT_COMPARED`` with the reason. A number that is neither is a failure.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaigns.agreement_cases import Where, feeds, open_bandit, synthetic

TOLERANCE = 1e-9


class Reason(NamedTuple):
    """Why numbers of the reference are not compared."""

    pattern: str
    """Of the keys, joined by ``/``."""
    what: str
    reason: str


NOT_COMPARED = (
    Reason(
        r".*/obp_bootstrap_1000_seed12345/(?!snipw)", "obp's bootstrap intervals",
        "They follow from one stream of random numbers. Ours draw by viewer, and are judged by their coverage "
        "(docs/coverage.md).",
    ),
    Reason(
        r".*/obp_bootstrap_1000_seed12345/snipw/", "obp's bootstrap of SNIPW",
        "Deliberate: it keeps the denominator fixed while it draws the numerator, which makes the interval up to three "
        "times too wide, or too narrow. Ours draws both together.",
    ),
    Reason(
        r".*/obp_bootstrap_1000_seed12345/snipw_pairs", "a pairs bootstrap of SNIPS",
        "It follows from one stream of random numbers.",
    ),
    Reason(
        r".*(hoeffding|bernstein)", "obp's Hoeffding and Bernstein lower bounds",
        "Deliberate: they take the largest value *seen* for the range, and so promise what they do not keep. Ours take "
        "the bound from the policies' floors, or say that there is none.",
    ),
    Reason(
        r"obd/.*/ml_reward_models/", "obp's estimates with its own reward models",
        "The contexts that they were fitted on are not in the reference. Ours are cross-fitted by viewer.",
    ),
    Reason(r"obd/.*/relative_ee_ml/", "errors of obp's estimates with its own reward models", "As the estimates."),
    Reason(
        r".*/truth_on_these_contexts", "true values of the simulated cases",
        "Known from the simulation, not estimated; our errors are taken against them.",
    ),
    Reason(
        r".*/(n_actions|len_list|beta|seed|A|L)$", "what the cases were made with", "Settings, not results.",
    ),
    Reason(
        r"slate/obp_generate_evaluation", "obp's values of its own evaluation policies",
        "obp's 'optimal' policy is the worst one (its order is inverted); nothing here calls it.",
    ),
    Reason(
        r".*/tuned/.*/lambda", "obp's choices of lambda",
        "Choosing lambda is compared where it is done (tests/replay/test_tuning.py). The values at the lambda that obp "
        "chose are compared above.",
    ),
    Reason(
        r"vwe/.*/estimates/(cressieread|mle_empirical_likelihood)",
        "vw-estimators' Cressie-Read and empirical likelihood values",
        "Deliberate: of what rests on weights alone, snips and beta_ips use that weights average 1 as well. Their "
        "intervals are compared above.",
    ),
    Reason(
        r"vwe/.*/clopper_pearson/", "vw-estimators' Clopper-Pearson",
        "Deliberate: it reads weighted rewards as counts of coin tosses, and gives no number where they exceed them.",
    ),
    Reason(
        r"vwe/.*/cs/", "vw-estimators' confidence sequence",
        "Another construction; ours is judged by its miss rate and width (docs/peeking.md).",
    ),
)  # fmt: skip


# -- comparing --------------------------------------------------------------------------------


def numbers_in(value: Any, where: Where = ()) -> Iterator[tuple[Where, float]]:
    """Every number of nested dictionaries and lists, with its keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, (*where, str(key)))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from numbers_in(inner, (*where, str(at)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, float(value)


def family_of(where: Where) -> str:
    """Under which heading a number is counted."""
    source = {"synth": "obp, synthetic", "obd": "obp, Open Bandit", "slate": "obp, slates", "vwe": "vw-estimators"}
    part = where[3] if len(where) > 3 else where[-1]
    kind = {
        "estimates": "estimates", "tuned": "with obp's lambda", "relative_ee": "errors", "weights": "weights",
        "gaussian_ci95_ips_ddof1": "standard errors", "obp_lower_bounds_delta0.05": "standard errors",
        "bounds_delta0.05": "standard errors", "intervals_alpha0.05": "intervals",
    }.get(part, "means and counts")  # fmt: skip
    return f"{source[where[0]]}: {kind}"


class Result(NamedTuple):
    """``compared``: by family, how many, how many agree, and the largest difference."""

    compared: dict[str, tuple[int, int, float]]
    left_out: dict[Reason, int]
    mismatches: list[str]
    unexplained: list[str]


def compare(directory: Path) -> Result:
    """All numbers of the reference."""
    reference = {
        name: json.loads((directory / f"{name}_reference.json").read_text())
        for name in ("synth", "obd", "slate", "vwe")
    }
    ours: dict[Where, float] = {}
    for recompute in (synthetic, open_bandit, feeds):
        for found in recompute(directory, reference):
            ours |= {(*found.case, *where): value for where, value in numbers_in(found.numbers)}
    result = Result({}, {}, [], [])
    for where, theirs in numbers_in(reference):
        path = "/".join(where)
        if where not in ours:
            reason = next((each for each in NOT_COMPARED if re.match(each.pattern, path)), None)
            if reason is None:
                result.unexplained.append(path)
            else:
                result.left_out[reason] = result.left_out.get(reason, 0) + 1
            continue
        value = ours.pop(where)
        off = abs(value - theirs) / max(1.0, abs(theirs))
        agrees = isfinite(value) and off <= TOLERANCE
        count, good, worst = result.compared.get(family_of(where), (0, 0, 0.0))
        result.compared[family_of(where)] = (count + 1, good + agrees, max(worst, off))
        if not agrees:
            result.mismatches.append(f"{path}: ours {value!r}, theirs {theirs!r}")
    result.unexplained.extend("ours alone: " + "/".join(where) for where in ours)
    return result


def markdown(result: Result) -> str:
    """The page docs/agreement.md."""
    total, agreeing = (sum(row[i] for row in result.compared.values()) for i in (0, 1))
    rows = [
        f"| {name} | {n:,} | {good:,} | {worst:.0e} |" for name, (n, good, worst) in sorted(result.compared.items())
    ]
    reasons = [
        f"| {each.what} | {result.left_out[each]:,} | {each.reason} |"
        for each in NOT_COMPARED
        if each in result.left_out
    ]
    return f"""# Agreement with others

What obp 0.5.7 and vw-estimators 0.2.2 say of the same inputs, recomputed through the same sums and estimators as any
evaluation: {agreeing:,} of {total:,} numbers agree to 1e-9 (relative to the larger of the number and 1).

    python -m tests.campaigns.agreement --reference DIR --markdown docs/agreement.md

`DIR` holds their inputs and results; it is not part of this repository. The default tests compare with plain NumPy
instead.

| numbers | compared | agree | largest difference |
|---|---:|---:|---:|
{chr(10).join(rows)}
| **all** | **{total:,}** | **{agreeing:,}** | |

## Not compared

Nothing is left out without a reason: the campaign fails on a number that is neither compared nor listed here.

| numbers | how many | why |
|---|---:|---|
{chr(10).join(reasons)}

## Other deliberate differences

* **Standard errors** agree where every event is a viewer of its own, as those libraries assume. An evaluation's own are
  those between viewers.
* **Values outside the range of rewards** are given as they are: cutting an unbiased estimate biases it. Intervals
  are cut.
* **No weight at all** (the target never does what was logged): obp gives NaN for SNIPW, vw-estimators nothing; here
  self-normalised estimators refuse and say why.
* **Lists of different lengths**: self-normalised estimators of feeds weigh each slot by how many events have it. obp
  expects one length.
* **Bad input** (NaN, negative weights, a propensity above 1) is refused; both libraries compute with it.
"""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 if all agree, 1 if not, 2 if there is no reference to compare with."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.agreement", description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="directory with *_reference.json and *.npz")
    parser.add_argument("--markdown", type=Path, help="write the page there")
    given = parser.parse_args(arguments)
    if not (given.reference / "synth_reference.json").is_file():
        parser.error(f"{given.reference} has no synth_reference.json")
    result = compare(given.reference)
    for name, (n, good, worst) in sorted(result.compared.items()):
        print(f"{name:45} {good:5} of {n:5} agree, largest difference {worst:.1e}")
    for reason, n in result.left_out.items():
        print(f"{reason.what:45} {n:5} not compared")
    for line in [*result.mismatches, *(f"unexplained: {each}" for each in result.unexplained)]:
        print(line)
    if given.markdown:
        given.markdown.write_text(markdown(result), "utf-8")
    return 1 if result.mismatches or result.unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
