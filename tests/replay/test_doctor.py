"""The doctor names the day, model or slot whose propensities are wrong, and leaves sound logs alone."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from replay import doctor, forensic_checks, forensics
from replay.events import Batch, Candidates, Needs, Problems
from replay.forensic_sums import ForensicSums
from replay.repeats import Repeats

DAY = 86_400.0
FIRST_DAY = 20_400
"""2025-11-08."""
N_ITEMS = 40


class MadeLog:
    """Batches that a test made."""

    def __init__(self, *batches: Batch, counts=None) -> None:
        self.name, self.kind, self.marginals = "made", "arrays", False
        self.reward_range: tuple[float, float] | None = (0.0, 1.0)
        self.made = batches
        self.counts = counts or {}

    def batches(self, needs: Needs):
        return iter(self.made)

    def problems(self) -> Problems:
        return Problems(self.counts, tuple(f"line 7: {reason}" for reason in self.counts))

    def size(self) -> int:
        return 0

    def done(self) -> int:
        return 0


class Made:
    """A log whose propensities are true, until a test breaks them.

    Ten days, four models one after another, ``slots`` slots, ten of forty items each; eps-greedy or softmax over noisy
    qualities of items.
    """

    def __init__(self, seed, *, n=6000, slots=1, kind="eps", epsilon=0.2, n_candidates=10, n_items=N_ITEMS, heat=3.0):
        rng = np.random.default_rng(seed)
        size = n * slots
        self.n_candidates = n_candidates
        self.candidates = np.argsort(rng.random((size, n_items)), axis=1)[:, :n_candidates]
        scores = (np.arange(n_items) * 0.618 % 1)[self.candidates] + 0.3 * rng.random((size, n_candidates))
        self.best = scores.argmax(axis=1)
        if kind == "eps":
            pmf = np.full((size, n_candidates), epsilon / n_candidates)
            pmf[np.arange(size), self.best] += 1 - epsilon
        else:
            pmf = np.exp(heat * scores)
            pmf /= pmf.sum(axis=1, keepdims=True)
        self.pmf = pmf
        self.draw(rng.random(size))
        self.time = np.sort(rng.uniform(FIRST_DAY * DAY, (FIRST_DAY + 10) * DAY, n))
        self.model = np.array([f"m{4 * i // n}" for i in range(n)])
        self.event = np.repeat(np.arange(n), slots)
        self.slot = np.arange(size) % slots
        self.reward = (rng.random(size) < 0.2).astype(np.float64)
        self.n, self.slots = n, slots

    def draw(self, u):
        self.chosen = np.minimum((self.pmf.cumsum(axis=1) < u[:, None]).sum(axis=1), self.pmf.shape[1] - 1)
        self.propensity = self.pmf[np.arange(len(u)), self.chosen]

    @property
    def day(self):
        return np.floor(self.time / DAY).astype(int)[self.event] - FIRST_DAY

    def batch(self, *, lists=True, logged=True) -> Batch:
        size = len(self.chosen)
        return Batch(
            starts=np.arange(self.n + 1) * self.slots,
            item=self.candidates[np.arange(size), self.chosen].astype(np.uint64),
            chosen=self.chosen,
            propensity=self.propensity,
            reward=self.reward,
            n_candidates=np.full(size, self.n_candidates),
            viewer=np.arange(self.n, dtype=np.uint64),
            time=self.time,
            place=np.arange(1, self.n + 1),
            fields={"model": self.model},
            candidates=Candidates(
                np.arange(size + 1) * self.n_candidates,
                self.candidates.ravel().astype(np.uint64),
                self.pmf.ravel() if logged else None,
            )
            if lists
            else None,
        )


def found_in(*batches: Batch) -> list[forensics.Found]:
    sums = ForensicSums()
    for batch in batches:
        sums.add(batch)
    return forensics.find(sums.table())


def named(*batches: Batch) -> list[tuple[str, str]]:
    return [(each.test, forensic_checks.where_text(each.where)) for each in found_in(*batches)]


def faults(*batches: Batch) -> dict[str, str]:
    """Names of failed checks, and where."""
    found = doctor.diagnose(MadeLog(*batches)).checks
    return {check.name: check.where for check in found if check.level != "ok"}


# ---------------------------------------------------------------- planted faults


@pytest.mark.parametrize("kind", ["eps", "softmax"])
@pytest.mark.parametrize("factor", [0.5, 0.7, 1.6])
def test_a_day_whose_propensities_are_off_is_named_and_no_other(kind, factor):
    made = Made(11, kind=kind, n=12_000)
    made.propensity = np.where(made.day == 4, np.minimum(factor * made.propensity, 1.0), made.propensity)
    assert named(made.batch(lists=False)) == [("inverse", "day 2025-11-12")]


@pytest.mark.parametrize("kind", ["eps", "softmax"])
@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_model_whose_propensities_are_off_is_named_and_no_day(kind, factor):
    made = Made(12, kind=kind, n=12_000)
    wrong = (made.model == "m2")[made.event]
    made.propensity = np.where(wrong, np.minimum(factor * made.propensity, 1.0), made.propensity)
    assert named(made.batch(lists=False)) == [("inverse", "model m2")]


def test_two_faults_are_both_named():
    made = Made(13, n=12_000, slots=2)
    made.propensity = np.where(made.day == 2, made.propensity / 2, made.propensity)
    made.propensity = np.where(made.day == 7, made.propensity / 3, made.propensity)
    assert sorted(named(made.batch(lists=False))) == [("inverse", "day 2025-11-10"), ("inverse", "day 2025-11-15")]


def test_a_slot_that_logs_a_constant_though_the_best_was_served_is_named():
    made = Made(14, slots=3)
    greedy = made.slot == 1
    made.chosen = np.where(greedy, made.best, made.chosen)
    made.propensity = np.where(greedy, 0.1, made.propensity)
    # 1/p is n there, exactly as it should be: the draws tell.
    assert named(made.batch(logged=False)) == [("items", "slot 2")]
    # Without the lists there is only suspicion.
    assert faults(made.batch(lists=False)) == {"constant propensities": "slot 2"}


def test_a_constant_is_seen_by_place_where_the_best_stands_first():
    made = Made(15)
    made.chosen = np.zeros_like(made.chosen)
    made.propensity = np.full(len(made.chosen), 0.1)
    assert named(made.batch(lists=False)) == [("places", "")]


def test_the_best_served_though_the_logged_probabilities_explore():
    made = Made(16, slots=2)
    greedy = made.slot == 0
    made.chosen = np.where(greedy, made.best, made.chosen)
    made.propensity = made.pmf[np.arange(len(made.chosen)), made.chosen]
    tests = named(made.batch())
    assert {where for _, where in tests} == {"slot 1"}


@pytest.mark.parametrize("kind", ["eps", "softmax"])
def test_clipped_propensities_are_recognised(kind):
    made = Made(17, kind=kind, n=12_000)
    made.propensity = np.maximum(made.propensity, 0.05)
    assert faults(made.batch(lists=False)) == {"mean of 1/p": "", "clipped propensities": ""}


def test_a_scaled_log_with_a_floor_is_not_called_clipped():
    made = Made(18, n=12_000)
    made.propensity = np.where((made.model == "m1")[made.event], np.minimum(1.6 * made.propensity, 1), made.propensity)
    assert faults(made.batch(lists=False)) == {"mean of 1/p": "model m1"}


def test_a_log_that_never_explores_is_told_so():
    made = Made(19)
    made.chosen, made.propensity = made.best, np.ones(len(made.best))
    (check,) = (each for each in doctor.diagnose(MadeLog(made.batch(lists=False))).checks if each.level != "ok")
    assert "every propensity is 1" in check.sentence
    assert "floor" in check.advice


def test_probabilities_that_do_not_add_up_name_the_model():
    made = Made(20)
    made.pmf = np.where((made.model == "m3")[made.event, None], made.pmf * 0.9, made.pmf)
    made.propensity = made.pmf[np.arange(len(made.chosen)), made.chosen]
    assert faults(made.batch())["sums of probabilities"] == "model m3"


def test_a_propensity_that_is_not_that_of_what_was_shown():
    made = Made(21)
    made.chosen = np.where(made.day == 3, (made.chosen + 1) % 10, made.chosen)
    assert faults(made.batch())["probability of what was shown"] == "day 2025-11-11"


# ---------------------------------------------------------------- sound logs


@pytest.mark.parametrize(
    "shape",
    [
        {"n": 1500, "slots": 2},
        {"n": 1500, "kind": "softmax"},
        {"n": 1500, "kind": "softmax", "heat": 15.0},
        {"n": 300, "epsilon": 0.05, "n_candidates": 200, "n_items": 200},
        {"n": 60, "epsilon": 0.02, "n_candidates": 200, "n_items": 200},
    ],
)
def test_sound_logs_are_left_alone(shape):
    # Each has a false alarm with probability at most 1 %, so two or more of 25 with at most 2.6 %, were the bounds
    # attained; they are not, and the seeds are fixed.
    alarms = sum(bool(found_in(Made(seed, **shape).batch())) for seed in range(25))
    assert alarms <= 1


def test_a_sound_log_gets_a_clean_bill():
    diagnosis = doctor.diagnose(MadeLog(Made(22, slots=2).batch()))
    assert diagnosis.sound
    text = doctor.report(diagnosis)
    assert "This log is sound" in text
    assert "WRONG" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_rare_exploration_that_did_not_happen_is_no_fault():
    # Ninety greedy draws with p = .98 and 200 candidates: a sixth of sound logs look like this.
    made = Made(23, n=90, epsilon=0.02, n_candidates=200, n_items=200)
    made.chosen = made.best
    made.propensity = made.pmf[np.arange(90), made.best]
    assert named(made.batch()) == []


def test_a_single_draw_that_outweighs_all_others_is_pointed_at():
    # As in a converged bandit's log of 10,000 draws, one of which had a chance of one in a million.
    made = Made(35, n=3000)
    made.propensity[77] = 1e-6
    assert faults(made.batch(lists=False)) == {"smallest propensity": ""}


def test_parts_in_any_batches_say_the_same():
    made = Made(24, slots=2)
    made.propensity = np.where(made.day == 4, made.propensity / 2, made.propensity)
    whole = made.batch(lists=False)
    parts = []
    for begin in range(0, made.n, 700):
        end = min(begin + 700, made.n)
        slots = slice(2 * begin, 2 * end)
        parts.append(
            Batch(
                starts=whole.starts[begin : end + 1] - whole.starts[begin], item=whole.item[slots],
                chosen=whole.chosen[slots], propensity=whole.propensity[slots], reward=whole.reward[slots],
                n_candidates=whole.n_candidates[slots], viewer=whole.viewer[begin:end], time=whole.time[begin:end],
                place=whole.place[begin:end], fields={"model": whole.fields["model"][begin:end]},
            )
        )  # fmt: skip
    one, many = doctor.diagnose(MadeLog(whole)), doctor.diagnose(MadeLog(*parts))
    assert [(c.name, c.where, c.level) for c in one.checks] == [(c.name, c.where, c.level) for c in many.checks]
    assert [row.inverse for row in one.rows] == pytest.approx([row.inverse for row in many.rows])


def test_many_models_are_put_together_and_not_lost():
    made = Made(25, n=5000)
    made.model = np.array([f"m{i}" for i in range(5000)])
    sums = ForensicSums()
    sums.add(made.batch(lists=False))
    table = sums.table()
    assert len(np.unique(table.labels["model"])) <= 2001
    assert table.cells[:, 0].sum() == 5000
    assert forensics.find(table) == []


# ---------------------------------------------------------------- repeats


def test_an_event_written_twice_is_found_and_retries_are_not_news():
    batch = Made(26, n=3000).batch(lists=False)
    repeats = Repeats()
    repeats.add(batch)
    assert {check.level for check in repeats.checks()} == {"ok"}
    repeats.add(batch)
    duplicate, draws = repeats.checks()
    assert duplicate.level == "warning"
    assert duplicate.measured == pytest.approx(0.5)
    # The same draws, but as copies of the same events: one fault, one finding.
    assert draws.level == "ok"


@pytest.mark.parametrize("kind", ["softmax", "eps"])
def test_draws_of_a_generator_that_starts_again_are_found(kind):
    made = Made(27, n=6000, kind=kind)
    made.pmf = np.tile(made.pmf[0], (6000, 1))
    made.draw(np.tile(np.random.default_rng(5).random(1500), 4))
    assert faults(made.batch(lists=False)).keys() >= {"repeated draws"}
    made.draw(np.random.default_rng(6).random(6000))
    assert "repeated draws" not in faults(made.batch(lists=False))


def test_draws_that_are_nearly_certain_repeat_themselves_rightly():
    made = Made(28, n=6000, epsilon=0.001)
    assert faults(made.batch(lists=False)) == {}


def test_repeats_keep_constant_memory():
    repeats = Repeats()
    rng = np.random.default_rng(0)
    for _ in range(6):
        sample = rng.integers(2**63, size=200_000).astype(np.uint64) * np.uint64(2)
        repeats._events.add(np.concatenate([sample, sample[:20_000]]))
    assert len(repeats._events._kept) <= 1 << 18
    # 120,000 of 1,320,000; the estimate's spread is about 0.1 %.
    assert repeats._events.share == pytest.approx(1 / 11, abs=0.01)


# ---------------------------------------------------------------- feedback and what was left out


def test_a_day_without_feedback_is_named():
    made = Made(29, n=6000)
    made.reward = np.where(made.day == 5, 0.0, made.reward)
    assert faults(made.batch(lists=False)) == {"slots with a reward": "day 2025-11-13"}


def test_much_that_was_left_out_is_said():
    diagnosis = doctor.diagnose(MadeLog(Made(30).batch(lists=False), counts={"window still open": 2000}))
    (check,) = (each for each in diagnosis.checks if each.level != "ok")
    assert "2,000 window still open" in check.sentence
    assert "line 7" in doctor.report(diagnosis)


def test_an_empty_log_is_wrong_and_does_not_crash():
    diagnosis = doctor.diagnose(MadeLog())
    assert not diagnosis.sound
    assert "0 events" in doctor.report(diagnosis)


def test_one_event_and_unknown_times_and_candidates():
    batch = Made(31, n=1).batch(lists=False)
    batch.time[:] = np.nan
    batch.fields.clear()
    assert doctor.diagnose(MadeLog(batch)).events == 1
    batch.n_candidates[:] = 0
    diagnosis = doctor.diagnose(MadeLog(batch))
    assert "number of candidates" in {check.name for check in diagnosis.checks if check.level == "warning"}
    assert "NaN" not in doctor.report(diagnosis)


# ---------------------------------------------------------------- the command


def asked(monkeypatch, log, *words):
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    readers = pytest.importorskip("replay.readers")
    monkeypatch.setattr(readers, "open_log", lambda path, **options: log, raising=False)
    return doctor.run(parser.parse_args(["doctor", "somewhere", *words]))


def test_exit_status_tells_sound_from_wrong(monkeypatch, capsys):
    assert asked(monkeypatch, MadeLog(Made(32).batch())) == 0
    made = Made(32)
    made.propensity = made.propensity / 2
    assert asked(monkeypatch, MadeLog(made.batch(lists=False))) == 1
    out = capsys.readouterr().out
    assert "Throughout the log the propensities are too small" in out
    assert "WRONG" in out


def test_every_finding_can_be_written_as_json(monkeypatch, capsys):
    made = Made(34, slots=3)
    made.chosen = np.where(made.slot == 1, made.best, made.chosen)
    made.pmf = made.pmf * 0.9
    made.propensity = np.where(made.slot == 1, 0.1, np.maximum(made.propensity, 0.06))
    made.reward[made.day == 3] = 0.0
    for lists in (True, False):
        assert asked(monkeypatch, MadeLog(made.batch(lists=lists)), "--json") == 1
        assert json.loads(capsys.readouterr().out)["events"] == made.n


def test_json_says_what_the_report_says(monkeypatch, capsys):
    made = Made(33, n=12_000)
    made.propensity = np.where(made.day == 4, made.propensity / 2, made.propensity)
    assert asked(monkeypatch, MadeLog(made.batch(lists=False)), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [check["where"] for check in told["checks"] if check["level"] == "refusal"] == ["day 2025-11-12"]
    assert [row["label"] for row in told["rows"] if row["wrong"]] == ["2025-11-12"]
