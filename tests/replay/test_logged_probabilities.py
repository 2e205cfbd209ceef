"""Probabilities of all candidates: read from dsjson, kept by Parquet, and held against the draws by the doctor."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from replay import convert, doctor
from replay.events import F64, Needs
from replay.readers import open_log
from replay.readers.ragged import taken
from tests.replay.logs import cb, ccb, same, whole, written

LOGGED = Needs(candidates=True, logged=True)
PMF = np.array([0.6, 0.3, 0.1])
OTHER = np.array([0.8, 0.05, 0.15])
"""Drawing from this, 1/p of ``PMF`` averages 3 all the same: only who holds draws against all probabilities sees it."""
DAYS = 5


def dsjson(
    path: Path, seed: int, *, n: int = 4000, bad_day: int | None = None, fault: str = "", p: bool = True
) -> Path:
    """Decisions over five days by five models, a model a day and a half; which action is likely changes all the time.

    :param fault: ``draws``: drawn from ``OTHER``; ``sums``: probabilities of the others are logged too small
    """
    rng = np.random.default_rng(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    lines = []
    for i in range(n):
        day = i * DAYS // n
        faulty = day == bad_day
        actions = rng.permutation(3)
        drawn = int(rng.choice(3, p=OTHER if faulty and fault == "draws" else PMF))
        logged = PMF.copy()
        if faulty and fault == "sums":
            logged[np.arange(3) != drawn] *= 0.5
        order = [drawn, *(k for k in range(3) if k != drawn)]
        line = cb(
            _label_cost=-float(rng.random() < 0.3),
            _label_probability=logged[drawn],
            _label_Action=int(actions[drawn]) + 1,
            _labelIndex=int(actions[drawn]),
            EventId=f"e{i}",
            Timestamp=(start + timedelta(days=DAYS * i / n)).isoformat().replace("+00:00", "Z"),
            a=[int(actions[k]) + 1 for k in order],
            p=[float(logged[k]) for k in order] if p else [float(logged[drawn])],
            VWState={"m": f"m{i * 10 // (3 * n)}"},
            o=None,
        )
        lines.append(json.dumps(line))
    return written(path, *lines)


def faults(path: Path) -> dict[str, str]:
    found = doctor.diagnose(open_log(path)).checks
    return {check.name: check.where for check in found if check.level != "ok"}


# ---------------------------------------------------------------- reading


def logged_in(path: Path, *lines: object) -> F64:
    found = whole(open_log(written(path, *lines)), LOGGED).candidates.logged
    assert found is not None
    return np.asarray(found)


def test_every_candidate_has_its_probability_by_a_and_p(tmp_path):
    found = logged_in(tmp_path, cb(), cb(EventId="e2", a=[2, 3, 1], p=[0.5, 0.125, 0.375]))
    assert found.tolist() == [0.3, 0.5, 0.2, 0.375, 0.5, 0.125]


@pytest.mark.parametrize(
    "changes",
    [
        {"p": [0.5]}, {"p": None}, {"a": None}, {"a": [2, 1, 1]}, {"a": [2, 1, 4]}, {"a": [2, 1, 0]}, {"p": "0.5"},
        {"p": [0.5, 0.3, 0.1, 0.1]}, {"a": [2, 1, 3.5]}, {"p": [0.5, None, 0.2]}, {"a": [2, 1], "p": [0.5, 0.5]},
    ],
)  # fmt: skip
def test_where_a_and_p_do_not_name_each_candidate_once_nothing_is_known(tmp_path, changes):
    found = logged_in(tmp_path, cb(), cb(EventId="e2", **changes), cb(EventId="e3"))
    np.testing.assert_array_equal(found, [0.3, 0.5, 0.2, *[np.nan] * 3, 0.3, 0.5, 0.2])


def test_feeds_have_probabilities_by_slot_among_what_is_left(tmp_path):
    alone = {"_label_cost": 0.0, "_id": "Side", "_a": [0], "_p": [0.8], "_o": []}
    short = ccb(EventId="f2")
    short["_outcomes"][1] = alone
    found = logged_in(tmp_path, ccb(), cb(), short)
    first, single = [0.25, 0.25, 0.5], [0.3, 0.5, 0.2]
    np.testing.assert_array_equal(found, [*first, 0.8, 0.2, *single, *first, np.nan, np.nan])


def test_they_are_read_only_if_asked_for_and_stay_with_their_candidates(tmp_path):
    log = open_log(written(tmp_path, cb(), cb(EventId="e2", p=[0.2, 0.7, 0.1])))
    assert whole(log, Needs(candidates=True)).candidates.logged is None
    batch = whole(log, LOGGED)
    turned = taken(batch, np.array([1, 0])).candidates
    assert turned is not None
    assert turned.logged is not None
    assert turned.logged.tolist() == [0.7, 0.2, 0.1, 0.3, 0.5, 0.2]


@pytest.mark.parametrize("make", [cb, ccb])
def test_parquet_and_dsjson_keep_them(tmp_path, make):
    first = whole(open_log(written(tmp_path, make(), make(EventId="e2"))), LOGGED)
    log = open_log(tmp_path / "log.json")
    for name in ("a.parquet", "b.json", "c.parquet"):
        convert.convert(log, tmp_path / name)
        log = open_log(tmp_path / name)
        again = whole(log, LOGGED)
        same(first.candidates, again.candidates, "starts", "item", "logged")
        same(first, again, "chosen", "propensity")
        assert whole(log, Needs(candidates=True)).candidates.logged is None


def test_parquet_has_no_column_where_nothing_is_known(tmp_path):
    log = open_log(written(tmp_path, cb(p=[0.5])))
    convert.convert(log, tmp_path / "a.parquet")
    assert whole(open_log(tmp_path / "a.parquet"), LOGGED).candidates.logged is None


# ---------------------------------------------------------------- the doctor


def test_draws_that_do_not_follow_their_probabilities_name_the_day(tmp_path):
    assert faults(dsjson(tmp_path, 1, bad_day=2, fault="draws")) == {"draws by probability": "day 2026-03-03"}


def test_without_probabilities_of_all_candidates_nobody_could_tell(tmp_path):
    assert faults(dsjson(tmp_path, 1, bad_day=2, fault="draws", p=False)) == {}


def test_probabilities_that_do_not_add_up_name_the_day(tmp_path):
    found = faults(dsjson(tmp_path, 2, bad_day=3, fault="sums"))
    assert found["sums of probabilities"] == "day 2026-03-04"
    assert set(found.values()) == {"day 2026-03-04"}


def test_the_command_names_the_day(tmp_path, capsys):
    from replay.__main__ import main

    assert main(["doctor", str(dsjson(tmp_path, 3, bad_day=1, fault="draws"))]) == doctor.WRONG
    assert "On day 2026-03-02 the draws do not follow the logged probabilities" in " ".join(
        capsys.readouterr().out.split()
    )


def test_sound_logs_are_left_alone(tmp_path):
    # Each has a false alarm with probability at most 1 %: one or more in ten with at most 10 %, two or more with 0.4 %.
    # Seeds are fixed; there is none.
    assert [faults(dsjson(tmp_path, seed, n=1500)) for seed in range(10)] == [{}] * 10
