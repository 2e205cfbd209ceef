"""Replay against its peers, on the same work: obp, Python's json with VW's predict, and VW's native reader.

Every side runs in a process of its own, so that its peak memory is its own. Where obp does not install, what was
recorded of it is used, and the note says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.bench.peers import peers
from tests.bench.results import Result
from tests.bench.session import Session

HERE: Final = Path(__file__).resolve().parent
N_ACTIONS: Final = 80
REPLICATES: Final = 100
LEARNER: Final = "--cb_explore_adf --epsilon 0.1 --cb_type mtr -q UA"
#: What obp took on the machine of an earlier day, n = 1e6, 80 actions, 10,000 replicates extrapolated (seconds).
RECORDED: Final = {"values_s": 0.722, "intervals_s": 2.5, "peak_mb": 3_472.0, "inputs_mb": 1_690.0}


def ours(*arguments: object) -> dict[str, Any]:
    """What `ope_ours` says."""
    return _run([sys.executable, "-m", "tests.bench.ope_ours", *map(str, arguments)])


def obp(*arguments: object) -> dict[str, Any] | None:
    """What `ope_obp` says; None if obp does not install here."""
    python = peers()
    # -P: the script's folder has modules that are called like the library's.
    return None if python is None else _run([str(python), "-P", str(HERE / "ope_obp.py"), *map(str, arguments)])


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def arrays(session: Session) -> list[Result]:
    """IPS, SNIPS and DR with intervals over arrays in memory."""
    n = session.scale.n_ope
    times, above, whole = [], [], []
    note = ""
    for _ in range(session.scale.ope_repetitions):
        theirs = obp("arrays", n, N_ACTIONS, REPLICATES)
        if theirs is None:
            theirs, note = {**RECORDED, "values": None}, "obp does not install here: its recorded figures"
        dense, formulas = ours("arrays", n, N_ACTIONS, 1), ours("arrays", n, N_ACTIONS, 0)
        if theirs["values"] is not None:
            assert np.allclose(theirs["values"], dense["values"], rtol=1e-9), (theirs, dense)
        times.append((theirs["values_s"] + theirs["intervals_s"]) / dense["seconds"])
        above.append((dense["peak_mb"] - dense["inputs_mb"]) / (theirs["peak_mb"] - theirs["inputs_mb"]))
        whole.append(formulas["peak_mb"] / theirs["peak_mb"])
    what = f"IPS + SNIPS + DR with intervals, n = {n:,}, {N_ACTIONS} actions, against obp"
    measured = {"ours": dense, "ours_by_formula": formulas, "obp": theirs}
    return [
        Result(
            name="ope_arrays", what=f"{what} with {REPLICATES} bootstrap replicates (its default is 10,000)",
            ratios=times, limit=10.0, side="at least", unit="x faster", measured=measured, note=note,
        ),
        Result(
            name="ope_memory", what=f"{what}: peak memory, target and model given as functions",
            ratios=whole, limit=0.2, note=note,
        ),
        Result(
            name="ope_memory_dense", what=f"{what}: peak memory above that of the same matrices in both",
            ratios=above, limit=0.2, note=note,
        ),
    ]  # fmt: skip


def slates(session: Session) -> list[Result]:
    """SIPS and RIPS of slates of ten."""
    n = session.scale.n_ope_slates
    values, intervals = [], []
    for _ in range(session.scale.ope_repetitions):
        theirs, mine = obp("slates", n, 10, 1), ours("slates", n, 10)
        if theirs is None:
            theirs, note = {"values_s": 1.2 * n / 20_000, "intervals_s": None}, "obp does not install: recorded"
            values.append(theirs["values_s"] / mine["values_s"])
            continue
        note = f"of obp one replicate was run, and is counted {REPLICATES} times in the second line"
        assert np.allclose(theirs["values"], mine["values"], rtol=1e-9)
        values.append(theirs["values_s"] / mine["values_s"])
        intervals.append((theirs["values_s"] + REPLICATES * theirs["intervals_s"]) / mine["seconds"])
    what = f"SIPS + RIPS, {n:,} slates of 10, against obp"
    found = [Result(name="ope_slates", what=what, ratios=values, limit=100.0, side="at least", unit="x faster",
                    measured={"ours": mine, "obp": theirs}, note=note)]  # fmt: skip
    if intervals:
        found.append(Result(name="ope_slates_intervals", what=f"{what}, with intervals", ratios=intervals,
                            limit=100.0, side="at least", unit="x faster", note=note))  # fmt: skip
    return found


def parquet(session: Session) -> list[Result]:
    """Rows a second from disk, and whether memory stays where it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = session.scale.n_ope_rows
    rng = np.random.default_rng(1)
    paths = {}
    for size in (n // 10, n):
        paths[size] = session.folder / f"rows-{size}.parquet"
        writer = None
        for first in range(0, size, 500_000):
            m = min(500_000, size - first)
            table = pa.table(
                {
                    "reward": (rng.random(m) < 0.05).astype(float),
                    "propensity": np.full(m, 0.1),
                    "action": rng.integers(0, 10, m),
                    "target": rng.random(m) * 0.2,
                }
            )
            writer = writer or pq.ParquetWriter(paths[size], table.schema)
            writer.write_table(table, row_group_size=250_000)
        assert writer is not None
        writer.close()
    ours("parquet", paths[n // 10], "target")
    rates, growth = [], []
    for _ in range(session.scale.ope_repetitions):
        small, large = (ours("parquet", paths[size], "target") for size in (n // 10, n))
        rates.append(n / large["seconds"] / 1e6)
        growth.append(large["peak_mb"] / small["peak_mb"])
    return [
        Result(name="ope_rows", what=f"{n:,} rows of Parquet, all estimators and intervals, whole command",
               ratios=rates, limit=2.0, side="at least", unit="million rows/s", measured={"ours": large}),
        Result(name="ope_rows_memory", what=f"peak memory over {n:,} rows against {n // 10:,}", ratios=growth,
               limit=1.1),
    ]  # fmt: skip


def dsjson(session: Session) -> list[Result]:
    """A model over a dsjson log, and a learner along one."""
    import vowpalwabbit

    log, model = session.folder / "log.dsjson", session.folder / "model.vw"
    _write_dsjson(log, session.scale.n_ope_lines)
    vw = vowpalwabbit.Workspace(f"{LEARNER} --dsjson -d {log} -f {model} --quiet")
    vw.run_parser()
    vw.finish()
    ours("dsjson", log, model)
    reading, learning = [], []
    for _ in range(session.scale.ope_repetitions):
        by_hand, mine = ours("dsjson_python", log, model), ours("dsjson", log, model)
        assert np.isclose(by_hand["value"], mine["value"], rtol=1e-5), (by_hand, mine)
        reading.append(by_hand["seconds"] / mine["seconds"])
        native, along = ours("learning_native", log, LEARNER), ours("learning", log, LEARNER)
        learning.append(native["seconds"] / along["seconds"])
    n = session.scale.n_ope_lines
    return [
        Result(name="ope_dsjson", what=f"a model over {n:,} dsjson lines of 10 actions, against json.loads and predict",
               ratios=reading, limit=3.0, side="at least", unit="x faster",
               measured={"ours": mine, "by_hand": by_hand}),
        Result(name="ope_learning", what=f"a learner along {n:,} dsjson lines, against VW's native reader",
               ratios=learning, limit=0.7, side="at least", unit="x the speed",
               measured={"ours": along, "native": native}),
    ]  # fmt: skip


def _write_dsjson(path: Path, n: int) -> None:
    """Ten actions with three features each, drawn evenly; one context feature decides which is liked."""
    rng = np.random.default_rng(2)
    context, action = rng.integers(0, 5, n), rng.integers(0, 10, n)
    reward = rng.random(n) < 0.02 + 0.1 * (action == context) + 0.05 * (action == context + 5)
    multi = [{"A": {"id": f"v{j}", "creator": f"c{j % 4}", "length": j * 7}} for j in range(10)]
    with path.open("w") as file:
        for i in range(n):
            a = int(action[i])
            event = {
                "_label_cost": -float(reward[i]), "_label_probability": 0.1, "_label_Action": a + 1, "_labelIndex": a,
                "o": [{"v": float(reward[i]), "EventId": str(i)}], "Timestamp": "2026-01-01T00:00:00Z", "Version": "1",
                "EventId": str(i), "a": [a + 1, *(j + 1 for j in range(10) if j != a)],
                "c": {"U": {"taste": f"t{context[i]}", "hour": i % 24}, "_multi": multi}, "p": [0.1] * 10,
                "VWState": {"m": "m"},
            }  # fmt: skip
            file.write(json.dumps(event) + "\n")


GROUPS: Final = {"ope-arrays": arrays, "ope-slates": slates, "ope-parquet": parquet, "ope-dsjson": dsjson}
